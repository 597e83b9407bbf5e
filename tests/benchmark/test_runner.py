"""The runner on toy commands: what it repeats, what it keeps, what it says of what went wrong, and what a kill leaves."""

import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toys
from rich.console import Console

from fashiongen.benchmark import runner
from fashiongen.benchmark.node import Job, Processes, finished, run_node, without_running
from fashiongen.benchmark.on_machine import OnMachine
from fashiongen.errors import UserError
from fashiongen.records import Record

TRIVIAL = {"facts": {"learns": False}}
LEARNT = {"toy": {"fit": {"steps": 3}}}


def records(out: Path) -> dict[str, Record]:
    return {path.parent.name: Record.read(path) for path in sorted((out / "nodes").glob("*/record.json"))}


def starts(trace: Path) -> list[str]:
    return [line.partition(" ")[0] for line in trace.read_text().splitlines()]


def what_counts(out: Path) -> dict[str, object]:
    """Return of each record what a broken and an unbroken run must have in common."""
    return {
        name: (record.status, record.reason, record.metrics, record.n_samples, record.checkpoint, record.key, samples(out, record))
        for name, record in records(out).items()
    }


def samples(out: Path, record: Record) -> str | None:
    return record.per_sample and (out / "nodes" / record.node / record.per_sample).read_text()


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


def test_what_is_finished_is_not_repeated(tmp_path, trace):
    suite = toys.write_suite(tmp_path, {"white": TRIVIAL, "base": LEARNT})
    toys.run(suite, tmp_path / "out")
    before, times = starts(trace), {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "nodes").rglob("*")}
    status, told = toys.run(suite, tmp_path / "out")
    assert status == 0 and "3 kept" in told
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
    monkeypatch.setattr(runner, "source_sha256", lambda leave_out: "another")
    status, told = toys.run(suite, tmp_path / "out", accept_stale=True)
    assert status == 0 and "4 kept" in told and len(starts(trace)) == 4
    # What a stale parent's child is made of is told by its key: without the flag, both run again.
    (tmp_path / "out" / "nodes" / "test--second--seed0--toy--Toys" / "record.json").unlink()
    toys.run(suite, tmp_path / "out", accept_stale=True)
    assert starts(trace)[4:] == ["test--second--seed0--toy--Toys"]
    assert records(tmp_path / "out")["test--second--seed0--toy--Toys"].metrics == old["test--second--seed0--toy--Toys"].metrics
    toys.run(suite, tmp_path / "out")
    assert len(starts(trace)) == 9


def test_four_ways_not_to_end_well(tmp_path, trace):
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
    # What failed is tried again, and what was skipped is judged again.
    toys.write_suite(tmp_path, {**recipes, "raises": LEARNT, "cannot": TRIVIAL}, slow)
    status, told = toys.run(suite, tmp_path / "out", jobs=4)
    found = records(tmp_path / "out")
    assert status == 1 and found["fit--heir--seed0"].status == found["test--cannot--seed0--toy--Toys"].status == "ok"
    assert starts(trace).count("fit--fine--seed0") == 1 and starts(trace).count("fit--dies--seed0") == 2


def test_only_skips_are_no_failure_and_never_replace_a_result(tmp_path, trace):
    suite = toys.write_suite(tmp_path, {"white": TRIVIAL})
    toys.run(suite, tmp_path / "out")
    old = records(tmp_path / "out")
    toys.write_suite(tmp_path, {"white": {"facts": {"learns": False, "problem": "toys: /data: no such folder"}}})
    status, told = toys.run(suite, tmp_path / "out")
    assert status == 0 and "1 kept" in told
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


def test_a_half_trained_checkpoint_is_not_tested(tmp_path, trace):
    """The printed command is pasted and stopped halfway: what lies there is no longer what the record tells of."""
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


def test_a_parent_that_is_kept_of_other_settings_feeds_no_child(tmp_path, trace):
    """As where it was trained on a GPU, its recipe was changed since, and there is no GPU now."""
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
    assert {name: after[name] for name in before} == before and "4 kept, 4 skipped" in told
    (tmp_path / "out" / "nodes" / "test--base--seed0--toy--Toys" / "record.json").unlink()
    toys.run(suite, tmp_path / "out", describe=without_gpu)
    child = records(tmp_path / "out")["test--base--seed0--toy--Toys"]
    assert child.status == "skipped" and len(starts(trace)) == begun
    assert child.reason.startswith("its parent fit--base--seed0 cannot run here (no GPU), and what is kept of it is of other settings")


def test_a_begun_training_outlives_a_run_without_its_data(tmp_path, trace):
    recipe = {"toy": {"fit": {"steps": 40, "pause": 0.05}}}
    suite = toys.write_suite(tmp_path, {"slow": recipe})
    with other_runner(suite, tmp_path / "out") as other:
        wait_for((tmp_path / "out" / "nodes" / "fit--slow--seed0" / "logs" / "toy" / "last.ckpt").exists, other)
        other.kill()
    toys.write_suite(tmp_path, {"slow": {**recipe, "facts": {"problem": "no folder", "data": "away"}}})
    assert "2 skipped" in toys.run(suite, tmp_path / "out")[1]
    toys.write_suite(tmp_path, {"slow": recipe})
    assert toys.run(suite, tmp_path / "out", jobs=1)[0] == 0
    assert "fit--slow--seed0 resumed" in trace.read_text()


def test_a_limit_and_the_seconds_go_on_with_a_training(tmp_path):
    """Three starts, of which each saves after half a second and dies: what went into the checkpoint counts."""
    code = "import os, time; time.sleep(0.5); open('last.ckpt', 'w').close(); os.kill(os.getpid(), 9)"
    job = bare_job(tmp_path, code)
    job.resumable, job.limit = "last.ckpt", 600
    seconds = [run_node(job).seconds for _ in range(3)]
    assert all(seconds[number] > 0.5 * (number + 1) for number in range(3))
    job.limit = 1.5
    assert run_node(job).status == "timeout"
    job.key = "other"  # a new training
    assert run_node(job).status == "killed"


def test_a_folder_that_cannot_be_had_fails_one_node(tmp_path, trace):
    suite = toys.write_suite(tmp_path, {"base": LEARNT, "white": TRIVIAL})
    (tmp_path / "out" / "nodes").mkdir(parents=True)
    (tmp_path / "out" / "nodes" / "fit--base--seed0").write_text("no folder")
    (tmp_path / "out" / "replaced").write_text("no folder either")
    status, told = toys.run(suite, tmp_path / "out")
    assert status == 1 and "1 ok, 1 failed, 1 skipped" in told and "replaced" in told


def test_what_is_moved_aside_never_lands_on_another(tmp_path, trace):
    """Also where an older one was taken away, and where a name looks like a pattern."""
    toys.write_suite(tmp_path, {"a[1]": TRIVIAL})
    suite = toys.write_suite(tmp_path, {}, [{"methods": ["a*"]}])
    for data in ("first", "second", "third", "fourth"):
        toys.write_suite(tmp_path, {"a[1]": {"facts": {"learns": False, "data": data}}}, [{"methods": ["a*"]}])
        assert toys.run(suite, tmp_path / "out")[0] == 0
        if data == "third":
            shutil.rmtree(tmp_path / "out" / "replaced" / "test--a[1]--seed0--toy--Toys--1")
    assert len(list((tmp_path / "out" / "replaced").iterdir())) == 2


def test_a_task_that_starts_late_repeats_nothing(tmp_path, trace):
    """A cluster may start what a killed runner left in its queue after the next runner has finished it."""
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
    monkeypatch.setattr(runner, "source_sha256", lambda leave_out: "another")

    class OnlyFits(OnMachine):
        def run(self, job):
            if job.id.startswith("test"):
                raise OSError("no machine")
            return super().run(job)

    test = tmp_path / "out" / "nodes" / "test--base--seed0--toy--Toys"
    shutil.copytree(test, tmp_path / "old")
    toys.run(suite, tmp_path / "out", lambda gpus: OnlyFits(1, 0))
    shutil.rmtree(test)
    shutil.copytree(tmp_path / "old", test)  # as a kill after the training would have left it
    begun = len(starts(trace))
    _, told = toys.run(suite, tmp_path / "out", accept_stale=True)
    assert starts(trace)[begun:] == ["test--base--seed0--toy--Toys"] and "1 kept, 1 ok" in told


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        (
            "Traceback:\nRuntimeError: CUDA error: illegal access\nCUDA kernel errors may\nCompile with `X`.",
            "RuntimeError: CUDA error: illegal access",
        ),
        ("torch.OutOfMemoryError: too large\n[W1] warning: a process group", "torch.OutOfMemoryError: too large"),
        ("ValueError: first\nfashiongen: data/x: no such folder", "fashiongen: data/x: no such folder"),
        ("one\nlast words\n", "last words"),
        ("", "ended with exit status 3 and said nothing"),
    ],
)
def test_the_reason_is_the_error_and_not_the_advice_after_it(tmp_path, written, reason):
    job = bare_job(tmp_path, f"print({written!r}); raise SystemExit(3)")
    assert run_node(job).reason == reason


def test_a_training_without_a_checkpoint_has_failed(tmp_path):
    record = json.dumps({"schema": 1, **KNOWN})
    job = bare_job(tmp_path, f"open('record.json', 'w').write({record!r})")
    assert run_node(job).status == "ok"
    job.key, job.resumable = "other", "last.ckpt"
    found = run_node(job)
    assert (found.status, found.reason) == ("failed", "ended with exit status 0 and left no checkpoint last.ckpt")


def test_what_ended_well_as_the_runner_was_stopped_counts(tmp_path):
    record = json.dumps({"schema": 1, **KNOWN})
    job = bare_job(tmp_path, f"import time; open('record.json', 'w').write({record!r}); open('x', 'w'); time.sleep(0.3)")

    class Stopped(Processes):
        def gone(self, process):
            self.stopped = True

    assert run_node(job, Stopped()).status == "ok"
    assert finished(job, accept_stale=False) is not None


def test_what_does_not_hold_the_lock_is_ended_too(tmp_path):
    """As further processes of one training, which the first started without handing the lock on; their leader is gone."""
    worker = "import time; time.sleep(600)"
    leader = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {worker!r}]).pid)"
    job = bare_job(tmp_path, leader)

    class Forgetful(Processes):
        def gone(self, process):
            pass

    run_node(job, Forgetful())
    left = int((job.folder / "log.txt").read_text().split()[-1])
    assert alive(left)
    without_running(job, "skipped", "for a test")
    deadline = time.monotonic() + 10
    while alive(left) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(left)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


KNOWN = {"node": "n", "kind": "fit", "method": "m", "task": "", "dataset": "", "split": "", "protocol": ""}


def bare_job(out: Path, code: str) -> Job:
    command = [sys.executable, "-c", code]
    return Job(
        id="n", out=str(out), command=command, environment={}, limit=None, key="k", chain="c", resumable=None, trust=False, known=KNOWN
    )


def test_nodes_find_what_a_relative_pythonpath_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"mine{os.pathsep}/elsewhere")
    assert runner.package_path().split(os.pathsep)[1:] == [str(tmp_path / "mine"), "/elsewhere"]


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
    assert "3 kept" in toys.run(suite, tmp_path / "out", jobs=3)[1] and len(starts(trace)) == 3


def test_a_dry_run_lists_and_does_nothing(tmp_path, trace):
    suite = toys.write_suite(tmp_path, {"base": LEARNT, "cannot": {"facts": {"needs": ["silhouettes"]}}}, limits={"fit": 60})
    status, told = toys.run(suite, tmp_path / "out", dry_run=True)
    assert status == 0 and starts(trace) == [] and not (tmp_path / "out").exists()
    assert "fit--base--seed0\n    to do; needs nothing; limit 60 s\n" in told
    assert "test--base--seed0--toy--Toys\n    to do; needs nothing; no limit, after fit--base--seed0\n" in told
    assert "skipped: Toy needs silhouettes" in told and "toy_command.py fit --config" in told


def test_two_runners_never_share_a_folder(tmp_path, trace):
    suite = toys.write_suite(tmp_path, {"slow": {"toy": {"fit": {"steps": 100}}}})
    with other_runner(suite, tmp_path / "out") as other:
        wait_for(lambda: starts(trace), other)
        with pytest.raises(UserError, match="another `bench run` is at work there"):
            toys.run(suite, tmp_path / "out")
        other.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_runner_that_is_told_to_stop_ends_its_children_and_goes_on_later(tmp_path, trace, number):
    suite = toys.write_suite(tmp_path, {"slow": {"toy": {"fit": {"steps": 40, "pause": 0.05}}}})
    with other_runner(suite, tmp_path / "out") as other:
        wait_for((tmp_path / "out" / "nodes" / "fit--slow--seed0" / "logs" / "toy" / "last.ckpt").exists, other)
        other.send_signal(number)
        assert other.wait(30) != 0
    assert workers(tmp_path / "out") == []
    assert records(tmp_path / "out") == {}
    assert toys.run(suite, tmp_path / "out")[0] == 0
    assert trace.read_text().splitlines() == ["fit--slow--seed0 begun", "fit--slow--seed0 resumed", "test--slow--seed0--toy--Toys begun"]


def test_ten_kills_leave_no_trace(tmp_path, trace):
    """Must show 2: SIGKILL at ten random moments, and the records are those of a run that was left alone."""
    recipes = {
        "white": {"facts": {"learns": False}, "toy": {"test": {"pause": 0.3}}},
        "base": {"toy": {"fit": {"steps": 30, "pause": 0.03}, "test": {"pause": 0.3}}},
        "second": {"toy": {"fit": {"steps": 30, "pause": 0.03}, "test": {"pause": 0.3}}, "parents": {"first": "base"}},
        "raises": {"toy": {"fit": {"raises": "always"}}},
    }
    suite = toys.write_suite(tmp_path, recipes, seeds=[0, 1])
    assert toys.run(suite, tmp_path / "unbroken")[0] == 1
    trace.write_text("")
    chance, out, finished = random.Random(5), tmp_path / "broken", {}
    for _ in range(10):
        begun = len(starts(trace))
        with other_runner(suite, out) as other:
            wait_for(lambda begun=begun: len(starts(trace)) > begun, other)
            time.sleep(chance.uniform(0, 0.6))
            other.kill()
        deadline = time.monotonic() + 10
        while workers(out) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert workers(out) == []  # what would write on dies with its runner
        now = {name: len([start for start in starts(trace) if start == name]) for name in done(out)}
        assert {name: now.get(name) for name in finished} == finished  # what was finished stays so, and never runs again
        finished = now
    assert 0 < len(finished) < 12 and any(line.endswith("resumed") for line in trace.read_text().splitlines())
    assert toys.run(suite, out)[0] == 1
    assert what_counts(out) == what_counts(tmp_path / "unbroken")
    counts = {name: starts(trace).count(name) for name in finished}
    assert counts == finished


def test_whatever_outlives_its_runner_is_ended_before_a_folder_is_used_again(tmp_path):
    """The lock alone, as where the kernel ends no orphans: a child that a command left behind holds it."""
    left = "import os, time\nif os.fork() == 0:\n    os.closerange(1, 3)\n    time.sleep(600)\nprint('left')"
    job = bare_job(tmp_path, left)

    class Forgetful(Processes):
        def gone(self, process):
            pass

    assert run_node(job, Forgetful()).reason.startswith("ended with exit status 0 and left no record")
    job.command = [sys.executable, "-c", "print('second')"]
    started = time.monotonic()
    run_node(job)
    assert time.monotonic() - started < 20
    assert "second" in (job.folder / "log.txt").read_text()


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
    assert "it asks for 4 GPUs" in records(tmp_path / "out")["test--many--seed0--toy--Toys"].reason
    assert told == [max(1, len(os.sched_getaffinity(0)) // 3)]


def done(out: Path) -> list[str]:
    return [name for name, record in records(out).items() if record.key is not None and record.status == "ok"]


def other_runner(suite: Path, out: Path) -> subprocess.Popen:
    """Start a runner in a process of its own, to be killed; Ctrl-C reaches it though a shell in the background has it ignored."""
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    told = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    told["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen([sys.executable, toys.__file__, suite, out], env={**os.environ, "PYTHONPATH": path}, **told)


def wait_for(condition, process: subprocess.Popen, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, "what was waited for did not come"
        time.sleep(0.005)


def workers(out: Path) -> list[str]:
    """Return the processes that work in a folder of nodes."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                place = os.readlink(process / "cwd")
            except OSError:
                continue
            if place.startswith(str(out)):
                found.append(place)
    return found
