"""The gallery of a board: the same samples for every row, with the records' gallery images, as `data:` URLs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from fashiongen.benchmark.boards import Row

# Maximum samples per board, image height in pixels, and bytes for all boards together; samples beyond that are only counted.
GALLERY_SAMPLES = 8
IMAGE_HEIGHT = 256
GALLERY_BYTES = 16 * 2**20
# Raised by Pillow for a file that is truncated, damaged, too large, or not an image.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


class ByteBudget:
    """The remaining bytes for images."""

    def __init__(self, size: int) -> None:
        """Start with `size` bytes."""
        self.left = size

    def take(self, addresses: Sequence[str | None]) -> bool:
        """Reserve the bytes for some images, all or nothing."""
        size = sum(len(address) for address in addresses if address)
        if size > self.left:
            return False
        self.left -= size
        return True


def gallery(rows: Sequence[Row], budget: ByteBudget) -> dict[str, Any] | None:
    """Return the same samples for the first seed of every row side by side, after the gallery images of the records (input and truth).

    The first columns are the headings of the first record that has any. Each of their images comes from the first record that has the file:
    the input and the truth are the same for all rows of a board.
    """
    firsts = [(row.name, row.runs[0]) for row in rows]
    folders = [run.file(run.record.images) for _, run in firsts]
    all_stems = [{file.stem for file in folder.glob("*.png")} if folder and folder.is_dir() else set() for folder in folders]
    # A method without images must not empty the gallery of the others.
    shown = [
        (name, run, folder) for (name, run), folder, found in zip(firsts, folders, all_stems, strict=True) if folder is not None and found
    ]
    stems = [found for found in all_stems if found]
    if not shown:
        return None
    headings = next((list(run.record.gallery) for _, run in firsts if run.record.gallery), [])
    beside = {heading: [run.file(run.record.gallery.get(heading)) for _, run in firsts] for heading in headings}
    ids, lines = sorted(set.intersection(*stems))[:GALLERY_SAMPLES], []
    for id_ in ids:
        line = [*(_first_image(beside[heading], id_) for heading in headings), *(_image(folder / f"{id_}.png") for _, _, folder in shown)]
        if not budget.take(line):
            break
        lines.append({"id": id_, "images": line})
    names, seeds = [*headings, *(name for name, _, _ in shown)], [*(None for _ in headings), *(run.record.seed for _, run, _ in shown)]
    # Leave out a heading without any image.
    columns = [index for index in range(len(names)) if index >= len(headings) or any(line["images"][index] for line in lines)]
    return {
        "columns": [names[index] for index in columns],
        "seeds": [seeds[index] for index in columns],
        "lines": [{"id": line["id"], "images": [line["images"][index] for index in columns]} for line in lines],
        "left_out": len(set.union(*stems)) - len(lines),
        "without": [name for (name, _), found in zip(firsts, all_stems, strict=True) if not found],
    }


def _first_image(folders: Sequence[Path | None], id_: str) -> str | None:
    """Return a sample's image from the first folder that has a readable one."""
    return next((found for folder in folders if folder is not None and (found := _image(folder / f"{id_}.png"))), None)


def _image(path: Path) -> str | None:
    """Return an image as a `data:` URL, re-encoded and at most as high as the gallery's, or None if it cannot be read."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return _address(image.convert("RGB"))
    except UNREADABLE:
        return None


def _address(image: Image.Image) -> str:
    data, kind = io.BytesIO(), "png"
    if image.height > IMAGE_HEIGHT:
        # A reduced image is an illustration, not a result: use JPEG, at a tenth of the size.
        size = (max(1, round(image.width * IMAGE_HEIGHT / image.height)), IMAGE_HEIGHT)
        image.resize(size, Image.Resampling.LANCZOS).save(data, "JPEG", quality=88)
        kind = "jpeg"
    else:
        image.save(data, "PNG", optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}"
