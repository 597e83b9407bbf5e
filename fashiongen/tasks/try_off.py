"""Virtual try-off (`vtoff`): from a photo of a dressed person to the garment's shop image."""

from __future__ import annotations

from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor

from fashiongen.batches import Batch, TryOffBatch
from fashiongen.tasks.one_image import OneImage, grey_out


@runtime_checkable
class TakesOff(Protocol):
    """The interface of try-off."""

    def take_off(self, batch: TryOffBatch) -> Tensor:
        """Restore the garments that the people wear: (B, 3, H, W) in [-1, 1], in the order of `batch.ids`."""


class TryOff(OneImage):
    """Compared with the true shop image; the gallery shows the input and the agnostic image, with the masked region in grey."""

    name: ClassVar[str] = "vtoff"
    batch: ClassVar[type[Batch]] = TryOffBatch
    interface: ClassVar[type] = TakesOff
    method: ClassVar[str] = "take_off"
    sized_by: ClassVar[str] = "person"
    truth: ClassVar[str] = "garment"
    foreground: ClassVar[str | None] = "garment_mask"
    shares: ClassVar[str] = "garment"

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """Return the photo and its agnostic image."""
        assert isinstance(batch, TryOffBatch)
        return {"input": batch.person, "agnostic": grey_out(batch.person, batch.mask)}
