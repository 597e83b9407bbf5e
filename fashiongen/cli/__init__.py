"""The command line: `fashiongen ARGS` in a shell; `main(ARGS)`, or `load(RECIPE)`, in a process of one's own."""

from fashiongen.cli.commands import main
from fashiongen.cli.loading import load

__all__ = ["load", "main"]
