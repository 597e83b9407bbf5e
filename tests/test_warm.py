"""The helpers of the other tests: warm processes end like real ones, and the files that start first exist."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from long_files import LONG
from warm import Command, run

TESTS = Path(__file__).parent


def test_a_warm_command_has_its_own_folder_environment_and_exit_status(tmp_path):
    assert "usage: fashiongen" in run(["--help"], cwd=tmp_path)
    wrong = Command(["wardrobe", "render", "absent", "--root", "here"], cwd=tmp_path, env={"PATH": os.environ["PATH"]})
    assert wrong.wait(60) == 2
    assert wrong.output().startswith("fashiongen: ") and wrong.output().count("\n") == 1
    with pytest.raises(AssertionError, match="absent"):
        run(["fit", "--config", "absent.yaml"], cwd=tmp_path)


def test_a_warm_command_can_be_waited_for_and_killed(recipe, tmp_path):
    endless = Command(["fit", "--config", recipe, "--trainer.max_epochs", "-1"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(TESTS)})
    with pytest.raises(subprocess.TimeoutExpired):
        endless.wait(0.1)
    endless.end()
    assert endless.returncode == -signal.SIGKILL


def test_files_that_start_first_are_there():
    assert [name for name in LONG if not (TESTS / name).is_file()] == []
