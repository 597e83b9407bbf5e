"""Reference images from another dataset, for set metrics such as FID and KID."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import lightning.pytorch as L
import torch
from torch import Tensor

from fashiongen.data.base import FashionData, ImageSet
from fashiongen.data.loading import Loader, ShardSampler, share
from fashiongen.errors import UserError


@dataclass(kw_only=True)
class Reference:
    """The true images of another dataset, when there is no ground truth per sample.

    IGR's evaluation on StreetTryOn, which has no shop images, compares with VITON-HD's (Section 4.2). Nothing else of that dataset is
    read, so a folder with its pair file and its garments is enough.

    Attributes:
        data: the DataModule that holds the images.
        split: the split to use.
        field: which image of a sample, such as its garment; the dataset defines which it has.
    """

    data: FashionData
    split: Literal["test", "val"] = "test"
    field: str = "garment"

    def __post_init__(self) -> None:
        """Start without images; `setup` finds them."""
        self._images: ImageSet | None = None

    @property
    def source(self) -> FashionData:
        """The DataModule."""
        return self.data

    @property
    def images(self) -> ImageSet:
        """The true images; available after `setup`."""
        assert self._images is not None, "setup comes first"
        return self._images

    def setup(self) -> None:
        """Find the files.

        Raises:
            UserError: if the dataset has no such images, or one of them is missing.
        """
        try:
            self._images = self.data.images_of(self.split, self.field)
        except UserError as error:
            raise UserError(f"evaluate.reference: {error}") from error

    def fingerprint(self) -> str:
        """Return a hash of the images."""
        return self.images.fingerprint()

    def batches(self, trainer: L.Trainer, device: torch.device) -> Iterator[Tensor]:
        """Yield this process's share of the images, (B, 3, H, W) in [0, 1] on `device`.

        Raises:
            UserError: if an image is damaged.
        """
        images: Any = self.images  # torch's Dataset is a class, not a protocol
        loader = Loader(
            images,
            sampler=ShardSampler(images, **share(trainer), block=self.data.eval_batch_size),
            batch_size=self.data.eval_batch_size,
            num_workers=self.data.num_workers,
            collate_fn=torch.stack,
            pin_memory=torch.cuda.is_available(),
        )
        for batch in loader:
            yield batch.to(device).float() / 255.0
