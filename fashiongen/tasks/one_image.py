"""The base of tasks with one image per sample, compared with a true image: try-off, try-on and similar."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import lightning.pytorch as L
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from fashiongen.batches import Batch, to_float, to_uint8
from fashiongen.errors import UserError
from fashiongen.tasks.base import Data, Filter, GalleryRow, PredictionFiles, Protocol, Repaint, Task, size_text

USUAL_FILTER: Filter = "bilinear"


def as_written(images: Tensor) -> Tensor:
    """Return images (B, 3, H, W) in [-1, 1] as if saved to PNG and read back: floats in [0, 1], 255 steps.

    Non-finite values become NaN, so that metrics can detect them.
    """
    return torch.where(images.isfinite(), to_uint8(images.nan_to_num()).float() / 255.0, torch.nan)


def paste(prediction: Tensor, photo: Tensor, mask: Tensor, how: Repaint) -> Tensor:
    """Paste predictions into photos, both (B, 3, H, W) in [-1, 1], where the mask (B, 1, H, W) is True; `photo` is not read inside it.

    CatVTON's own code blurs the mask, so that the true pixels of the photo, garment included, shine through at the inner side of its edge.
    Here `soft` fades outwards alone.
    """
    weight = mask.to(photo)
    if how == "soft":
        sigma = max(1.0, mask.shape[-2] / 50)
        blurred = gaussian_blur(weight, 2 * round(3 * sigma) + 1, sigma)
        weight = torch.where(mask, weight, (2 * blurred).clamp(max=1))  # a blurred edge has a half of it outside
    return torch.where(weight > 0, prediction * weight, 0.0) + torch.where(weight < 1, photo * (1 - weight), 0.0)


class OneImage(Task):
    """A task whose result is (B, 3, H, W) in [-1, 1], of the size of the batch's images.

    Attributes:
        sized_by: the batch's field, (B, 3, H, W), whose size a prediction must have.
        truth: the batch's field with the true image, (B, 3, H, W) uint8.
        foreground: the batch's field with the true foreground, (B, 1, H, W) bool; None without one.
        pasted_into: the batch's field with an image that predictions may be pasted into where `mask` is True (repaint), if there is one.
    """

    sized_by: ClassVar[str]
    truth: ClassVar[str]
    foreground: ClassVar[str | None] = None
    pasted_into: ClassVar[str | None] = None
    gallery: ClassVar[tuple[str, ...]] = ("input", "truth")
    shares: ClassVar[str] = "true image"

    @abstractmethod
    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """Return the gallery images before the prediction, uint8 (B, 3, H, W) by heading."""

    def check_data(self, data: Data, protocol: Protocol) -> None:
        """Check that the data have the protocol's size and filter, and the ground truth that its metrics need.

        Raises:
            UserError: if not, or if a paired metric is to compare with another dataset's images.
        """
        reference = protocol.reference
        if protocol.repaint is not None and self.pasted_into is None:
            raise UserError(f"evaluate.repaint={protocol.repaint}: a {self.name} has no photo to paste its predictions into: leave it out")
        _check_reading("data", data, protocol)
        if reference is not None and not reference.own:
            _check_reading("evaluate.reference.data", reference.source, protocol, size=reference.size is None)
        paired = [key for key, metric in protocol.metrics.items() if getattr(metric, "pairs", True)]
        judged = f"evaluate.metrics: {', '.join(paired)}: compare each image with its own ground truth"
        if reference is None:
            if self.truth not in data.offers:
                raise UserError(
                    f"{self.name} is evaluated against the true {self.truth}, which {data.name} does not offer here; use `predict` "
                    "instead, or a protocol whose evaluate.reference is another dataset's"
                )
            return
        if paired and not reference.own:
            raise UserError(f"{judged}, and evaluate.reference is only a set of images: remove one of them")
        if paired and self.truth not in data.offers:
            raise UserError(f"{judged}, the {self.truth}, which {data.name} does not offer here: remove them")
        reference.setup(data)

    def start(self, trainer: L.Trainer, module: L.LightningModule, protocol: Protocol) -> None:
        """Update the set metrics with the reference images, if there are any."""
        if protocol.reference is not None:
            of_sets = [metric for metric in protocol.metrics.values() if not getattr(metric, "pairs", True)]
            for images in protocol.reference.batches(trainer, module.device):
                for metric in of_sets:
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
        truth, reference = getattr(batch, self.truth), protocol.reference
        target = None if truth is None else truth.float() / 255.0
        foreground = None if self.foreground is None else getattr(batch, self.foreground)
        if protocol.repaint is not None and self.pasted_into is not None:
            prediction = paste(prediction, to_float(getattr(batch, self.pasted_into)), batch.mask, protocol.repaint)  # type: ignore[attr-defined]
        written = as_written(prediction)
        for metric in protocol.metrics.values():
            # Set metrics have all targets from the reference; the batch may have some too.
            compared = target if reference is None or getattr(metric, "pairs", True) else None
            metric.update(written, compared, foreground)
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

    def read_prediction(self, files: PredictionFiles, batch: Batch) -> Tensor:
        """Return the images named after the samples, (B, 3, H, W) in [-1, 1]; NaN where the prediction was not finite.

        Raises:
            UserError: if an image has another size than the batch's.
        """
        images, size = files.images(batch.ids), getattr(batch, self.sized_by).shape[2:]
        if images.shape[2:] != size:
            found, wanted = ("x".join(map(str, shape)) for shape in (images.shape[2:], size))
            raise UserError(f"the predictions are {found}, the data {wanted}: set --data.init_args.size")
        prediction = to_float(images)
        prediction[files.not_finite(batch.ids)] = torch.nan
        return prediction.to(getattr(batch, self.sized_by).device)

    def distances_to_inputs(self, prediction: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Compare with the inputs, the truth and, for `pasted_into`, the pixels outside of the mask."""
        written = to_uint8(prediction.nan_to_num()).float()

        def distance(image: Tensor, weight: Tensor) -> Tensor:
            difference = (written - image.float()).abs().mean(dim=1, keepdim=True) * weight
            count = weight.flatten(1).sum(dim=1)
            return torch.where(count > 0, difference.flatten(1).sum(dim=1) / count.clamp(min=1), torch.inf)

        truth, everywhere = getattr(batch, self.truth), torch.ones_like(written[:, :1])
        found = {f"the {heading} image": distance(image, everywhere) for heading, image in self.inputs(batch).items()}
        if truth is not None:
            found["the true image"] = distance(truth, everywhere)
        if self.pasted_into is not None:
            outside = (~batch.mask).float()  # type: ignore[attr-defined]  # a batch whose image is pasted into has a mask
            found["the input outside of the mask (repaint)"] = distance(getattr(batch, self.pasted_into), outside)
        return found

    def doubts(self, protocol: Protocol) -> list[str]:
        """Tell a reference set that shows something else than the predictions, such as garments among people."""
        reference = protocol.reference
        if reference is None or reference.field == self.truth:
            return []
        return [f"the reference images show each sample's {reference.field}, the predictions its {self.truth}"]

    def reference_info(self, data: Data, protocol: Protocol) -> dict[str, str]:
        """Return which dataset's images were the truth."""
        if protocol.reference is None:
            split, field, source, fingerprint = data.split, self.truth, data, data.fingerprint()
        else:
            split, field, source = protocol.reference.split, protocol.reference.field, protocol.reference.source
            fingerprint = protocol.reference.fingerprint()
        read_at = protocol.reference and protocol.reference.size
        size = f"{read_at[0]}x{read_at[1]}" if read_at else size_text(source)
        return {"dataset": source.name, "split": split, "field": field, "fingerprint": fingerprint, **({"size": size} if size else {})}

    def conditions(self, data: Data, protocol: Protocol) -> dict[str, str]:
        """Return the image size, at which images are compared, and the filter of reading them if it is not the usual one."""
        found = getattr(data, "filter", USUAL_FILTER)
        return {"size": size_text(data), **({} if found == USUAL_FILTER else {"filter": found})}


def _check_reading(key: str, source: Data, protocol: Protocol, *, size: bool = True) -> None:
    """Check that a DataModule reads images as the protocol states; `size` is False where the protocol states another size for it.

    Raises:
        UserError: naming the setting to change.
    """
    found = tuple(getattr(source, "size", None) or protocol.size or ())
    if size and protocol.size is not None and found != tuple(protocol.size):
        sizes = f"uses size {list(protocol.size)}, but {key}.init_args.size is {list(found)}"
        raise UserError(f"protocol {protocol.name} {sizes}: set --{key}.init_args.size")
    read_by = getattr(source, "filter", USUAL_FILTER)
    if protocol.filter is not None and read_by != protocol.filter:
        raise UserError(
            f"protocol {protocol.name} uses filter {protocol.filter}, but {key}.init_args.filter is {read_by}: set --{key}.init_args.filter"
        )


def grey_out(images: Tensor, mask: Tensor) -> Tensor:
    """Return uint8 images (B, 3, H, W) with mid-grey where the mask (B, 1, H, W) is True."""
    return torch.where(mask, torch.full_like(images, 128), images)
