"""Runners that are stopped or killed, and how the next run resumes."""

import random
import signal
import time
from pathlib import Path

import pytest
import toys
from toys import other_runner, records, starts, wait_for, what_counts, workers

from fashiongen.errors import UserError


def test_a_started_training_survives_a_run_without_its_data(tmp_path, trace):
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


def test_two_runners_never_share_a_folder(tmp_path, trace):
    suite = toys.write_suite(tmp_path, {"slow": {"toy": {"fit": {"steps": 100}}}})
    with other_runner(suite, tmp_path / "out") as other:
        wait_for(lambda: starts(trace), other)
        with pytest.raises(UserError, match="another `bench run` is using this folder"):
            toys.run(suite, tmp_path / "out")
        other.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_runner_ends_its_children_and_resumes_later(tmp_path, trace, number):
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
    """Must show 2: after SIGKILL at ten random moments, the records equal those of an uninterrupted run."""
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
        assert workers(out) == []  # processes that would keep writing die with their runner
        now = {name: len([start for start in starts(trace) if start == name]) for name in done(out)}
        assert {name: now.get(name) for name in finished} == finished  # finished nodes stay finished and never run again
        finished = now
    assert 0 < len(finished) < 12 and any(line.endswith("resumed") for line in trace.read_text().splitlines())
    assert toys.run(suite, out)[0] == 1
    assert what_counts(out) == what_counts(tmp_path / "unbroken")
    counts = {name: starts(trace).count(name) for name in finished}
    assert counts == finished


def done(out: Path) -> list[str]:
    return [name for name, record in records(out).items() if record.key is not None and record.status == "ok"]
