"""What is made once and kept, however many processes want it at a time, such as the embedded wardrobe in the user's cache folder."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

from fashiongen.errors import UserError
from fashiongen.wardrobe.world import WORLD_VERSION

EMBEDDED = "wardrobe"
"""The value of `data.root` that means the embedded world."""


def cache_folder() -> Path:
    """Return the folder for what can be made anew: `FASHIONGEN_CACHE`, else `~/.cache/fashiongen`."""
    return Path(os.environ.get("FASHIONGEN_CACHE") or Path.home() / ".cache" / "fashiongen")


def embedded_folder(layout: str, people: int, size: tuple[int, int], seed: int) -> Path:
    """Return where the world of these settings lies, rendered or not: its name tells everything that its pixels depend on."""
    return cache_folder() / EMBEDDED / f"{layout}-world{WORLD_VERSION}-people{people}-{size[0]}x{size[1]}-seed{seed}"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of `path`, a hidden file beside it; the operating system frees it when the process that holds it ends, however.

    Raises:
        UserError: if the folder cannot be made or written to.
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


def render_once(folder: Path, render: Callable[[Path], object]) -> None:
    """Have `render` fill `folder` unless it is there; two processes that race render once, and a kill leaves nothing half done.

    It is filled in a hidden folder beside its place and renamed when it is whole.
    """
    if folder.is_dir():
        return
    with locked(folder):
        if folder.is_dir():
            return
        # The lock is ours, so that whatever wrote to what is left over is dead.
        for left_over in folder.parent.glob(f".{folder.name}.part-*"):
            shutil.rmtree(left_over)
        rank_zero_info(f"rendering the embedded wardrobe to {folder} (once)")
        part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.part-"))
        render(part / folder.name)
        (part / folder.name).rename(folder)
        part.rmdir()
