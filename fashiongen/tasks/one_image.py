"""The base of tasks with one image per sample, compared with a true image: try-off, try-on and similar."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import lightning.pytorch as L
import torch
from torch import Tensor

from fashiongen.batches import Batch, to_uint8
from fashiongen.errors import UserError
from fashiongen.tasks.base import Data, GalleryRow, Protocol, Task, size_text


def as_written(images: Tensor) -> Tensor:
    """Return images (B, 3, H, W) in [-1, 1] as if saved to PNG and read back: floats in [0, 1], 255 steps.

    Non-finite values become NaN, so that metrics can detect them.
    """
    return torch.where(images.isfinite(), to_uint8(images.nan_to_num()).float() / 255.0, torch.nan)


class OneImage(Task):
    """A task whose result is (B, 3, H, W) in [-1, 1], of the size of the batch's images.

    Attributes:
        sized_by: the batch's field, (B, 3, H, W), whose size a prediction must have.
        truth: the batch's field with the true image, (B, 3, H, W) uint8.
        foreground: the batch's field with the true foreground, (B, 1, H, W) bool; None without one.
    """

    sized_by: ClassVar[str]
    truth: ClassVar[str]
    foreground: ClassVar[str | None] = None
    gallery: ClassVar[tuple[str, ...]] = ("input", "truth")
    shares: ClassVar[str] = "true image"

    @abstractmethod
    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """Return the gallery images before the prediction, uint8 (B, 3, H, W) by heading."""

    def check_data(self, data: Data, protocol: Protocol) -> None:
        """Check that the data have the protocol's size and ground truth, and that there is no paired metric with a reference set.

        Raises:
            UserError: if not.
        """
        reference = protocol.reference
        for key, source in (("data", data), ("evaluate.reference.data", reference and reference.source)):
            found = tuple(getattr(source, "size", None) or protocol.size or ())
            if protocol.size is not None and found != tuple(protocol.size):
                sizes = f"uses size {list(protocol.size)}, but {key}.init_args.size is {list(found)}"
                raise UserError(f"protocol {protocol.name} {sizes}: set --{key}.init_args.size")
        if reference is None:
            if self.truth not in data.offers:
                raise UserError(
                    f"{self.name} is evaluated against the true {self.truth}, which {data.name} does not offer here; use `predict` "
                    "instead, or a protocol whose evaluate.reference is another dataset's"
                )
            return
        if paired := [key for key, metric in protocol.metrics.items() if getattr(metric, "pairs", True)]:
            judged = f"evaluate.metrics: {', '.join(paired)}: compare each image with its own ground truth"
            raise UserError(f"{judged}, and evaluate.reference is only a set of images: remove one of them")
        reference.setup()

    def start(self, trainer: L.Trainer, module: L.LightningModule, protocol: Protocol) -> None:
        """Update the set metrics with the reference images, if there are any."""
        if protocol.reference is not None:
            for images in protocol.reference.batches(trainer, module.device):
                for metric in protocol.metrics.values():
                    metric.update(None, images)

    def check_prediction(self, method: object, prediction: object, batch: Batch) -> Tensor:
        """Return the prediction as float32 if it is one image per sample, of the batch's size.

        Raises:
            TypeError: if it is not.
        """
        size = (len(batch), *getattr(batch, self.sized_by).shape[1:])
        if not isinstance(prediction, Tensor) or tuple(prediction.shape) != size:
            got = tuple(prediction.shape) if isinstance(prediction, Tensor) else type(prediction).__name__
            raise TypeError(f"{type(method).__name__} must return images {size}, it returned {got}")
        return prediction.float()

    def update(self, method: L.LightningModule, prediction: Tensor, batch: Batch, protocol: Protocol) -> int:
        """Compare the images, rounded as in a PNG file, with the batch's truth, or as a set with the reference."""
        truth = getattr(batch, self.truth)
        # With a reference the batch may have targets too, but the protocol does not use them.
        target = None if protocol.reference is not None else truth.float() / 255.0
        foreground = None if self.foreground is None else getattr(batch, self.foreground)
        written = as_written(prediction)
        for metric in protocol.metrics.values():
            metric.update(written, target, foreground)
        return int((~prediction.isfinite().flatten(1).all(dim=1)).sum())

    def shared_keys(self, batch: Batch) -> list[tuple[str, ...]]:
        """Return a hash of each sample's true image, since datasets repeat images under several names; the sample's id without truth."""
        truth = getattr(batch, self.truth)
        if truth is None:
            return super().shared_keys(batch)
        return [(hashlib.sha256(image.numpy().tobytes()).hexdigest()[:16],) for image in truth.cpu()]

    def gallery_rows(self, prediction: Tensor, batch: Batch, indices: Sequence[int]) -> list[GalleryRow]:
        """Show inputs, prediction and truth; the truth is grey if there is none."""
        truth = getattr(batch, self.truth)
        columns = {
            **self.inputs(batch),
            self.prediction: to_uint8(prediction.nan_to_num()),
            "truth": torch.full_like(getattr(batch, self.sized_by), 128) if truth is None else truth,
        }
        return [
            GalleryRow(id=batch.ids[index], images={heading: images[index].cpu() for heading, images in columns.items()})
            for index in indices
        ]

    def images(self, prediction: Tensor, batch: Batch) -> list[tuple[str, Tensor]]:
        """Name each image after its sample."""
        return list(zip(batch.ids, prediction, strict=True))

    def reference_info(self, data: Data, protocol: Protocol) -> dict[str, str]:
        """Return which dataset's images were the truth."""
        if protocol.reference is None:
            split, field, source, fingerprint = data.split, self.truth, data, data.fingerprint()
        else:
            split, field, source = protocol.reference.split, protocol.reference.field, protocol.reference.source
            fingerprint = protocol.reference.fingerprint()
        size = size_text(source)
        return {"dataset": source.name, "split": split, "field": field, "fingerprint": fingerprint, **({"size": size} if size else {})}

    def conditions(self, data: Data, protocol: Protocol) -> dict[str, str]:
        """Return the image size: images are compared at the data's size."""
        return {"size": size_text(data)}


def grey_out(images: Tensor, mask: Tensor) -> Tensor:
    """Return uint8 images (B, 3, H, W) with mid-grey where the mask (B, 1, H, W) is True."""
    return torch.where(mask, torch.full_like(images, 128), images)
