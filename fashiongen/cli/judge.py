"""`fashiongen judge`: tests predictions in files in place of a method."""

from __future__ import annotations

import argparse
from pathlib import Path

from fashiongen import shipped
from fashiongen.cli.lightning import FashionCLI, run
from fashiongen.cli.protocols import CommandLine
from fashiongen.errors import UserError
from fashiongen.evaluation import Evaluate, FromFiles
from fashiongen.evaluation.judge import Request

STAND_IN = f"{FromFiles.__module__}.{FromFiles.__name__}"
SETTINGS = ("logger=false", "callbacks=null", "enable_checkpointing=false", "enable_model_summary=false", "devices=1")
"""Keys of the trainer, which later ones on the command line override: judging needs no logs and no checkpoints."""


class JudgeCLI(FashionCLI):
    """Judges files instead of running a method."""

    def __init__(self, line: CommandLine, request: Request, protocol: str) -> None:
        """Take what to judge, and the protocol as typed."""
        self.request, self.protocol = request, protocol
        super().__init__(line)

    def after_instantiate_classes(self) -> None:
        """Tell the stand-in for the method what to judge."""
        super().after_instantiate_classes()
        evaluate: Evaluate = self._get(self.config_init, "evaluate")
        evaluate.reuse = None
        if not evaluate.metrics:
            raise UserError(
                f"--protocol {self.protocol}: has no evaluate.metrics to judge by: give a protocol (`fashiongen recipes` lists them)"
            )
        assert isinstance(self.model, FromFiles), "judge names the method itself"
        self.model.request = self.request


def judge_files(options: argparse.Namespace) -> None:
    """Judge a folder by the options of `fashiongen judge` and further keys of a recipe.

    Raises:
        UserError: for errors that the user can fix.
    """
    if not options.config and not any(key.partition("=")[0].split(".")[0] == "--data" for key in options.keys):
        raise UserError("judge needs the data of the test: add --data CLASS --data.root DIR, or --config RECIPE to use a recipe's")
    request = Request(
        folder=options.folder.expanduser(), name=options.name, seed=options.seed, naming=options.names, allow_missing=options.allow_missing
    )
    configs = [arg for config in [*options.config, str(_protocol_file(options.protocol))] for arg in ("--config", config)]
    trainer = [f"--trainer.{setting}" for setting in SETTINGS]
    out = [] if options.out is None else [f"--evaluate.out={options.out}"]
    args = ["test", *configs, f"--model={STAND_IN}", *trainer, *out, *options.keys]
    run(args, lambda line: JudgeCLI(line, request, options.protocol), debug=options.debug)


def _protocol_file(given: str) -> Path:
    path = Path(given).expanduser()
    if path.suffix in (".yaml", ".yml", ".json") or path.is_file():
        return path
    file = shipped.find_protocol(given)
    if file is None:
        raise shipped.unknown(given, [entry.name for entry in shipped.list_protocols()], "--protocol")
    return file
