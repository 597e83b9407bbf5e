"""Batches of outfits for a person (tasks `pfitb` and `gor`), what a method generates for them, and what metrics compare.

An outfit has slots, one per item. All fields of slots are `Ragged` with a row per outfit, in the same order of slots. A method sees the
items that are given; the blanks are what it generates, and their truth is in the targets.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from fashiongen.batches import Batch, Ragged

WHITE = 255
"""The image of an item that is not given: blank paper, as the datasets' item 0."""


@dataclass(kw_only=True)
class OutfitBatch(Batch):
    """Outfits of B users, with T slots in all. Some slots are blanks, whose items are to be generated.

    In training the targets hold the complete outfits, and a method decides itself what to hide. `given` and `blank` say which slots a test
    shows and asks for: in a fill-in-the-blank all but one are given, in an outfit recommendation none is.

    Attributes:
        user: B user ids.
        outfit: B outfit ids.
        category: B rows of lists, the category of each slot in words, such as "skirt".
        items: B rows of lists, the item id of each slot, "" where it is not given.
        images: B rows of (n, 3, H, W) uint8 RGB, white where an item is not given; None if only the lists are read.
        given: B rows of (n,) bool, True where the item is shown.
        blank: B rows of (n,) bool, True where an item is to be generated.
        history_items: B rows, each a Ragged with a row per slot: lists of the ids of the items of the slot's category that the user has
            interacted with, oldest first, repetitions included; empty where there are none.
        history: likewise with the items' images, (N, 3, H, W) uint8 RGB, if they are read.
        captions: B rows of lists, the structured caption of each given item (JSON of its attributes), "" where it is not given; if offered.
        preference: B rows of lists, the user's preference in each slot's category (JSON of attribute values), if offered.
        silhouette: B rows of (n, 1, H, W) bool, True on the item, given or not, if offered.
        true_items: target, B rows of lists, the item id of every slot.
        true_images: target, B rows of (n, 3, H, W) uint8 RGB.
        true_captions: target, B rows of lists.
        candidates: target, B rows of lists, the item ids to choose among for a single blank; the first is the true one.
        candidate_images: target, likewise with (C, 3, H, W) uint8 RGB.
        attributes: target, B rows of lists, the wardrobe's true attributes and category of every item.
        given_attributes: the same of the given items, {} where an item is not given; only for the wardrobe's oracle.
        likes: B dictionaries of the user's true liking, attribute -> liked values, which the wardrobe alone knows; only for its oracle and
            for metrics.
    """

    TARGETS: ClassVar[tuple[str, ...]] = (
        "true_items",
        "true_images",
        "true_captions",
        "candidates",
        "candidate_images",
        "attributes",
    )

    user: list[str]
    outfit: list[str]
    category: Ragged
    items: Ragged
    given: Ragged
    blank: Ragged
    images: Ragged | None = None
    history_items: Ragged | None = None
    history: Ragged | None = None
    captions: Ragged | None = None
    preference: Ragged | None = None
    silhouette: Ragged | None = None
    true_items: Ragged | None = None
    true_images: Ragged | None = None
    true_captions: Ragged | None = None
    candidates: Ragged | None = None
    candidate_images: Ragged | None = None
    attributes: Ragged | None = None
    given_attributes: Ragged | None = None
    likes: list[dict[str, tuple[str, ...]]] | None = None

    def blank_slots(self) -> Tensor:
        """Return the places of the blanks among all T slots, (K,) int64, in order."""
        blanks: Tensor = self.blank.values
        return blanks.nonzero().flatten()

    def blank_samples(self) -> Tensor:
        """Return the outfit of each blank, (K,) int64."""
        return self.blank.row_of[self.blank_slots()]

    def hide(self, slots: Tensor) -> FillBlankBatch:
        """Return the batch as a fill-in-the-blank whose blanks are `slots`, (K,) of the T slots, all others given: for training.

        Raises:
            ValueError: if it has no images or no targets.
        """
        if self.images is None or self.true_images is None or self.true_items is None:
            raise ValueError("only a batch with images and targets can have its items hidden")
        blank = torch.zeros_like(self.blank.values)
        blank[slots] = True
        hidden = set(slots.tolist())
        images = torch.where(blank[:, None, None, None], torch.full_like(self.true_images.values, WHITE), self.true_images.values)
        offsets, known = self.blank.offsets, self.attributes

        def without(texts: list[str]) -> Ragged:
            return Ragged(["" if slot in hidden else text for slot, text in enumerate(texts)], offsets)

        changed = {field.name: getattr(self, field.name) for field in fields(self)} | {
            "encoded": None,
            "items": without(self.true_items.values),
            "images": Ragged(images, offsets),
            "given": Ragged(~blank, offsets),
            "blank": Ragged(blank, offsets),
            "captions": None if self.true_captions is None else without(self.true_captions.values),
            "given_attributes": None
            if known is None
            else Ragged([{} if slot in hidden else entry for slot, entry in enumerate(known.values)], offsets),
        }
        return FillBlankBatch(**changed)


@dataclass(kw_only=True)
class FillBlankBatch(OutfitBatch):
    """Personalised fill-in-the-blank (task `pfitb`): one item of each outfit is generated, all others are given."""


@dataclass(kw_only=True)
class ComposeBatch(OutfitBatch):
    """Generative outfit recommendation (task `gor`): all items are generated, for a user and the slots' categories."""


@dataclass(kw_only=True)
class Generated:
    """What a method returns for an `OutfitBatch` with K blanks in all: every blank filled `draws` times.

    Attributes:
        images: (draws, K, 3, H, W) floats in [-1, 1]; the blanks in the order of `OutfitBatch.blank_slots`. The images of one draw belong
            together: an outfit recommendation's items of a draw are one outfit.
        captions: for each draw K structured captions (JSON), or None for a method without.
    """

    images: Tensor
    captions: list[list[str]] | None = None

    @property
    def draws(self) -> int:
        """How often each blank is filled."""
        return len(self.images)


@dataclass(frozen=True, kw_only=True)
class Completed:
    """The input of the metrics of outfits: B outfits whose K blanks are filled D times.

    Everything about a blank is in the order of `OutfitBatch.blank_slots`.

    Attributes:
        images: (D, K, 3, H, W) in [0, 1], rounded as in a PNG file; NaN where a prediction is not finite.
        sample: (K,) int64, the outfit of each blank.
        n_samples: the number of outfits, B.
        slot: (K,) int64, the place of each blank in its outfit, from 0.
        category: K categories.
        truth: (K, 3, H, W) in [0, 1], the true images; None where there are none.
        given: B rows of (m, 3, H, W) in [0, 1], the items that were given.
        history: K rows of (N, 3, H, W) in [0, 1], the user's history in the blank's category; a row may be empty.
        candidates: B rows of (C, 3, H, W) in [0, 1], the first being the true one, for outfits with one blank; None without.
        captions: for each draw K generated captions (JSON); None without.
        given_captions: B rows of the given items' captions; None without.
        preference: K preferences (JSON); None without.
        attributes: K dictionaries of the true items' attributes and category; the wardrobe alone knows them.
        given_attributes: B rows of the given items' attributes and category, likewise.
        likes: B dictionaries of the user's true liking, likewise.
    """

    images: Tensor
    sample: Tensor
    n_samples: int
    slot: Tensor
    category: list[str]
    truth: Tensor | None = None
    given: Ragged | None = None
    history: Ragged | None = None
    candidates: Ragged | None = None
    captions: list[list[str]] | None = None
    given_captions: Ragged | None = None
    preference: list[str] | None = None
    attributes: list[dict[str, str]] | None = None
    given_attributes: Ragged | None = None
    likes: list[dict[str, tuple[str, ...]]] | None = None

    def per_sample(self, values: Tensor, defined: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the mean of `values` (D, K) over each outfit's draws and blanks, (B,), and which outfits have one, (B,) bool.

        What is not `defined`, (K,) or (D, K) bool, is left out; an outfit without any other has the value NaN. A NaN among the others
        stays.
        """
        counted = torch.ones_like(values, dtype=torch.bool) if defined is None else defined.expand(values.shape)
        sample = self.sample.expand(values.shape)[counted]
        total = values.new_zeros(self.n_samples).index_add_(0, sample, values[counted])
        count = torch.bincount(sample, minlength=self.n_samples)
        return total / count, count > 0
