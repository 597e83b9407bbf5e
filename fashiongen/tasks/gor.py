"""Generative outfit recommendation (`gor`): a whole outfit for a user, given the categories of its items."""

from __future__ import annotations

from typing import ClassVar, Protocol, runtime_checkable

from fashiongen.batches import Batch
from fashiongen.outfit_batches import ComposeBatch, Generated
from fashiongen.tasks.outfits import OutfitTask


@runtime_checkable
class ComposesOutfits(Protocol):
    """The interface of outfit recommendation.

    Attributes:
        draws: how many outfits are composed for each sample; a test sets it to the number that its protocol states.
    """

    draws: int

    def compose_outfit(self, batch: ComposeBatch) -> Generated:
        """Generate all items of each outfit, `draws` times; the images of one draw belong together."""


class OutfitRecommendation(OutfitTask):
    """DualFashion (arXiv 2605.17357), section 3, and DiFashion (Xu et al., 2024): nothing of an outfit is given but its categories."""

    name: ClassVar[str] = "gor"
    batch: ClassVar[type[Batch]] = ComposeBatch
    interface: ClassVar[type] = ComposesOutfits
    method: ClassVar[str] = "compose_outfit"
