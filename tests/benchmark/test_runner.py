"""The runner on toy commands: what it repeats, what it skips, and what it reports about failures."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import toys
from rich.console import Console
from toys import LEARNT, TRIVIAL, records, starts, what_counts

from fashiongen.benchmark.node import run_node
from fashiongen.benchmark.on_machine import OnMachine
from fashiongen.records import Record


def test_parents_first_then_children_and_a_record_of_each(tmp_path, trace):
    suite = toys.write_suite(tmp_path, {"white": TRIVIAL, "second": {**LEARNT, "parents": {"first": "base"}}, "base": LEARNT}, seeds=[0, 7])
    status, told = toys.run(suite, tmp_path / "out")
    assert status == 0, told
    found = records(tmp_path / "out")
    assert list(found) == sorted(f"{node}" for seed in (0, 7) for node in (f"fit--base--seed{seed}", f"fit--second--seed{seed}")) + sorted(
        f"test--{name}--seed{seed}--toy--Toys" for seed in (0, 7) for name in ("base", "second", "white")
    )
    order = starts(trace)
    for seed in (0, 7):
        chain = [f"fit--base--seed{seed}", f"fit--second--seed{seed}", f"test--second--seed{seed}--toy--Toys"]
        assert sorted(chain, key=order.index) == chain
    record = found["test--second--seed7--toy--Toys"]
    assert (record.status, record.exit_status, record.method, record.overlays, record.seed) == ("ok", 0, "second", [], 7)
    assert record.node == "test--second--seed7--toy--Toys" and record.kind == "test" and record.key and record.started
    assert record.seconds is not None and 0 < record.seconds < 60
    folder = tmp_path / "out" / "nodes" / record.node
    assert record.log == "log.txt" and "test in" in (folder / "log.txt").read_text()
    values = {name: found[name].metrics["score"]["value"] for name in found if name.startswith("test")}
    assert len(set(values.values())) == 6  # each is of its own seed and weights
    plan = json.loads((tmp_path / "out" / "suite.json").read_text())
    assert plan["suite"] == "toys" and {node["id"] for node in plan["nodes"]} == set(found)
    assert {node["key"] for node in plan["nodes"]} == {record.key for record in found.values()}


def test_tests_that_differ_in_their_protocols_alone_share_predictions(tmp_path, trace):
    runs = [
        {"methods": ["white", "base"], "tests": [{"protocol": "one"}, {"protocol": "two"}]},
        {"methods": ["grey"], "tests": [{"protocol": "one"}]},
    ]
    suite = toys.write_suite(tmp_path, {"white": TRIVIAL, "base": LEARNT, "grey": TRIVIAL}, runs, seeds=[0, 1])
    assert toys.run(suite, tmp_path / "out")[0] == 0
    sharing = {name for name, record in records(tmp_path / "out").items() if "--evaluate.reuse" in record.command}
    assert sharing == {
        f"test--{name}--seed{seed}--{protocol}--Toys" for name in ("white", "base") for seed in (0, 1) for protocol in ("one", "two")
    }


def test_tests_that_share_predictions_run_one_after_the_other(tmp_path, trace):
    """The second would wait for the first while its own time limit runs."""
    running, together = set(), []

    class Watched(OnMachine):
        def run(self, job):
            running.add(job.id)
            together.append({name.split("--")[1] for name in running} if len(running) > 1 else set())
            record = super().run(job)
            running.remove(job.id)
            return record

    slow = {"facts": {"learns": False}, "toy": {"test": {"pause": 0.4}}}
    runs = [{"methods": ["white", "grey"], "tests": [{"protocol": "one"}, {"protocol": "two"}]}]
    suite = toys.write_suite(tmp_path, {"white": slow, "grey": slow}, runs)
    assert toys.run(suite, tmp_path / "out", lambda gpus: Watched(2, gpus))[0] == 0
    assert {"white", "grey"} in together and {"white"} not in together and {"grey"} not in together


def test_weights_without_a_commit_are_told_once(tmp_path, trace):
    entry = {"source": "owner/name/vae", "revision": "a" * 40, "pinned": False, "files": {}}
    recipe = {"facts": {"learns": False}, "toy": {"test": {"weights": [entry, {**entry, "source": "owner/name/unet"}]}}}
    suite = toys.write_suite(tmp_path, {"white": recipe, "grey": recipe})
    _, told = toys.run(suite, tmp_path / "out")
    line = f"owner/name: unpinned, so another run may read other weights; name its revision, now owner/name@{'a' * 40}"
    assert told.count("unpinned") == 1 and line in told


def test_what_is_finished_is_not_repeated(tmp_path, trace):
    suite = toys.write_suite(tmp_path, {"white": TRIVIAL, "base": LEARNT})
    toys.run(suite, tmp_path / "out")
    before, times = starts(trace), {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "nodes").rglob("*")}
    status, told = toys.run(suite, tmp_path / "out")
    assert status == 0 and "3 done" in told
    assert starts(trace) == before
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "nodes").rglob("*")} == times


def test_the_printed_command_runs_it_again_from_anywhere(tmp_path, trace):
    suite = toys.write_suite(tmp_path, {"base": LEARNT})
    toys.run(suite, tmp_path / "out with a blank")
    record = records(tmp_path / "out with a blank")["test--base--seed0--toy--Toys"]
    path = tmp_path / "out with a blank" / "nodes" / record.node / "record.json"
    path.unlink()
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "OMP_NUM_THREADS")}
    subprocess.run(record.command, shell=True, cwd="/", env=environment, check=True, capture_output=True)
    assert Record.read(path).metrics == record.metrics


def test_what_changes_runs_again_with_its_children_and_the_old_is_kept_aside(tmp_path, trace):
    recipes = {"base": LEARNT, "second": {**LEARNT, "parents": {"first": "base"}}, "white": TRIVIAL}
    suite = toys.write_suite(tmp_path, recipes)
    toys.run(suite, tmp_path / "out")
    old = records(tmp_path / "out")
    before = len(starts(trace))
    toys.write_suite(tmp_path, {**recipes, "base": {"toy": {"fit": {"steps": 4}}}})
    toys.run(suite, tmp_path / "out")
    again = ["fit--base--seed0", "fit--second--seed0", "test--base--seed0--toy--Toys", "test--second--seed0--toy--Toys"]
    assert sorted(starts(trace)[before:]) == again
    new = records(tmp_path / "out")
    for name in again:
        assert new[name].key != old[name].key
        assert Record.read(tmp_path / "out" / "replaced" / f"{name}--1" / "record.json") == old[name]
    assert new["test--white--seed0--toy--Toys"] == old["test--white--seed0--toy--Toys"]


def test_changed_data_run_again(tmp_path, trace):
    suite = toys.write_suite(tmp_path, {"white": TRIVIAL})
    toys.run(suite, tmp_path / "out")
    toys.write_suite(tmp_path, {"white": {"facts": {"learns": False, "data": "other"}}})
    toys.run(suite, tmp_path / "out")
    assert len(starts(trace)) == 2


def test_changed_source_runs_again_unless_stale_results_are_accepted(tmp_path, trace, monkeypatch):
    suite = toys.write_suite(tmp_path, {"base": LEARNT, "second": {**LEARNT, "parents": {"first": "base"}}})
    toys.run(suite, tmp_path / "out")
    old = records(tmp_path / "out")
    monkeypatch.setattr(toys, "CODE", "another")
    status, told = toys.run(suite, tmp_path / "out", accept_stale=True)
    assert status == 0 and "4 done" in told and len(starts(trace)) == 4
    # The child's key includes its stale parent's: without the flag, both run again.
    (tmp_path / "out" / "nodes" / "test--second--seed0--toy--Toys" / "record.json").unlink()
    toys.run(suite, tmp_path / "out", accept_stale=True)
    assert starts(trace)[4:] == ["test--second--seed0--toy--Toys"]
    assert records(tmp_path / "out")["test--second--seed0--toy--Toys"].metrics == old["test--second--seed0--toy--Toys"].metrics
    toys.run(suite, tmp_path / "out")
    assert len(starts(trace)) == 9


def test_results_with_the_old_name_of_the_settings_key_are_accepted(tmp_path, trace, monkeypatch):
    """`node.json` called it `chain`."""
    suite = toys.write_suite(tmp_path, {"base": LEARNT})
    toys.run(suite, tmp_path / "out")
    for file in (tmp_path / "out" / "nodes").glob("*/node.json"):
        state = json.loads(file.read_text())
        state["chain"] = state.pop("settings_key")
        file.write_text(json.dumps(state))
    monkeypatch.setattr(toys, "CODE", "another")
    assert "2 done" in toys.run(suite, tmp_path / "out", accept_stale=True)[1] and len(starts(trace)) == 2


def test_failed_killed_timed_out_and_skipped_nodes(tmp_path, trace):
    recipes = {
        "fine": LEARNT,
        "raises": {"toy": {"fit": {"raises": "the paint is dry"}}},
        "dies": {"toy": {"fit": {"dies": True}}},
        "dawdles": {"toy": {"fit": {"pause": 60}}},
        "cannot": {"facts": {"needs": ["silhouettes"], "method": "Cannot"}},
        "heir": {**LEARNT, "parents": {"first": "raises"}},
    }
    slow = [{"methods": ["dawdles"], "limits": {"fit": 1}}, {"methods": [name for name in recipes if name != "dawdles"]}]
    suite = toys.write_suite(tmp_path, recipes, slow)
    status, told = toys.run(suite, tmp_path / "out")
    assert status == 1
    found = records(tmp_path / "out")
    fits = {name: found[f"fit--{name}--seed0"] for name in recipes}
    assert {name: record.status for name, record in fits.items()} == {
        "fine": "ok",
        "raises": "failed",
        "dies": "killed",
        "dawdles": "timeout",
        "cannot": "skipped",
        "heir": "skipped",
    }
    assert fits["raises"].reason == "RuntimeError: the paint is dry" and fits["raises"].exit_status == 1
    assert fits["dies"].reason == "killed by SIGKILL (out of memory?)" and fits["dies"].exit_status == -signal.SIGKILL
    assert fits["dawdles"].reason == "exceeded its limit of 1 s"
    assert fits["cannot"].reason == "Cannot needs silhouettes, which Toys does not offer here (it offers images)"
    assert fits["heir"].reason == "its parent fit--raises--seed0 is failed: RuntimeError: the paint is dry"
    for name in ("raises", "dies", "dawdles", "heir"):
        child = found[f"test--{name}--seed0--toy--Toys"]
        assert child.status == "skipped" and child.reason.startswith(f"its parent fit--{name}--seed0 is ")
        assert (child.task, child.protocol, child.dataset) == ("rank", "toy", "toys")
        assert child.reason in told
    assert found["test--fine--seed0--toy--Toys"].status == "ok"
    # Failed nodes are retried, and skipped nodes are checked again.
    toys.write_suite(tmp_path, {**recipes, "raises": LEARNT, "cannot": TRIVIAL}, slow)
    status, told = toys.run(suite, tmp_path / "out", jobs=4)
    found = records(tmp_path / "out")
    assert status == 1 and found["fit--heir--seed0"].status == found["test--cannot--seed0--toy--Toys"].status == "ok"
    assert starts(trace).count("fit--fine--seed0") == 1 and starts(trace).count("fit--dies--seed0") == 2


def test_skips_are_not_failures_and_never_replace_a_result(tmp_path, trace):
    suite = toys.write_suite(tmp_path, {"white": TRIVIAL})
    toys.run(suite, tmp_path / "out")
    old = records(tmp_path / "out")
    toys.write_suite(tmp_path, {"white": {"facts": {"learns": False, "problem": "toys: /data: no such folder"}}})
    status, told = toys.run(suite, tmp_path / "out")
    assert status == 0 and "1 done" in told
    assert records(tmp_path / "out") == old
    status, told = toys.run(suite, tmp_path / "elsewhere")
    assert status == 0
    assert records(tmp_path / "elsewhere")["test--white--seed0--toy--Toys"].reason == "toys: /data: no such folder"


def test_a_lost_checkpoint_is_trained_again_when_a_child_needs_it(tmp_path, trace):
    suite = toys.write_suite(tmp_path, {"base": LEARNT})
    toys.run(suite, tmp_path / "out")
    (tmp_path / "out" / "nodes" / "fit--base--seed0" / "logs" / "toy" / "last.ckpt").unlink()
    toys.run(suite, tmp_path / "out")
    assert len(starts(trace)) == 2  # nobody needs it
    (tmp_path / "out" / "nodes" / "test--base--seed0--toy--Toys" / "record.json").unlink()
    assert toys.run(suite, tmp_path / "out")[0] == 0
    assert starts(trace)[2:] == ["fit--base--seed0", "test--base--seed0--toy--Toys"]


def test_the_selected_checkpoint_is_tested_and_missed(tmp_path, trace):
    best = {"facts": {"best": "logs/toy/best.ckpt", "selects": "best"}, "toy": {"fit": {"steps": 3, "best": 2}}}
    suite = toys.write_suite(tmp_path, {"base": best, "heir": {**LEARNT, "parents": {"first": "base"}}})
    assert toys.run(suite, tmp_path / "out")[0] == 0
    first = records(tmp_path / "out")
    two = toys.write_suite(tmp_path / "two", {"base": {"toy": {"fit": {"steps": 2}}}})
    toys.run(two, tmp_path / "two" / "out")
    assert first["test--base--seed0--toy--Toys"].metrics == records(tmp_path / "two" / "out")["test--base--seed0--toy--Toys"].metrics
    begun = len(starts(trace))
    lost = tmp_path / "out" / "nodes" / "fit--base--seed0" / "logs" / "toy" / "best.ckpt"
    lost.write_text(lost.with_name("last.ckpt").read_text())
    (tmp_path / "out" / "nodes" / "test--base--seed0--toy--Toys" / "record.json").unlink()
    toys.run(suite, tmp_path / "out")
    assert starts(trace)[begun:] == ["fit--base--seed0", "test--base--seed0--toy--Toys"]
    assert records(tmp_path / "out")["test--base--seed0--toy--Toys"].metrics == first["test--base--seed0--toy--Toys"].metrics
    toys.write_suite(tmp_path, {"base": {**best, "facts": {}}, "heir": {**LEARNT, "parents": {"first": "base"}}})
    toys.run(suite, tmp_path / "out")  # the same trainings, of which others are tested and built on
    assert sorted(starts(trace)[begun + 2 :]) == ["fit--heir--seed0", "test--base--seed0--toy--Toys", "test--heir--seed0--toy--Toys"]


def test_a_half_trained_checkpoint_is_not_tested(tmp_path, trace):
    """The printed command is pasted and stopped halfway: the checkpoint is no longer the one in the record."""
    suite = toys.write_suite(tmp_path, {"base": LEARNT})
    toys.run(suite, tmp_path / "out")
    before = what_counts(tmp_path / "out")
    (tmp_path / "out" / "nodes" / "fit--base--seed0" / "logs" / "toy" / "last.ckpt").write_text(begun_training(tmp_path))
    (tmp_path / "out" / "nodes" / "test--base--seed0--toy--Toys" / "record.json").unlink()
    assert toys.run(suite, tmp_path / "out")[0] == 0
    assert starts(trace)[2:] == ["fit--base--seed0", "test--base--seed0--toy--Toys"]
    assert what_counts(tmp_path / "out") == before


def begun_training(folder: Path) -> str:
    """Return the checkpoint of the toy `base` after its first step."""
    one = toys.write_suite(folder / "one", {"base": {"toy": {"fit": {"steps": 1}}}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOY_TRACE", os.devnull)
        toys.run(one, folder / "one" / "out")
    return (folder / "one" / "out" / "nodes" / "fit--base--seed0" / "logs" / "toy" / "last.ckpt").read_text()


def test_a_kept_parent_with_other_settings_starts_no_child(tmp_path, trace):
    """For example trained on a GPU, with a recipe changed since, and no GPU now."""
    recipes = {"base": LEARNT, "second": {**LEARNT, "parents": {"first": "base"}}}
    suite = toys.write_suite(tmp_path, recipes)
    toys.run(suite, tmp_path / "out")
    before, begun = records(tmp_path / "out"), len(starts(trace))

    def without_gpu(commands):
        found, gpus = toys.describe(commands)
        for command, facts in zip(commands, found, strict=True):
            facts.problem = "no GPU" if command[0] == "fit" and "base.yaml" in command[2] else None
        return found, gpus

    toys.write_suite(tmp_path, {**recipes, "base": {"toy": {"fit": {"steps": 4}}}}, seeds=[0, 1])
    status, told = toys.run(suite, tmp_path / "out", describe=without_gpu)
    assert status == 0 and len(starts(trace)) == begun
    after = records(tmp_path / "out")
    assert {name: after[name] for name in before} == before and "4 done, 4 skipped" in told
    (tmp_path / "out" / "nodes" / "test--base--seed0--toy--Toys" / "record.json").unlink()
    toys.run(suite, tmp_path / "out", describe=without_gpu)
    child = records(tmp_path / "out")["test--base--seed0--toy--Toys"]
    assert child.status == "skipped" and len(starts(trace)) == begun
    assert child.reason.startswith("its parent fit--base--seed0 cannot run here (no GPU), and its earlier result has other settings")


def test_an_unusable_folder_fails_only_its_node(tmp_path, trace):
    suite = toys.write_suite(tmp_path, {"base": LEARNT, "white": TRIVIAL})
    (tmp_path / "out" / "nodes").mkdir(parents=True)
    (tmp_path / "out" / "nodes" / "fit--base--seed0").write_text("no folder")
    (tmp_path / "out" / "replaced").write_text("no folder either")
    status, told = toys.run(suite, tmp_path / "out")
    assert status == 1 and "1 ok, 1 failed, 1 skipped" in told and "replaced" in told


def test_a_folder_moved_aside_never_overwrites_another(tmp_path, trace):
    """Also if an older one was removed, and if a name looks like a pattern."""
    toys.write_suite(tmp_path, {"a[1]": TRIVIAL})
    suite = toys.write_suite(tmp_path, {}, [{"methods": ["a*"]}])
    for data in ("first", "second", "third", "fourth"):
        toys.write_suite(tmp_path, {"a[1]": {"facts": {"learns": False, "data": data}}}, [{"methods": ["a*"]}])
        assert toys.run(suite, tmp_path / "out")[0] == 0
        if data == "third":
            shutil.rmtree(tmp_path / "out" / "replaced" / "test--a[1]--seed0--toy--Toys--1")
    assert len(list((tmp_path / "out" / "replaced").iterdir())) == 2


def test_a_task_that_starts_late_repeats_nothing(tmp_path, trace):
    """A cluster may start a killed runner's queued task after the next runner has finished it."""
    jobs = []

    class Queue(OnMachine):
        def run(self, job):
            jobs.append(job)
            return super().run(job)

    suite = toys.write_suite(tmp_path, {"base": LEARNT})
    toys.run(suite, tmp_path / "out", lambda gpus: Queue(1, 0))
    before, begun = records(tmp_path / "out"), len(starts(trace))
    assert [run_node(job) for job in jobs] == [before[job.id] for job in jobs]
    assert records(tmp_path / "out") == before and len(starts(trace)) == begun


def test_a_stale_test_is_not_accepted_for_a_new_training(tmp_path, trace, monkeypatch):
    suite = toys.write_suite(tmp_path, {"base": LEARNT})
    toys.run(suite, tmp_path / "out")
    monkeypatch.setattr(toys, "CODE", "another")

    class OnlyFits(OnMachine):
        def run(self, job):
            if job.id.startswith("test"):
                raise OSError("no machine")
            return super().run(job)

    test = tmp_path / "out" / "nodes" / "test--base--seed0--toy--Toys"
    shutil.copytree(test, tmp_path / "old")
    toys.run(suite, tmp_path / "out", lambda gpus: OnlyFits(1, 0))
    shutil.rmtree(test)
    shutil.copytree(tmp_path / "old", test)  # as after a kill at the end of the training
    begun = len(starts(trace))
    _, told = toys.run(suite, tmp_path / "out", accept_stale=True)
    assert starts(trace)[begun:] == ["test--base--seed0--toy--Toys"] and "1 done, 1 ok" in told


def test_a_terminal_shows_a_live_table(tmp_path, trace):
    suite = toys.write_suite(tmp_path, {"fine": LEARNT, "raises": {"toy": {"fit": {"raises": "the [red]paint[/] is dry"}}}})
    told = io.StringIO()
    status, _ = toys.run(suite, tmp_path / "out", console=Console(file=told, force_terminal=True, width=200))
    assert status == 1
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", told.getvalue())
    assert "toys: 2 ok, 1 failed, 1 skipped" in shown and "│ failed" in shown and "the [red]paint[/] is dry" in shown


def test_another_number_of_jobs_repeats_nothing(tmp_path, trace):
    suite = toys.write_suite(tmp_path, {"white": TRIVIAL, "base": LEARNT})
    toys.run(suite, tmp_path / "out", jobs=1)
    assert "3 done" in toys.run(suite, tmp_path / "out", jobs=3)[1] and len(starts(trace)) == 3


def test_a_dry_run_lists_and_does_nothing(tmp_path, trace):
    suite = toys.write_suite(tmp_path, {"base": LEARNT, "cannot": {"facts": {"needs": ["silhouettes"]}}}, limits={"fit": 60})
    status, told = toys.run(suite, tmp_path / "out", dry_run=True)
    assert status == 0 and starts(trace) == [] and not (tmp_path / "out").exists()
    assert "fit--base--seed0\n    to do; needs nothing; limit 60 s\n" in told
    assert "test--base--seed0--toy--Toys\n    to do; needs nothing; no limit, after fit--base--seed0\n" in told
    assert "skipped: Toy needs silhouettes" in told and "toy_command.py fit --config" in told


def test_gpus_are_handed_out_and_cores_shared(tmp_path, trace, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7,GPU-b")
    wants_one = {"facts": {"learns": False, "accelerator": "cuda", "gpus": 1}, "toy": {"test": {"pause": 0.5}}}
    recipes = {f"r{number}": wants_one for number in range(3)}
    recipes["pair"] = {"facts": {"learns": False, "accelerator": "cuda", "gpus": 2}}
    recipes["many"] = {"facts": {"learns": False, "accelerator": "cuda", "gpus": 4}}
    recipes["none"] = TRIVIAL
    suite = toys.write_suite(tmp_path, recipes)
    told = []

    def make(gpus):
        executor = OnMachine(3, 3)
        told.append(executor.cpus)
        return executor

    assert toys.run(suite, tmp_path / "out", make)[0] == 0
    logs = {path.parent.name.split("--")[1]: path.read_text() for path in (tmp_path / "out" / "nodes").glob("*/log.txt")}
    logs = {name: text.split(" on ")[-1].strip() for name, text in logs.items()}
    assert {logs[f"r{number}"] for number in range(3)} == {"5", "7", "GPU-b"}
    assert len(set(logs["pair"].split(",")) & {"5", "7", "GPU-b"}) == 2
    assert logs["none"] == ""
    assert "it needs 4 GPUs" in records(tmp_path / "out")["test--many--seed0--toy--Toys"].reason
    assert told == [max(1, len(os.sched_getaffinity(0)) // 3)]
