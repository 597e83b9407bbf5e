"""Baselines of virtual try-off: a white image, a mean image, the cropped photo, and the garment of the most similar photo."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor
from torch.nn.functional import one_hot

from fashiongen.batches import TryOffBatch, to_float, to_uint8
from fashiongen.errors import UserError
from fashiongen.methods.base import Method
from fashiongen.methods.baselines.one_pass import OnePassMethod
from fashiongen.nn.crop import bounding_boxes, crop_and_resize

CATEGORIES = ("upper", "lower", "full")


class White(Method):
    """Returns a white image: the background of every shop image, which SSIM rewards."""

    name: ClassVar[str] = "white"

    def take_off(self, batch: TryOffBatch) -> Tensor:
        """Return (B, 3, H, W) of ones."""
        return torch.ones_like(to_float(batch.person))


class MaskedCrop(Method):
    """Returns the masked part of the photo, cropped and enlarged on white."""

    name: ClassVar[str] = "masked_crop"
    needs: ClassVar[frozenset[str]] = frozenset({"mask"})

    def take_off(self, batch: TryOffBatch) -> Tensor:
        """Return (B, 3, H, W) in [-1, 1]: the mask's bounding box stretched to the image, white outside the mask."""
        cut = crop_and_resize(_on_white(batch), bounding_boxes(batch.mask), _size(batch))
        return cut.clamp(-1.0, 1.0)


class MeanGarment(OnePassMethod):
    """Returns the mean shop image of each category in the training set; one epoch of `fit` computes it."""

    name: ClassVar[str] = "mean_garment"

    def __init__(self, size: tuple[int, int] = (1024, 768)) -> None:
        """Prepare sums for images of `size` (height, width)."""
        super().__init__()
        self.total: Tensor
        self.count: Tensor
        self.register_buffer("total", torch.zeros(len(CATEGORIES), 3, *size, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(len(CATEGORIES), dtype=torch.float64))

    def training_step(self, batch: TryOffBatch, batch_idx: int) -> STEP_OUTPUT:
        """Add the batch's garments to their categories' sums."""
        if self.current_epoch == 0 and batch.garment is not None:
            belongs = one_hot(_category(batch), len(CATEGORIES)).double()
            self.total += torch.einsum("bk,bchw->kchw", belongs, to_float(batch.garment).double())
            self.count += belongs.sum(dim=0)
        return None

    def take_off(self, batch: TryOffBatch) -> Tensor:
        """Return (B, 3, H, W) in [-1, 1]: the mean of each sample's category, white for an unseen category."""
        if not self.count.any():
            raise UserError("MeanGarment has seen no garment: run `fit` first and give its checkpoint by --ckpt_path")
        mean = self.total / self.count.clamp(min=1)[:, None, None, None]
        mean[self.count == 0] = 1.0
        return mean.float()[_category(batch)]


class NearestGarment(OnePassMethod):
    """Returns the garment of the training person with the most similar masked pixels; one epoch of `fit` collects them.

    The checkpoint holds the collected garments as they are, 3 * H * W bytes each, since a test has no access to the training data:
    27 GB for VITON-HD at 1024x768. `fit` refuses more than `most_gigabytes` before it collects any.
    """

    name: ClassVar[str] = "nearest_garment"
    needs: ClassVar[frozenset[str]] = frozenset({"mask"})

    def __init__(self, feature_size: tuple[int, int] = (32, 24), most_gigabytes: float = 4.0) -> None:
        """Configure the comparison.

        Args:
            feature_size: height and width at which masked crops are compared.
            most_gigabytes: the largest checkpoint that `fit` may write.
        """
        super().__init__()
        self.feature_size = feature_size
        self.most_gigabytes = most_gigabytes
        self.features: Tensor
        self.garments: Tensor
        self.register_buffer("features", torch.zeros(0))
        self.register_buffer("garments", torch.zeros(0, dtype=torch.uint8))
        self._gathered: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: TryOffBatch, batch_idx: int) -> STEP_OUTPUT:
        """Store the batch's crops and garments.

        Raises:
            UserError: at the first batch, if the garments of all batches would take more than `most_gigabytes`.
        """
        if self.current_epoch == 0 and batch.garment is not None:
            if batch_idx == 0 and self._trainer is not None:
                self._check_size(batch.garment)
            self._gathered.append((self._feature(batch), to_uint8(to_float(batch.garment))))
        return None

    def on_train_epoch_end(self) -> None:
        """Concatenate the collected samples into buffers, which are saved in the checkpoint."""
        if self._gathered:
            features, garments = zip(*self._gathered, strict=True)
            self.features, self.garments, self._gathered = torch.cat(features), torch.cat(garments), []

    def take_off(self, batch: TryOffBatch) -> Tensor:
        """Return (B, 3, H, W) in [-1, 1]: the garment whose crop has the smallest Euclidean distance."""
        if not len(self.features):
            raise UserError("NearestGarment has collected no garment: run `fit` first and give its checkpoint by --ckpt_path")
        nearest = torch.cdist(self._feature(batch), self.features).argmin(dim=1)
        return to_float(self.garments[nearest])

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> None:  # noqa: ANN401  nn.Module's own signature
        """Load the collected set, resizing the buffers to the checkpoint's size."""
        for name in ("features", "garments"):
            setattr(self, name, torch.zeros_like(state_dict[name], device=self.device))
        super().load_state_dict(state_dict, strict, assign)

    def _check_size(self, garments: Tensor) -> None:
        size, each = garments.shape[-2:], garments[0].numel()
        gigabytes = each * len(garments) * float(self.trainer.num_training_batches) / 1e9
        if gigabytes > self.most_gigabytes:
            raise UserError(
                f"NearestGarment: the garments of {size[0]}x{size[1]} would make a checkpoint of {gigabytes:.1f} GB, and most_gigabytes is "
                f"{self.most_gigabytes:g}: lower data.init_args.size or raise model.init_args.most_gigabytes"
            )

    def _feature(self, batch: TryOffBatch) -> Tensor:
        return crop_and_resize(_on_white(batch), bounding_boxes(batch.mask), self.feature_size).flatten(1)


def _on_white(batch: TryOffBatch) -> Tensor:
    """Return the photos with everything outside the mask white, (B, 3, H, W) in [-1, 1]."""
    return torch.where(batch.mask, to_float(batch.person), 1.0)


def _size(batch: TryOffBatch) -> tuple[int, int]:
    height, width = batch.person.shape[-2:]
    return height, width


def _category(batch: TryOffBatch) -> Tensor:
    return torch.tensor([CATEGORIES.index(category) for category in batch.category], device=batch.person.device)
