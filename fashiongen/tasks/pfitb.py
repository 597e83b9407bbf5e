"""Personalised fill-in-the-blank (`pfitb`): from an incomplete outfit and a user's history to the missing item."""

from __future__ import annotations

from typing import ClassVar, Protocol, runtime_checkable

from fashiongen.batches import Batch
from fashiongen.outfit_batches import FillBlankBatch, Generated
from fashiongen.tasks.outfits import OutfitTask


@runtime_checkable
class FillsBlanks(Protocol):
    """The interface of fill-in-the-blank.

    Attributes:
        draws: how often each blank is filled; a test sets it to the number that its protocol states.
    """

    draws: int

    def fill_blank(self, batch: FillBlankBatch) -> Generated:
        """Generate the missing item of each outfit, `draws` times."""


class FillInTheBlank(OutfitTask):
    """DualFashion (arXiv 2605.17357), section 3, and DiFashion (Xu et al., 2024): all items of an outfit but one are given."""

    name: ClassVar[str] = "pfitb"
    batch: ClassVar[type[Batch]] = FillBlankBatch
    interface: ClassVar[type] = FillsBlanks
    method: ClassVar[str] = "fill_blank"
