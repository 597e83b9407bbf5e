"""The recipe, overlays and protocol that a trainer command names; the protocol states the task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fashiongen import shipped, tasks
from fashiongen.cli.parser import Parser
from fashiongen.errors import UserError


@dataclass(frozen=True)
class CommandLine:
    """A `fit`, `validate`, `test` or `predict` command as typed.

    Attributes:
        args: the command and its arguments.
        given: the names or paths given with `--config`, in order: the recipe, then its overlays.
        configs: the files that these resolve to.
        labels: the names of these files in records and messages.
        protocol: the value of `--evaluate.protocol`, if given.
    """

    args: list[str]
    given: list[str]
    configs: list[Path]
    labels: list[str]
    protocol: str | None

    @classmethod
    def read(cls, args: Sequence[str]) -> CommandLine:
        """Find the files and the protocol in the arguments, and leave the rest to LightningCLI's parser.

        Raises:
            UserError: if a name is neither a file nor shipped with the package, or a file holds no keys.
        """
        parser = Parser(prog=f"fashiongen {args[0]}", add_help=False)
        parser.add_argument("-c", "--config", action="append", default=[])
        parser.add_argument("--evaluate.protocol", dest="protocol")
        options, _ = parser.parse_known_args(args[1:])
        given = [value for value in options.config if not is_inline(value)]
        configs = [shipped.find_config(value) for value in given]
        labels = [value if str(file) == value else shipped.label(file) for value, file in zip(given, configs, strict=True)]
        for file, label in zip(configs, labels, strict=True):
            _check_recipe(file, label)
        return cls(list(args), given, configs, labels, options.protocol)

    @property
    def command(self) -> str:
        """Return `fit`, `validate`, `test` or `predict`."""
        return self.args[0]

    @property
    def recipe(self) -> str:
        """Return the recipe as typed."""
        return self.given[0] if self.given else "the recipe"


def is_inline(config: str) -> bool:
    """Return whether a value of `--config` is inline YAML rather than the name or path of a file."""
    return ": " in config or config.lstrip().startswith("{")


@dataclass(frozen=True)
class Protocol:
    """A protocol's name, its file, and the task that the file states."""

    name: str
    file: Path
    task: str


def find_protocol(line: CommandLine) -> Protocol | None:
    """Return the protocol that the recipe, overlays or `--evaluate.protocol` name; None without one, or for a `fit` if it has no file.

    The last one wins. A file that lists metrics itself is its own protocol; any other protocol's file is `tasks/NAME.yaml` next to the
    recipe or one folder up, else the shipped one.

    Raises:
        UserError: if a test's protocol has no file, or the file states no task.
    """
    if not line.configs:
        return None
    named = [(file, label, _evaluate_of(file)) for file, label in zip(line.configs, line.labels, strict=True)]
    chosen = [(file, f"{label}: evaluate.protocol", evaluate) for file, label, evaluate in named if evaluate.get("protocol")]
    if line.protocol:
        chosen.append((line.configs[0], "--evaluate.protocol", {"protocol": line.protocol}))
    if not chosen:
        return None
    source, key, evaluate = chosen[-1]
    name = str(evaluate["protocol"])
    file = source if evaluate.get("metrics") else shipped.find_protocol(name, line.configs[0])
    if file is None:
        if line.command != "test":
            return None
        raise shipped.unknown(name, [entry.name for entry in shipped.list_protocols()], f"{key}:")
    task = _evaluate_of(file).get("task")
    if not isinstance(task, str):
        raise UserError(f"{shipped.label(file)}: a protocol states its task: add evaluate.task")
    return Protocol(name, file, task)


def with_protocol(line: CommandLine, protocol: Protocol | None) -> list[str]:
    """Return the arguments to parse: a test's protocol comes before its recipe, so that metrics of two protocols never mix.

    Later files and keys still win.
    """
    if protocol is None or line.command != "test":
        return line.args
    return [line.command, "--config", str(protocol.file), *line.args[1:]]


def check_protocol(protocol: Protocol | None, name: str) -> None:
    """Reject a protocol name whose metrics were not loaded: the record would name another protocol than the one used.

    Raises:
        UserError: if settings, such as inline ones, name a protocol other than `protocol`.
    """
    if protocol is not None and name != protocol.name:
        raise UserError(
            f"evaluate.protocol={name} is set inline, and the metrics are those of {protocol.name}: name it by --evaluate.protocol "
            "or in a file given by --config"
        )


def check_task(line: CommandLine, protocol: Protocol | None, task: str | None) -> None:
    """Reject settings whose task is not their protocol's.

    Raises:
        UserError: if the tasks differ, or a task is unknown.
    """
    if protocol is None or task in (None, protocol.task):
        return
    if _find_task("evaluate.task", task) != _find_task(f"{shipped.label(protocol.file)}: evaluate.task", protocol.task):
        raise UserError(
            f"{line.recipe} is for the task {task}, and its protocol {protocol.name} for {protocol.task}: "
            f"name another protocol (`fashiongen recipes` lists them) or change evaluate.task"
        )


def _find_task(key: str, name: str) -> type[tasks.Task]:
    try:
        return tasks.find(name)
    except UserError as error:
        raise UserError(f"{key}={error}") from error


def _evaluate_of(file: Path) -> dict[str, Any]:
    """Return a file's `evaluate`; empty if it has none or cannot be read (the parser reports that)."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    evaluate = content.get("evaluate") if isinstance(content, dict) else None
    return evaluate if isinstance(evaluate, dict) else {}


def _check_recipe(file: Path, label: str) -> None:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{label}: not UTF-8 text; save it as UTF-8") from error
    except (OSError, yaml.YAMLError):
        return  # the parser reports what is wrong
    if not isinstance(content, dict):
        raise UserError(f"{label}: has no keys; a recipe is a YAML file with keys such as `model:` and `data:`")
