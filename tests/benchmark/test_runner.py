"""The runner on toy commands: what it repeats, what it keeps, what it says of what went wrong, and what a kill leaves."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toys

from fashiongen.benchmark import runner
from fashiongen.benchmark.node import Job, Processes, run_node
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
    assert fits["cannot"].reason == "Cannot needs silhouettes, which Toys does not offer here (it offers pictures)"
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
    command = [sys.executable, "-c", left]
    job = Job(id="n", out=str(tmp_path), command=command, environment={}, limit=None, key="k", chain="c", resumable=None, trust=False)
    job.known = {"node": "n", "kind": "fit", "method": "m", "task": "", "dataset": "", "split": "", "protocol": ""}

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
