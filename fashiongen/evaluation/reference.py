"""The set of true pictures that FID, KID and their like compare with, where it is another data set's."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import lightning.pytorch as L
import torch
from torch import Tensor

from fashiongen.errors import UserError
from fashiongen.metrics.base import SetMetric

# For each split the stage that a data module sets up for it.
STAGES = {"test": "test", "val": "validate"}


@dataclass(kw_only=True)
class Reference:
    """The true pictures of another data set: there is no truth for each sample, only a set to compare with.

    IGR is judged so on StreetTryOn, which has no shop pictures: against VITON-HD's (Section 4.2).

    Attributes:
        data: the data module that holds them.
        split: of it.
        field: the field of its batches, uint8 pictures (B, 3, H, W).
    """

    data: L.LightningDataModule
    split: Literal["test", "val"] = "test"
    field: str = "garment"

    def setup(self) -> None:
        """Find the files.

        Raises:
            UserError: if the data set is not there or does not offer the field.
        """
        data: Any = self.data  # Lightning's class knows neither `offers` nor `name`
        data.prepare_data()
        data.setup(STAGES[self.split])
        if self.field not in data.offers:
            raise UserError(f"evaluate.reference: {data.name} does not offer {self.field} here; it offers {', '.join(sorted(data.offers))}")

    def batches(self, trainer: L.Trainer, device: torch.device) -> Iterator[Tensor]:
        """Give this process's share of the pictures, (B, 3, H, W) in [0, 1] on `device`."""
        self.data.trainer = trainer  # tells the data module which share
        loader: Iterable[Any] = self.data.test_dataloader() if self.split == "test" else self.data.val_dataloader()
        for batch in loader:
            yield getattr(batch, self.field).to(device).float() / 255.0

    def fill(self, metrics: Iterable[SetMetric], trainer: L.Trainer, device: torch.device) -> None:
        """Give every metric the pictures as its targets."""
        metrics = list(metrics)
        for pictures in self.batches(trainer, device):
            for metric in metrics:
                metric.update(None, pictures)
