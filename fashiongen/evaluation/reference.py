"""The set of true images that FID, KID and their like compare with, where it is another dataset's."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import lightning.pytorch as L
import torch
from torch import Tensor

from fashiongen.data.loading import Loader, ShardSampler, share
from fashiongen.errors import UserError
from fashiongen.metrics.base import SetMetric


class Images(Protocol):
    """What `images_of(split, field)` of a data module gives: a Dataset of uint8 images (3, H, W)."""

    def __len__(self) -> int:
        """Return the number of images."""

    def __getitem__(self, index: int) -> Tensor:
        """Return one of them."""

    def fingerprint(self) -> str:
        """Tell them from any other ones."""


@dataclass(kw_only=True)
class Reference:
    """The true images of another dataset: there is no truth for each sample, only a set to compare with.

    IGR is judged so on StreetTryOn, which has no shop images: against VITON-HD's (Section 4.2). Nothing else of that dataset is read,
    so that a folder of its pair file and its garments is enough.

    Attributes:
        data: the data module that holds them.
        split: of it.
        field: which image of a sample: its garment, or its person.
    """

    data: L.LightningDataModule
    split: Literal["test", "val"] = "test"
    field: Literal["garment", "person"] = "garment"

    def __post_init__(self) -> None:
        """Nothing is found yet."""
        self._images: Images | None = None

    @property
    def images(self) -> Images:
        """The true images, as `setup` found them."""
        assert self._images is not None, "setup comes first"
        return self._images

    def setup(self) -> None:
        """Find the files.

        Raises:
            UserError: if the dataset has no such images, or one of them is missing.
        """
        data: Any = self.data  # Lightning's class knows neither `name` nor `images_of`
        if not hasattr(data, "images_of"):
            raise UserError(f"evaluate.reference: {data.name} holds no true images; name a dataset that does")
        try:
            self._images = data.images_of(self.split, self.field)
        except UserError as error:
            raise UserError(f"evaluate.reference: {error}") from error

    def batches(self, trainer: L.Trainer, device: torch.device) -> Iterator[Tensor]:
        """Give this process's share of the images, (B, 3, H, W) in [0, 1] on `device`.

        Raises:
            UserError: if one is damaged.
        """
        data: Any = self.data
        images: Any = self.images  # torch's Dataset is a class, not a protocol
        loader = Loader(
            images,
            sampler=ShardSampler(images, **share(trainer), block=data.eval_batch_size),
            batch_size=data.eval_batch_size,
            num_workers=data.num_workers,
            collate_fn=torch.stack,
            pin_memory=torch.cuda.is_available(),
        )
        for batch in loader:
            yield batch.to(device).float() / 255.0

    def fill(self, metrics: Iterable[SetMetric], trainer: L.Trainer, device: torch.device) -> None:
        """Give every metric the images as its targets."""
        metrics = list(metrics)
        for images in self.batches(trainer, device):
            for metric in metrics:
                metric.update(None, images)
