"""Virtual try-on (`vton`): from a person and a garment's shop image to the person wearing it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor

from fashiongen.batches import Batch, TryOnBatch
from fashiongen.errors import UserError
from fashiongen.tasks.base import Data
from fashiongen.tasks.base import Protocol as EvaluationProtocol
from fashiongen.tasks.one_image import OneImage


@runtime_checkable
class TriesOn(Protocol):
    """The interface of try-on."""

    def try_on(self, batch: TryOnBatch) -> Tensor:
        """Dress the people in the garments: (B, 3, H, W) in [-1, 1], in the order of `batch.ids`."""


class TryOn(OneImage):
    """Compared with the true person, whole and inside the mask; the gallery shows the garment and the agnostic person."""

    name: ClassVar[str] = "vton"
    batch: ClassVar[type[Batch]] = TryOnBatch
    interface: ClassVar[type] = TriesOn
    method: ClassVar[str] = "try_on"
    sized_by: ClassVar[str] = "agnostic"
    truth: ClassVar[str] = "person"
    foreground: ClassVar[str | None] = "mask"
    pasted_into: ClassVar[str | None] = "agnostic"
    gallery: ClassVar[tuple[str, ...]] = ("garment", "agnostic", "truth")
    shares: ClassVar[str] = "garment"

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """Return the shop image and the agnostic person."""
        assert isinstance(batch, TryOnBatch)
        return {"garment": batch.garment, "agnostic": batch.agnostic}

    def applied(self, data: Data, protocol: EvaluationProtocol) -> EvaluationProtocol:
        """Return the protocol with the metrics of an unpaired test alone, if it states them and the data are unpaired.

        Raises:
            UserError: if it states a metric that it lacks, or groups by a field that is none.
        """
        listed = protocol.metrics if protocol.unpaired is None else protocol.unpaired
        if unknown := [name for name in listed if name not in protocol.metrics]:
            raise UserError(f"evaluate.unpaired: {', '.join(unknown)}: evaluate.metrics has no such name")
        chosen = listed if getattr(data, "pairing", "paired") == "unpaired" else protocol.metrics
        return super().applied(data, replace(protocol, metrics={name: protocol.metrics[name] for name in chosen}, unpaired=None))

    def conditions(self, data: Data, protocol: EvaluationProtocol) -> dict[str, str]:
        """Return the image size, and how predictions were pasted into the photo, without which numbers are far lower.

        Garments that were taken off before are what is compared, like the methods: the data are then the people alone.
        """
        found = {**super().conditions(data, protocol), "repaint": protocol.repaint or "none"}
        if getattr(data, "garments_name", None) is not None:
            people = data.fingerprint_of_people()[:12]  # type: ignore[attr-defined]  # only data with garments have it
            found |= {"data": people} if protocol.reference else {"data": people, "reference_data": people}
        return found

    def shared_keys(self, batch: Batch) -> list[tuple[str, ...]]:
        """Return a hash of each sample's shop image, which is the same for several people, and one of the agnostic person."""
        assert isinstance(batch, TryOnBatch)
        images = zip(batch.garment.cpu(), batch.agnostic.cpu(), strict=True)
        digests = [[hashlib.sha256(image.numpy().tobytes()).hexdigest()[:16] for image in pair] for pair in images]
        return [(f"garment {garment}", f"person {person}") for garment, person in digests]
