"""Checks for the tests of `benchmarks/gpu_check.py`: one that is right, one that is wrong, and some that end badly."""

import os
import signal
import subprocess
import time

from gpu.work import CannotRun, CheckFailed, Work


def right(work: Work, number: int) -> None:
    work.row(number=number, device=work.device)


def wrong(work: Work) -> None:
    work.note(found=41)
    raise CheckFailed("41 is not 42")


def impossible(work: Work) -> None:
    raise CannotRun("a part is missing here")


def killed(work: Work) -> None:
    work.note(found=1)
    os.kill(os.getpid(), signal.SIGKILL)


def hang(work: Work) -> None:
    child = subprocess.Popen(["sleep", "600"], process_group=0)
    work.note(child=child.pid)
    time.sleep(600)
