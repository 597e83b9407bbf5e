"""The command line in separate processes without import time: each is forked from a server that has imported torch and Lightning once.

    command = Command(["fit", "--config", recipe], cwd=folder)
    assert command.wait() == 0, command.output()

Everything else is as in `python -m fashiongen ARGUMENTS`: its own session, environment, folder, standard output and exit status. The server
that forks has run nothing, so that no thread, random state or gradient of a test reaches a command.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from fashiongen.benchmark.node import Processes
from fashiongen.benchmark.on_machine import OnMachine

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["fashiongen.cli.lightning", "fashiongen.methods.igr", "fashiongen.methods.geco", "torchvision.transforms.v2"]
)


def run_command(arguments: list[str], cwd: str, environment: dict[str, str], output: str, append: bool) -> None:
    """Become the process of a command; runs in the forked process."""
    assert "fashiongen.cli.lightning" in sys.modules, "the server is cold: what it should have imported is not there"
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.stdout.flush()
    sys.stderr.flush()
    flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if append else os.O_TRUNC)
    for number, path, mode in ((0, os.devnull, os.O_RDONLY), (1, output, flags)):
        os.dup2(os.open(path, mode, 0o644), number)
    os.dup2(1, 2)
    sys.path[:0] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.argv = ["fashiongen", *arguments]

    import torch

    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", "1")))

    from lightning.fabric.utilities.rank_zero import rank_zero_only

    from fashiongen.cli import main

    rank_zero_only.rank = int(environment.get("LOCAL_RANK", "0"))  # as Lightning expects when it is imported
    main(arguments)


class Command:
    """A command that runs; the interface is that part of `subprocess.Popen` which the package uses."""

    def __init__(
        self,
        arguments: list[object],
        *,
        cwd: Path,
        env: dict[str, str] | None = None,
        output: Path | None = None,
    ) -> None:
        """Start it; without `output`, its output goes to a file that `output()` reads."""
        self.log = output or Path(tempfile.mkstemp(prefix="command-", suffix=".txt", dir=cwd)[1])
        given = (list(map(str, arguments)), str(cwd), dict(os.environ if env is None else env), str(self.log), output is not None)
        self._process = CONTEXT.Process(target=run_command, args=given)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, negative the number of the signal that ended it; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("fashiongen", timeout or 0)
        return self.returncode

    def end(self) -> None:
        """Kill it and everything it has started, if it still runs."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.join()

    def output(self) -> str:
        return self.log.read_text(errors="replace")


def run(arguments: list[object], *, cwd: Path, env: dict[str, str] | None = None, timeout: float = 300) -> str:
    """Run a command, which must succeed, and return its output."""
    command = Command(arguments, cwd=cwd, env=env)
    try:
        status = command.wait(timeout)
    finally:
        command.end()
    assert status == 0, command.output()[-4000:]
    return command.output()


class WarmProcesses(Processes):
    """Starts the nodes of a benchmark as warm commands."""

    def start(self, command: list[str], **options: Any) -> Any:
        program, arguments = command[:3], command[3:]
        assert program == [sys.executable, "-m", "fashiongen"]
        options["stdout"].flush()
        return Command(arguments, cwd=options["cwd"], env=options["env"], output=Path(options["stdout"].name))


class OnWarm(OnMachine):
    """Runs nodes one at a time, each in a warm process; whatever else a node is (its folder, log, lock and record) is as ever."""

    def __init__(self) -> None:
        super().__init__(jobs=1, gpus=0)
        self.cpus = 1
        self._processes = WarmProcesses()
