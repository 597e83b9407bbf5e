"""Inspects commands for a plan, by importing what their recipes name.

It runs in its own process (`fashiongen bench describe`), so the runner stays small and survives its errors.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fashiongen.benchmark.command_info import CommandInfo
from fashiongen.checkpoints import tiny_weights
from fashiongen.closure import COMMAND, PACKAGE, Name, Source, closure, names_in, read
from fashiongen.errors import UserError
from fashiongen.own_code import dotted, own_files, own_sources, versions_of
from fashiongen.records import file_sha256

LISTS = (".txt", ".csv", ".json", ".jsonl")
Resolve = Callable[[list[list[str]]], list[dict[str, Any]]]
PATH_PLACEHOLDER = "identified by its content"
"""Placeholder for paths when hashing settings; changing it would make all earlier results stale."""

IGNORED = {
    # by both kinds
    "ckpt_path": ("fit test", "the key has the parents' keys instead"),
    "trainer.logger": ("fit test", "only writes"),
    "trainer.log_every_n_steps": ("fit test", "only writes"),
    "trainer.default_root_dir": ("fit test", "only written to"),
    "trainer.enable_progress_bar": ("fit test", "only prints"),
    "trainer.enable_model_summary": ("fit test", "only prints"),
    "data.init_args.num_workers": ("fit test", "the order and all draws are keyed by the seed and the sample, whichever process loads it"),
    "evaluate": ("fit", "only tests evaluate; a child's key has the checkpoint that `evaluate.checkpoint` selects"),
    "evaluate.out": ("test", "only written to"),
    "evaluate.keep": ("test", "only written to"),
    "evaluate.reuse": ("test", "its predictions are those that the test would make"),
    "evaluate.images": ("test", "the images that are shown; metrics are over all samples"),
    "evaluate.validation_images": ("test", "only `fit` shows them"),
    "evaluate.reference.data.init_args.num_workers": ("test", "as of the data"),
    "trainer.max_epochs": ("test", "only `fit` has epochs"),
    "trainer.max_steps": ("test", "only `fit` has steps"),
}
"""Settings that decide no number, by the kinds of commands, and why. Not `eval_batch_size`: GECo's `val/auc`, which selects its best
checkpoint, is over each batch, and rounding depends on the batch."""


@dataclass(frozen=True)
class DataProbe:
    """What setting up the data shows.

    Attributes:
        name: name of the dataset in records.
        task: the task of the data.
        offers: what the data offer; None if unknown or not requested.
        identity: a hash, or a folder's name, that depends on the content of the data and not on their location.
        problem: why the data cannot be read, in one line; None if they can.
    """

    name: str
    task: str
    offers: list[str] | None
    identity: str
    problem: str | None


def inspect_commands(commands: list[list[str]], resolve: Resolve, *, render: bool) -> dict[str, Any]:
    """Return a `CommandInfo` for each command and this machine's number of GPUs, as plain values for JSON: `{"commands", "gpus"}`.

    Args:
        commands: `fit ...` or `test ...`, as typed, without the program.
        resolve: returns the settings of each (`fashiongen.cli.settings.resolve`).
        render: whether to render embedded worlds that are missing; otherwise what they offer is unknown.

    Raises:
        UserError: if a command's settings are wrong. Unreadable data are not an error but a `problem` of the command.
    """
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    seen: dict[str, Any] = {}
    found = []
    for command, settings in zip(commands, resolve(commands), strict=True):
        options = dict(zip(command[1::2], command[2::2], strict=True))
        if "--cache" in options:  # an option of the command, not a setting
            settings["cache"] = options["--cache"]
        found.append(vars(_inspect(command[0], settings, seen, render=render)))
    return {"gpus": gpus, "commands": found}


def _inspect(kind: str, settings: dict[str, Any], seen: dict[str, Any], *, render: bool) -> CommandInfo:
    from lightning.pytorch.utilities.model_helpers import is_overridden

    from fashiongen import tasks
    from fashiongen.methods.base import Method

    method: Any = _class(settings["model"]["class_path"])
    data: Any = _class(settings["data"]["class_path"])
    trainer = settings["trainer"]
    paths = dict(_paths(settings))
    absolute = {key: str(Path(path).absolute()) for key, path in paths.items() if not Path(path).expanduser().is_absolute()}
    own = {key: path for key, path in absolute.items() if key.startswith("data.")}
    probe = _probe_once(settings["data"], kind, own, seen, render=render)
    asked = str(trainer["accelerator"])
    accelerator = "cuda" if asked in ("gpu", "cuda") else asked if asked == "auto" else "cpu"
    reference = (settings["evaluate"].get("reference") or {}).get("data")
    identities, problem = [probe.identity], probe.problem
    if kind == "test" and reference is not None:
        places = {key.removeprefix("evaluate.reference."): path for key, path in absolute.items() if key.startswith("evaluate.reference.")}
        true_images = _probe_once(reference, None, places, seen, render=render)
        identities.append(true_images.identity)
        problem = problem or true_images.problem
    for key, path in paths.items():
        if not _is_root(key) and not (kind == "fit" and key.startswith("evaluate.")):
            identity, lacking = _identify_files(path, seen, contents=key != "cache")
            identities.append(f"{key} {identity}")
            problem = problem or lacking
    try:
        handler, serving = (tasks.find(name) for name in (settings["evaluate"].get("task") or probe.task, probe.task))
    except UserError as error:
        raise UserError(f"evaluate.task={error}") from error
    task, served = handler.name, serving.name
    if task != served:
        problem = problem or f"the task is {task}, but the data {probe.name} are for {served}"
    counting = {key: value for key, value in settings.items() if kind == "test" or key != "evaluate"}
    sources = own_sources(counting)
    files = own_files(sources)
    used = closure(_names(counting, [method, data, handler]) | {name for file in files for name in names_in(file)})
    modules = {**used.sources, **{str(file): read(file, file.stem) for file in files}}
    for name, place in _extractors(counting):
        identities.append(f"{name} {'absent' if place is None else _identify_files(str(place), seen, contents=True)[0]}")
    for part in _tiny_parts(counting, modules):
        identities.append(f"tiny/{part} {_identify_files(str(tiny_weights() / part), seen, contents=True)[0]}")
    strategy = trainer["strategy"]
    return CommandInfo(
        method=method.__name__,
        needs=sorted(method.needs),
        tasks=tasks.supported(method),
        learns=is_overridden("training_step", method, Method),
        n_optimizers=method.n_optimizers,
        task=task if kind == "test" else "",
        protocol=settings["evaluate"]["protocol"] if kind == "test" else "",
        dataset=data.__name__,
        data_name=probe.name or data.__name__,
        offers=probe.offers,
        problem=problem,
        accelerator=accelerator,
        gpus=_devices(trainer["devices"]) if accelerator != "cpu" else 0,
        deepspeed="deepspeed" in str(strategy["class_path"] if isinstance(strategy, dict) else strategy).lower(),
        checkpoint=_last_checkpoint(trainer),
        best=_best_checkpoint(trainer),
        selects=settings["evaluate"]["checkpoint"],
        seeded_data="seed" in _parameters(data),
        absolute=absolute,
        content=_hash([kind, _what_counts(settings, kind, paths), identities]),
        code=used.sha256,
        libraries=versions_of(used.libraries),
        sources=sources,
    )


def _names(settings: dict[str, Any], classes: list[type]) -> set[Name]:
    """Return what a command uses of this package: its own module, the classes that its settings name, and the writers of embedded data."""
    from fashiongen import wardrobe

    names: set[Name] = {(COMMAND, None), *((cls.__module__, cls.__name__) for cls in classes)}
    names |= {(module, name) for path in dotted(settings) for module, _, name in [path.rpartition(".")]}
    for data in (settings["data"], (settings.get("evaluate", {}).get("reference") or {}).get("data")):
        if data is not None and data.get("init_args", {}).get("root") == "wardrobe":
            writer: Any = wardrobe.writers().get(_class(data["class_path"]).layout)
            names |= set() if writer is None else {(writer.__module__, None)}
    return {name for name in names if name[0].partition(".")[0] == PACKAGE}


def _tiny_parts(settings: dict[str, Any], modules: dict[str, Source]) -> list[str]:
    """Return the parts of the shipped tiny weights that a command reads: those that its modules name, if its settings ask for any."""
    given = {part: [value for _, value in _leaves(settings.get(part), part) if isinstance(value, str)] for part in ("model", "evaluate")}
    of_model, of_metrics = "tiny" in given["model"], any(value.startswith("tiny") for value in given["evaluate"])
    parts: set[str] = set()
    for name, source in modules.items():
        parts |= source.shipped if (of_metrics if name.startswith(f"{PACKAGE}.metrics.") else of_model) else set()
    if "" in parts:  # the settings say which
        there = {path.name for path in tiny_weights().iterdir() if path.is_dir()}
        parts = parts - {""} | (there & set(given["model"]) or there)
    return sorted(parts)


def _extractors(settings: dict[str, Any]) -> Iterator[tuple[str, Path | None]]:
    """Yield the extractors of the metrics and their weights; None where these are missing."""
    from fashiongen.metrics.features import EXTRACTORS, find

    for metric in ((settings.get("evaluate") or {}).get("metrics") or {}).values():
        given = (metric.get("init_args") or {}) if isinstance(metric, dict) else {}
        name = given.get("extractor")
        if isinstance(name, str) and name in EXTRACTORS:
            try:
                yield name, find(name, given.get("weights"))
            except UserError:
                yield name, None


def _class(path: str) -> Any:  # noqa: ANN401  any class
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _parameters(data: type) -> set[str]:
    """Return the names of a data module's settings, including those of its base classes."""
    return {name for ancestor in data.__mro__ if "__init__" in vars(ancestor) for name in inspect.signature(ancestor).parameters}


def _devices(asked: object) -> int:
    """Return the number of GPUs in `trainer.devices`, -1 for all; `auto` is one per node, so several nodes can share a machine."""
    if isinstance(asked, list):
        return len(asked)
    if asked == "-1":
        return -1
    if isinstance(asked, str):
        return int(asked) if asked.isdigit() else 1 + asked.count(",")
    return asked if isinstance(asked, int) else 1


def _last_checkpoint(trainer: dict[str, Any]) -> str | None:
    return next((str(Path(saving["dirpath"], "last.ckpt")) for saving in _saving(trainer) if saving.get("save_last")), None)


def _best_checkpoint(trainer: dict[str, Any]) -> str | None:
    """Return the file of the best checkpoint, if its name does not depend on the run."""
    for saving in _saving(trainer):
        name = saving.get("filename") or "{epoch}"
        if (
            saving.get("monitor")
            and saving.get("save_top_k", 1) == 1
            and "{" not in name
            and not saving.get("enable_version_counter", True)
        ):
            return str(Path(saving["dirpath"], f"{name}.ckpt"))
    return None


def _saving(trainer: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the settings of each ModelCheckpoint that names its folder."""
    callbacks = trainer.get("callbacks") or []
    listed = callbacks if isinstance(callbacks, list) else [callbacks]
    found = [callback.get("init_args", {}) for callback in listed if callback["class_path"].endswith("ModelCheckpoint")]
    return [saving for saving in found if saving.get("dirpath")]


def _paths(settings: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the keys and paths of data, and of weights that exist locally; other weights come from a hub."""
    evaluate = settings["evaluate"]
    parts = {
        "data": settings["data"],
        "model": settings["model"],
        "evaluate.reference.data": (evaluate.get("reference") or {}).get("data"),
        "evaluate.metrics": evaluate.get("metrics"),
        "trainer.strategy": settings["trainer"]["strategy"],
        "cache": settings.get("cache"),
    }
    for key, value in (leaf for name, part in parts.items() for leaf in _leaves(part, name)):
        if not isinstance(value, str) or not value or value == "wardrobe":
            continue
        path = Path(value).expanduser()
        there = ("/" in value and path.exists()) or (path.suffix and path.is_file())
        if _is_root(key) or key == "cache" or there:
            yield key, value


def _is_root(key: str) -> bool:
    """Return whether a key holds the folder of a dataset."""
    return key.endswith(".root") and not key.startswith("model.")


def _leaves(value: object, key: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}")
    else:
        yield key, value


def _what_counts(settings: dict[str, Any], kind: str, paths: dict[str, str]) -> dict[str, Any]:
    """Return the settings that affect the result: without those of `IGNORED` and without file locations."""
    counting: dict[str, Any] = json.loads(json.dumps(settings))
    for key, (kinds, _) in IGNORED.items():
        holder, name = _holder(counting, key)
        if kind in kinds.split():
            holder.pop(name, None)
    for key in paths:
        holder, name = _holder(counting, key)
        holder[name] = PATH_PLACEHOLDER
    return counting


def _holder(settings: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """Return the mapping that holds a dotted key, and the key's last part; an empty mapping if there is none."""
    *path, last = key.split(".")
    inner: Any = settings
    for name in path:
        inner = inner.get(name) if isinstance(inner, dict) else None
    return (inner if isinstance(inner, dict) else {}), last


def _probe_once(settings: dict[str, Any], kind: str | None, absolute: dict[str, str], seen: dict[str, Any], *, render: bool) -> DataProbe:
    """Return `probe_data`, once for the same settings."""
    if (key := json.dumps([settings, kind, absolute], sort_keys=True)) not in seen:
        seen[key] = probe_data(settings, kind, absolute, render=render)
    probe: DataProbe = seen[key]
    return probe


def probe_data(settings: dict[str, Any], kind: str | None, absolute: dict[str, str], *, render: bool) -> DataProbe:
    """Set up the data and describe them.

    Args:
        settings: class path and arguments of the data module.
        kind: fit or test; None: only check that the data exist.
        absolute: absolute paths by key, for those that are relative in the settings.
        render: whether to render an embedded world that is missing.
    """
    import jsonargparse

    from fashiongen.data.base import FashionData

    arguments = {
        **settings.get("init_args", {}),
        **{key.rpartition(".")[2]: path for key, path in absolute.items() if key.endswith(".root")},
    }
    if "quality" in arguments:  # choosing pairs is part of the training, and slow
        arguments["quality"] = None
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(FashionData, "data")
    try:
        data: FashionData = parser.instantiate(parser.parse_object({"data": {**settings, "init_args": arguments}})).data
    except ValueError as error:  # raised by jsonargparse around the constructor's own error
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise
    root = data.root
    if data.embedded and root is not None and not root.is_dir() and not render:
        return DataProbe(data.name, data.task, None, root.name, None)
    try:
        if data.embedded:
            data.prepare_data()
        if kind is not None:
            data.setup(kind)
        elif root is not None and not root.exists():
            raise UserError(f"{root}: no such folder")
        if root is None:
            fingerprint = data.fingerprint()
        else:
            fingerprint = root.name if data.embedded else _listing(root)
    except (UserError, OSError) as error:
        return DataProbe(data.name, data.task, None, "", " ".join(str(error).split()))
    return DataProbe(data.name, data.task, sorted(data.offers), fingerprint, None)


def _identify_files(path: str, seen: dict[str, Any], *, contents: bool) -> tuple[str, str | None]:
    """Return a hash of a file or folder, such as weights, and the reason if it cannot be read."""
    if path not in seen:
        try:
            seen[path] = _listing(Path(path).expanduser(), contents=contents), None
        except OSError as error:
            seen[path] = "", f"{error.filename}: {error.strerror}"
    found: tuple[str, str | None] = seen[path]
    return found


def _listing(root: Path, *, contents: bool = False) -> str:
    """Return a sha256 over names and sizes of all files below a folder (or of one file), and the content of the lists or of all files.

    Links are followed, but no folder is visited twice, since links may form a cycle.
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
