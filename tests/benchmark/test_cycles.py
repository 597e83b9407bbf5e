"""Tests that put on the garments that another test of the suite took off: `garments` in a suite."""

import json
import shutil

import pytest
import toys
from toys import records, starts

from fashiongen.benchmark.plan import make_plan
from fashiongen.errors import UserError
from fashiongen.records import kept_sha256

OFF = {"facts": {"learns": False, "task": "vtoff", "tasks": ["vtoff"]}}
ON = {"facts": {"task": "vton", "tasks": ["vton"]}}
BOTH = {"facts": {"task": "vton", "tasks": ["vton", "vtoff"]}}
CYCLE = {"protocol": "cycle", "garments": ["crop", "both"]}
RUNS = [
    {"methods": ["on"], "tests": [CYCLE]},  # a row may come before those that it reads
    {"methods": ["crop"]},
    {"methods": ["both"], "tests": [{}, {"protocol": "off", "overlays": ["off"]}, {**CYCLE, "garments": ["both"]}]},
]


def write(folder, runs=RUNS, crop=OFF, **keys):
    suite = toys.write_suite(folder, {"on": ON, "crop": crop, "both": BOTH}, runs, **keys)
    (folder / "recipes" / "overlays" / "off.yaml").write_text(json.dumps({"facts": {"task": "vtoff"}}))
    return suite


def test_a_test_for_each_row_whose_garments_are_put_on(tmp_path):
    nodes = {node.id: node for node in make_plan(write(tmp_path, seeds=[0, 2]), toys.describe).nodes}
    for seed in (0, 2):
        crop, both = f"test--crop--seed{seed}--toy--Toys", f"test--both--seed{seed}--off--Toys"
        reading = {
            f"test--on+garments-crop--seed{seed}--cycle--Toys": (crop, f"fit--on--seed{seed}"),
            f"test--on+garments-both--seed{seed}--cycle--Toys": (both, f"fit--on--seed{seed}"),
            f"test--both+garments-both--seed{seed}--cycle--Toys": (both, f"fit--both--seed{seed}"),
        }
        for name, (source, trained) in reading.items():
            assert nodes[name].parents == {"checkpoint": trained, "garments": source}
            assert nodes[name].loads == {"checkpoint": "logs/toy/last.ckpt", "garments": "predictions"}
            assert nodes[name].dataset == "toys-cycle" and nodes[name].overlays == [name.split("--")[1].partition("+")[2]]
        assert nodes[crop].kept == nodes[both].kept == "predictions" and nodes[f"test--both--seed{seed}--toy--Toys"].kept is None
    order = list(nodes)
    assert all(order.index(parent) < order.index(node.id) for node in nodes.values() for parent in node.parents.values())
    assert len(nodes) == 2 * (2 + 3 + 3)


@pytest.mark.parametrize(
    ("tests", "words"),
    [
        ([{"garments": ["corp"]}], r"run 2: tests: garments: corp: the suite has no such row with a test of another task; it has: crop$"),
        ([{"garments": ["on"]}], "garments: on: the suite has no such row with a test of another task"),
        ([{"garments": "crop"}], "garments: 'crop' must be a list"),
        ([{"garments": []}], r"garments: \[\] must be names of try-off rows, each once"),
        ([{"garments": ["crop", "crop"]}], "must be names of try-off rows, each once"),
        ([{"garments": ["crop"]}, {"garments": ["crop"]}], "two tests would have the id test--on.garments-crop--seed0"),
    ],
)
def test_garments_that_no_test_takes_off_are_one_line_errors(tmp_path, tests, words):
    runs = [{"methods": ["crop"]}, {"methods": ["on"], "tests": tests}]
    with pytest.raises(UserError, match=words):
        make_plan(write(tmp_path, runs), toys.describe)


def test_garments_are_of_the_same_seed_and_data(tmp_path):
    runs = [{"methods": ["crop"], "seeds": [0]}, {"methods": ["on"], "seeds": [0, 1], "tests": [{"garments": ["crop"]}]}]
    with pytest.raises(UserError, match="garments: crop: it takes nothing off with seed 1 on toys: add the seed or the data to its run"):
        make_plan(write(tmp_path, runs), toys.describe)
    other = {"facts": {**OFF["facts"], "data_name": "street"}}
    runs[1]["seeds"] = [0]
    with pytest.raises(UserError, match="garments: crop: it takes nothing off with seed 0 on toys"):
        make_plan(write(tmp_path, runs, other), toys.describe)


def test_garments_are_taken_off_once_and_put_on_again_when_they_change(tmp_path, trace):
    suite, out = write(tmp_path), tmp_path / "out"
    status, told = toys.run(suite, out)
    assert status == 0, told
    found = records(out)
    crop, on = "test--crop--seed0--toy--Toys", "test--on+garments-crop--seed0--cycle--Toys"
    kept = out.resolve() / "nodes" / crop / "predictions"
    assert f"--data.init_args.garments {kept}" in found[on].command and "--evaluate.keep predictions" in found[crop].command
    assert found[on].overlays == ["garments-crop"] and found[crop].predictions["sha256"] == kept_sha256(kept)
    assert not any("--evaluate.reuse" in record.command for record in found.values())
    of_both = "test--on+garments-both--seed0--cycle--Toys"
    assert found[on].metrics["score"] != found[of_both].metrics["score"]
    trace.write_text("")
    assert toys.run(suite, out)[0] == 0 and starts(trace) == []
    changed = {**OFF, "toy": {"test": {"new": True}}}
    assert toys.run(write(tmp_path, crop=changed), out)[0] == 0
    assert starts(trace) == [crop, on]  # and neither the other garments nor any training
    assert records(out)[on].metrics["score"] != found[on].metrics["score"]


@pytest.mark.parametrize("lost", ["never kept", "removed", "edited"])
def test_lost_garments_are_taken_off_again_when_a_test_needs_them(tmp_path, trace, lost):
    out, crop = tmp_path / "out", "test--crop--seed0--toy--Toys"
    readers = [{"methods": ["crop"]}, {"methods": ["on"], "tests": [{"protocol": "cycle", "garments": ["crop"]}]}]
    before = [{"methods": ["crop"]}, {"methods": ["on"]}] if lost == "never kept" else readers
    assert toys.run(write(tmp_path, before), out)[0] == 0
    kept = out / "nodes" / crop / "predictions"
    assert kept.is_dir() is (lost != "never kept")
    if lost == "removed":
        shutil.rmtree(kept)
    if lost == "edited":
        (kept / "garment.txt").write_text("another")
    trace.write_text("")
    assert toys.run(write(tmp_path, readers), out)[0] == 0
    on = "test--on+garments-crop--seed0--cycle--Toys"
    assert starts(trace) == ([crop, on] if lost == "never kept" else [])  # nobody needs them
    trace.write_text("")
    shutil.rmtree(out / "nodes" / on)
    assert toys.run(write(tmp_path, readers), out)[0] == 0
    assert starts(trace) == ([on] if lost == "never kept" else [crop, on])
    assert kept_sha256(kept) == records(out)[crop].predictions["sha256"]


def test_without_garments_nothing_is_put_on(tmp_path, trace):
    broken = {**OFF, "toy": {"test": {"raises": "no garment"}}}
    runs = [{"methods": ["crop"]}, {"methods": ["on"], "tests": [{"protocol": "cycle", "garments": ["crop"]}]}]
    status, told = toys.run(write(tmp_path, runs, broken), tmp_path / "out")
    record = records(tmp_path / "out")["test--on+garments-crop--seed0--cycle--Toys"]
    assert status == 1 and record.status == "skipped" and record.dataset == "toys-cycle", told
    assert record.reason == "its parent test--crop--seed0--toy--Toys is failed: RuntimeError: no garment"
