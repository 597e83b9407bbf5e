"""Running one node: its time, its failure reason, its lock."""

import json
import sys
import time
from pathlib import Path

import pytest
from toys import KNOWN, bare_job

from fashiongen.benchmark.node import Processes, finished, intact, run_node, without_running


def test_a_resumed_training_keeps_its_time_and_limit(tmp_path):
    """Three starts, each of which saves after half a second and dies: the time up to the checkpoint counts."""
    code = "import os, time; time.sleep(0.5); open('last.ckpt', 'w').close(); os.kill(os.getpid(), 9)"
    job = bare_job(tmp_path, code)
    job.resumable, job.limit = "last.ckpt", 600
    seconds = [run_node(job).seconds for _ in range(3)]
    assert all(seconds[number] > 0.5 * (number + 1) for number in range(3))
    job.limit = 1.5
    assert run_node(job).status == "timeout"
    job.key = "other"  # a new training
    assert run_node(job).status == "killed"


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
        ("", "ended with exit status 3 without a message"),
    ],
)
def test_the_reason_is_the_error_and_not_the_advice_after_it(tmp_path, written, reason):
    job = bare_job(tmp_path, f"print({written!r}); raise SystemExit(3)")
    assert run_node(job).reason == reason


def test_a_training_without_a_checkpoint_has_failed(tmp_path):
    record = json.dumps({"schema": 1, **KNOWN})
    job = bare_job(tmp_path, f"open('record.json', 'w').write({record!r})")
    assert run_node(job).status == "ok"
    job.key, job.resumable, job.files = "other", "last.ckpt", {"last": "last.ckpt"}
    found = run_node(job)
    assert (found.status, found.reason) == ("failed", "ended with exit status 0 but wrote no checkpoint last.ckpt")


def test_a_record_without_the_hash_of_its_checkpoint_is_not_trusted(tmp_path):
    record = json.dumps({"schema": 1, **KNOWN, "checkpoint": {"path": "last.ckpt"}})
    job = bare_job(tmp_path, f"open('record.json', 'w').write({record!r}); open('last.ckpt', 'w').close()")
    job.files = {"last": "last.ckpt"}
    assert not intact(job, run_node(job))


def test_a_success_while_the_runner_is_stopped_counts(tmp_path):
    record = json.dumps({"schema": 1, **KNOWN})
    job = bare_job(tmp_path, f"import time; open('record.json', 'w').write({record!r}); open('x', 'w'); time.sleep(0.3)")

    class Stopped(Processes):
        def gone(self, process):
            self.stopped = True

    assert run_node(job, Stopped()).status == "ok"
    assert finished(job, accept_stale=False) is not None


def test_processes_without_the_lock_are_ended_too(tmp_path):
    """Like further processes of one training that did not inherit the lock from the first; their leader is gone."""
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


def test_processes_that_outlive_their_runner_are_ended_before_a_folder_is_reused(tmp_path):
    """Only the lock, as on systems that do not kill orphans: a leftover child of a command holds it."""
    left = "import os, time\nif os.fork() == 0:\n    os.closerange(1, 3)\n    time.sleep(600)\nprint('left')"
    job = bare_job(tmp_path, left)

    class Forgetful(Processes):
        def gone(self, process):
            pass

    assert run_node(job, Forgetful()).reason.startswith("ended with exit status 0 but wrote no record")
    job.command = [sys.executable, "-c", "print('second')"]
    started = time.monotonic()
    run_node(job)
    assert time.monotonic() - started < 20
    assert "second" in (job.folder / "log.txt").read_text()
