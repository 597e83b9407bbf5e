"""The set of true pictures that FID, KID and their like compare with, where it is another data set's."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import lightning.pytorch as L
import torch
from torch import Tensor

from fashiongen.data.loading import Loader, ShardSampler, share
from fashiongen.errors import UserError
from fashiongen.metrics.base import SetMetric


class Pictures(Protocol):
    """What `pictures_of(split, field)` of a data module gives: a Dataset of uint8 pictures (3, H, W)."""

    def __len__(self) -> int:
        """Return the number of pictures."""

    def __getitem__(self, index: int) -> Tensor:
        """Return one of them."""

    def fingerprint(self) -> str:
        """Tell them from any other ones."""


@dataclass(kw_only=True)
class Reference:
    """The true pictures of another data set: there is no truth for each sample, only a set to compare with.

    IGR is judged so on StreetTryOn, which has no shop pictures: against VITON-HD's (Section 4.2). Nothing else of that data set is read,
    so that a folder of its pair file and its garments is enough.

    Attributes:
        data: the data module that holds them.
        split: of it.
        field: which picture of a sample: its garment, or its person.
    """

    data: L.LightningDataModule
    split: Literal["test", "val"] = "test"
    field: Literal["garment", "person"] = "garment"

    def __post_init__(self) -> None:
        """Nothing is found yet."""
        self._pictures: Pictures | None = None

    @property
    def pictures(self) -> Pictures:
        """The true pictures, as `setup` found them."""
        assert self._pictures is not None, "setup comes first"
        return self._pictures

    def setup(self) -> None:
        """Find the files.

        Raises:
            UserError: if the data set has no such pictures, or one of them is missing.
        """
        data: Any = self.data  # Lightning's class knows neither `name` nor `pictures_of`
        if not hasattr(data, "pictures_of"):
            raise UserError(f"evaluate.reference: {data.name} holds no true pictures; name a data set that does")
        try:
            self._pictures = data.pictures_of(self.split, self.field)
        except UserError as error:
            raise UserError(f"evaluate.reference: {error}") from error

    def batches(self, trainer: L.Trainer, device: torch.device) -> Iterator[Tensor]:
        """Give this process's share of the pictures, (B, 3, H, W) in [0, 1] on `device`.

        Raises:
            UserError: if one is damaged.
        """
        data: Any = self.data
        pictures: Any = self.pictures  # torch's Dataset is a class, not a protocol
        loader = Loader(
            pictures,
            sampler=ShardSampler(pictures, **share(trainer), block=data.eval_batch_size),
            batch_size=data.eval_batch_size,
            num_workers=data.num_workers,
            collate_fn=torch.stack,
            pin_memory=torch.cuda.is_available(),
        )
        for batch in loader:
            yield batch.to(device).float() / 255.0

    def fill(self, metrics: Iterable[SetMetric], trainer: L.Trainer, device: torch.device) -> None:
        """Give every metric the pictures as its targets."""
        metrics = list(metrics)
        for pictures in self.batches(trainer, device):
            for metric in metrics:
                metric.update(None, pictures)
