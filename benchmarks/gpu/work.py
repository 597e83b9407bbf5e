"""One check in its own process: what it is told, what it writes, and how it ends."""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gpu import records

ROOT = Path(__file__).parents[2]
LIBRARIES = ("torch", "torchvision", "lightning", "diffusers", "transformers", "torchmetrics", "deepspeed")
LOG_END = 3000
"""Characters of a failed check's output that its record keeps."""


class CheckFailed(Exception):
    """What was measured is not what it must be; the message says what."""


class CannotRun(Exception):
    """The check cannot run on this machine; the message says why."""


@dataclass
class Work:
    """A check that runs.

    Attributes:
        check: its name.
        function: `module:function`.
        arguments: of the function, besides this object.
        device: `cuda` or `cpu`.
        rehearse: tiny sizes, on a CPU.
        scratch: a folder that all checks of this run share, such as for random weights.
        folder: the check's own empty folder, in which it runs.
        file: its record.
        common: the record's entries that are known before it runs.
        earlier: the facts of the check's last record on this card, by whatever code.
        facts: what it has found so far.
    """

    check: str
    function: str
    arguments: dict[str, Any]
    device: str
    rehearse: bool
    scratch: Path
    folder: Path
    file: Path
    common: dict[str, Any]
    earlier: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def note(self, **facts: Any) -> None:  # noqa: ANN401  plain values
        """Add facts to the record at once: if the check is killed later, they stay."""
        self.facts |= facts
        self.write("running")

    def row(self, **cells: Any) -> None:  # noqa: ANN401  plain values
        """Add a row to the summary's table of this kind of check."""
        self.note(rows=[*self.facts.get("rows", []), cells])

    def write(self, status: str, reason: str | None = None, **more: Any) -> None:  # noqa: ANN401  plain values
        """Write the record."""
        records.write(self.file, {"check": self.check, "status": status, "reason": reason, **self.common, **more, "facts": self.facts})


def as_json(work: Work) -> str:
    """Return the work for another process."""
    return json.dumps({key: str(value) if isinstance(value, Path) else value for key, value in asdict(work).items()})


def from_json(text: str) -> Work:
    """Read what `as_json` wrote."""
    told = json.loads(text)
    return Work(**told | {key: Path(told[key]) for key in ("scratch", "folder", "file")})


def begin(text: str, log: str, environment: dict[str, str], program: list[str]) -> None:
    """Become the process of a check, with its own session, folder and output. Runs in a process forked from one without a GPU context.

    Args:
        text: the work, as JSON.
        log: file for what it prints.
        environment: the process's variables.
        program: the command that performs a file of work in a fresh process, should CUDA refuse a forked one.
    """
    os.setsid()
    for number, path, mode in ((0, os.devnull, os.O_RDONLY), (1, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)):
        os.dup2(os.open(path, mode, 0o644), number)
    os.dup2(1, 2)
    os.environ.clear()
    os.environ.update(environment)
    work = from_json(text)
    if work.device == "cuda" and not _cuda_starts():
        (work.folder / "work.json").write_text(text)
        os.execve(program[0], [*program, str(work.folder / "work.json")], environment)
    perform(work)


def _cuda_starts() -> bool:
    import torch

    if not torch.cuda.is_available():
        return not torch.cuda._is_in_bad_fork()  # without a GPU there is nothing to start
    try:
        return bool(torch.ones(1, device="cuda").item() == 1)
    except (RuntimeError, AssertionError) as error:
        print(f"CUDA does not start in a forked process ({error}): a fresh one takes over", flush=True)
        return False


def perform(work: Work) -> None:
    """Run the check's function and write its record; exit 1 if it failed."""
    os.chdir(work.folder)
    module, _, name = work.function.partition(":")
    work.common |= {"versions": _versions()}
    started = time.monotonic()
    status, reason = "ok", None
    try:
        function: Callable[..., None] = getattr(importlib.import_module(module), name)
        function(work, **work.arguments)
    except CannotRun as error:
        status, reason = "skipped", str(error)
    except BaseException as error:
        traceback.print_exc()
        told = error if isinstance(error, CheckFailed) else f"{type(error).__name__}: {error}"
        status, reason = "failed", " ".join(str(told).split())[:500]
    sys.stdout.flush()
    used = sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
    work.write(status, reason, seconds=round(time.monotonic() - started, 1), cpu_seconds=round(used, 1))
    os._exit(status == "failed")  # libraries' threads and exit handlers must not outlive or fail a check that is written


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
