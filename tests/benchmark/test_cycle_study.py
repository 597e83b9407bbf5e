"""The matrix of off and on again, from records."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from fashiongen.intervals import interval

STUDIES = Path(__file__).parents[2] / "benchmarks" / "studies"


@pytest.fixture(scope="module")
def cycle():
    sys.path.insert(0, str(STUDIES))
    try:
        yield importlib.import_module("cycle_tiny")
    finally:
        sys.path.remove(str(STUDIES))


@pytest.fixture
def out(cycle, tmp_path):
    """Records of all runs; the values of a run lie about its number, in the order of the matrix."""
    generator, names = np.random.default_rng(0), [f"on-{name}" for name in cycle.ON]
    names += [f"{off}--{on}" for off in cycle.OFF for on in cycle.ON]
    for number, name in enumerate(names):
        write(tmp_path, name, number + generator.normal(0, 0.1, 20), [of_on for of_on, _, _ in cycle.SHOWN.values()])
    for number, name in enumerate(cycle.OFF):
        write(tmp_path, f"off-{name}", np.full(20, 100.0 + number), [of_off for _, of_off, _ in cycle.SHOWN.values()])
    return tmp_path


def write(folder, name, values, columns):
    lines = [{"id": f"{index:02d}", "cluster": str(index), **dict.fromkeys(columns, value)} for index, value in enumerate(values)]
    (folder / f"{name}.per_sample.jsonl").write_text("\n".join(map(json.dumps, lines)))
    metrics = {column: {"value": float(np.mean(values))} for column in columns}
    (folder / f"{name}.json").write_text(json.dumps({"metrics": metrics}))


def cells(line):
    return [text.strip() for text in line.strip("| ").split("|")]


def test_each_pair_stands_in_its_row_and_column_beside_the_true_shop_image(cycle, out):
    one, two = (part.splitlines() for part in cycle.table(out).split("\n\n")[:2])
    assert cells(one[0])[1:] == ["lpips[tiny] of taking off", *(f"put on by {name}" for name in cycle.ON)]
    assert "attributes[tiny-classifier] of taking off" in two[0]
    for lines in (one, two):
        assert [round(float(text)) for text in cells(lines[2])[2:]] == [0, 1, 2]
        for number, (off, line) in enumerate(zip(cycle.OFF, lines[3:], strict=True)):
            name, of_off, *of_on = cells(line)
            assert (name, of_off) == (off, f"{100 + number:.3f}")
            assert [round(float(text.split()[0])) for text in of_on] == [3 + 3 * number, 4 + 3 * number, 5 + 3 * number]
    values, _, clusters = cycle.per_sample(out, ["igr--catvton"], "lpips_mask[tiny]")
    found = interval(values, clusters, cycle.per_sample(out, ["on-catvton"], "lpips_mask[tiny]").values)
    wanted = f"{values.mean():.3f} ({found.mean:+.3f}: {found.low:+.3f} to {found.high:+.3f})"
    assert cells(one[5])[0] == "igr" and cells(one[5])[3] == wanted


def test_other_people_are_refused(cycle, out):
    write(out, "igr--catvton", np.zeros(19), [column for column, _, _ in cycle.SHOWN.values()])
    with pytest.raises(SystemExit, match=r"igr--catvton, on-catvton: not the same samples"):
        cycle.table(out)


def test_checkpoints_are_linked_or_trained_after_their_parents_once(cycle, tmp_path, monkeypatch):
    out, given, calls = tmp_path / "out", tmp_path / "given", []
    (given / "igr").mkdir(parents=True)
    (given / "igr" / "last.ckpt").write_text("weights")
    monkeypatch.setattr(cycle, "call", lambda threads, *args: calls.append(args))
    assert cycle.checkpoint(out, 1, "igr", 0, given).read_text() == "weights" and not calls
    phase1, phase2 = (out / "checkpoints" / name / "last.ckpt" for name in ("twgtm-phase1", "twgtm"))
    for _ in range(2):
        assert cycle.checkpoint(out, 1, "twgtm", 3, given) == phase2
    trained = [args[args.index("--trainer.callbacks.dirpath") + 1] for args in calls]
    assert trained == [str(phase1.parent), str(phase2.parent)]
    assert calls[1][-2:] == ("--parents.phase1", str(phase1)) and "3" in calls[0]


def test_every_pair_reads_the_predictions_that_the_try_off_kept(cycle, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(cycle, "call", lambda threads, *args: calls.append(args))
    monkeypatch.setattr(cycle, "table", lambda out: "")
    monkeypatch.setattr(sys, "argv", ["cycle_tiny.py", str(tmp_path), "--steps", "4", "--checkpoints", str(tmp_path)])
    cycle.main()
    tests = [dict(zip(args[1::2], args[2::2], strict=True)) for args in calls if args[0] == "test"]
    kept = {Path(args["--config"]).stem: args["--evaluate.keep"] for args in tests if "--evaluate.keep" in args}
    assert list(kept) == cycle.OFF
    pairs = {Path(args["--evaluate.out"]).stem: args for args in tests if "--data.init_args.garments" in args}
    assert pairs.keys() == {f"{off}--{on}" for off in cycle.OFF for on in cycle.ON}
    for name, args in pairs.items():
        off, on = name.split("--")
        assert (args["--data.init_args.garments"], Path(args["--config"]).stem) == (kept[off], on)
        assert args["--evaluate.protocol"] == "vton-cycle" and args["--data.init_args.task"] == args["--evaluate.task"] == "vton"
        assert args.get("--model.init_args.steps") == (None if on == "paste_garment" else "4")
        assert ("--ckpt_path" in args) is (on != "paste_garment")
    of_twgtm = next(args for args in tests if args["--evaluate.out"].endswith("off-twgtm.json"))
    assert of_twgtm["--evaluate.task"] == of_twgtm["--data.init_args.task"] == "vtoff"
    assert len({args["--evaluate.out"] for args in tests}) == 6 + 3 + 18
