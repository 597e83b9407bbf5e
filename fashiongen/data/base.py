"""The contract of all DataModules: what methods, evaluation, the benchmark and the command line can rely on."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import lightning.pytorch as L
from torch import Tensor

from fashiongen.errors import UserError

if TYPE_CHECKING:  # it imports this module
    from fashiongen.data.check import Report


class ImageSet(Protocol):
    """A Dataset of uint8 images (3, H, W)."""

    def __len__(self) -> int:
        """Return the number of images."""

    def __getitem__(self, index: int) -> Tensor:
        """Return one image."""

    def fingerprint(self) -> str:
        """Return a hash of the files, which changes if any of them does."""

    def groups(self, by: str) -> list[str]:
        """Return the value of a batch's field, such as its category, for the sample of each image.

        Raises:
            UserError: if it is unknown.
        """


class FashionData(L.LightningDataModule):
    """A self-describing DataModule.

    A dataset is one subclass in one module. Modules of `fashiongen.data` are found automatically; a subclass in another package is known
    once it has been imported. Every sample is a batch of one with a unique id. `test_dataloader` and `predict_dataloader` yield each sample
    once, in order, as the batch type of the task; `train_dataloader` shuffles by (seed, epoch).

    Attributes:
        layout: the folder layout, the dataset's name in `data check` and `wardrobe render`; empty without one.
        name: the dataset's name in records.
        split: the split of the last `setup`, usually train, val or test.
        task: the task whose batches the dataset yields.
        offers: the parts that every sample of the last `setup` has, by the names used in `Method.needs`.
        size: height and width of the images; None without images.
        embedded: whether the embedded wardrobe is read instead of real data.
        root: the folder to read; None without one.
        datasets: the datasets of the last `setup`, by split.
        eval_batch_size: samples per process and step in validation, test and prediction.
        num_workers: worker processes per loader.
    """

    layout: ClassVar[str] = ""

    name: str
    split: str
    task: str
    offers: frozenset[str] = frozenset()
    size: tuple[int, int] | None = None
    embedded: bool = False
    root: Path | None = None
    datasets: dict[str, Any]
    eval_batch_size: int
    num_workers: int = 0

    def fingerprint(self) -> str:
        """Return a sha256 of the current split's data, which changes only if a file does."""
        raise NotImplementedError(f"{type(self).__name__} has no fingerprint()")

    def sample_names(self) -> dict[str, dict[str, str]]:
        """Return the id of each sample of the current split, in order, with the names that other code gives to its files.

        Returns:
            By id: `input`, the name of the input's file; `own`, that of the garment that belongs to it; `other`, that of the garment that
            an unpaired test gives it; all without suffix, and each only if there is one.
        """
        return {id_: {} for batch in self.test_dataloader() for id_ in batch.ids}

    def describe(self) -> dict[str, Any]:
        """Return a description as plain values, for logs or JSON: name, root, size and offered parts."""
        return {
            "name": self.name,
            "root": None if self.root is None else str(self.root),
            "size": None if self.size is None else list(self.size),
            "offers": sorted(self.offers),
        }

    def images_of(self, split: str, field: str, size: tuple[int, int] | None = None) -> ImageSet:
        """Find one image of each sample of a split; the samples' other files may be missing.

        Args:
            split: train, val or test.
            field: the image's name in a batch, such as garment or person.
            size: height and width of the images; by default that of the samples.

        Raises:
            UserError: if the dataset has no such images.
        """
        raise UserError(f"{self.name} has no true images; choose a dataset that has them")

    @classmethod
    def check(cls, root: str | Path) -> Report:
        """Read all of a folder like `setup` and the loaders, and report everything that is wrong with it.

        Raises:
            UserError: if there is no such folder, or the dataset has no check.
        """
        raise UserError(f"the layout {cls.layout} has no check")


def layouts() -> dict[str, type[FashionData]]:
    """Return the DataModules that have a folder layout, by its name: those of this package and of all imported packages."""
    _import_readers()
    found: dict[str, type[FashionData]] = {}
    classes = sorted(_subclasses(FashionData), key=lambda cls: not cls.__module__.startswith(f"{__package__}."))
    for cls in classes:
        if vars(cls).get("layout"):  # a subclass that only inherits its layout is a variant of that dataset
            found.setdefault(cls.layout, cls)
    return dict(sorted(found.items()))


def layout_name(given: str) -> str:
    """Return the layout of a dataset that is given by the path of its class (`package.module.Class`); any other name as it is.

    Naming a dataset so imports its module: its reader and its wardrobe writer are then known.

    Raises:
        UserError: if it cannot be imported, or is no dataset with a layout.
    """
    module, _, name = given.rpartition(".")
    if not module:
        return given
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise UserError(f"layout {given}: {error}; a dataset of another package is named package.module.Class") from error
    if not (isinstance(found, type) and issubclass(found, FashionData) and found.layout):
        raise UserError(f"layout {given}: no FashionData with a layout")
    return found.layout


def _subclasses(cls: type[FashionData]) -> Iterator[type[FashionData]]:
    for subclass in cls.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


@functools.cache
def _import_readers() -> None:
    package = importlib.import_module(__package__ or "fashiongen.data")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
