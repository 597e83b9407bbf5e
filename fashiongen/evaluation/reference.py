"""Reference images for set metrics such as FID and KID: another dataset's, or all photos of the tested one."""

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
    """The true images that set metrics compare with, when they are not the ground truth of each sample.

    IGR's evaluation on StreetTryOn, which has no shop images, compares with VITON-HD's (Section 4.2). An unpaired try-on, which has no
    ground truth, compares with the photos of the tested people. Nothing else of that dataset is read, so a folder with its pair file and
    those images is enough. The images are those of a split's samples alone, whatever else their folder holds.

    Attributes:
        data: the DataModule that holds the images; by default the tested one.
        split: the split to use.
        field: which image of a sample, such as its garment; the dataset defines which it has.
        size: height and width at which the images are read; by default the DataModule's. LaDI-VTON compares with photos of the original
            size.
    """

    data: FashionData | None = None
    split: Literal["test", "val"] = "test"
    field: str = "garment"
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Start without images; `setup` finds them."""
        self._source = self.data
        self._images: ImageSet | None = None

    @property
    def own(self) -> bool:
        """Whether the images are the tested dataset's."""
        return self.data is None

    @property
    def source(self) -> FashionData:
        """The DataModule; the tested one is available after `setup`."""
        assert self._source is not None, "setup comes first"
        return self._source

    @property
    def images(self) -> ImageSet:
        """The true images; available after `setup`."""
        assert self._images is not None, "setup comes first"
        return self._images

    def setup(self, data: Any = None) -> None:  # noqa: ANN401  a FashionData, which tasks do not know
        """Find the files, for a test of `data`.

        Raises:
            UserError: if the dataset has no such images, or one of them is missing.
        """
        self._source = self.data or data
        try:
            # A dataset of another package may not take a size.
            options = {} if self.size is None else {"size": self.size}
            self._images = self.source.images_of(self.split, self.field, **options)
        except UserError as error:
            raise UserError(f"evaluate.reference: {error}") from error

    def fingerprint(self) -> str:
        """Return a hash of the images."""
        return self.images.fingerprint()

    def groups(self, trainer: L.Trainer, by: str) -> list[str]:
        """Return the group of each image of this process's share, in the order of `batches`.

        Raises:
            UserError: if the dataset does not know it.
        """
        of_all = self.images.groups(by)
        return [of_all[index] for index in self._sampler(trainer)]

    def batches(self, trainer: L.Trainer, device: torch.device) -> Iterator[Tensor]:
        """Yield this process's share of the images, (B, 3, H, W) in [0, 1] on `device`.

        Raises:
            UserError: if an image is damaged.
        """
        images: Any = self.images  # torch's Dataset is a class, not a protocol
        loader = Loader(
            images,
            sampler=self._sampler(trainer),
            batch_size=self.source.eval_batch_size,
            num_workers=self.source.num_workers,
            collate_fn=torch.stack,
            pin_memory=torch.cuda.is_available(),
        )
        for batch in loader:
            yield batch.to(device).float() / 255.0

    def _sampler(self, trainer: L.Trainer) -> ShardSampler:
        images: Any = self.images
        return ShardSampler(images, **share(trainer), block=self.source.eval_batch_size)
