"""The embedded wardrobe as a dataset: its location in the user's cache folder, and rendering it once."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

from fashiongen import wardrobe
from fashiongen.data.user_cache import cache_folder, locked
from fashiongen.errors import UserError
from fashiongen.wardrobe import LAYOUTS_VERSION, WORLD_VERSION

EMBEDDED = "wardrobe"
"""The value of `data.root` that selects the embedded world."""


def embedded_folder(layout: str, people: int, size: tuple[int, int], seed: int) -> Path:
    """Return the folder of the world with these settings, rendered or not. Its name contains everything that affects its files."""
    version = f"{WORLD_VERSION}.{LAYOUTS_VERSION}"
    return cache_folder() / EMBEDDED / f"{layout}-world{version}-people{people}-{size[0]}x{size[1]}-seed{seed}"


def render_embedded(folder: Path, layout: str, people: int, size: tuple[int, int], seed: int) -> None:
    """Render the embedded world in a layout to `folder`, unless it exists.

    Raises:
        UserError: if the wardrobe has no writer of this layout, or the folder cannot be written.
    """
    writers = wardrobe.writers()
    if layout not in writers:
        raise UserError(f"the embedded wardrobe has no writer of layout {layout!r}; it has: {', '.join(writers)}")
    render_once(folder, lambda place: writers[layout](place, people=people, size=size, seed=seed))


def render_once(folder: Path, render: Callable[[Path], object]) -> None:
    """Let `render` fill `folder` unless it exists. Concurrent processes render only once, and a kill leaves no partial folder.

    The folder is filled under a hidden name next to it and renamed when complete.
    """
    if folder.is_dir():
        return
    with locked(folder):
        if folder.is_dir():
            return
        # We hold the lock, so leftovers are from a killed process.
        for left_over in folder.parent.glob(f".{folder.name}.part-*"):
            shutil.rmtree(left_over)
        rank_zero_info(f"rendering the embedded wardrobe to {folder} (once)")
        part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.part-"))
        render(part / folder.name)
        (part / folder.name).rename(folder)
        part.rmdir()
