"""argparse with errors in one line. A file of its own: what a new command adds to `arguments.py` decides no number of `fit` and `test`."""

import argparse
import re
from typing import Any, NoReturn

from fashiongen.errors import UserError


class Parser(argparse.ArgumentParser):
    """Raises argparse errors as one line, and accepts no abbreviations."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401  those of ArgumentParser
        """Keep the line breaks of descriptions and examples."""
        super().__init__(**{"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter, **options})

    def error(self, message: str) -> NoReturn:
        """Raise the error that argparse would print."""
        message = re.sub(r"^argument (-\S+): ", r"\1 ", message)
        raise UserError(f"{message}; see `{self.prog} --help`")
