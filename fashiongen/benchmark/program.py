"""How nodes run fashiongen: the command line, its PYTHONPATH, and the process that inspects commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from fashiongen.benchmark.command_info import CommandInfo
from fashiongen.benchmark.plan import Describe
from fashiongen.errors import UserError
from fashiongen.own_code import INSTALLED

STDERR = 2  # shows the progress of rendering


def python_path() -> str | None:
    """Return the PYTHONPATH with which a process in any folder can import what this one can; None if it needs none.

    It contains this package, unless it is installed in site-packages; the current folder, if this process imports from there, for the
    user's own methods, datasets and tasks; and the entries of the current PYTHONPATH, as absolute paths.
    """
    here, package = os.getcwd(), Path(__file__).parents[2]
    places = [] if package.name in INSTALLED else [str(package)]
    if any(os.path.realpath(entry or here) == os.path.realpath(here) for entry in sys.path):
        places.append(here)
    places += [os.path.abspath(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return os.pathsep.join(dict.fromkeys(places)) or None


def command_line() -> list[str]:
    """Return the public command line, run by the current Python interpreter."""
    return [sys.executable, "-m", "fashiongen"]


def describer(*, render: bool) -> Describe:
    """Return a function that inspects commands in a separate process; with `render` it renders embedded worlds that are missing."""

    def describe(commands: list[list[str]]) -> tuple[list[CommandInfo], int]:
        with tempfile.TemporaryDirectory() as folder:
            answer = Path(folder, "commands.json")
            request = {"commands": commands, "render": render, "answer": str(answer)}
            path = python_path()
            # It can import what nodes can, from PYTHONPATH, and nothing else from the current folder.
            environment = {**os.environ, "PYTHONSAFEPATH": "1", **({"PYTHONPATH": path} if path else {})}
            result = subprocess.run(
                [*command_line(), "bench", "describe"],
                input=json.dumps(request),
                text=True,
                stdout=STDERR,
                stderr=subprocess.PIPE,
                env=environment,
                check=False,
            )
            if not answer.is_file():
                last = (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1]
                raise UserError(last.removeprefix("fashiongen: "))
            content = json.loads(answer.read_text(encoding="utf-8"))
        return [CommandInfo(**info) for info in content["commands"]], content["gpus"]

    return describe
