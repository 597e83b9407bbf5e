"""Judges predictions that are in files: those that a test kept, or images made by any other code."""

from __future__ import annotations

import hashlib
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from fashiongen.batches import Batch
from fashiongen.data.base import FashionData
from fashiongen.data.images import FILTERS, Size, image_to_tensor, open_image
from fashiongen.errors import UserError
from fashiongen.evaluation.folder import Inspected, Matching, Naming, find_images, inspect, match
from fashiongen.evaluation.kept import TABLES, Manifest, Tables, restore
from fashiongen.methods.base import Method
from fashiongen.records import JUDGED_FOLDER, KEPT_PREDICTIONS, Record, content_sha256
from fashiongen.tasks import Filter, Protocol, Resize, Task

LOSSY_COPY = 2.0
"""Grey levels by which a JPEG of an image differs from it, at most, on average."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to judge.

    Attributes:
        folder: the folder of the predictions.
        name: the method's name in the record; by default that of the test that kept the predictions, else the folder's.
        seed: the seed that the predictions were made with, if known; kept predictions have their own.
        naming: what the files are named after; by default found out.
        allow_missing: judge although samples have no prediction.
        reused: a test with the settings of the one that kept the predictions reads them in place of sampling.
        made_by: then the method that would have sampled, whose code the record names.
    """

    folder: Path
    name: str | None = None
    seed: int | None = None
    naming: Naming | None = None
    allow_missing: bool = False
    reused: bool = False
    made_by: Method | None = None


class ImageFiles:
    """Images in files, by the names of their samples."""

    def __init__(
        self,
        files: Mapping[str, Inspected],
        size: Size | None,
        resize: Resize | None,
        not_finite: Sequence[str],
        filter: Filter = "bilinear",
    ) -> None:
        """Serve `files` at `size`; images of another size are resized by `filter`, as the data's are."""
        self._files, self._size, self._resize, self._not_finite = files, size, resize, frozenset(not_finite)
        self._filter = filter
        self._pool = ThreadPoolExecutor(4)

    def images(self, names: Sequence[str]) -> Tensor:
        """Return images, uint8 (B, 3, H, W)."""
        read = list(self._pool.map(self._read, [self._files.get(name) for name in names]))
        blank = next((torch.full_like(image, 128) for image in read if image is not None), None)
        if blank is None:
            blank = torch.full((3, *(self._size or (1, 1))), 128, dtype=torch.uint8)
        return torch.stack([blank if image is None else image for image in read])

    def _read(self, file: Inspected | None) -> Tensor | None:
        if file is None:  # it was not finite
            return None
        image = open_image(file.path)
        fitting = fit(image, self._size, self._resize, self._filter) if self._size else image
        return image_to_tensor(fitting, self._size or file.size, self._filter)

    def not_finite(self, names: Sequence[str]) -> Tensor:
        """Return which predictions were not finite when they were kept, (B,) bool."""
        return torch.tensor([name in self._not_finite for name in names])

    def rows(self, name: str, ids: Sequence[str]) -> Tensor:
        """Raise: there are only images."""
        raise UserError(f"the folder holds images, and no {name}")

    def labels(self, name: str) -> list[str]:
        """Raise: there are only images."""
        raise UserError(f"the folder holds images, and no {name}")


class RowFiles:
    """Rows of tables, such as rankings."""

    def __init__(self, tables: Tables) -> None:
        """Serve the rows of `tables`."""
        self._tables = tables

    def images(self, names: Sequence[str]) -> Tensor:
        """Raise: there are no images."""
        raise UserError("the folder holds no images")

    not_finite = images

    def rows(self, name: str, ids: Sequence[str]) -> Tensor:
        """Return the rows of some samples, (B, ...)."""
        return torch.from_numpy(self._tables.rows(name, ids))

    def labels(self, name: str) -> list[str]:
        """Return a list of names."""
        return self._tables.labels(name)


def fit(image: Image.Image, size: Size, resize: Resize | None, filter: Filter = "bilinear") -> Image.Image:
    """Return an image that covers `size` as the protocol states; `stretch` is left to the last step of reading."""
    if resize != "cover" or (image.height, image.width) == size:
        return image
    scale = max(size[0] / image.height, size[1] / image.width)
    whole = (max(size[0], round(image.height * scale)), max(size[1], round(image.width * scale)))
    covering = image.resize((whole[1], whole[0]), FILTERS[filter])
    top, left = round((whole[0] - size[0]) / 2), round((whole[1] - size[1]) / 2)
    return covering.crop((left, top, left + size[1], top + size[0]))


class FromFiles(Method):
    """Stands for the method whose predictions are judged: its predictions are read from files.

    Attributes:
        files: the predictions; available after `open`.
        notes: what is doubtful or unusual about them, one line each.
    """

    name: ClassVar[str] = "files"

    def __init__(self) -> None:
        """Wait for `request`."""
        super().__init__()
        self.request: Request | None = None
        self.files: ImageFiles | RowFiles | None = None
        self.notes: list[str] = []
        self._task: Task | None = None
        self._present: frozenset[str] = frozenset()
        self._lossy: frozenset[str] = frozenset()
        self._manifest: Manifest | None = None
        self._source: dict[str, Any] = {}
        self._missing: list[str] = []
        self._copies: Counter[str] = Counter()

    def open(self, task: Task, protocol: Protocol, data: FashionData) -> None:
        """Find and inspect the files, and print what was found.

        Raises:
            UserError: if the files do not fit the data or the protocol, or cannot be read.
        """
        if self.request is None:
            raise UserError("FromFiles reads predictions for `fashiongen judge`; a recipe cannot train or test it")
        folder, names = self.request.folder, data.sample_names()
        restore(folder)
        self._task, manifest = task, Manifest.read(folder)
        self._manifest = manifest if manifest is not None and manifest.intact(folder) else None
        self._source = {"kind": JUDGED_FOLDER, "path": str(folder)}
        self.notes = task.doubts(protocol)
        if self._manifest is not manifest:
            self.notes.append("the files differ from their manifest: judged as a folder of unknown origin")
        if task.kept_as == "rows":
            self._open_rows(folder, names)
        else:
            self._open_images(task, folder, names, protocol, data)
        self._use_manifest(names, data)
        if self._source["kind"] == JUDGED_FOLDER:
            conventions = {name: getattr(metric, "convention", None) for name, metric in protocol.metrics.items()}
            self.notes += [f"{name} {convention()}" for name, convention in conventions.items() if convention is not None]
        print(f"{folder}: {len(self._present)} of the {len(names)} samples of {data.name} ({data.split})", flush=True)

    def _open_rows(self, folder: Path, names: Mapping[str, object]) -> None:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; judge takes a folder written by `--evaluate.keep`")
        tables = Tables(folder / TABLES)
        self.files = RowFiles(tables)
        self._present, self._source["sha256"] = frozenset(tables.ids) & names.keys(), content_sha256([folder / TABLES])
        self._set_missing([id_ for id_ in names if id_ not in self._present], folder)

    def _open_images(self, task: Task, folder: Path, names: Mapping[str, Mapping[str, str]], protocol: Protocol, data: FashionData) -> None:
        assert self.request is not None
        kept = self._manifest
        broken = [id_ for id_ in kept.not_finite if id_ in names] if kept else []
        if kept and broken and len(broken) == sum(id_ in names for id_ in kept.ids):  # none of the samples has a file
            matching = Matching(naming="id", files={}, missing=list(names), extra=[])
        else:
            matching = match(find_images(folder), names, self.request.naming)
        self._set_missing([id_ for id_ in matching.missing if id_ not in broken], folder)
        inspected = dict(zip(matching.files, inspect(list(matching.files.values())), strict=True))
        size = protocol.size or data.size
        checked_by_task = size is not None and (size := task.file_size((size[0], size[1]), data, protocol)) is None
        if not checked_by_task:
            self._check_sizes(inspected, size, protocol)
        if size is None and kept and (known := re.fullmatch(r"(\d+)x(\d+)", kept.size)):
            size = int(known[1]), int(known[2])
        self.files = ImageFiles(inspected, size, protocol.resize, broken, getattr(data, "filter", "bilinear"))
        self._present = frozenset([*inspected, *broken])
        self._lossy = frozenset(id_ for id_, file in inspected.items() if file.lossy)
        lines = sorted(f"{file.path.name} {file.sha256}\n" for file in inspected.values())
        self._source |= {
            "sha256": hashlib.sha256("".join(lines).encode()).hexdigest(),
            "files": len(inspected),
            "named_by": matching.naming,
            "lossy": len(self._lossy),
            "extra": len(matching.extra),
        }
        self._note_files(inspected, matching, protocol, data)

    def _set_missing(self, missing: list[str], folder: Path) -> None:
        """Store which samples have no prediction.

        Raises:
            UserError: if there are any and the request does not allow it.
        """
        assert self.request is not None
        self._missing = missing
        self._source["missing"] = len(missing)
        if missing and not self.request.allow_missing:
            raise UserError(
                f"{folder}: {len(missing)} samples of the test have no prediction, first {missing[0]}; make them, or add --allow-missing: "
                "the result then compares with no complete one"
            )
        if missing:
            self.notes.append(f"{len(missing)} samples have no prediction and were left out")

    def _check_sizes(self, files: Mapping[str, Inspected], size: Size | None, protocol: Protocol) -> None:
        sizes = Counter(file.size for file in files.values())
        others = {found: count for found, count in sizes.most_common() if found != size}
        if size is None and len(others) > 1:
            raise UserError(f"the images have {len(others)} sizes and the protocol {protocol.name} states none: make them of one size")
        if size is None or not others:
            return
        (height, width), wanted = next(iter(others)), f"{size[0]}x{size[1]}"
        listing = f"{sum(others.values())} of {len(files)} images are not {wanted} (height x width) but {height}x{width}"
        listing += f" and {len(others) - 1} other sizes" if len(others) > 1 else ""
        swapped = " (height and width are swapped)" if (width, height) == size and height != width else ""
        if protocol.resize is None:
            first = next(file.path for file in files.values() if file.size != size)
            raise UserError(
                f"{first.parent}: {listing}{swapped}, first {first.name}; {protocol.name} states no resizing: make them at {wanted}"
            )
        self._source["resized"] = sum(others.values())
        self.notes.append(f"{listing}{swapped}: resized as the protocol states ({protocol.resize})")

    def _note_files(self, files: Mapping[str, Inspected], matching: Matching, protocol: Protocol, data: FashionData) -> None:
        total = len(files)
        if self._lossy:
            self.notes.append(
                f"{len(self._lossy)} of {total} predictions are JPEG: its artefacts change FID, KID, LPIPS and SSIM; save PNG"
            )
        if matching.extra and self._manifest is None:
            self.notes.append(f"{len(matching.extra)} images belong to no sample of the test, first {matching.extra[0].name}")
        if repeated := total - len({file.sha256 for file in files.values()}):
            self.notes.append(f"{repeated} of {total} predictions are copies of other samples' predictions")
        garments = matching.garments
        # Of an unpaired test `own` is the garment that it puts on, and `other` the one that the person wears.
        reference, unpaired = protocol.reference, getattr(data, "pairing", "paired") == "unpaired"
        no_truth = reference is not None and not reference.own
        worn = garments["other"] if unpaired else garments["own"] if no_truth else 0
        if garments["other"] and not unpaired and not no_truth:
            self.notes.append(
                f"{garments['other']} of {total} files are named after another garment: unpaired predictions, judged as paired"
            )
        if worn:
            self.notes.append(f"{worn} of {total} files are named after the person's own garment: paired predictions, judged as unpaired")
        if garments["unknown"]:
            self.notes.append(f"{garments['unknown']} of {total} files are named after a garment that the data do not pair with the person")

    def _use_manifest(self, names: Mapping[str, object], data: FashionData) -> None:
        """Take the predictions for those of the test that wrote the manifest."""
        if self._manifest is None:
            return
        made = self._manifest.record
        if others := [id_ for id_ in self._manifest.ids if id_ not in names]:
            self._source["extra"] = len(others)
            self.notes.append(f"{len(others)} predictions are of samples that this test does not have, first {others[0]}")
        if self._manifest.broken_weights:
            self.notes.append(f"{self._manifest.broken_weights}, so the training has diverged")
        if made.data.get("fingerprint") != data.fingerprint():
            self.notes.append("the data differ from those that the predictions were made for")
        known = {name: value for name, value in asdict(made).items() if name in (*IDENTITY, *ORIGIN) and value not in (None, "", [], {})}
        self._source |= {"kind": KEPT_PREDICTIONS, "manifest": known}

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:  # noqa: ANN401  Lightning's own
        """Leave out the samples without a prediction."""
        assert isinstance(batch, Batch)
        present = [index for index, id_ in enumerate(batch.ids) if id_ in self._present]
        kept = batch if len(present) == len(batch) else batch.select(present)
        return super().transfer_batch_to_device(kept, device, dataloader_idx)

    def test_step(self, batch: Batch, batch_idx: int) -> Any:  # noqa: ANN401  what the task's prediction is
        """Return the predictions, and count those that are mere copies."""
        assert self._task is not None and self.files is not None
        if not len(batch):
            return None
        prediction = self._task.read_prediction(self.files, batch)
        most = torch.tensor([LOSSY_COPY if id_ in self._lossy else 0.0 for id_ in batch.ids])
        for what, distance in self._task.distances_to_inputs(prediction, batch).items():
            self._copies[what] += int((distance.cpu() <= most).sum())
        return prediction

    def mark(self, record: Record) -> None:
        """Name in a record what was judged, in place of the method, and warn of what is doubtful."""
        assert self.request is not None
        made = self._manifest.record if self._manifest else None
        for name, default in IDENTITY.items():
            if self.request.reused and name in ("recipe", "overlays", "parents"):
                continue  # the test's own
            setattr(record, name, default() if made is None else getattr(made, name))
        if made is None:
            record.method, record.seed = self.request.folder.resolve().name, self.request.seed
        record.method = self.request.name or record.method
        self.notes += [f"{count} of {record.n_samples} predictions equal {what}" for what, count in self._copies.items() if count]
        record.source = dict(self._source)
        if self._missing:
            record.conditions["missing"] = f"{len(self._missing)} ({hashlib.sha256(' '.join(self._missing).encode()).hexdigest()[:8]})"
        origin = self._source["kind"] if made is None else f"{self._source['kind']} of an earlier test"
        record.reason = "; ".join([origin, *([record.reason] if record.reason else []), *self.notes])
        for note in self.notes:
            print(f"fashiongen: warning: {note}", file=sys.stderr)


IDENTITY: dict[str, Any] = {
    **dict.fromkeys(("method",), str),
    **dict.fromkeys(("overlays", "weights"), list),
    **dict.fromkeys(("parents", "parameters"), dict),
    **dict.fromkeys(("recipe", "seed", "checkpoint", "fit_seconds", "seconds_per_sample", "peak_memory_bytes", "device"), lambda: None),
}
"""The fields of a record that belong to the predictions and not to their judging, and what they are where that is unknown."""

ORIGIN = ("data", "config_sha256", "source_sha256", "versions")
"""The fields that both have: those of the predictions stand in the record's `source`."""
