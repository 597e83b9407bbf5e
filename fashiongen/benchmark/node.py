"""One node: runs its command line in its own process, and writes a record however that process ends.

How a node survives kills and crashes:

- The process leads its own session, and the kernel kills it when its runner dies (PR_SET_PDEATHSIG, on Linux).
- It inherits a locked file. The lock is free only when the process and all its forks are gone. A new runner takes the lock first; if a
  process is left over, the runner kills it (identified by pid and start time) and waits. So a folder never has two writers.
- `node.json` stores the key with which a folder was started. A folder with another key is moved aside; one with the same key is resumed.
- A record counts as finished only if it contains the key, which is written last, atomically, by a rename.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fashiongen.errors import UserError
from fashiongen.records import Record, Status, file_sha256, kept_sha256, write_atomically

GRACE = 10.0
"""Seconds between SIGTERM and SIGKILL."""

# Run by the same Python without site-packages, in about 10 ms: asks the kernel to kill it with its parent, then execs the command.
LAUNCH = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
os.execvp(sys.argv[2], sys.argv[2:])
"""


class Interrupted(Exception):
    """The runner was stopped: the node is neither finished nor failed."""


@dataclass(kw_only=True)
class Job:
    """Everything needed to run a node on any machine with the same folders.

    Attributes:
        id: the node's id.
        out: the benchmark's folder.
        command: the command line, without the arguments that resume from the node's own checkpoint.
        environment: environment variables that are set for it.
        limit: time limit in seconds, including the time before the checkpoint it resumes from.
        key: hash of everything the node depends on.
        settings_key: the same without code and the libraries' versions.
        versions: of the libraries that it uses and of the user's own code, for its record.
        parents: keys of the parents whose checkpoints it loads, by role.
        resumable: path of a fit's own last checkpoint, relative to the node's folder.
        files: paths of the checkpoints that a fit must leave, by role (`Record.checkpoints`), relative to the node's folder.
        kept: folder of the predictions that a test must leave for others, relative to the node's folder.
        trust: whether its checkpoints are DeepSpeed folders.
        known: fields of its record that replace what the command wrote.
        assumed: fields of its record if the command wrote none.
        cpus: number of cores.
        gpus: number of GPUs.
    """

    id: str
    out: str
    command: list[str]
    environment: dict[str, str]
    limit: float | None
    key: str
    settings_key: str
    resumable: str | None
    trust: bool
    parents: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    kept: str | None = None
    known: dict[str, Any] = field(default_factory=dict)
    assumed: dict[str, Any] = field(default_factory=dict)
    cpus: int = 1
    gpus: int = 0

    @property
    def folder(self) -> Path:
        """The folder of the node's files."""
        return Path(self.out, "nodes", self.id)


class Processes:
    """The processes started by this one; all are ended when it is stopped."""

    def __init__(self) -> None:
        """Start with none."""
        self.stopped = False
        self._running: set[int] = set()
        self._lock = threading.Lock()

    def start(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401  those of Popen
        """Start a command as the leader of a session."""
        with self._lock:
            if self.stopped:
                raise Interrupted
            launch = [sys.executable, "-I", "-S", "-c", LAUNCH, str(os.getpid()), *command]
            process = subprocess.Popen(launch, start_new_session=True, **options)
            self._running.add(process.pid)
            return process

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """End a process and whatever is left of its session."""
        _signal(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        _signal(process.pid, signal.SIGKILL)
        process.wait()

    def gone(self, process: subprocess.Popen[bytes]) -> None:
        """Forget a process that has ended, and end its leftover children."""
        _signal(process.pid, signal.SIGKILL)
        with self._lock:
            self._running.discard(process.pid)

    def stop(self) -> None:
        """Ask all processes to end; `stopped` tells the threads that wait for them why they ended."""
        with self._lock:
            self.stopped = True
            running = set(self._running)
        for pid in running:
            _signal(pid, signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline and any(_start_time(pid) for pid in running & self._running):
            time.sleep(0.05)
        for pid in running & self._running:
            _signal(pid, signal.SIGKILL)


def run_node(job: Job, processes: Processes | None = None) -> Record:
    """Run a node, write its record into its folder and return it; errors of the node are stated in the record.

    A node that is done does not run again: a cluster may still have run a task of an earlier runner that was killed.

    Args:
        job: the node.
        processes: stops the node's process on request.

    Raises:
        Interrupted: if the node was stopped.
        UserError: if the folder cannot be used.
    """
    processes = processes or Processes()
    with _locked(job) as lock:
        there = finished(job, accept_stale=False)
        if there is not None and intact(job, there):
            return there
        if there is not None and not all(
            _is_recorded(job.folder / file, there, role) for role, file in job.files.items() if role != "last"
        ):
            _move_aside(job)  # resuming would not write its best checkpoint again
        spent = _seconds_spent(job)
        fresh = _prepare(job, spent)
        command, log = _resumed(job), job.folder / "log.txt"
        place = {"cwd": job.folder, "env": {**os.environ, **job.environment}, "stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
        started = datetime.now(UTC)
        with log.open("wb" if fresh else "ab") as file:
            file.write(f"# {started:%Y-%m-%d %H:%M:%S} UTC, in {job.folder}\n# {pasteable(job, command)}\n".encode())
            file.flush()
            beginning, clock = file.tell(), time.monotonic()
            process = processes.start(command, stdout=file, pass_fds=[lock], **place)
        _write_state(job, process.pid, spent)
        exceeded = False
        try:
            process.wait(None if job.limit is None else max(0.0, job.limit - spent))
        except subprocess.TimeoutExpired:
            exceeded = True
            processes.end(process)
        finally:
            processes.gone(process)
        if processes.stopped and (exceeded or process.returncode != 0):
            raise Interrupted
        record = _outcome(job, process.returncode, exceeded, _last_words(log, beginning))
        record.started = started.isoformat(timespec="seconds")
        record.seconds = spent + time.monotonic() - clock
        record.command = pasteable(job, job.command)  # from the beginning, also if this process resumed
        record.log = log.name
        record.write(job.folder / "record.json")
        return record


def pasteable(job: Job, command: list[str]) -> str:
    """Return the command line to paste into any shell on this machine."""
    variables = [f"{name}={shlex.quote(value)}" for name, value in job.environment.items()]
    return f"cd {shlex.quote(str(job.folder))} && {' '.join([*variables, shlex.join(command)])}"


def without_running(job: Job, status: Status, reason: str, *, keep: bool = False) -> Record:
    """Write and return the record of a node that did not run, or whose machine was lost.

    With `keep`, an earlier result with any key stays in place and is returned. A training that was started stays in place, too.
    """
    with _locked(job):
        path = job.folder / "record.json"
        with suppress(UserError):
            there = Record.read(path)
            if there.status == "ok" and there.key is not None:
                if keep:
                    return there
                _prepare(job)
        job.folder.mkdir(parents=True, exist_ok=True)
        record = Record(**job.known, **job.assumed, status=status, reason=reason, key=job.key, command=pasteable(job, job.command))
        record.write(path)
        return record


def finished(job: Job, *, accept_stale: bool) -> Record | None:
    """Return the record of a node that is done, None if it must run; `accept_stale` also accepts another version of the code."""
    try:
        record = Record.read(job.folder / "record.json")
        begun = _read_state(job)
    except UserError:
        return None
    if record.status != "ok" or record.key is None or record.key != begun.get("key"):
        return None
    begun_with = begun.get("settings_key", begun.get("chain"))  # `chain`: written before version 0.1
    stale = accept_stale and begun_with == job.settings_key and begun.get("parents", job.parents) == job.parents
    return record if record.key == job.key or stale else None


def intact(job: Job, record: Record) -> bool:
    """Return whether a node's checkpoints and predictions are those in its record.

    They are not if someone ran its command by hand and stopped it, or if no other test read the predictions when it ran.
    """
    if job.kept is not None:
        folder = job.folder / job.kept
        if record.predictions is None or not folder.is_dir() or kept_sha256(folder) != record.predictions.get("sha256"):
            return False
    return all(_is_recorded(job.folder / file, record, role) for role, file in job.files.items())


def _is_recorded(path: Path, record: Record, role: str) -> bool:
    """Return whether a checkpoint is the one in a record; older records only have `checkpoint`, the last one."""
    recorded = record.checkpoints.get(role, record.checkpoint)
    return path.is_dir() or (path.is_file() and (recorded is None or recorded.get("sha256") == file_sha256(path)))


def _prepare(job: Job, spent: float = 0.0) -> bool:
    """Prepare the folder for this key: resume one with the same key, move one with another key aside. Return whether it is new."""
    fresh = _read_state(job).get("key") != job.key
    if fresh and job.folder.exists():
        _move_aside(job)
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / "record.json").unlink(missing_ok=True)
    _write_state(job, None, spent)
    return fresh


def _move_aside(job: Job) -> None:
    aside = Path(job.out, "replaced")
    aside.mkdir(exist_ok=True)
    places = (aside / f"{job.id}--{number}" for number in itertools.count(1))
    job.folder.rename(next(place for place in places if not place.exists()))


def _seconds_spent(job: Job) -> float:
    """Return the training time in seconds up to the checkpoint from which a training resumes; later work is repeated."""
    begun, path = _read_state(job), job.folder / (job.resumable or "")
    if job.resumable is None or begun.get("key") != job.key or not path.exists():
        return 0.0
    return float(begun.get("spent", 0)) + max(0.0, path.stat().st_mtime - float(begun.get("began", math.inf)))


def _resumed(job: Job) -> list[str]:
    if job.resumable is None or not (job.folder / job.resumable).exists():
        return job.command
    return [*job.command, "--ckpt_path", job.resumable, *(["--trust"] if job.trust else [])]


def _outcome(job: Job, status: int, exceeded: bool, last: str) -> Record:
    """Return the record that the command wrote, or one that states how it ended."""
    problem: tuple[Status, str]
    if exceeded:
        problem = "timeout", f"exceeded its limit of {job.limit:g} s"
    elif status < 0:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
        problem = "killed", f"killed by {name}" + (" (out of memory?)" if -status == signal.SIGKILL else "")
    elif status > 0:
        problem = "failed", last or f"ended with exit status {status} without a message"
    else:
        try:
            record = Record.read(job.folder / "record.json")
        except UserError as error:
            problem = "failed", f"ended with exit status 0 but wrote no record: {error}"
        else:
            if lacking := [file for file in job.files.values() if not (job.folder / file).exists()]:
                reason = f"ended with exit status 0 but wrote no checkpoint {lacking[0]}"
                return Record(**job.known, **job.assumed, status="failed", reason=reason, exit_status=status, key=job.key)
            for name, value in job.known.items():
                setattr(record, name, value)
            record.versions |= job.versions
            record.exit_status, record.key = 0, job.key
            return record
    return Record(**job.known, **job.assumed, status=problem[0], reason=problem[1], exit_status=status, key=job.key)


def _last_words(log: Path, beginning: int) -> str:
    """Return the last line that names an error (advice may follow it), or else the last line that the command wrote."""
    with log.open("rb") as file:
        file.seek(max(beginning, log.stat().st_size - 100_000))
        lines = [line.rstrip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"fashiongen: |[\w.]*(Error|Exception|Interrupt)(:|$)", line)]
    return [*lines[-1:], *errors][-1].strip()[:1000] if lines else ""


@contextmanager
def _locked(job: Job) -> Iterator[int]:
    """Hold the node's lock, after ending any process that an earlier runner left running in its folder."""
    folder = Path(job.out, "locks")
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / job.id, "w") as file:
        deadline = time.monotonic() + 3 * GRACE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                _end_left_over(job)
            if time.monotonic() > deadline:
                begun = _read_state(job)
                raise UserError(
                    f"{job.folder}: process {begun.get('pid')} on {begun.get('host')} is still writing to it: end that process first"
                )
            time.sleep(0.1)
        _end_left_over(job)  # with several GPUs, the other processes do not inherit the lock from the first
        yield file.fileno()


def _end_left_over(job: Job) -> None:
    begun = _read_state(job)
    pid, host, start = begun.get("pid"), begun.get("host"), begun.get("start")
    if isinstance(pid, int) and host == os.uname().nodename and start is not None and _start_time(pid) in (start, None):
        _signal(pid, signal.SIGKILL)  # the whole group: its leader may be gone, but the pid is reused only when the whole group is


def _write_state(job: Job, pid: int | None, spent: float = 0.0) -> None:
    """Write the key with which the folder was started, and the process that works in it."""
    worker = {"pid": pid, "host": os.uname().nodename, "start": None if pid is None else _start_time(pid)}
    keys = {"key": job.key, "settings_key": job.settings_key, "parents": job.parents}
    begun = {"id": job.id, **keys, "spent": spent, "began": time.time(), **worker}
    write_atomically(job.folder / "node.json", json.dumps(begun, indent=2) + "\n")


def _read_state(job: Job) -> dict[str, Any]:
    try:
        content = json.loads((job.folder / "node.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _start_time(pid: int) -> str | None:
    """Return the kernel's start time of a process, by which a reused pid is recognised; None if the process is gone."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else rest[18]


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
