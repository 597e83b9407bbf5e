"""The latent and feature cache: `data encode` writes it; with `--cache DIR`, `fit` and `validate` read it."""

from pathlib import Path
from typing import Any

import lightning.pytorch as L

from fashiongen.data.encoding_cache import EncodedDataset, open_entries
from fashiongen.errors import UserError
from fashiongen.methods.base import Method
from fashiongen.nn.encodings import Encoding


class ReadCache(L.Callback):
    """Adds the encodings cached by `fashiongen data encode` to training and validation samples."""

    def __init__(self, folder: str) -> None:
        """Read the cache in `folder`."""
        self.folder = Path(folder).expanduser()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Wrap the datasets: Lightning has set up the data, but not yet requested the loaders."""
        datasets: dict[str, Any] = trainer.datamodule.datasets  # type: ignore[attr-defined]  # Lightning does not declare it
        encodings = encodings_of(pl_module)
        entries = open_entries(self.folder, encodings)
        for split in {"fit": ("train", "val"), "validate": ("val",)}[stage]:
            datasets[split] = EncodedDataset(datasets[split], self.folder, encodings, entries)


def encodings_of(method: L.LightningModule) -> dict[str, Encoding]:
    """Return the encodings of a method's frozen encoders, by kind.

    Raises:
        UserError: if it has no frozen encoder.
    """
    encodings = method.encodings() if isinstance(method, Method) else {}
    if not encodings:
        raise UserError(f"{type(method).__name__} has no frozen encoder, so there is nothing to cache: leave the cache out")
    return encodings
