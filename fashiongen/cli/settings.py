"""Resolves the settings of commands without instantiating anything, for `bench run` to plan its nodes."""

from typing import Any

import jsonargparse
import yaml

from fashiongen.cli.lightning import FashionCLI
from fashiongen.cli.messages import in_one_line
from fashiongen.cli.protocols import CommandLine


class SettingsCLI(FashionCLI):
    """Parses many command lines with one parser, since building it takes longer than using it; instantiates and runs nothing.

    Attributes:
        settings: the settings of each command line, as plain values.
    """

    def __init__(self, commands: list[list[str]]) -> None:
        """Parse `commands`, each a `fit` or `test` with its arguments."""
        self.commands = commands
        self.settings: list[dict[str, Any]] = []
        super().__init__(CommandLine([], [], [], [], None))

    def parse_arguments(self, parser: jsonargparse.ArgumentParser, args: Any) -> None:  # noqa: ANN401  as in Lightning
        """Parse all of them, and leave Lightning no subcommand to run."""
        self.config = {"subcommand": None}
        for command in self.commands:
            line = CommandLine.read(command)
            with in_one_line(line):
                config = self.parsed(line)
            own = self._subcommand_parsers[line.command]
            self.settings.append(yaml.safe_load(own.dump(config[line.command], skip_link_targets=False)))

    def _parse_ckpt_path(self) -> None:
        """Ignore checkpoints."""

    def _set_seed(self) -> None:
        """Draw nothing."""

    def instantiate_classes(self) -> None:
        """Build nothing."""

    def after_instantiate_classes(self) -> None:
        """Do nothing."""


def resolve(commands: list[list[str]]) -> list[dict[str, Any]]:
    """Return the settings of each `fit` or `test` command as plain values, without instantiating anything.

    Raises:
        UserError: the error that the command itself would raise for its arguments.
    """
    return SettingsCLI(commands).settings
