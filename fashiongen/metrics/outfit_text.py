"""The metrics of generated captions: whether they describe the image, suit the person, differ, and fit the outfit.

A caption is DualFashion's: a JSON object of the attributes in `ATTRIBUTES`. The reading is tolerant: text around the object is ignored, a
list of values is joined by commas, other keys are left out, and so are values that are empty or no text. A caption without an object counts
as empty. "Unknown" is a value like any other, as in the authors' code (`evaluate_PFITB.py`, `parse_attribute_fields`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from fashiongen.errors import UserError
from fashiongen.metrics.clip_scores import prepare_texts
from fashiongen.metrics.features import CLIP_EXTRACTORS, INJECTED, FrozenNetwork
from fashiongen.metrics.outfits import OutfitMetric, OutfitSetMetric, cosine, embed, needed, rows_of
from fashiongen.metrics.shared import embedded_texts
from fashiongen.outfit_batches import Completed
from fashiongen.preference import ATTRIBUTES, read_caption

Judge = Callable[[list[tuple[str, list[str]]]], Sequence[float] | Tensor]
"""Scores captions: from pairs of a caption and the captions of the given items to as many numbers from 1 to 10, 10 for a perfect fit."""
Weighting = Literal["attributes", "values"]

CAPTIONS = "generated captions"
LOWEST, HIGHEST = 1, 10
# An attribute's values are told apart by hashes, since processes can exchange only numbers: three of 24 bits, which float32 holds exactly.
HASHES = 3


class _CLIPTextMetric(OutfitMetric):
    """The base of text metrics in CLIP's space."""

    def __init__(self, extractor: str = "tiny-clip", network: nn.Module | None = None, weights: str | None = None) -> None:
        """Compare in the features of the named extractor.

        Args:
            extractor: one of `fashiongen.metrics.features.CLIP_EXTRACTORS`.
            network: instead, a module with `features(images)` and `text_features(texts)`, reported as `custom` or under its own
                `extractor` name.
            weights: the extractor's folder, by default its repository in the hub's cache.
        """
        super().__init__()
        self._network = FrozenNetwork(extractor, network, weights, CLIP_EXTRACTORS)
        self.extractor = self._network.name

    def prepare(self) -> None:
        """Load the network with its text tower."""
        prepare_texts(self._network, self.device)

    def _captions(self, completed: Completed) -> list[str]:
        """Return the D * K captions, draw by draw."""
        name = type(self).__name__
        captions: list[list[str]] = needed(name, CAPTIONS, completed.captions)
        if len(captions) != len(completed.images):
            raise ValueError(f"{name} takes captions of {len(completed.images)} draws, got {len(captions)}")
        return rows_of(captions, completed.images.shape[1], name)

    def _mean(self, completed: Completed, cosines: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
        """Return an outfit's mean over captions of the mean of a caption's cosines, (B,), and which have one.

        Args:
            completed: the batch.
            cosines: (N,).
            owner: (N,) int64, the caption of each, 0 to D * K - 1.
        """
        draws, blanks = completed.images.shape[:2]
        total = torch.zeros(draws * blanks, dtype=torch.float64, device=cosines.device).index_add_(0, owner, cosines)
        count = torch.bincount(owner, minlength=draws * blanks)
        return completed.per_sample((total / count.clamp(min=1)).reshape(draws, blanks), (count > 0).reshape(draws, blanks))


class TextAlign(_CLIPTextMetric):
    """Mean cosine of CLIP's features of a generated image and of each attribute of its caption; range [-1, 1], higher is better.

    An attribute is the text `Key: value`, such as "Color: red"; the mean is over the attributes present. Source: DualFashion section 5.1.3
    and its code (`evaluate_PFITB.py`), with `clip-vit-h-14`; there one number for each attribute, the mean over all images, of captions
    that a later program has extracted. The extractor is part of the name.

    Degenerate input: a non-finite image scores NaN; an empty caption is left out, and an outfit of such captions alone is undefined.
    """

    higher_is_better = True

    def score(self, completed: Completed) -> tuple[Tensor, Tensor]:
        """Return an outfit's mean over draws and blanks, (B,)."""
        captions = [read_caption(caption) for caption in self._captions(completed)]
        network = self._network.on(completed.images.device)
        images = embed(type(self).__name__, "generated", completed.images, network, "features", network.features).flatten(0, 1)
        texts = [f"{key}: {value}" for caption in captions for key, value in caption.items()]
        owner = _owners(captions, images.device)
        cosines = cosine(images[owner], embedded_texts(network, texts)) if texts else images.new_zeros(0, dtype=torch.float64)
        return self._mean(completed, cosines, owner)


class TextPersonalisation(_CLIPTextMetric):
    """Mean cosine of CLIP's features of the attributes of a generated caption and of the person's preference; range [-1, 1].

    Compared are the texts `Key: value` of an attribute that both have. Source: DualFashion section 5.1.3 and its code
    (`evaluate_PFITB.py`), with `clip-vit-h-14`; there one number for each attribute. The extractor is part of the name.

    Degenerate input: a non-finite image scores NaN; where caption and preference share no attribute, the blank is left out, and an outfit
    of such blanks alone is undefined. Equal values score 1.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"preference"})
    higher_is_better = True

    def score(self, completed: Completed) -> tuple[Tensor, Tensor]:
        """Return an outfit's mean over draws and blanks, (B,)."""
        name = type(self).__name__
        preferences = [read_caption(text) for text in needed(name, "the persons' preferences", completed.preference)]
        captions = [read_caption(caption) for caption in self._captions(completed)]
        wanted = preferences * len(completed.images)
        shared = [[key for key in caption if key in preference] for caption, preference in zip(captions, wanted, strict=True)]
        network, device = self._network.on(completed.images.device), completed.images.device
        own, preferred = (
            [f"{key}: {values[key]}" for values, keys in zip(of, shared, strict=True) for key in keys] for of in (captions, wanted)
        )
        cosines = (
            cosine(embedded_texts(network, own), embedded_texts(network, preferred)) if own else torch.zeros(0, device=device).double()
        )
        return self._mean(completed, cosines, _owners(shared, device))


class SemanticDistance(_CLIPTextMetric):
    """Mean of 1 - cosine of CLIP's features over all pairs of whole captions of one blank's draws; range [0, 2], higher is more diverse.

    Source: DualFashion section 5.1.3 ("S.D.") and its code (`evaluate_PFITB.py`), with `clip-vit-h-14`. The extractor is part of the name.

    Degenerate input: a non-finite image scores NaN. Empty captions are left out, and so is a blank with fewer than two others; an outfit of
    such blanks alone is undefined. Equal captions score 0.
    """

    higher_is_better = True

    def score(self, completed: Completed) -> tuple[Tensor, Tensor]:
        """Return an outfit's mean over blanks, (B,)."""
        captions, device = self._captions(completed), completed.images.device
        draws, blanks = completed.images.shape[:2]
        filled = torch.tensor([bool(read_caption(caption)) for caption in captions], device=device).reshape(draws, blanks)
        if not captions:
            return completed.per_sample(torch.zeros(1, blanks, device=device))
        vectors = embedded_texts(self._network.on(device), captions).double().reshape(draws, blanks, -1)
        first, second = torch.triu_indices(draws, draws, offset=1, device=device)
        both = filled[first] & filled[second]  # (P, K)
        count = both.sum(dim=0)
        distances = torch.where(both, 1 - cosine(vectors[first], vectors[second]), 0).sum(dim=0) / count.clamp(min=1)
        return completed.per_sample(distances[None], count > 0)


class AttributeEntropy(OutfitSetMetric):
    """Entropy, in nats, of the values that generated captions give an attribute, over the whole test; 0 if all are equal.

    Values are compared exactly. The mean over attributes weighs `attributes` equally, or by the number of their `values`; an attribute
    without values is left out. Source: DualFashion section 5.1.3 ("A.E.") and its code (`evaluate_PFITB.py`), which has both means.

    Degenerate input: a non-finite image gives NaN, and so do captions without any value.
    """

    higher_is_better = True

    def __init__(self, weighting: Weighting = "attributes") -> None:
        """Weigh the `attributes` equally, or by their number of `values`."""
        super().__init__()
        if weighting not in get_args(Weighting):
            raise UserError(f"AttributeEntropy: weighting: {weighting!r}: choose {' or '.join(get_args(Weighting))}")
        self.weighting = weighting

    def describe(self, completed: Completed) -> Tensor:
        """Return for each value of each caption the number of its attribute and its hashes, (N, 1 + HASHES)."""
        captions = needed(type(self).__name__, CAPTIONS, completed.captions)
        read = [read_caption(caption) for of_draw in captions for caption in of_draw]
        rows = [(ATTRIBUTES.index(key), *_hashes(value)) for caption in read for key, value in caption.items()]
        return torch.tensor(rows, dtype=torch.float32, device=completed.images.device).reshape(-1, 1 + HASHES)

    def summary(self, rows: Tensor) -> Tensor:
        """Return the mean entropy of values (N, 1 + HASHES)."""
        distinct, count = rows.unique(dim=0, return_counts=True)
        attribute = distinct[:, 0].long()
        totals = torch.zeros(len(ATTRIBUTES), dtype=torch.float64).index_add_(0, attribute, count.double())
        share = count / totals[attribute]
        entropy = torch.zeros(len(ATTRIBUTES), dtype=torch.float64).index_add_(0, attribute, -share * share.log())
        weights = totals if self.weighting == "values" else (totals > 0).double()
        return (weights * entropy).sum() / weights.sum()


class TextCompatibility(OutfitMetric):
    """Mean score of a judge for how well a generated caption fits the captions of the given items; range [1, 10], higher is better.

    Source: DualFashion section 5.1.3, which asks a language model. Its code asks about each attribute and the images of the given items,
    and stops after two outfits; here the judge sees whole captions. The judge's name is part of the metric's.

    Degenerate input: a non-finite image or score gives NaN. An empty caption is left out, and an outfit of such captions alone, or without
    given items, is undefined.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"captions"})
    higher_is_better = True

    def __init__(self, judge: Judge, extractor: str = INJECTED) -> None:
        """Ask a judge.

        Args:
            judge: a callable, see `Judge`; it is asked once for each batch.
            extractor: its name, for the metric's.
        """
        super().__init__()
        # In a partial, a judge that is an nn.Module does not become a submodule.
        self._judge = partial(judge)
        self.extractor = extractor

    def score(self, completed: Completed) -> tuple[Tensor, Tensor]:
        """Return an outfit's mean over draws and blanks, (B,)."""
        name, device = type(self).__name__, completed.images.device
        captions = needed(name, CAPTIONS, completed.captions)
        given: Any = needed(name, "the given items' captions", completed.given_captions)
        rows = [list(given[index]) for index in range(len(given))]
        draws, blanks = completed.images.shape[:2]
        questions = list(zip(rows_of(captions, blanks, name), [rows[outfit] for outfit in completed.sample.tolist()] * draws, strict=True))
        asked = [index for index, (caption, others) in enumerate(questions) if others and read_caption(caption)]
        answers = torch.as_tensor(self._judge([questions[index] for index in asked]) if asked else [], dtype=torch.float64, device=device)
        if answers.shape != (len(asked),) or bool(((answers < LOWEST) | (answers > HIGHEST)).any()):
            raise ValueError(f"{name}: the judge must give one score from {LOWEST} to {HIGHEST} for each of {len(asked)} captions")
        places = torch.tensor(asked, dtype=torch.int64, device=device)
        values = torch.zeros(draws * blanks, dtype=torch.float64, device=device).index_copy_(0, places, answers)
        defined = torch.zeros(draws * blanks, dtype=torch.bool, device=device).index_fill_(0, places, True)
        return completed.per_sample(values.reshape(draws, blanks), defined.reshape(draws, blanks))


def _owners(rows: Sequence[Sequence[str] | dict[str, str]], device: torch.device) -> Tensor:
    """Return the row of each entry of all rows, (N,) int64."""
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64, device=device)
    return torch.repeat_interleave(torch.arange(len(rows), device=device), lengths)


@cache
def _hashes(value: str) -> tuple[int, ...]:
    digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).digest()
    return tuple(int.from_bytes(digest[3 * place : 3 * place + 3]) for place in range(HASHES))
