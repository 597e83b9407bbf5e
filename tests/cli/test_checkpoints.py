"""Checkpoints are written atomically, on a full disk and after killed processes."""

import os
import resource
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch

from fashiongen.cli.checkpoints import WholeCheckpoints
from fashiongen.errors import UserError


@contextmanager
def small_disk(size):
    """Limit the file size, like a full disk: the kernel refuses further writes. Ends before pytest writes its own output."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# torch's writer raises OSError or RuntimeError, depending on where it is when the disk is full.
@pytest.mark.parametrize("size", [10, 50_000, 500_000, 1_700_000, 2_400_000])
def test_a_disk_that_fills_up_at_any_moment_ends_in_one_line_and_loses_nothing(tmp_path, size):
    place = tmp_path / "last.ckpt"
    before = {"state_dict": {"weight": torch.arange(3.0)}}
    WholeCheckpoints().save_checkpoint(before, place)
    checkpoint = {"state_dict": {f"weight{index}": torch.rand(100_000) for index in range(6)}}
    with small_disk(size), pytest.raises(UserError, match=rf"cannot write {place}: File too large; any previous file is kept"):
        WholeCheckpoints().save_checkpoint(checkpoint, place)
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    assert torch.equal(torch.load(place, weights_only=True)["state_dict"]["weight"], torch.arange(3.0))


def test_other_errors_are_not_blamed_on_the_disk(tmp_path):
    with pytest.raises(RuntimeError, match="mine"):
        WholeCheckpoints().save_checkpoint({"state": Unwilling()}, tmp_path / "last.ckpt")
    assert list(tmp_path.iterdir()) == []


class Unwilling:
    def __reduce__(self):
        raise RuntimeError("mine")


def test_only_leftovers_of_killed_processes_are_removed(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as alive:
        left = tmp_path / f".a[0].ckpt.{ended.pid}.part"
        kept = [
            f".a[0].ckpt.{alive.pid}.part",
            f".other.ckpt.{ended.pid}.part",
            ".a[0].ckpt.mine.part",
            f".a[0].ckpt.{10**30}.part",
            "0.ckpt",
        ]
        for path in (left, *(tmp_path / name for name in kept)):
            path.write_bytes(b"half a checkpoint")
        WholeCheckpoints().save_checkpoint({"weight": torch.zeros(2)}, tmp_path / "a[0].ckpt")
        assert sorted(os.listdir(tmp_path)) == sorted([*kept, "a[0].ckpt"])
        alive.communicate(b"\n")
