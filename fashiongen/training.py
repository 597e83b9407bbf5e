"""The commands `fit`, `validate`, `test` and `predict`: LightningCLI, with recipes, parents and errors of one line."""

import argparse
import glob
import hashlib
import json
import logging
import os
import pickle
import re
import sys
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import jsonargparse
import lightning.pytorch as L
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch.utils.data import ConcatDataset

from fashiongen.checkpoints import read_state
from fashiongen.data.latents import DTYPES, EncodedDataset, encode, open_entries
from fashiongen.data.loading import Loader
from fashiongen.errors import UserError
from fashiongen.evaluation import Evaluate, WritePredictions
from fashiongen.methods.base import Method
from fashiongen.nn.encodings import Encoding
from fashiongen.retrieval.search import run as retrieve

DESCRIPTIONS = {
    "fit": """Train the method of a recipe.

A recipe is a YAML file that names a method (`model`), a dataset (`data`) and a trainer. A further --config changes what it names
and leaves the rest; any key of a recipe may be given on the command line too, which wins.

examples:
  fashiongen fit --config recipes/tiny/igr.yaml
  fashiongen fit --config recipes/igr.yaml --config recipes/overlays/zero2.yaml --trainer.devices 8
  fashiongen fit --config recipes/igr.yaml --data.init_args.root PATH --trainer.max_steps 1000
  fashiongen fit --config recipes/igr.yaml --ckpt_path last                     (goes on where a run was stopped)
  fashiongen fit --config recipes/igr.yaml --print_config                       (shows every key, trains nothing)
  fashiongen fit --model.help fashiongen.methods.igr.IGR                        (explains the keys of a method)""",
    "validate": """Compute the validation loss of a checkpoint.

examples:
  fashiongen validate --config recipes/tiny/igr.yaml --ckpt_path logs/igr/last.ckpt""",
    "test": """Judge a checkpoint by the metrics of its task.

Writes one record (JSON) with the metrics and everything that one needs to repeat the test.

examples:
  fashiongen test --config recipes/tiny/igr.yaml --ckpt_path logs/igr/last.ckpt --evaluate.out test.json""",
    "predict": """Write what a checkpoint makes of every sample, as PNG files named after the samples' ids.

examples:
  fashiongen predict --config recipes/tiny/igr.yaml --ckpt_path logs/igr/last.ckpt --out images
  fashiongen predict --config recipes/igr.yaml --ckpt_path igr.ckpt --data fashiongen.data.Photos --data.root MY_PHOTOS --out images""",
}
USAGE = "fashiongen {} --config RECIPE [--config OVERLAY ...] [--KEY VALUE ...]"
RESUMES = ("last", "hpc")  # what Lightning resolves to a file by itself
KNOWN = (  # parts of Lightning's messages, and what to tell the user instead
    (
        "single optimizer",
        "DeepSpeed takes one optimizer and this method has several: leave out the zero2 overlay, "
        "or use --trainer.strategy ddp_find_unused_parameters_true",
    ),
    (
        "No supported gpu backend",
        "trainer.accelerator: torch finds no GPU on this machine; leave the key out or add --trainer.accelerator cpu",
    ),
    (
        "restore optimizer state",
        "--ckpt_path holds weights alone, without the optimizer's state: it can be tested, but training cannot go on from it",
    ),
    (
        "pytorch-lightning_version",
        "--ckpt_path: a torch file, but none that `fashiongen fit` wrote; published weights come in by the keys of `model`",
    ),
)


class _Help(jsonargparse.DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of a description as they are."""


class _SaveRecipe(SaveConfigCallback):
    """Saves the whole recipe beside the log of a training; a test does not overwrite it."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit" and trainer.loggers:
            super().setup(trainer, pl_module, stage)


class _WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it, so that a kill or a full disk leaves the old one or the new one.

    Lightning's own goes through memory and the system's folder for temporary files, from where it is copied over the old one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:  # noqa: ANN401  as in Lightning
        if "://" in str(path):
            return super().save_checkpoint(checkpoint, path, storage_options)
        place = Path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_name(f".{place.name}.{os.getpid()}.part")
        _sweep(place)
        try:
            with open(temporary, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, place)
        except (OSError, RuntimeError) as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, OSError):  # torch's writer wraps it, at some moments, in a RuntimeError
                cause = cause.__context__
            if cause is None:
                raise
            raise UserError(f"cannot write {place}: {cause.strerror or cause}; what was there before is kept") from error
        finally:
            temporary.unlink(missing_ok=True)


def _sweep(place: Path) -> None:
    """Delete what killed processes left of a checkpoint of this name."""
    for left in place.parent.glob(f".{glob.escape(place.name)}.*.part"):
        owner = left.name.split(".")[-2]
        try:
            os.kill(int(owner), 0)  # asks whether the process is there, and does nothing to it
        except ProcessLookupError:
            with suppress(OSError):  # what cannot be deleted is in nobody's way
                left.unlink()
        except (ValueError, OverflowError, PermissionError):  # no process's number, or another user's process
            continue


class _ReadCache(L.Callback):
    """Has the samples of training and validation bring what `fashiongen data encode` kept of them."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder).expanduser()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Wrap the datasets: Lightning has set up the data, and has not yet asked for loaders."""
        datasets = trainer.datamodule.datasets  # type: ignore[attr-defined]  # Lightning does not declare it
        encodings = _encodings(pl_module)
        entries = open_entries(self.folder, encodings)
        for split in {"fit": ("train", "val"), "validate": ("val",)}[stage]:
            datasets[split] = EncodedDataset(datasets[split], self.folder, encodings, entries)


def _encodings(method: L.LightningModule) -> dict[str, Encoding]:
    encodings = method.encodings() if isinstance(method, Method) else {}
    if not encodings:
        raise UserError(f"{type(method).__name__} has no frozen encoder, so that there is nothing to keep in a cache: leave the cache out")
    return encodings


class FashionCLI(LightningCLI):
    """LightningCLI for one method, one dataset and one trainer."""

    def __init__(self, args: list[str], recipes: list[str]) -> None:
        """Parse `args`, build what they name and run the subcommand; `recipes` are the config files that the user gave."""
        shared: dict[str, Any] = {"exit_on_error": False, "allow_abbrev": False, "formatter_class": _Help}
        self.recipes = recipes
        super().__init__(
            Method,
            L.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            save_config_callback=_SaveRecipe,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={
                "prog": "fashiongen",
                **shared,
                **{name: {**shared, "usage": USAGE.format(name), "description": text} for name, text in DESCRIPTIONS.items()},
            },
            trainer_defaults={
                "logger": {
                    "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
                    "init_args": {"save_dir": "logs", "name": "", "default_hp_metric": False},
                }
            },
            args=args,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Leave out what is not for a user to choose: checkpoints are always read with weights_only=True."""
        commands = {name: skip | {"weights_only"} for name, skip in LightningCLI.subcommands().items()}
        commands["predict"].add("return_predictions")
        return commands

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the keys that every recipe may have beside model, data and trainer."""
        parser.add_lightning_class_args(Evaluate, "evaluate")
        parser.add_argument(
            "--parents",
            type=dict[str, str],
            default={},
            help="Earlier stages by role: a recipe's name, or with fit the path of a checkpoint.",
        )
        parser.add_argument(
            "--cache",
            type=str | None,
            default=None,
            help="Folder that `fashiongen data encode` filled: fit and validate then run no frozen encoder on a sample.",
        )
        parser.add_argument(
            "--trust", action="store_true", help="Read a DeepSpeed checkpoint (a folder): its pickles can run code, so only if you made it."
        )

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:  # noqa: ANN401  as in Lightning
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "predict":
            parser.add_argument("--out", type=str, help="Folder for the images.")
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:  # noqa: ANN401  as in Lightning
        """Parse `args`; unlike Lightning's own, no warning when sys.argv says otherwise."""
        self.config = parser.parse_args(args)

    @property
    def options(self) -> jsonargparse.Namespace:
        """The parsed settings of the subcommand."""
        options: jsonargparse.Namespace = self.config[self.config.subcommand]
        return options

    def _parse_ckpt_path(self) -> None:
        """Refuse early what could only fail later; unlike Lightning's own, take no settings from the checkpoint.

        It gives weights; settings are the recipe's and the command line's.
        """
        _check_checkpoint(self.options.ckpt_path, self.options.trust)
        if self.config.subcommand == "fit" and self.options.ckpt_path is None:
            _check_parents(self.options.parents, self.recipes)
        if self.config.subcommand == "predict" and self.options.out is None:
            raise UserError("predict needs a folder for the images: add --out DIR")

    def after_instantiate_classes(self) -> None:
        """Tell the record what was run."""
        evaluate: Evaluate = self._get(self.config_init, "evaluate")
        evaluate.recipe = self.recipes[0] if self.recipes else None
        evaluate.overlays = self.recipes[1:]
        evaluate.parents = dict(self.options.parents)
        self._dump_config()
        evaluate.config_sha256, evaluate.protocol_sha256 = self._config_sha256(), self._protocol_sha256()

    def _protocol_sha256(self) -> str:
        """Hash how the protocol judges; by what true images, the record's `reference` tells by their content."""
        return _hash({key: self.config_dump["evaluate"][key] for key in ("metrics", "size")})

    def _config_sha256(self) -> str:
        settings = {
            key: value for key, value in self.config_dump.items() if key not in ("config", "ckpt_path", "out", "verbose", "trust", "cache")
        }
        settings["evaluate"] = {key: value for key, value in settings["evaluate"].items() if key != "out"}
        return _hash(settings)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:  # noqa: ANN401  as in Lightning
        """Build the trainer, with a progress bar only where someone watches."""
        if self.options.trainer.enable_progress_bar is None:
            kwargs["enable_progress_bar"] = sys.stdout.isatty()
        trainer = super().instantiate_trainer(**kwargs)
        if type(trainer.strategy) is DeepSpeedStrategy and not isinstance(trainer.accelerator, CUDAAccelerator):
            raise UserError(
                "DeepSpeed needs a CUDA GPU and this run has none: leave the zero2 overlay out, or use recipes/overlays/ddp.yaml"
            )
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = _WholeCheckpoints()
        if self.subcommand == "predict":
            trainer.callbacks.append(WritePredictions(self.options.out))  # type: ignore[attr-defined]  # Lightning does not declare it
        if self.options.cache is not None and self.subcommand in ("fit", "validate"):
            trainer.callbacks.append(_ReadCache(self.options.cache))  # type: ignore[attr-defined]
        return trainer

    def before_fit(self) -> None:
        """Start from the parents' checkpoints; a resumed run holds them already."""
        if self.options.parents and self.options.ckpt_path is None:
            self.model.load_parents({role: Path(path) for role, path in self.options.parents.items()})

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        arguments = {**super()._prepare_subcommand_kwargs(subcommand), "weights_only": True}
        return {**arguments, "return_predictions": False} if subcommand == "predict" else arguments


class _EncodeCLI(FashionCLI):
    """Builds what `fit` would train, and runs its frozen encoders over the data instead."""

    def __init__(self, args: list[str], recipes: list[str], out: Path, splits: list[str], dtype: str) -> None:
        self.out, self.splits, self.dtype = out, splits, dtype
        super().__init__(args, recipes)

    def _parse_ckpt_path(self) -> None:
        """Frozen encoders depend on no checkpoint and no parent."""

    def _run_subcommand(self, subcommand: str) -> None:
        encodings = _encodings(self.model)
        data: Any = self.datamodule
        data.prepare_data()
        data.setup("fit")
        samples: ConcatDataset[Any] = ConcatDataset([data.datasets[split] for split in self.splits if len(data.datasets[split])])
        loader = Loader(samples, batch_size=data.eval_batch_size, num_workers=data.num_workers)
        device = self.trainer.strategy.root_device
        added = encode(loader, encodings, self.out, device=device, dtype=DTYPES[self.dtype])
        for kind, count in added.items():
            print(f"{kind}: {count} encoded, {len(samples) - count} were there")
        size = sum(part.stat().st_size for part in self.out.rglob("*.safetensors"))
        print(f"{self.out} holds {size / 1e6:.1f} MB; train with --cache {self.out}")


class _RetrieveCLI(FashionCLI):
    """Builds what `test` would judge, and ranks a folder of bottoms for a top instead."""

    def __init__(self, args: list[str], recipes: list[str], asked: dict[str, Any]) -> None:
        self.asked = asked
        super().__init__(args, recipes)

    def _run_subcommand(self, subcommand: str) -> None:
        if self.options.ckpt_path is not None:
            self.model.load_state_dict(read_state(self.options.ckpt_path))
        self.model.to(self.trainer.strategy.root_device)
        # What decides about embeddings and is no weight.
        settings = {key: self.config_dump[key] for key in ("model", "seed_everything")}
        with self.trainer.precision_plugin.forward_context():
            retrieve(self.model, self.datamodule, **self.asked, settings=[settings, self.trainer.precision])


class _SettingsCLI(FashionCLI):
    """Resolves the settings of many commands with one parser, whose making takes longer than its use; builds nothing."""

    def __init__(self, commands: list[list[str]]) -> None:
        self.commands = commands
        super().__init__([], [])

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:  # noqa: ANN401  as in Lightning
        found = []
        for command in self.commands:
            _check_recipes(config_paths(command))
            try:
                config = parser.parse_args(with_protocol(command))
            except argparse.ArgumentError as error:
                raise UserError(explain(str(error), command)) from error
            own = self._subcommand_parsers[command[0]]
            found.append(yaml.safe_load(own.dump(config[command[0]], skip_link_targets=False)))
        raise _Resolved(found)


class _Resolved(Exception):
    def __init__(self, settings: list[dict[str, Any]]) -> None:
        self.settings = settings


def resolved(commands: list[list[str]]) -> list[dict[str, Any]]:
    """Return all settings of each `fit` or `test` with its arguments, as plain values; nothing is built.

    Raises:
        UserError: what the command itself would raise for its arguments.
    """
    try:
        _SettingsCLI(commands)
    except _Resolved as found:
        return found.settings
    raise AssertionError("a parser that has parsed ends in _Resolved")


def config_paths(args: list[str]) -> list[str]:
    """Return the files given by `--config`, in order: the recipe, then its overlays."""
    followed = zip(args, [*args[1:], ""], strict=True)
    return [arg.partition("=")[2] or following for arg, following in followed if arg.partition("=")[0] in ("-c", "--config")]


def with_protocol(args: list[str]) -> list[str]:
    """Put the file of a test's protocol before the recipe: `tasks/NAME.yaml` beside the recipe or one folder up.

    The last protocol named counts, `--evaluate.protocol NAME` before all files, so that the metrics of two are never mixed; a file that
    brings its metrics itself is its own protocol's. Further keys still win.
    """
    recipes = config_paths(args)
    if args[0] != "test" or not recipes:
        return args
    named = [(recipe, _evaluate_of(recipe)) for recipe in recipes]
    followed = zip(args, [*args[1:], ""], strict=True)
    named += [
        ("", {"protocol": arg.partition("=")[2] or after}) for arg, after in followed if arg.partition("=")[0] == "--evaluate.protocol"
    ]
    named = [(source, found) for source, found in named if found.get("protocol")]
    if not named:
        return args
    source, evaluate = named[-1]
    places = [folder / "tasks" / f"{evaluate['protocol']}.yaml" for folder in list(Path(recipes[0]).absolute().parents)[:2]]
    file = Path(source) if evaluate.get("metrics") else next((place for place in places if place.is_file()), None)
    if file is None:
        key = f"{source}: evaluate.protocol" if source else "--evaluate.protocol"
        raise UserError(f"{key}: {evaluate['protocol']}: there is no {places[0]}; name a file of recipes/tasks")
    return [args[0], "--config", str(file), *args[1:]]


def _hash(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def _evaluate_of(recipe: str) -> dict[str, Any]:
    """Return what a file says of `evaluate`; nothing where it says nothing or cannot be read (the parser says what is wrong with it)."""
    try:
        content = yaml.safe_load(Path(recipe).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    evaluate = content.get("evaluate") if isinstance(content, dict) else None
    return evaluate if isinstance(evaluate, dict) else {}


def _check_recipes(recipes: list[str]) -> None:
    for recipe in recipes:
        try:
            content = yaml.safe_load(Path(recipe).read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise UserError(f"{recipe}: not a text in UTF-8; save it as such") from error
        except (OSError, yaml.YAMLError):
            continue  # the parser says what is wrong with it
        if not isinstance(content, dict):
            raise UserError(f"{recipe}: holds no keys; a recipe is a YAML file with keys such as `model:` and `data:`")


def _check_checkpoint(path: str | None, trust: bool) -> None:
    if path is None or path in RESUMES or "://" in path:
        return
    if not Path(path).exists():
        raise UserError(f"--ckpt_path {path}: no such file; `fashiongen fit` writes checkpoints where the recipe's ModelCheckpoint says")
    if Path(path).is_dir():
        if not trust:
            raise UserError(
                f"--ckpt_path {path} is a DeepSpeed checkpoint, whose pickles can run code: add --trust if you made it yourself"
            )
    elif not zipfile.is_zipfile(path):
        raise UserError(f"--ckpt_path {path}: not a checkpoint, or a damaged one")


def _check_parents(parents: dict[str, str], recipes: list[str]) -> None:
    recipe = recipes[0] if recipes else "the recipe"
    for role, value in parents.items():
        if Path(value).is_file():
            continue
        if "/" in value or value.endswith(".ckpt"):
            raise UserError(f"--parents.{role} {value}: no such checkpoint file")
        train = f"lightning fit --config {Path(recipe).with_name(f'{value}.yaml')}"
        raise UserError(f"{recipe} needs the checkpoint of its parent {value}: add --parents.{role} PATH (train it with `{train}`)")


def explain(message: str, args: list[str]) -> str:
    """Turn jsonargparse's message of many lines into one that names the key, the place and the remedy."""
    command, recipes = args[0], config_paths(args)
    if "arguments are required" in message and not recipes:
        return f"{command} needs a recipe: `fashiongen {command} --config recipes/NAME.yaml`"
    if missing := re.search(r"File does not exist: '([^']+)'", message):
        return f"{missing[1]}: no such file"
    if "Problems parsing config" in message:
        return f"{_broken(recipes)} is not valid YAML: {' '.join(message.partition(':')[2].split())}"
    keys = re.findall(r'Parser key "([^"]+)"', message)
    classes = re.findall(r"Problem with given class_path '([^']+)'", message)
    unknown = re.search(r"Option '([^']+)' is not accepted|does not accept option '([^']+)'", message)
    advice = f"`fashiongen {command} --help` lists the keys"
    if unknown:
        key = unknown[1] or unknown[2]
        if classes:
            advice = f"`fashiongen {command} --{keys[0]}.help {classes[0]}` lists the keys"
        owner = f" of {'.'.join(keys)}" if keys else ""
        return f"{_place(key.split('.')[-1], recipes)}: unknown key {key!r}{owner}{f' ({classes[-1]})' if classes else ''}; {advice}"
    noise = ("Does not validate", "Subtypes:", "Errors:", "Given value type:", "- Expected a <class 'NoneType'>", "Given value: {")
    lines = [line.strip().removeprefix("- ") for line in message.splitlines() if not line.strip().startswith(noise)]
    told = re.sub(r"<class '([^']+)'>", r"\1", " ".join(lines)).replace("Parser key ", "key ")
    place = f"{_place(keys[-1].split('.')[-1], recipes)}: " if keys else ""
    return f"{place}{told}; {advice}"


def _place(key: str, recipes: list[str]) -> str:
    """Name the files that set `key`."""
    return (
        ", ".join(recipe for recipe in recipes if re.search(rf"\b{re.escape(key)}\s*:", Path(recipe).read_text(encoding="utf-8")))
        or "command line"
    )


def _broken(recipes: list[str]) -> str:
    for recipe in recipes:
        try:
            yaml.safe_load(Path(recipe).read_text(encoding="utf-8"))
        except yaml.YAMLError:
            return recipe
    return "a value on the command line"


def run(args: list[str], cli: Callable[[list[str], list[str]], FashionCLI] = FashionCLI) -> None:
    """Run `fit`, `validate`, `test` or `predict` with its arguments; what a user can mend is raised as UserError."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_without_advertisements)
    _check_recipes(config_paths(args))
    try:
        cli(with_protocol(args), config_paths(args))
    except argparse.ArgumentError as error:
        raise UserError(explain(str(error), args)) from error
    except pickle.UnpicklingError as error:
        raise UserError("the file of --ckpt_path holds pickled objects that could run code, or is damaged: it is not read") from error
    except (MisconfigurationException, KeyError) as error:
        for phrase, line in KNOWN:
            if phrase in str(error):
                raise UserError(line) from error
        if isinstance(error, MisconfigurationException):
            raise UserError(str(error)) from error
        raise
    except ValueError as error:  # jsonargparse's, of many lines, around what the constructor of a method, dataset or metric raises
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, UserError | OSError):
            cause = cause.__cause__
        if cause is None:
            raise
        raise cause from None
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into exit status 1
            raise KeyboardInterrupt from None
        raise


def encode_data(args: list[str], out: Path, splits: list[str], dtype: str) -> None:
    """Fill the cache `out` for the recipe and keys in `args`, which are those of `fit`."""
    run(["fit", *args], lambda args, recipes: _EncodeCLI(args, recipes, out.expanduser(), splits, dtype))


def retrieve_bottoms(args: list[str], **asked: Any) -> None:  # noqa: ANN401  those of `retrieval.search.run`
    """Rank the images of `catalogue` for `query` by the recipe and keys in `args`, which are those of `test`.

    Raises:
        UserError: if fewer than one bottom is asked for, or less than one of an index's effort.
    """
    for name in ("top", "effort"):
        if asked[name] < 1:
            raise UserError(f"--{name} {asked[name]}: must be at least 1")
    run(["test", *args], lambda args, recipes: _RetrieveCLI(args, recipes, asked))


def _without_advertisements(record: logging.LogRecord) -> bool:
    return "Tip:" not in record.getMessage()


def consolidate(folder: Path, out: Path, *, trust: bool) -> None:
    """Gather a DeepSpeed checkpoint of ZeRO stage 2 or 3 into one file that loads with `weights_only=True`.

    Raises:
        UserError: without `trust`, since this format holds pickles, which can run code; or if `folder` is no such checkpoint.
    """
    if not (folder / "latest").is_file():
        raise UserError(f"{folder}: not a DeepSpeed checkpoint (a folder with a file `latest`)")
    if not trust:
        raise UserError(f"{folder} holds pickles, which can run code when they are read: add --trust if you made this checkpoint yourself")
    if out.exists():
        raise UserError(f"{out} exists: give another name")
    from lightning.pytorch.utilities.deepspeed import convert_zero_checkpoint_to_fp32_state_dict

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        whole = Path(scratch) / out.name
        convert_zero_checkpoint_to_fp32_state_dict(folder, whole)
        torch.load(whole, weights_only=True, mmap=True)
        whole.rename(out)
