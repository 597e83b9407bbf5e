"""The bases of the metrics of outfits, and what several of them need: features of images, items in slot order, lists of lists as tables.

The rules of `fashiongen.metrics.base` hold. A sample is an outfit: its value is the mean over its draws and blanks, so that intervals are
over outfits. Published numbers are means over all images; both agree where all outfits have equally many blanks and draws with a value. An
outfit with a generated image that is not finite has the value NaN, whatever the metric looks at.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fashiongen.batches import Ragged
from fashiongen.errors import UserError
from fashiongen.metrics.base import Judged, PerSample, concatenate, exact_arithmetic, in_range
from fashiongen.metrics.shared import once
from fashiongen.nn.classifier import AttributeClassifier
from fashiongen.outfit_batches import Completed


class OutfitMetric(PerSample):
    """Mean over outfits of a value of each completed outfit.

    Attributes:
        reads: what it needs that a dataset may offer, besides images: `history`, `candidates`, `attributes`, `likes`, ...
    """

    pairs = False
    of_outfits = True
    reads: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def score(self, completed: Completed) -> tuple[Tensor, Tensor]:
        """Return the value of each outfit (B,), and which outfits have one, (B,) bool.

        Generated images that are not finite need no attention.
        """

    def update(self, completed: Completed) -> None:
        """Score a batch of completed outfits.

        Raises:
            UserError: if the data lacks what the metric compares with.
        """
        finite = finite_outfits(type(self).__name__, completed)
        with exact_arithmetic(completed.images.device):
            values, defined = self.score(completed)
        self.scores.append(torch.where(finite & defined, values.float(), torch.nan))
        self.defined.append(defined.float())


class OutfitSetMetric(Judged):
    """A number of all completed outfits together; it has no value per outfit.

    What it needs of an image or text is stored as a row of `width` numbers, and all rows are reduced at the end.
    """

    pairs = False
    of_outfits = True
    reads: ClassVar[frozenset[str]] = frozenset()

    rows: list[Tensor]
    n_rows: Tensor
    n_not_finite: Tensor

    def __init__(self) -> None:
        """Start with no samples."""
        super().__init__()
        # Rows are stored flat: a process without samples contributes an empty one-dimensional float tensor to the concatenation.
        self.add_state("rows", default=[], dist_reduce_fx="cat")
        self.add_state("n_rows", default=torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("n_not_finite", default=torch.tensor(0), dist_reduce_fx="sum")

    @abstractmethod
    def describe(self, completed: Completed) -> Tensor:
        """Return what is stored of a batch, (N, width) floats."""

    @abstractmethod
    def summary(self, rows: Tensor) -> Tensor:
        """Return the scalar of all rows, (N, width) float64 on the CPU, N at least 1."""

    def update(self, completed: Completed) -> None:
        """Store what is needed of a batch of completed outfits.

        Raises:
            UserError: if the data or the method lacks it.
        """
        self.n_not_finite += (~finite_outfits(type(self).__name__, completed)).sum()
        with exact_arithmetic(completed.images.device):
            rows = self.describe(completed)
        self.rows.append(rows.float().flatten())
        self.n_rows += len(rows)

    def compute(self) -> Tensor:
        """Return the number, a scalar; NaN without samples or if any generated image was not finite."""
        if int(self.n_not_finite) or not int(self.n_rows):
            return torch.tensor(torch.nan, device=self.device)
        rows = concatenate(self.rows, self.device).reshape(int(self.n_rows), -1)
        return self.summary(rows.cpu().double()).float().to(self.device)


def finite_outfits(name: str, completed: Completed) -> Tensor:
    """Return whether all generated images of an outfit are finite, (B,) bool, after checking shape, dtype and range.

    Args:
        name: the metric's, for the error.
        completed: what it compares.
    """
    images = completed.images
    if images.ndim != 5 or images.shape[2] != 3 or not len(images) or images.shape[1] != len(completed.sample):
        raise ValueError(
            f"{name} takes images (D, K, 3, H, W) with at least one draw of {len(completed.sample)} blanks, got {tuple(images.shape)}"
        )
    finite = finite_images(name, "generated", images).all(dim=0)
    return torch.ones(completed.n_samples, device=images.device).index_put_((completed.sample[~finite],), images.new_zeros(())) == 1


def finite_images(name: str, role: str, images: Tensor) -> Tensor:
    """Return which images (..., 3, H, W) are finite, (...) bool, after checking their range."""

    def check(images: Tensor) -> Tensor:
        return in_range(name, role, images).isfinite().flatten(-3).all(dim=-1)

    return once(images, None, "finite", check)


def embed(name: str, role: str, images: Tensor, network: nn.Module, kind: str, compute: Callable[[Tensor], Any]) -> Tensor:
    """Return a network's output for images (..., 3, H, W) in [0, 1]: (..., F), NaN for an image that is not finite.

    Inside `shared_features()` the network runs once on the same tensor, for all metrics.

    Args:
        name: the metric's, for errors.
        role: of the images, for errors.
        images: any leading shape.
        network: the network.
        kind: name of the output.
        compute: the output (N, F) for images (N, 3, H, W).
    """

    def run(images: Tensor) -> Tensor:
        features: Any = compute(images.flatten(0, -4).float())
        unflat: Tensor = features.unflatten(0, images.shape[:-3])
        return unflat

    finite = finite_images(name, role, images)
    return torch.where(finite[..., None], once(images, network, kind, run), torch.nan)


def embed_rows(
    name: str, role: str, rows: Ragged | None, network: nn.Module, kind: str, compute: Callable[[Tensor], Any], like: Tensor
) -> Tensor:
    """Return `embed` of all images of rows that may all be empty, (T, F); `like` is a tensor (..., F) of that device and dtype."""
    if rows is None or not len(rows.values):  # an empty list, or a tensor without images
        return like.new_zeros(0, like.shape[-1])
    return embed(name, role, rows.values, network, kind, compute)


def needed(metric: str, what: str, value: Any) -> Any:  # noqa: ANN401  any field of Completed
    """Return a field of `Completed`.

    Raises:
        UserError: if it is None.
    """
    if value is None:
        raise UserError(f"{metric} needs {what}, which this dataset or method does not offer: leave the metric out of the protocol")
    return value


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Return the cosine of vectors along the last dimension, broadcast, in float64; 0 if one of them is zero."""
    return functional.cosine_similarity(first.double(), second.double(), dim=-1, eps=1e-12)


def attribute_logits(name: str, images: Tensor, network: AttributeClassifier) -> dict[str, Tensor]:
    """Return for each attribute the logits of its values, (..., n_values), for images (..., 3, H, W) in [0, 1]."""
    logits = embed(name, "generated", images, network, "logits", lambda images: torch.cat(list(network(images).values()), dim=1))
    return dict(zip(network.heads, logits.split([len(values) for values in network.heads.values()], dim=-1), strict=True))


def read_attributes(name: str, images: Tensor, network: AttributeClassifier) -> dict[str, Tensor]:
    """Return the index of each attribute's most likely value, read off images (..., 3, H, W) in [0, 1]: (...) int64."""
    return {attribute: logits.argmax(dim=-1) for attribute, logits in attribute_logits(name, images, network).items()}


def slot_table(name: str, completed: Completed) -> tuple[Tensor, Tensor]:
    """Return where the items of each outfit are among first all T given items and then all K generated ones.

    The given items fill the slots that the blanks leave, in order.

    Returns:
        (B, L) int64 indices in slot order, and (B, L) bool, False beyond an outfit's length.
    """
    blanks = torch.bincount(completed.sample, minlength=completed.n_samples)
    given = torch.zeros_like(blanks) if completed.given is None else completed.given.lengths.to(blanks.device)
    lengths = blanks + given
    slot = completed.slot.to(blanks.device)
    if bool((slot >= lengths[completed.sample]).any()):
        raise ValueError(f"{name}: a blank has a slot beyond its outfit's slots")
    places = torch.arange(int(lengths.max()) if len(lengths) else 0, device=blanks.device)
    present = places < lengths[:, None]
    table = torch.full(present.shape, -1, device=blanks.device)
    n_given = int(given.sum())
    table[completed.sample, slot] = n_given + torch.arange(len(slot), device=blanks.device)
    free = present & (table < 0)
    if int(free.sum()) != n_given:
        raise ValueError(f"{name}: two blanks have the same slot of an outfit")
    table[free] = torch.arange(n_given, device=blanks.device)  # row by row, as the given items are
    return table.clamp(min=0), present


def mean_of_draws(values: Tensor, defined: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean over draws of values (D, B) where they are `defined`, (D, B) bool, and which outfits have one: (B,), (B,)."""
    count = defined.sum(dim=0)
    return torch.where(defined, values, 0).sum(dim=0) / count, count > 0


def rows_of(texts: Sequence[Sequence[str]], n_blanks: int, name: str) -> list[str]:
    """Return the captions of D draws of K blanks as one list, draw by draw."""
    if any(len(row) != n_blanks for row in texts):
        raise ValueError(f"{name} takes a caption for each of the {n_blanks} blanks of a draw")
    return [text for row in texts for text in row]
