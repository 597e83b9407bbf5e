"""The contract of all DataModules."""

from pathlib import Path
from typing import Any, ClassVar, Protocol

import lightning.pytorch as L
from torch import Tensor

from fashiongen.errors import UserError


class ImageSet(Protocol):
    """A Dataset of uint8 images (3, H, W)."""

    def __len__(self) -> int:
        """Return the number of images."""

    def __getitem__(self, index: int) -> Tensor:
        """Return one of them."""

    def fingerprint(self) -> str:
        """Return a hash that tells them from any other ones."""


class FashionData(L.LightningDataModule):
    """A DataModule that tells what it holds."""

    layout: ClassVar[str] = ""

    name: str
    split: str
    task: str
    offers: frozenset[str]
    size: tuple[int, int] | None = None
    embedded: bool = False
    root: Path | None = None
    datasets: dict[str, Any]
    eval_batch_size: int
    num_workers: int

    def fingerprint(self) -> str:
        """Return a hash of the current split."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Return what is read, for a log."""
        return {"name": self.name, "offers": sorted(self.offers)}

    def images_of(self, split: str, field: str) -> ImageSet:
        """Find one image of each sample of a split."""
        raise UserError(f"{self.name} holds no true images; name a dataset that does")
