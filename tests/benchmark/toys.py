"""Toy suites: recipes that say what happens, what tells their facts, and a runner of its own to be killed."""

import hashlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from fashiongen.benchmark.facts import Facts
from fashiongen.benchmark.on_machine import OnMachine
from fashiongen.benchmark.runner import run_suite

COMMAND = [sys.executable, str(Path(__file__).with_name("toy_command.py"))]


def write_suite(folder: Path, methods: dict[str, dict], runs: list[dict] | None = None, **keys) -> Path:
    """Write recipes (`{name: {"parents": ..., "facts": ..., "toy": {"fit": ..., "test": ...}}}`) and a suite of all of them."""
    (folder / "recipes" / "overlays").mkdir(parents=True, exist_ok=True)
    for name, content in methods.items():
        (folder / "recipes" / f"{name}.yaml").write_text(json.dumps(content))
    suite = {"suite": "toys", "recipes": "recipes", "runs": runs or [{"methods": list(methods)}], **keys}
    (folder / "suite.yaml").write_text(json.dumps(suite))
    return folder / "suite.yaml"


def facts_of(command: list[str]) -> Facts:
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
    return Facts(**facts, content=hashlib.sha256(json.dumps(content).encode()).hexdigest())


def describe(commands: list[list[str]]) -> tuple[list[Facts], int]:
    return [facts_of(command) for command in commands], 0


def run(suite: Path, out: Path, make_executor: Callable | None = None, jobs: int = 2, **options) -> tuple[int, str]:
    """Run a toy suite and return the exit status and what was said."""
    told = io.StringIO()
    console = Console(file=told, width=200)
    options = {"describe": describe, "command": COMMAND, "console": console, **options}
    make = make_executor or (lambda gpus: OnMachine(jobs, gpus))
    return run_suite(suite, out, make, **options), told.getvalue()


if __name__ == "__main__":
    sys.exit(run_suite(Path(sys.argv[1]), Path(sys.argv[2]), lambda gpus: OnMachine(2, gpus), command=COMMAND, describe=describe))
