"""The command line: `fashiongen ARGS` in a shell, `fashiongen.cli.main(ARGS)` in a process of one's own."""

from fashiongen.cli.commands import main

__all__ = ["main"]
