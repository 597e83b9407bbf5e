"""The command line: `fashiongen ARGS` in a shell; `main(ARGS)` or `load(RECIPE)` from Python."""

from fashiongen.cli.commands import main
from fashiongen.cli.loading import load

__all__ = ["load", "main"]
