"""What a plan must know of a command before it runs: what the method needs and can do, and what the data are.

`Facts` is plain data and this file imports nothing heavy at the top; `gather`, which imports what the recipes name, runs in a process of
its own (`fashiongen bench describe`), so that the runner stays small and outlives whatever goes wrong there.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fashiongen.errors import UserError
from fashiongen.records import file_sha256

LISTS = (".txt", ".csv", ".json", ".jsonl")
Resolve = Callable[[list[list[str]]], list[dict[str, Any]]]


@dataclass(kw_only=True)
class Facts:
    """What one `fit` or `test` would be.

    Attributes:
        method: name of the method's class.
        needs: what its data must offer.
        tasks: what it can do.
        learns: whether it has a training step.
        n_optimizers: how many it has; DeepSpeed takes one.
        task: what a test asks of it.
        protocol: by what it is judged.
        dataset: name of the data module's class.
        data_name: what records call it.
        offers: what the data offer; None where that is not known before the embedded world is rendered.
        problem: why the data cannot be read, in one line; None if they can.
        accelerator: cpu, cuda, or auto: cuda wherever there is a GPU.
        gpus: how many GPUs it takes where it runs on some; -1: all that there are.
        deepspeed: whether its strategy is DeepSpeed.
        checkpoint: where a fit writes its last checkpoint, relative to its folder; None where the recipe says no such place.
        seeded_data: whether the data module takes a seed of its own.
        absolute: keys whose relative path must be made absolute, since the command runs in a folder of its own.
        content: hash of the settings and the data, wherever they lie.
    """

    method: str
    needs: list[str] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)
    learns: bool = True
    n_optimizers: int = 1
    task: str = ""
    protocol: str = ""
    dataset: str = ""
    data_name: str = ""
    offers: list[str] | None = None
    problem: str | None = None
    accelerator: str = "cpu"
    gpus: int = 0
    deepspeed: bool = False
    checkpoint: str | None = None
    seeded_data: bool = False
    absolute: dict[str, str] = field(default_factory=dict)
    content: str = ""


def placed(facts: Facts, available: int | None) -> Facts:
    """Return facts that hold where a node may have `available` GPUs: on cpu or cuda, with a number of GPUs.

    A cluster's scheduler (None) is asked for a GPU where the recipe leaves it open.
    """
    accelerator = facts.accelerator
    if accelerator == "auto":
        accelerator = "cpu" if available == 0 else "cuda"
    gpus = (available or 1) if facts.gpus == -1 else facts.gpus
    return replace(facts, accelerator=accelerator, gpus=gpus if accelerator == "cuda" else 0)


def obstacle(facts: Facts, kind: str, available: int | None) -> str | None:
    """Return why a command cannot run, in one line; None if nothing is known to be in the way.

    Args:
        facts: of the command, placed.
        kind: fit or test.
        available: how many GPUs a node may have; None where that is for others to know (a cluster's scheduler).
    """
    if kind == "test" and facts.task not in facts.tasks:
        return f"{facts.method} cannot do {facts.task}; it can do: {', '.join(facts.tasks) or 'no task'}"
    if facts.deepspeed and facts.n_optimizers > 1:
        return f"DeepSpeed takes one optimizer and {facts.method} has {facts.n_optimizers}"
    if facts.deepspeed and (facts.accelerator != "cuda" or available == 0):
        return "DeepSpeed needs a CUDA GPU" + (", and there is none" if available == 0 else ", and the recipe asks for the CPU")
    if facts.gpus and available is not None and facts.gpus > available:
        return f"it asks for {facts.gpus} GPU{'s' * (facts.gpus > 1)} (trainer.accelerator, trainer.devices), and there are {available}"
    if facts.problem is not None:
        return facts.problem
    if facts.offers is not None and (lacking := sorted(set(facts.needs) - set(facts.offers))):
        return f"{facts.method} needs {', '.join(lacking)}, which {facts.dataset} does not offer here (it offers {_some(facts.offers)})"
    return None


def _some(offers: list[str]) -> str:
    return ", ".join(sorted(offers)) or "nothing"


def gather(commands: list[list[str]], resolve: Resolve, *, render: bool) -> dict[str, Any]:
    """Return what JSON needs of the facts of commands, `fit ...` or `test ...`, and how many GPUs this machine has.

    Args:
        commands: as one would type them, without the program.
        resolve: returns the settings of each (`fashiongen.cli.settings.resolve`).
        render: render embedded worlds that are not there; without it what they offer is not known.

    Raises:
        UserError: if a command's settings are wrong; data that cannot be read are a fact.
    """
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    seen: dict[str, Any] = {}
    found = []
    for command, settings in zip(commands, resolve(commands), strict=True):
        options = dict(zip(command[1::2], command[2::2], strict=True))
        if "--cache" in options:  # an option of the command, and no setting
            settings["cache"] = options["--cache"]
        found.append(vars(_facts(command[0], settings, seen, render=render)))
    return {"gpus": gpus, "facts": found}


def _facts(kind: str, settings: dict[str, Any], seen: dict[str, Any], *, render: bool) -> Facts:
    from lightning.pytorch.utilities.model_helpers import is_overridden

    from fashiongen import tasks
    from fashiongen.methods.base import Method

    method: Any = _class(settings["model"]["class_path"])
    data: Any = _class(settings["data"]["class_path"])
    trainer = settings["trainer"]
    paths = dict(_paths(settings))
    absolute = {key: str(Path(path).absolute()) for key, path in paths.items() if not Path(path).expanduser().is_absolute()}
    own = {key: path for key, path in absolute.items() if key.startswith("data.")}
    name, offers, fingerprint, problem = _data(settings["data"], kind, own, seen, render=render)
    asked = str(trainer["accelerator"])
    accelerator = "cuda" if asked in ("gpu", "cuda") else asked if asked == "auto" else "cpu"
    reference = (settings["evaluate"].get("reference") or {}).get("data")
    wheres = [fingerprint]
    if kind == "test" and reference is not None:
        places = {key.removeprefix("evaluate.reference."): path for key, path in absolute.items() if key.startswith("evaluate.reference.")}
        *_, true_images, lacking = _data(reference, None, places, seen, render=render)
        wheres.append(true_images)
        problem = problem or lacking
    for key, path in paths.items():
        if not _is_root(key) and not (kind == "fit" and key.startswith("evaluate.")):
            held, lacking = _held(path, seen, contents=key != "cache")
            wheres.append(f"{key} {held}")
            problem = problem or lacking
    strategy = trainer["strategy"]
    return Facts(
        method=method.__name__,
        needs=sorted(method.needs),
        tasks=tasks.supported(method),
        learns=is_overridden("training_step", method, Method),
        n_optimizers=method.n_optimizers,
        task=settings["evaluate"]["task"] if kind == "test" else "",
        protocol=settings["evaluate"]["protocol"] if kind == "test" else "",
        dataset=data.__name__,
        data_name=name or data.__name__,
        offers=offers,
        problem=problem,
        accelerator=accelerator,
        gpus=_devices(trainer["devices"]) if accelerator != "cpu" else 0,
        deepspeed="deepspeed" in str(strategy["class_path"] if isinstance(strategy, dict) else strategy).lower(),
        checkpoint=_last_checkpoint(trainer),
        seeded_data="seed" in _parameters(data),
        absolute=absolute,
        content=_hash([kind, _what_counts(settings, kind, paths), wheres]),
    )


def _class(path: str) -> Any:  # noqa: ANN401  any class
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _parameters(data: type) -> set[str]:
    """Return the names of the settings of a data module, those that it passes on to its parents included."""
    return {name for ancestor in data.__mro__ if "__init__" in vars(ancestor) for name in inspect.signature(ancestor).parameters}


def _devices(asked: object) -> int:
    """Return how many GPUs `trainer.devices` means, -1 for all: `auto` is one a node, so that several nodes share a machine."""
    if isinstance(asked, list):
        return len(asked)
    if asked == "-1":
        return -1
    if isinstance(asked, str):
        return int(asked) if asked.isdigit() else 1 + asked.count(",")
    return asked if isinstance(asked, int) else 1


def _last_checkpoint(trainer: dict[str, Any]) -> str | None:
    for callback in trainer["callbacks"] or []:
        arguments = callback.get("init_args", {})
        if callback["class_path"].endswith("ModelCheckpoint") and arguments.get("dirpath") and arguments.get("save_last"):
            return str(Path(arguments["dirpath"], "last.ckpt"))
    return None


def _paths(settings: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the keys that say where data and weights lie; of weights those alone that are there, the others are left to hubs."""
    evaluate = settings["evaluate"]
    parts = {
        "data": settings["data"],
        "model": settings["model"],
        "evaluate.reference.data": (evaluate.get("reference") or {}).get("data"),
        "evaluate.metrics": evaluate.get("metrics"),
        "cache": settings.get("cache"),
    }
    for key, value in (leaf for name, part in parts.items() for leaf in _leaves(part, name)):
        if not isinstance(value, str) or not value or value == "wardrobe":
            continue
        path = Path(value).expanduser()
        there = ("/" in value and path.exists()) or (path.suffix and path.is_file())
        if _is_root(key) or key == "cache" or (there and not key.endswith(".decisions")):  # decisions are written
            yield key, value


def _is_root(key: str) -> bool:
    """Tell whether a key names the folder of a dataset."""
    return key.endswith(".root") and not key.startswith("model.")


def _leaves(value: object, key: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}")
    else:
        yield key, value


def _what_counts(settings: dict[str, Any], kind: str, paths: dict[str, str]) -> dict[str, Any]:
    """Return what of the settings decides about the result: neither where files lie nor, for a fit, how it will be judged."""
    kept = json.loads(json.dumps(settings))
    kept["trainer"].pop("logger", None)
    kept["trainer"].pop("enable_progress_bar", None)
    kept.pop("ckpt_path", None)
    if kind == "fit":
        kept.pop("evaluate")
    else:
        kept["evaluate"].pop("out", None)
    for key in paths:
        inner: Any = kept
        *path, last = key.split(".")
        for name in path:
            inner = inner.get(name) if isinstance(inner, dict) else None
        if isinstance(inner, dict):
            inner[last] = "told apart by what it holds"
    return kept  # type: ignore[no-any-return]


def _data(
    settings: dict[str, Any], kind: str | None, absolute: dict[str, str], seen: dict[str, Any], *, render: bool
) -> tuple[str, list[str] | None, str, str | None]:
    """Return the name of the data, what they offer for `kind` (None: not asked), what tells them from others, why they cannot be read."""
    if (place := json.dumps([settings, kind, absolute], sort_keys=True)) not in seen:
        seen[place] = _look(settings, kind, absolute, render=render)
    return seen[place]  # type: ignore[no-any-return]


def _look(
    settings: dict[str, Any], kind: str | None, absolute: dict[str, str], *, render: bool
) -> tuple[str, list[str] | None, str, str | None]:
    import jsonargparse
    import lightning.pytorch as L

    arguments = {
        **settings.get("init_args", {}),
        **{key.rpartition(".")[2]: path for key, path in absolute.items() if key.endswith(".root")},
    }
    if "quality" in arguments:  # choosing pairs is a part of the training, and takes its time
        arguments["quality"] = None
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(L.LightningDataModule, "data")
    try:
        data: Any = parser.instantiate(parser.parse_object({"data": {**settings, "init_args": arguments}})).data
    except ValueError as error:  # jsonargparse's, around what the constructor raises
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise
    root: Path | None = getattr(data, "root", None)
    embedded = getattr(data, "embedded", False)
    if embedded and root is not None and not root.is_dir() and not render:
        return data.name, None, root.name, None
    try:
        if embedded:
            data.prepare_data()
        if kind is not None:
            data.setup(kind)
        elif root is not None and not root.exists():
            raise UserError(f"{root}: no such folder")
        if root is None:
            fingerprint = data.fingerprint()
        else:
            fingerprint = root.name if embedded else _listing(root)
    except (UserError, OSError) as error:
        return data.name, None, "", " ".join(str(error).split())
    return data.name, sorted(data.offers), fingerprint, None


def _held(path: str, seen: dict[str, Any], *, contents: bool) -> tuple[str, str | None]:
    """Return what tells a file or folder, such as weights, from others, and why it cannot be read."""
    if path not in seen:
        try:
            seen[path] = _listing(Path(path).expanduser(), contents=contents), None
        except OSError as error:
            seen[path] = "", f"{error.filename}: {error.strerror}"
    told: tuple[str, str | None] = seen[path]
    return told


def _listing(root: Path, *, contents: bool = False) -> str:
    """Return a sha256 over names and sizes of all files below a folder (or of one file), and the content of the lists or of all.

    Links are followed, but to no folder that was counted before: they may lead in circles.
    """
    digest = hashlib.sha256()
    counted = {root.resolve()}
    for folder, inner, names in os.walk(root, followlinks=True) if root.is_dir() else [(str(root.parent), [], [root.name])]:
        new = {name: path for name in sorted(inner) if (path := Path(folder, name).resolve()) not in counted}
        inner[:] = new
        counted.update(new.values())
        for name in sorted(names):
            path = Path(folder, name)
            size = path.stat().st_size
            digest.update(f"{name if path == root else path.relative_to(root)}\0{size}\n".encode(errors="surrogateescape"))
            if contents or name.endswith(LISTS):
                digest.update(file_sha256(path).encode())
    return digest.hexdigest()


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
