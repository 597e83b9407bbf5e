"""The commands `fit`, `validate`, `test` and `predict`: LightningCLI, with recipes by name, parents, protocols and records."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonargparse
import lightning.pytorch as L
from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]  # jsonargparse puts its __all__ together at run time
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import DeepSpeedStrategy

from fashiongen import shipped
from fashiongen.cli.cache import ReadCache
from fashiongen.cli.checkpoints import WholeCheckpoints, check_checkpoint, check_parents
from fashiongen.cli.messages import in_one_line, quiet
from fashiongen.cli.protocols import CommandLine, check_protocol, check_task, find_protocol, is_inline, with_protocol
from fashiongen.cli.saving import KeepLast, check_saving
from fashiongen.data.base import FashionData
from fashiongen.errors import UserError
from fashiongen.evaluation import Evaluate, TellDivergence, WritePredictions
from fashiongen.evaluation.provenance import TestedCheckpoint
from fashiongen.methods.base import Method

if TYPE_CHECKING:
    from fashiongen.cli.reuse import SharedPredictions

DESCRIPTIONS = {
    "fit": """Train the method of a recipe.

A recipe is a YAML file that names a method (`model`), a dataset (`data`) and a trainer; `fashiongen recipes` lists those shipped with
the package. Another --config overrides the keys it contains; keys on the command line override both.

examples:
  fashiongen fit --config tiny/igr
  fashiongen fit --config igr --config zero2 --trainer.devices 8
  fashiongen fit --config recipes/igr.yaml --data.init_args.root PATH --trainer.max_steps 1000
  fashiongen fit --config igr --ckpt_path last                     (resumes an interrupted run)
  fashiongen fit --config igr --print_config                       (prints every key without training)
  fashiongen fit --model.help fashiongen.methods.igr.IGR           (documents the keys of a method)""",
    "validate": """Compute the validation loss of a checkpoint.

examples:
  fashiongen validate --config tiny/igr --ckpt_path logs/igr/last.ckpt""",
    "test": """Evaluate a checkpoint with the metrics of its task.

Writes a record (JSON) with the metrics and everything needed to repeat the test.

examples:
  fashiongen test --config tiny/igr --ckpt_path logs/igr/last.ckpt --evaluate.out test.json
  fashiongen test --config tiny/random --evaluate.protocol geco-all""",
    "predict": """Write the images that a checkpoint generates, as PNG files named after the sample ids.

examples:
  fashiongen predict --config tiny/igr --ckpt_path logs/igr/last.ckpt --out images
  fashiongen predict --config igr --ckpt_path igr.ckpt --data fashiongen.data.Photos --data.root MY_PHOTOS --out images""",
}
USAGE = "fashiongen {} --config RECIPE [--config OVERLAY ...] [--KEY VALUE ...]"


class _Help(jsonargparse.DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of a description."""


class _Config(ActionConfigFile):
    """Accepts names of shipped files as well as paths."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:  # noqa: ANN401  as in jsonargparse
        file = values if is_inline(values) else str(shipped.find_config(values))
        self.apply_config(parser, cfg, self.dest, file)


class _Parser(LightningArgumentParser):
    def add_argument(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  as in jsonargparse
        """Add an argument; `--config` accepts names, too."""
        if kwargs.get("action") is ActionConfigFile:
            kwargs |= {"action": _Config, "help": "A recipe, then its overlays: names (see `fashiongen recipes`) or YAML files."}
        return super().add_argument(*args, **kwargs)


class _SaveRecipe(SaveConfigCallback):
    """Saves the resolved recipe next to the training log; a test does not overwrite it."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit" and trainer.loggers:
            super().setup(trainer, pl_module, stage)


class FashionCLI(LightningCLI):
    """LightningCLI for one method, one dataset and one trainer."""

    def __init__(self, line: CommandLine) -> None:
        """Parse the command line, instantiate its classes and run the subcommand."""
        shared: dict[str, Any] = {"exit_on_error": False, "allow_abbrev": False, "formatter_class": _Help}
        self.line = line
        self._shared: SharedPredictions | None = None
        super().__init__(
            Method,
            FashionData,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            save_config_callback=_SaveRecipe,
            save_config_kwargs={"overwrite": True},
            parser_class=_Parser,
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
            args=line.args,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Hide arguments that users must not set: checkpoints are always read with weights_only=True."""
        commands = {name: skip | {"weights_only"} for name, skip in LightningCLI.subcommands().items()}
        commands["predict"].add("return_predictions")
        return commands

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the keys that every recipe may have besides model, data and trainer."""
        parser.add_lightning_class_args(Evaluate, "evaluate")
        parser.add_argument(
            "--parents",
            type=dict[str, str],
            default={},
            help="Earlier stages by role: the name of a recipe or, with fit, the path of a checkpoint.",
        )
        parser.add_argument(
            "--cache",
            type=str | None,
            default=None,
            help="Folder written by `fashiongen data encode`: fit and validate then run no frozen encoder.",
        )
        parser.add_argument(
            "--trust", action="store_true", help="Allow reading a DeepSpeed folder that you created: its pickles can run code."
        )

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:  # noqa: ANN401  as in Lightning
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "predict":
            parser.add_argument("--out", type=str, help="Folder to write the images to.")
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:  # noqa: ANN401  as in Lightning
        """Parse the command line; unlike Lightning's version, never warn that sys.argv differs."""
        self.config = self.parsed(self.line)

    def parsed(self, line: CommandLine) -> jsonargparse.Namespace:
        """Return the settings of a command line.

        Raises:
            UserError: if its protocol is not the one whose metrics are read, or its task is not that of its protocol.
        """
        protocol = find_protocol(line)
        config: jsonargparse.Namespace = self.parser.parse_args(with_protocol(line, protocol))
        evaluate = config[config.subcommand].evaluate
        check_protocol(protocol, evaluate.protocol)
        check_task(line, protocol, evaluate.task)
        return config

    @property
    def options(self) -> jsonargparse.Namespace:
        """The parsed settings of the subcommand."""
        options: jsonargparse.Namespace = self.config[self.config.subcommand]
        return options

    def _parse_ckpt_path(self) -> None:
        """Fail early on bad paths; unlike Lightning's version, take no settings from the checkpoint.

        The checkpoint only provides weights; settings come from the recipe and the command line.
        """
        check_checkpoint(self.options.ckpt_path, self.options.trust)
        if self.config.subcommand == "fit" and self.options.ckpt_path is None:
            check_parents(self.options.parents, self.line.recipe)
        if self.config.subcommand == "predict" and self.options.out is None:
            raise UserError("predict needs a folder for the images: add --out DIR")

    def after_instantiate_classes(self) -> None:
        """Pass recipe, overlays, parents and hashes to the record."""
        evaluate: Evaluate = self._get(self.config_init, "evaluate")
        evaluate.recipe = self.line.labels[0] if self.line.labels else None
        evaluate.overlays = self.line.labels[1:]
        evaluate.parents = dict(self.options.parents)
        self._dump_config()
        evaluate.config_sha256, evaluate.protocol_sha256 = self._config_sha256(), self._protocol_sha256()

    def _protocol_sha256(self) -> str:
        """Hash the protocol's settings that are set; the reference images are in the record's `reference`, by content.

        Groups (`by`) are numbers beside those of all samples, which they do not change.
        """
        settings = {
            key: self.config_dump["evaluate"][key] for key in ("metrics", "size", "resize", "filter", "repaint", "unpaired", "draws")
        }
        return _hash({key: value for key, value in settings.items() if key in ("metrics", "size") or value is not None})

    def _config_sha256(self) -> str:
        settings = {
            key: value for key, value in self.config_dump.items() if key not in ("config", "ckpt_path", "out", "verbose", "trust", "cache")
        }
        settings["evaluate"] = {key: value for key, value in settings["evaluate"].items() if key not in ("out", "keep", "reuse")}
        if settings["evaluate"].get("draws") is None:  # records of before there was this setting stay valid
            settings["evaluate"].pop("draws", None)
        return _hash(settings)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:  # noqa: ANN401  as in Lightning
        """Build the trainer, with a progress bar only on a terminal."""
        if self.options.trainer.enable_progress_bar is None:
            kwargs["enable_progress_bar"] = sys.stdout.isatty()
        trainer = super().instantiate_trainer(**kwargs)
        if type(trainer.strategy) is DeepSpeedStrategy and not isinstance(trainer.accelerator, CUDAAccelerator):
            raise UserError("DeepSpeed needs a CUDA GPU and this run has none: leave the zero2 overlay out, or use the overlay ddp")
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeCheckpoints()
        if self.subcommand == "fit":
            check_saving(trainer, self.options.evaluate.checkpoint)
            trainer.callbacks.append(KeepLast())  # type: ignore[attr-defined]  # Lightning does not declare it
            trainer.callbacks.append(TellDivergence())  # type: ignore[attr-defined]  # Lightning does not declare it
        if self.subcommand == "predict":
            trainer.callbacks.append(WritePredictions(self.options.out))  # type: ignore[attr-defined]  # Lightning does not declare it
        if self.options.cache is not None and self.subcommand in ("fit", "validate"):
            trainer.callbacks.append(ReadCache(self.options.cache))  # type: ignore[attr-defined]
        return trainer

    def before_fit(self) -> None:
        """Load the parents' checkpoints; a resumed run already has them."""
        if self.options.parents and not self._resumes():
            check_parents(self.options.parents, self.line.recipe)
            self.model.load_parents({role: Path(path) for role, path in self.options.parents.items()})

    def before_test(self) -> None:
        """With `evaluate.reuse`, read the predictions of an earlier test in place of running the method."""
        evaluate: Evaluate = self._get(self.config_init, "evaluate")
        if self.options.ckpt_path is not None and Path(self.options.ckpt_path).exists():
            evaluate.tested = TestedCheckpoint(self.options.ckpt_path)
        if evaluate.reuse is None:
            return
        from fashiongen.cli.reuse import can_share, share

        if not can_share(evaluate, self.trainer, self.datamodule, self.options.ckpt_path):
            return
        self._shared, stand_in = share(evaluate, self.model, self.datamodule, self.config_dump, self.options.ckpt_path)
        if stand_in is not None:
            self.model, self.config_init[self.subcommand].ckpt_path = stand_in, None

    def _resumes(self) -> bool:
        """Return whether there is a checkpoint to resume from; with `last`, for restartable jobs, there is none at first."""
        if self.options.ckpt_path != "last":
            return self.options.ckpt_path is not None
        saving = [callback for callback in self.trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
        return any(callback._find_last_checkpoints(self.trainer) for callback in saving)

    def _run_subcommand(self, subcommand: str) -> None:
        """Run the command; then let other tests have the shared predictions, also after an error."""
        try:
            super()._run_subcommand(subcommand)
        finally:
            if self._shared is not None:
                tested = self._get(self.config_init, "evaluate").tested
                self._shared.release(usable=tested is None or tested.unchanged())

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        arguments = {**super()._prepare_subcommand_kwargs(subcommand), "weights_only": True}
        return {**arguments, "return_predictions": False} if subcommand == "predict" else arguments


def run(args: list[str], cli: Callable[[CommandLine], FashionCLI] = FashionCLI, *, debug: bool = False) -> None:
    """Run `fit`, `validate`, `test` or `predict` with its arguments.

    Args:
        args: the command and its arguments.
        cli: the class that parses and runs them.
        debug: whether to show every warning.

    Raises:
        UserError: for errors that the user can fix.
    """
    line = CommandLine.read(args)
    with quiet(debug), in_one_line(line):
        cli(line)


def _hash(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
