"""A catalogue's embeddings on disk: each image is encoded once, and embeddings are read back in blocks.

    DIR/5b1f0c.../rows.f32       a float32 row per image, in the order they were added
                  rows.sqlite    the row of each image

The folder's name is a hash of everything that affects an embedding: the method's weights and settings, the image size, this package's
code. A row is keyed by an image's content and id (the file's stem, which some baselines rank by): a changed image is encoded again, a
moved one is not. As in git, a file with unchanged size and times is not read again. Rows are written to disk before the database refers
to them: a kill loses the last few rows but damages nothing. Any folder can be deleted at any time.
"""

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fashiongen.closure import of_objects
from fashiongen.data.user_cache import locked
from fashiongen.errors import UserError
from fashiongen.nn.encodings import as_bytes

BLOCK_BYTES = 32 * 2**20
COMMIT_ROWS = 1024  # a kill loses at most this many
ASKED_AT_ONCE = 500  # below any SQLite's limit on query parameters
TABLES = """
CREATE TABLE IF NOT EXISTS images (key TEXT PRIMARY KEY, row INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, state TEXT NOT NULL, key TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS width (width INTEGER NOT NULL);
"""


@dataclass(frozen=True)
class Embeddings:
    """Rows of a float32 file, read into memory one block at a time.

    Attributes:
        file: consecutive rows of `width` numbers.
        rows: (C,) int64, the indices of the rows, in order.
        width: the embedding size, E.
    """

    file: Path
    rows: NDArray[np.int64]
    width: int

    def __len__(self) -> int:
        """Return their number, C."""
        return len(self.rows)

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """Yield all rows in order, about `BLOCK_BYTES` at a time: the position of a block's first row, and the block (n, E)."""
        step = max(1, BLOCK_BYTES // (4 * self.width))
        for start in range(0, len(self), step):
            wanted = self.rows[start : start + step]
            low, high = int(wanted.min()), int(wanted.max())
            # A memory map per block: one of the whole file would count towards this process's memory, page by page.
            span = np.memmap(self.file, np.float32, "r", offset=4 * low * self.width, shape=(high - low + 1, self.width))
            yield start, torch.from_numpy(np.asarray(span[wanted - low]))


class Store:
    """The embeddings of one method; while it is open, no other process can write to it."""

    def __init__(self, folder: Path) -> None:
        """Set the folder; it is created on entering the context."""
        self.folder = folder
        self.file = folder / "rows.f32"
        self.width: int | None = None
        self._count = 0
        self._uncommitted = 0

    def __enter__(self) -> Self:
        """Wait for other writers, open the folder, and drop rows that a killed writer left without an image.

        Raises:
            UserError: if the folder cannot be written to, or is damaged.
        """
        with ExitStack() as stack:
            stack.enter_context(locked(self.file))
            try:
                self._known = sqlite3.connect(self.folder / "rows.sqlite")
                stack.callback(self._known.close)
                self._known.executescript(TABLES)
                self._count = self._known.execute("SELECT COUNT(*) FROM images").fetchone()[0]
                self.width = next((width for (width,) in self._known.execute("SELECT width FROM width")), None)
            except sqlite3.Error as error:
                raise UserError(f"{self.folder} is damaged ({error}): delete the folder; it will be rebuilt") from error
            self._values = stack.enter_context(self.file.open("ab"))
            whole = 4 * self._count * (self.width or 0)
            if os.path.getsize(self.file) < whole:
                raise UserError(f"{self.file} is shorter than {whole} bytes: delete the folder; it will be rebuilt")
            self._values.truncate(whole)
            self._opened = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Commit the added rows and release the lock."""
        try:
            self.commit()
        finally:
            self._opened.close()

    def key(self, path: Path) -> str:
        """Return the key of an image: a hash of its id and content.

        Raises:
            OSError: if it cannot be read.
        """
        place, found = str(path.absolute()), path.stat()
        state = f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
        seen = self._known.execute("SELECT key FROM files WHERE path = ? AND state = ?", (place, state)).fetchone()
        if seen:
            return str(seen[0])
        with path.open("rb") as file:
            content = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        key = hashlib.blake2b(f"{content}\0{path.stem}".encode(), digest_size=16).hexdigest()
        self._known.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", (place, state, key))
        return key

    def rows(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """Return the rows of images, (len(keys),), -1 for images without one."""
        found: dict[str, int] = {}
        for start in range(0, len(keys), ASKED_AT_ONCE):
            asked = keys[start : start + ASKED_AT_ONCE]
            found.update(self._known.execute(f"SELECT key, row FROM images WHERE key IN ({','.join('?' * len(asked))})", asked))
        return np.array([found.get(key, -1) for key in keys], dtype=np.int64)

    def add(self, keys: Sequence[str], values: Tensor) -> None:
        """Add the embeddings (n, E) of images that have no row yet.

        Raises:
            UserError: if a number is not finite.
        """
        if not values.isfinite().all():
            raise UserError("the method embeds images as numbers that are not finite: its weights are damaged, or it has diverged")
        if self.width is None:
            self.width = values.shape[1]
            self._known.execute("INSERT INTO width VALUES (?)", (self.width,))
        self._values.write(as_bytes(values.float()))
        self._known.executemany("INSERT INTO images VALUES (?, ?)", [(key, self._count + place) for place, key in enumerate(keys)])
        self._count += len(keys)
        self._uncommitted += len(keys)
        if self._uncommitted >= COMMIT_ROWS:
            self.commit()

    def commit(self) -> None:
        """Flush everything to disk, embeddings first."""
        self._values.flush()
        os.fsync(self._values.fileno())
        self._known.commit()
        self._uncommitted = 0

    def embeddings(self, rows: NDArray[np.int64]) -> Embeddings:
        """Commit, and return the given rows."""
        self.commit()
        return Embeddings(self.file, rows, self.width or 0)


def identity(method: nn.Module, *settings: object) -> str:
    """Return a sha256 of everything that affects a method's embeddings: class, weights and buffers, settings, and the code behind them."""
    digest = hashlib.sha256(f"{type(method).__qualname__}\0{of_objects(method, names=[(__name__, None)]).sha256}\0".encode())
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in [*method.named_parameters(), *method.named_buffers()]:
        digest.update(f"\0{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(as_bytes(tensor))
    return digest.hexdigest()
