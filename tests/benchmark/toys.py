"""Toy suites: recipes that say what happens, a function that describes them, and a runner process to kill."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from fashiongen.benchmark.command_info import CommandInfo
from fashiongen.benchmark.node import Job
from fashiongen.benchmark.on_machine import OnMachine
from fashiongen.benchmark.runner import run_suite
from fashiongen.records import Record

CODE = "the package's code"
TRIVIAL = {"facts": {"learns": False}}
LEARNT = {"toy": {"fit": {"steps": 3}}}
COMMAND = [sys.executable, str(Path(__file__).with_name("toy_command.py"))]


def write_suite(folder: Path, methods: dict[str, dict], runs: list[dict] | None = None, **keys) -> Path:
    """Write recipes (`{name: {"parents": ..., "facts": ..., "toy": {"fit": ..., "test": ...}}}`) and a suite of all of them."""
    (folder / "recipes" / "overlays").mkdir(parents=True, exist_ok=True)
    for name, content in methods.items():
        (folder / "recipes" / f"{name}.yaml").write_text(json.dumps(content))
    suite = {"suite": "toys", "recipes": "recipes", "runs": runs or [{"methods": list(methods)}], **keys}
    (folder / "suite.yaml").write_text(json.dumps(suite))
    return folder / "suite.yaml"


def facts_of(command: list[str]) -> CommandInfo:
    kind, *rest = command
    facts: dict = {"method": "Toy", "tasks": ["rank"], "dataset": "Toys", "data_name": "toys", "offers": ["images"]}
    content = [kind]
    keys = dict(zip(rest[::2], rest[1::2], strict=True))
    for config in (value for key, value in zip(rest[::2], rest[1::2], strict=True) if key == "--config"):
        read = json.loads(Path(config).read_text())
        facts |= read.get("facts", {})
        content.append(read.get("toy", {}).get(kind, {}))
    if kind == "test":
        facts |= {"task": facts.get("task", "rank"), "protocol": keys.get("--evaluate.protocol", "toy")}
    else:
        facts |= {"task": "", "checkpoint": "logs/toy/last.ckpt"}
    content += [facts["method"], facts.pop("data", "here")]
    return CommandInfo(**{"code": CODE, **facts}, content=hashlib.sha256(json.dumps(content).encode()).hexdigest())


def describe(commands: list[list[str]]) -> tuple[list[CommandInfo], int]:
    return [facts_of(command) for command in commands], 0


def run(suite: Path, out: Path, make_executor: Callable | None = None, jobs: int = 2, **options) -> tuple[int, str]:
    """Run a toy suite and return the exit status and the output."""
    told = io.StringIO()
    console = Console(file=told, width=200)
    options = {"describe": describe, "command": COMMAND, "console": console, **options}
    make = make_executor or (lambda gpus: OnMachine(jobs, gpus))
    return run_suite(suite, out, make, **options), told.getvalue()


def records(out: Path) -> dict[str, Record]:
    return {path.parent.name: Record.read(path) for path in sorted((out / "nodes").glob("*/record.json"))}


def starts(trace: Path) -> list[str]:
    return [line.partition(" ")[0] for line in trace.read_text().splitlines()]


def what_counts(out: Path) -> dict[str, object]:
    """Return the parts of each record that an interrupted and an uninterrupted run must share."""
    return {
        name: (record.status, record.reason, record.metrics, record.n_samples, record.checkpoint, record.key, samples(out, record))
        for name, record in records(out).items()
    }


def samples(out: Path, record: Record) -> str | None:
    return record.per_sample and (out / "nodes" / record.node / record.per_sample).read_text()


KNOWN = {"node": "n", "kind": "fit", "method": "m", "task": "", "dataset": "", "split": "", "protocol": ""}


def bare_job(out: Path, code: str) -> Job:
    command = [sys.executable, "-c", code]
    return Job(
        id="n",
        out=str(out),
        command=command,
        environment={},
        limit=None,
        key="k",
        settings_key="c",
        resumable=None,
        trust=False,
        known=KNOWN,
    )


def other_runner(suite: Path, out: Path) -> subprocess.Popen:
    """Start a runner in its own process, to be killed; Ctrl-C reaches it although background shells ignore it."""
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    told = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    told["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen([sys.executable, __file__, suite, out], env={**os.environ, "PYTHONPATH": path}, **told)


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


if __name__ == "__main__":
    sys.exit(run_suite(Path(sys.argv[1]), Path(sys.argv[2]), lambda gpus: OnMachine(2, gpus), command=COMMAND, describe=describe))
