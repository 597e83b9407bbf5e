"""The base of the tasks that generate items of an outfit for a person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import lightning.pytorch as L
import torch
from torch import Tensor

from fashiongen.batches import Batch, Ragged, to_float, to_uint8
from fashiongen.errors import UserError
from fashiongen.outfit_batches import WHITE, Completed, Generated, OutfitBatch
from fashiongen.tasks.base import Data, GalleryRow, PredictionFiles, Protocol, Task, size_text
from fashiongen.tasks.one_image import as_written

HISTORY_SHOWN = 4
"""Items of the history in a gallery row, the latest ones."""
PAIRS_AT_ONCE = 64
"""Pairs of images that are compared at once: at full size one takes megabytes."""


class OutfitTask(Task):
    """Generates the blanks of outfits, each one or several times; judged by metrics of outfits and of sets of images.

    A prediction is kept as one file per sample: the images of its blanks from left to right, draw after draw.

    Attributes:
        draws: how often the protocol wants each blank filled; None for the method's own number.
        drawn: how often the last prediction has filled it.
    """

    prediction: ClassVar[str] = "outfit"
    gallery: ClassVar[tuple[str, ...]] = ("history", "given", "truth")
    shares: ClassVar[str] = "user or outfit"
    several_draws: ClassVar[bool] = True

    draws: int | None = None
    drawn: int = 0

    @classmethod
    def spoil_truth(cls, batch: Batch) -> Batch:
        """Spoil the user's true liking and the given items' true attributes too, which only the wardrobe's oracle may read."""
        assert isinstance(batch, OutfitBatch)
        spoiled_values: tuple[str, ...] = ("spoiled",)
        likes = None if batch.likes is None else [dict.fromkeys(liked, spoiled_values) for liked in batch.likes]
        known = batch.given_attributes
        spoiled = None if known is None else Ragged([dict.fromkeys(entry, "spoiled") for entry in known.values], known.offsets)
        hidden = super().spoil_truth(batch)
        assert isinstance(hidden, OutfitBatch)
        return replace(hidden, likes=likes, given_attributes=spoiled)

    def check_data(self, data: Data, protocol: Protocol) -> None:
        """Check that the data have images and the protocol's size, and that the metrics are of outfits or of sets.

        Raises:
            UserError: if not.
        """
        if protocol.repaint is not None:
            raise UserError(f"evaluate.repaint={protocol.repaint}: a {self.name} has no photo to paste its predictions into: leave it out")
        if protocol.reference is not None:
            raise UserError(f"evaluate.reference: a {self.name} is compared with the test's own outfits: leave it out")
        if "images" not in data.offers:
            raise UserError(f"{self.name} is evaluated by images, which {data.name} does not offer here: set data.init_args.images=true")
        for name in ("filter", "resize"):
            if getattr(protocol, name) is not None:
                raise UserError(f"evaluate.{name}: a {self.name} reads images as the data do (data.init_args.fit): leave it out")
        found = tuple(data.size or ())
        if protocol.size is not None and found != tuple(protocol.size):
            sizes = f"uses size {list(protocol.size)}, but data.init_args.size is {list(found)}"
            raise UserError(f"protocol {protocol.name} {sizes}: set --data.init_args.size")
        wrong = [name for name, metric in protocol.metrics.items() if not _of_outfits(metric) and getattr(metric, "pairs", True)]
        if wrong:
            raise UserError(
                f"evaluate.metrics: {', '.join(wrong)}: compare one image per sample, but a sample of {self.name} has one per blank and "
                "draw: use the metrics of outfits, such as fashiongen.metrics.LPIPSToTruth"
            )
        for name, metric in protocol.metrics.items():
            if absent := sorted(getattr(metric, "reads", frozenset()) - data.offers):
                raise UserError(f"evaluate.metrics: {name}: needs {', '.join(absent)}, which {data.name} does not offer here: remove it")

    def start(self, trainer: L.Trainer, module: L.LightningModule, protocol: Protocol) -> None:
        """Let the method fill each blank as often as the protocol states.

        Raises:
            UserError: if the protocol states a number of draws, and the method has no such setting.
        """
        self.draws = protocol.draws
        if protocol.draws is not None:
            if not hasattr(module, "draws"):
                raise UserError(f"protocol {protocol.name} draws {protocol.draws} times; {type(module).__name__} has no attribute `draws`")
            module.draws = protocol.draws  # type: ignore[assignment]  # nn.Module takes only its own kinds

    def start_judging(self, trainer: L.Trainer, module: L.LightningModule, protocol: Protocol, files: PredictionFiles) -> None:
        """Prepare to read files, in which the number of draws shows."""
        self.draws = protocol.draws

    def check_prediction(self, method: object, prediction: object, batch: Batch) -> Generated:
        """Return the prediction as float32 if it has an image of the batch's size for each blank and draw.

        Raises:
            TypeError: if it has not.
        """
        assert isinstance(batch, OutfitBatch)
        name, count = type(method).__name__, len(batch.blank_slots())
        if not isinstance(prediction, Generated):
            raise TypeError(f"{name}.{self.method} must return Generated, it returned {type(prediction).__name__}")
        draws = self.draws or getattr(method, "draws", None) or prediction.draws
        size = (draws, count, *_size_of(batch))
        if tuple(prediction.images.shape) != size:
            raise TypeError(f"{name}.{self.method} must return images {size}, it returned {tuple(prediction.images.shape)}")
        self.drawn = draws
        captions = prediction.captions
        if captions is not None and [len(listed) for listed in captions] != [count] * draws:
            raise TypeError(f"{name}.{self.method} must return {count} captions for each of {draws} draws")
        return replace(prediction, images=prediction.images.float())

    def update(self, method: L.LightningModule, prediction: Generated, batch: Batch, protocol: Protocol) -> int:
        """Update metrics of outfits with the completed outfits, and metrics of sets with all generated and all true images."""
        assert isinstance(batch, OutfitBatch)
        completed = compare_outfits(prediction, batch)
        for metric in protocol.metrics.values():
            if _of_outfits(metric):
                metric.update(completed)
            else:
                metric.update(completed.images.flatten(0, 1), None)
                metric.update(None, completed.truth)
        broken = ~prediction.images.isfinite().flatten(2).all(dim=2).all(dim=0)
        return int(torch.bincount(completed.sample[broken], minlength=1).count_nonzero())

    def shared_keys(self, batch: Batch) -> list[tuple[str, ...]]:
        """Return each sample's user and outfit: a user has several outfits, and in iFashion an outfit several users."""
        assert isinstance(batch, OutfitBatch)
        return [(f"user {user}", f"outfit {outfit}") for user, outfit in zip(batch.user, batch.outfit, strict=True)]

    def gallery_rows(self, prediction: Generated, batch: Batch, indices: Sequence[int]) -> list[GalleryRow]:
        """Show whole outfits: the history of the blanks' categories, what was given, the completed outfit of the first draw, the truth."""
        assert isinstance(batch, OutfitBatch) and batch.images is not None
        outfits, shown = self.completed_outfits(prediction, batch), []
        for index in indices:
            given = batch.images[index]
            truth = torch.full_like(given, 128) if batch.true_images is None else batch.true_images[index]
            images = {
                "history": latest_history(batch, index),
                "given": side_by_side(given),
                self.prediction: outfits[index],
                "truth": side_by_side(truth),
            }
            shown.append(GalleryRow(id=batch.ids[index], images={heading: image.cpu() for heading, image in images.items()}))
        return shown

    def completed_outfits(self, prediction: Generated, batch: OutfitBatch, draw: int = 0) -> list[Tensor]:
        """Return each outfit with its blanks filled by one draw, as a strip: B uint8 images (3, H, n * W)."""
        assert batch.images is not None
        filled = batch.images.values.clone()
        filled[batch.blank_slots()] = to_uint8(prediction.images[draw].nan_to_num()).to(filled.device)
        outfits = Ragged(filled, batch.images.offsets)
        return [side_by_side(outfits[index]) for index in range(len(batch))]

    def images(self, prediction: Generated, batch: Batch) -> list[tuple[str, Tensor]]:
        """Name the strip of each sample's blanks, draw after draw, after the sample: (3, H, draws * blanks * W)."""
        assert isinstance(batch, OutfitBatch)
        per_sample = torch.bincount(batch.blank_samples(), minlength=len(batch)).tolist()
        of_samples = zip(batch.ids, prediction.images.split(per_sample, dim=1), strict=True)
        return [(id_, side_by_side(of_sample.flatten(0, 1))) for id_, of_sample in of_samples]

    def sheets(self, prediction: Generated, batch: Batch) -> list[tuple[str, Tensor]]:
        """Return one image per sample that `predict` writes too: the history, and below it the completed outfit of each draw."""
        assert isinstance(batch, OutfitBatch)
        draws = [self.completed_outfits(prediction, batch, draw) for draw in range(prediction.draws)]
        sheets = []
        for index, id_ in enumerate(batch.ids):
            rows = [latest_history(batch, index).cpu(), *(outfits[index].cpu() for outfits in draws)]
            sheets.append((f"{id_}.outfit", to_float(stacked(rows))))
        return sheets

    def captions(self, prediction: Generated, batch: Batch) -> list[dict[str, Any]] | None:
        """Return the caption of each blank and draw with its sample, slot and draw."""
        assert isinstance(batch, OutfitBatch)
        if prediction.captions is None:
            return None
        slots, samples = batch.blank_slots(), batch.blank_samples()
        places = (slots - batch.blank.offsets[samples]).tolist()
        return [
            {"id": batch.ids[sample], "draw": draw, "slot": slot, "caption": caption}
            for draw, captions in enumerate(prediction.captions)
            for caption, sample, slot in zip(captions, samples.tolist(), places, strict=True)
        ]

    def read_prediction(self, files: PredictionFiles, batch: Batch) -> Generated:
        """Return the images of the strips named after the samples; NaN where a prediction was not finite.

        Raises:
            UserError: if a strip has not an image of the data's size for each blank and draw.
        """
        assert isinstance(batch, OutfitBatch)
        _, height, width = _size_of(batch)
        per_sample = torch.bincount(batch.blank_samples(), minlength=len(batch)).tolist()
        parts: list[Tensor | None] = []
        for id_, blanks in zip(batch.ids, per_sample, strict=True):
            (read,) = files.images([id_])
            if bool(files.not_finite([id_]).item()):
                parts.append(None)
                continue
            columns = read.shape[2] // width
            if read.shape[1] != height or columns * width != read.shape[2] or not columns or columns % blanks:
                found = f"{read.shape[1]}x{read.shape[2]}"
                raise UserError(f"{id_}: its file is {found}, not {blanks} images of {height}x{width} side by side for each draw")
            images = to_float(read).unflatten(2, (columns, width)).permute(2, 0, 1, 3)
            parts.append(images.unflatten(0, (columns // blanks, blanks)))
        draws = {len(part) for part in parts if part is not None} or {self.draws or 1}
        if len(draws) > 1 or (self.draws is not None and draws != {self.draws}):
            wanted = "the same number" if self.draws is None else str(self.draws)
            raise UserError(f"the files hold {', '.join(map(str, sorted(draws)))} draws of each blank, the protocol wants {wanted}")
        self.drawn = draws.pop()
        shape = (self.drawn, 3, height, width)
        whole = [
            torch.full((shape[0], blanks, *shape[1:]), torch.nan) if part is None else part
            for part, blanks in zip(parts, per_sample, strict=True)
        ]
        return Generated(images=torch.cat(whole, dim=1).to(batch.blank.offsets.device))

    def file_size(self, size: tuple[int, int], data: Data, protocol: Protocol) -> tuple[int, int] | None:
        """Return None: a file is as wide as its blanks and draws, which `read_prediction` checks."""
        return None

    def distances_to_inputs(self, prediction: Generated, batch: Batch) -> dict[str, Tensor]:
        """Compare each blank's images with the given items, the history and the truth; a sample counts by its nearest pair."""
        assert isinstance(batch, OutfitBatch) and batch.images is not None
        written, samples, slots = to_uint8(prediction.images.nan_to_num()), batch.blank_samples(), batch.blank_slots()
        given = batch.given.values.nonzero().flatten()
        of_given = batch.images.row_of[given]
        found = {"a given item": _nearest(written, samples, batch.images.values[given], of_given, samples, len(batch))}
        if batch.history is not None:
            history: Ragged = batch.history.values.select(slots.tolist())  # of the blanks' own categories
            blanks = torch.arange(len(slots), device=slots.device)
            found["an item of the history"] = _nearest(written, blanks, history.values, history.row_of, samples, len(batch))
        if batch.true_images is not None:
            found["the true image"] = _nearest(written, slots, batch.true_images.values[slots], slots, samples, len(batch))
        return found

    def reference_info(self, data: Data, protocol: Protocol) -> dict[str, str]:
        """Return that the true outfits were the reference."""
        size = size_text(data)
        found = {"dataset": data.name, "split": data.split, "field": "item", "fingerprint": data.fingerprint()}
        return {**found, **({"size": size} if size else {})}

    def conditions(self, data: Data, protocol: Protocol) -> dict[str, str]:
        """Return the image size, the number of draws, and how much of the history was offered."""
        length = getattr(data, "history", None)
        return {"size": size_text(data), "draws": str(self.drawn), "history": "all" if length is None else str(length)}


def compare_outfits(prediction: Generated, batch: OutfitBatch) -> Completed:
    """Join what was generated with the batch's truth, as metrics of outfits take it."""
    slots, samples = batch.blank_slots(), batch.blank_samples()
    draws, count = prediction.images.shape[:2]
    written = as_written(prediction.images.flatten(0, 1)).unflatten(0, (draws, count))
    at = slots.tolist()
    given = [index for index, shown in enumerate(batch.given.values.tolist()) if shown]
    lengths = torch.zeros_like(batch.given.lengths).index_add_(0, batch.given.row_of, batch.given.values.to(torch.int64))
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])

    def of_blanks(field: Ragged | None) -> list[Any] | None:
        return None if field is None else [field.values[index] for index in at]

    def of_given(field: Ragged | None) -> Ragged | None:
        if field is None:
            return None
        values = field.values[given].float() / 255.0 if isinstance(field.values, Tensor) else [field.values[index] for index in given]
        return Ragged(values, offsets)

    history = None if batch.history is None else batch.history.values.select(at)
    return Completed(
        images=written,
        sample=samples,
        n_samples=len(batch),
        slot=slots - batch.blank.offsets[samples],
        category=of_blanks(batch.category) or [],
        truth=None if batch.true_images is None else batch.true_images.values[slots].float() / 255.0,
        given=of_given(batch.images),
        history=None if history is None else Ragged(history.values.float() / 255.0, history.offsets),
        candidates=None
        if batch.candidate_images is None
        else Ragged(batch.candidate_images.values.float() / 255.0, batch.candidate_images.offsets),
        captions=prediction.captions,
        given_captions=of_given(batch.captions),
        preference=of_blanks(batch.preference),
        attributes=of_blanks(batch.attributes),
        given_attributes=of_given(batch.attributes),
        likes=batch.likes,
    )


def side_by_side(images: Tensor) -> Tensor:
    """Return images (N, 3, H, W) side by side: (3, H, N * W)."""
    return images.permute(1, 2, 0, 3).flatten(2)


def latest_history(batch: OutfitBatch, index: int) -> Tensor:
    """Return the latest history items of an outfit's blanks side by side, uint8 (3, H, 4 * W), padded with white."""
    assert batch.images is not None
    _, height, width = _size_of(batch)
    white = torch.full((HISTORY_SHOWN, 3, height, width), WHITE, dtype=torch.uint8, device=batch.images.values.device)
    if batch.history is not None:
        blanks = batch.blank[index].tolist()
        of_slots: Ragged = batch.history[index]
        latest = [of_slots[slot][-HISTORY_SHOWN:] for slot, blank in enumerate(blanks) if blank]
        # With several blanks each shows its latest item first.
        turns = [items[-turn - 1] for turn in range(HISTORY_SHOWN) for items in latest if turn < len(items)][:HISTORY_SHOWN]
        if turns:
            white[: len(turns)] = torch.stack(turns)
    return side_by_side(white)


def stacked(rows: Sequence[Tensor]) -> Tensor:
    """Return images (3, H, W_i) one below the other, padded with white to the widest."""
    width = max(row.shape[2] for row in rows)
    return torch.cat([torch.nn.functional.pad(row, (0, width - row.shape[2]), value=WHITE) for row in rows], dim=1)


def _size_of(batch: OutfitBatch) -> tuple[int, int, int]:
    """Return the size of an item's image, (3, H, W)."""
    if batch.images is None:
        raise UserError("outfits are generated as images, and the data were read without: set data.init_args.images=true")
    channels, height, width = batch.images.values.shape[1:]
    return channels, height, width


def _of_outfits(metric: object) -> bool:
    return bool(getattr(metric, "of_outfits", False))


def _nearest(images: Tensor, rows: Tensor, others: Tensor, other_rows: Tensor, samples: Tensor, count: int) -> Tensor:
    """Return how far each sample's nearest pair of an image and one of its `others` is, in grey levels: (B,), inf without a pair.

    Args:
        images: uint8 (D, K, 3, H, W).
        rows: the rows of the images, (K,): an image is compared with the others of its row.
        others: uint8 (N, 3, H, W).
        other_rows: their rows, (N,).
        samples: the sample of each image, (K,).
        count: the number of samples, B.
    """
    found = torch.full((count,), torch.inf, device=images.device)
    first, second = (rows[:, None] == other_rows[None]).nonzero(as_tuple=True)
    for draw in images:
        for one, other in zip(first.split(PAIRS_AT_ONCE), second.split(PAIRS_AT_ONCE), strict=True):
            difference = (draw[one].float() - others[other].float()).abs().flatten(1).mean(dim=1)
            found.scatter_reduce_(0, samples[one], difference, "amin")
    return found
