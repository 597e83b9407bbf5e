"""The encoding cache: latents and features that frozen encoders compute from the samples once, before training.

    DIR/garment-3f9c1a2b5d7e8f01/0b9d5c....safetensors    some samples' moments by the encoder of that hash
        person-3f9c1a2b5d7e8f01/...
        image-77d0e4c6a1b29f35/...

An entry is keyed by its kind, the hash of its encoder (weights, config, preprocessing), a sample's id, and a fingerprint of the encoded
tensors, as decoded and resized. A changed image, another size, an augmented or reframed sample thus never uses a wrong entry: a missing
entry raises a one-line error with the reason, and `fashiongen data encode` adds it.

A part is written under a hidden name, flushed to disk, renamed, and never changed again: a reader sees only complete parts, even if a
writer is killed, and any number of writers can fill a folder at once (at worst an entry exists twice). Each entry has a checksum, which
is verified on every read. Parts are memory-mapped, so a read touches only one entry's pages, which all processes share.
"""

import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.utils.data import Dataset

from fashiongen.batches import Batch
from fashiongen.errors import UserError
from fashiongen.nn.encodings import Encoding, as_bytes, identities

AnyBatch = TypeVar("AnyBatch", bound=Batch)

DTYPES = {"float32": torch.float32, "float16": torch.float16}
NAMES = {"F32": "float32", "F16": "float16"}  # by safetensors' names

# A part is closed at this size or age: a kill loses at most that much work.
PART_BYTES = 64 * 2**20
PART_SECONDS = 60.0
# Writing a part takes seconds: an older hidden file was left by a killed writer.
LEFT_OVER_SECONDS = 3600.0


@dataclass(frozen=True)
class Place:
    """An entry's location, the shapes of its source tensors, and its checksum."""

    part: Path
    row: int
    source: tuple[tuple[int, ...], ...]
    checksum: str


class Entries:
    """All entries of one kind by one encoder; values stay on disk until they are read."""

    def __init__(self, cache: Path, kind: str, identity: str) -> None:
        """Read the index of every part.

        Raises:
            UserError: if a part is damaged.
        """
        self.cache = cache
        self.kind = kind
        self.folder = cache / f"{kind}-{identity[:16]}"
        self.dtypes: set[str] = set()
        self._places: dict[tuple[str, str], Place] = {}
        self._open: dict[Path, Any] = {}
        for part in sorted(self.folder.glob("[!.]*.safetensors")):
            self._index(part)

    def __getstate__(self) -> dict[str, Any]:
        """Omit open files, so that a worker process opens its own."""
        return {**self.__dict__, "_open": {}}

    def __contains__(self, key: tuple[str, str]) -> bool:
        """Return whether there is an entry for (id, fingerprint)."""
        return key in self._places

    def ids(self) -> set[str]:
        """Return the ids of all samples that have an entry."""
        return {id_ for id_, _ in self._places}

    def read(self, id_: str, fingerprint: str, source: tuple[tuple[int, ...], ...]) -> Tensor:
        """Return a sample's entry, (1, ...), in the dtype it was written in.

        Args:
            id_: the sample's id.
            fingerprint: fingerprint of the tensors that the encoder would read now.
            source: the shapes of these tensors.

        Raises:
            UserError: if there is no such entry, or it is damaged.
        """
        place = self._places.get((id_, fingerprint))
        if place is None:
            raise UserError(self._why_not(id_, source))
        if place.part not in self._open:
            self._open[place.part] = _open(place.part)
        try:
            value: Tensor = self._open[place.part].get_slice("values")[place.row : place.row + 1]
        except SafetensorError as error:
            raise _damaged(place.part) from error
        if _checksum(id_, fingerprint, value) != place.checksum:
            raise _damaged(place.part)
        return value

    def write(self, rows: list[tuple[str, str, Tensor]], source: tuple[tuple[int, ...], ...]) -> None:
        """Write (id, fingerprint, value of (1, ...)) of some samples as one part.

        Args:
            rows: the samples, whose values have the same shape and dtype.
            source: the shapes of the encoded tensors.

        Raises:
            UserError: if the folder cannot be written to, or the disk is full.
        """
        index = {
            "ids": [id_ for id_, _, _ in rows],
            "fingerprints": [fingerprint for _, fingerprint, _ in rows],
            "checksums": [_checksum(*row) for row in rows],
            "source": source,
        }
        content = save({"values": torch.cat([value for _, _, value in rows])}, {"index": json.dumps(index)})
        part = self.folder / f"{uuid.uuid4().hex}.safetensors"
        hidden = part.with_name(f".{part.name}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with hidden.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            hidden.rename(part)
            _sync_folder(self.folder)
        except OSError as error:
            raise UserError(
                f"cannot write to the cache {self.cache}: {error.strerror}; free some space or choose another --out, and run it again: "
                "what is written is kept"
            ) from error
        finally:
            with suppress(OSError):  # already renamed, or never created
                hidden.unlink()
        self._index(part)

    def sweep(self) -> None:
        """Delete leftovers of killed writers."""
        for hidden in self.folder.glob(".*.safetensors"):
            try:
                if time.time() - hidden.stat().st_mtime > LEFT_OVER_SECONDS:
                    hidden.unlink()
            except FileNotFoundError:  # another writer finished it or swept it
                continue

    def _index(self, part: Path) -> None:
        try:
            content = _open(part)
            index = json.loads(content.metadata()["index"])
            self.dtypes.add(NAMES[content.get_slice("values").get_dtype()])
            source = tuple(tuple(shape) for shape in index["source"])
            entries = zip(index["ids"], index["fingerprints"], index["checksums"], strict=True)
            for row, (id_, fingerprint, checksum) in enumerate(entries):
                self._places.setdefault((id_, fingerprint), Place(part, row, source, checksum))
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            raise _damaged(part) from error

    def _why_not(self, id_: str, source: tuple[tuple[int, ...], ...]) -> str:
        others = [place.source for (other, _), place in self._places.items() if other == id_]
        if not others:
            return f"the cache {self.cache} has no {self.kind} of sample {id_}; {refill(self.cache)}"
        if source not in others:
            there, here = ("x".join(map(str, shapes[0][-2:])) for shapes in (others[0], source))
            sizes = f"sample {id_} is {there} in the cache {self.cache}, but {here} in this recipe"
            return f"{self.kind}: {sizes}; {refill(self.cache)}"
        return (
            f"the cache {self.cache} does not fit sample {id_}: its images differ from those that its {self.kind} was computed from "
            f"(changed, reframed or augmented); {refill(self.cache)}, or train without the cache if images change in every epoch"
        )


def open_entries(cache: Path, encodings: Mapping[str, Encoding]) -> dict[str, Entries]:
    """Return for each kind the entries in `cache` made by this exact encoder, possibly none.

    Raises:
        UserError: if a part is damaged.
    """
    return {kind: Entries(cache, kind, identity) for kind, identity in identities(encodings).items()}


def refill(cache: Path) -> str:
    """Return how to fix a cache that lacks entries."""
    return f"run `fashiongen data encode --config RECIPE --out {cache}` with this recipe"


def fingerprints(sample: Batch, reads: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Return for each kind a hash of the tensors that its encoder reads from a batch of one: dtype, shape and all values."""
    digests = {}
    for name in dict.fromkeys(name for names in reads.values() for name in names):
        tensor = _tensor(sample, name)
        digest = hashlib.blake2b(f"{tensor.dtype} {tuple(tensor.shape)}\0".encode(), digest_size=12)
        digest.update(as_bytes(tensor))
        digests[name] = digest.hexdigest()
    return {kind: "-".join(digests[name] for name in names) for kind, names in reads.items()}


def shapes(sample: Batch, reads: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    """Return the shapes, without the batch dimension, of the tensors that an encoder reads from a batch of one."""
    return tuple(tuple(_tensor(sample, name).shape[1:]) for name in reads)


def _tensor(sample: Batch, name: str) -> Tensor:
    tensor = getattr(sample, name)
    if not isinstance(tensor, Tensor):
        raise UserError(f"sample {sample.ids[0]} has no {name}, which the method's frozen encoders read; use a dataset that offers it")
    return tensor


class EncodedDataset(Dataset[AnyBatch]):
    """A dataset whose samples carry their cached encodings (`Batch.encoded`)."""

    def __init__(
        self, dataset: Dataset[AnyBatch], cache: Path, encodings: Mapping[str, Encoding], entries: dict[str, Entries] | None = None
    ) -> None:
        """Read the samples of `dataset`, which are batches of one, with their entries in `cache`.

        Args:
            dataset: the samples.
            cache: the folder.
            encodings: the encodings to read.
            entries: the result of `open_entries`, to share between datasets: opening hashes all encoders' weights.

        Raises:
            UserError: if the cache lacks samples, is from another encoder, or does not match the first sample.
        """
        self.dataset = dataset
        self.reads = {kind: encoding.reads for kind, encoding in encodings.items()}
        self.entries = open_entries(cache, encodings) if entries is None else entries
        if not cache.is_dir():
            raise UserError(f"the cache {cache} does not exist; {refill(cache)}")
        for kind, known in self.entries.items():
            ids = known.ids()
            if not ids and any(cache.glob(f"{kind}-*/[!.]*.safetensors")):
                why = f"its {kind} comes from another encoder (weights, config or preprocessing differ)"
                raise UserError(f"the cache {cache} is stale: {why}; {refill(cache)}")
            if missing := [row.id for row in self.rows if row.id not in ids]:
                raise UserError(
                    f"the cache {cache} lacks the {kind} of {len(missing)} of {len(self)} samples, first {missing[0]}; {refill(cache)}"
                )
        if len(self):
            self[0]

    @property
    def rows(self) -> Any:  # noqa: ANN401  what a dataset knows of its samples without reading them, each with an id
        """The rows of the dataset."""
        return self.dataset.rows  # type: ignore[attr-defined]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.rows)

    def __getitem__(self, index: int) -> AnyBatch:
        """Return one sample with its entries.

        Raises:
            UserError: if a file is missing or damaged, or the sample differs from the encoded one.
        """
        sample: AnyBatch = self.dataset[index]
        found = fingerprints(sample, self.reads)
        encoded = {
            kind: entries.read(sample.ids[0], found[kind], shapes(sample, self.reads[kind])) for kind, entries in self.entries.items()
        }
        return replace(sample, encoded=encoded)


@dataclass
class _Part:
    """A part being filled."""

    rows: list[tuple[str, str, Tensor]] = field(default_factory=list)
    source: tuple[tuple[int, ...], ...] = ()
    size: int = 0
    since: float = field(default_factory=time.monotonic)


def encode(
    batches: Iterable[Batch],
    encodings: Mapping[str, Encoding],
    cache: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> dict[str, int]:
    """Encode the samples and write the results to `cache`; existing entries are not recomputed.

    Args:
        batches: the samples, on the CPU.
        encodings: the encodings to compute.
        cache: the folder.
        device: device to run the encoders on.
        dtype: dtype of the values on disk, the same for all values of an encoder. float32 is exact; float16 halves the size and has a
            relative error of at most 2**-11.

    Returns:
        The number of added entries of each kind.

    Raises:
        UserError: if the cache cannot be written to or is damaged, holds values of another dtype, or a value does not fit into `dtype`.
    """
    reads = {kind: encoding.reads for kind, encoding in encodings.items()}
    entries = open_entries(cache, encodings)
    for kind, known in entries.items():
        for other in known.dtypes - {_name(dtype)}:
            raise UserError(f"the cache {cache} holds its {kind} as {other}: add --dtype {other}, or choose another --out")
    parts = {kind: _Part() for kind in encodings}
    added = dict.fromkeys(encodings, 0)

    def close(kind: str) -> None:
        part, parts[kind] = parts[kind], _Part()
        if part.rows:
            entries[kind].write(part.rows, part.source)
            added[kind] += len(part.rows)

    for kind, encoding in encodings.items():
        entries[kind].sweep()
        encoding.encoder.to(device)
    try:
        for batch in track(batches, "encoding", console=Console(stderr=True), transient=True):
            samples = [batch.select([index]) for index in range(len(batch))]
            found = [fingerprints(sample, reads) for sample in samples]
            for kind, encoding in encodings.items():
                new = [index for index, id_ in enumerate(batch.ids) if (id_, found[index][kind]) not in entries[kind]]
                if not new:
                    continue
                source = shapes(samples[0], encoding.reads)
                if parts[kind].source != source:
                    close(kind)
                values = _values(kind, encoding, batch.select(new), device, dtype)
                part = parts[kind]
                part.source = source
                part.rows += [(batch.ids[index], found[index][kind], value) for index, value in zip(new, values.split(1), strict=True)]
                part.size += values.nbytes
                if part.size >= PART_BYTES or time.monotonic() - part.since >= PART_SECONDS:
                    close(kind)
    finally:
        for kind in encodings:
            close(kind)
    return added


def _values(kind: str, encoding: Encoding, batch: Batch, device: torch.device | str, dtype: torch.dtype) -> Tensor:
    """Encode a batch on the device; returns (B, ...) of `dtype` on the CPU."""
    moved = replace(batch, **{name: getattr(batch, name).to(device) for name in encoding.reads})
    values = encoding(moved).cpu()
    stored = values.to(dtype)
    finite = stored.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        first = batch.ids[int((~finite).int().argmax())]
        cause = "its encoder gives numbers that are not finite" if not values.isfinite().all() else "add --dtype float32, with a new --out"
        raise UserError(f"the {kind} of sample {first} cannot be stored as {_name(dtype)}: {cause}")
    return stored


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _open(part: Path) -> Any:  # noqa: ANN401  safetensors has no type for it
    """Map a part into memory; safetensors compares its header with the file's length."""
    try:
        return safe_open(part, framework="pt")
    except (SafetensorError, OSError) as error:
        raise _damaged(part) from error


def _checksum(id_: str, fingerprint: str, value: Tensor) -> str:
    digest = hashlib.blake2b(f"{id_}\0{fingerprint}\0{value.dtype}\0{tuple(value.shape)}\0".encode(), digest_size=8)
    digest.update(as_bytes(value))
    return digest.hexdigest()


def _damaged(part: Path) -> UserError:
    return UserError(f"{part} is damaged: delete it, then {refill(part.parents[1])}")


def _sync_folder(folder: Path) -> None:
    """Flush a folder's directory entries to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
