"""Builds a recipe's method and data without running anything, for `fashiongen.cli.load`."""

from __future__ import annotations

from pathlib import Path

from fashiongen.checkpoints import read_state
from fashiongen.cli.checkpoints import check_checkpoint
from fashiongen.cli.lightning import FashionCLI
from fashiongen.cli.messages import in_one_line, quiet
from fashiongen.cli.protocols import CommandLine
from fashiongen.data.base import FashionData
from fashiongen.methods.base import Method


class BuildCLI(FashionCLI):
    """Builds the method and the data, but no trainer."""

    def _parse_ckpt_path(self) -> None:
        """Leave the checkpoint to `build`."""

    def instantiate_classes(self) -> None:
        """Build the method and the data."""
        self.config_init = self.parser.instantiate(self.config)
        self.model = self._get(self.config_init, "model")
        self.datamodule = self._get(self.config_init, "data")

    def after_instantiate_classes(self) -> None:
        """Write no record."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""


def build(args: list[str], checkpoint: str | Path | None) -> tuple[Method, FashionData]:
    """Return the method, with the weights of a checkpoint, and the data that the arguments of `predict` name."""
    check_checkpoint(None if checkpoint is None else str(checkpoint), trust=False)
    line = CommandLine.read(["predict", *args])
    with quiet(), in_one_line(line):
        cli = BuildCLI(line)
        method: Method = cli.model.eval()
        if checkpoint is not None:
            method.load_state_dict(read_state(str(checkpoint)))
    return method, cli.datamodule
