"""The user's cache folder, for files that can be regenerated, and a lock for processes that share them."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fashiongen.errors import UserError


def cache_folder() -> Path:
    """Return the user's cache folder: `FASHIONGEN_CACHE`, else `~/.cache/fashiongen`."""
    return Path(os.environ.get("FASHIONGEN_CACHE") or Path.home() / ".cache" / "fashiongen")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of `path`, a hidden file next to it. The operating system releases it when the process ends, even by a kill.

    Raises:
        UserError: if the folder cannot be created or written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path.with_name(f".{path.name}.lock"), "w")
    except OSError as error:
        elsewhere = "choose another place (for the embedded wardrobe by the environment variable FASHIONGEN_CACHE)"
        raise UserError(f"cannot write to the folder {path.parent}: {error.strerror}; {elsewhere}") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
