"""The one base class of all methods."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as L
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from fashiongen import tasks
from fashiongen.batches import Batch
from fashiongen.checkpoints import load_state
from fashiongen.errors import UserError
from fashiongen.nn.encodings import Encoding, EncodingCache


class Method(L.LightningModule):
    """A method: a LightningModule with the verbs of the tasks that it can do (see `fashiongen.tasks`).

    A subclass writes `training_step`, `validation_step` where it learns, and its verbs. It logs losses; metrics are the business
    of `fashiongen.evaluation.Evaluate`.

    Attributes:
        name: what records and tables call the method; its recipes carry the same name.
        needs: what a DataModule must offer for the method to run, such as "mask".
        frozen: names of children that are never trained: they come from `pretrained` and are left out of checkpoints.
        n_optimizers: how many `configure_optimizers` gives; DeepSpeed takes one.
        kept: where a method sets it, what its frozen encoders make of training samples stays in memory (see `encoded`).
    """

    name: ClassVar[str] = ""
    needs: ClassVar[frozenset[str]] = frozenset()
    frozen: ClassVar[tuple[str, ...]] = ()
    n_optimizers: ClassVar[int] = 1

    def __init__(self, optimizer: OptimizerCallable = torch.optim.AdamW, lr_scheduler: LRSchedulerCallable | None = None) -> None:
        """Keep the optimizer and the learning-rate scheduler (stepped once a training step), both given their settings already."""
        super().__init__()
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.encoding_cache: EncodingCache | None = None

    @property
    def seed(self) -> int:
        """The run's seed (`--seed_everything`), from which every draw of noise is derived."""
        return int(os.environ.get("PL_GLOBAL_SEED", "0"))

    def encodings(self) -> dict[str, Encoding]:
        """Return, by kind, what the method's frozen encoders make of a sample: what `data encode` computes ahead of training."""
        return {}

    def encoded(self, kind: str, batch: Batch) -> Tensor:
        """Return what a frozen encoder makes of the batch, (B, ...): from the batch where a cache was read, else encoded now.

        In training it is also kept in memory if the method has set `kept`. In what is judged it is always encoded now.
        """
        if batch.encoded is not None:
            return batch.encoded[kind].float()
        encoding = self.encodings()[kind]
        if self.encoding_cache is not None and self.training:
            return self.encoding_cache(kind, batch.ids, lambda: encoding(batch))
        return encoding(batch)

    def load_parents(self, parents: dict[str, Path]) -> None:
        """Start from the checkpoints of earlier stages, by role; a method without stages has none."""
        if parents:
            raise UserError(f"{type(self).__name__} has no parents, but the recipe names: {', '.join(sorted(parents))}")

    def configure_optimizers(self) -> Any:  # noqa: ANN401  Lightning's own union of shapes
        """Give the optimizer the trainable parameters alone; a method without any trains nothing."""
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        if not trainable:
            return None
        optimizer = self.optimizer(trainable)
        if self.lr_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.lr_scheduler(optimizer), "interval": "step"}}

    def parts(self) -> dict[str, nn.Module]:
        """Return what the printed line of trained parameters tells apart, by name."""
        return dict(self.named_children())

    def on_fit_start(self) -> None:
        """Say in one line what is trained."""
        parts = []
        for name, child in self.parts().items():
            total = sum(parameter.numel() for parameter in child.parameters())
            trained = sum(parameter.numel() for parameter in child.parameters() if parameter.requires_grad)
            if total:
                parts.append(f"{name} {trained:,}" + (f" of {total:,}" if trained != total else "") if trained else f"{name} frozen")
        rank_zero_info(f"{type(self).__name__} trains: {', '.join(parts) or 'nothing'}")

    def test_step(self, batch: Batch, batch_idx: int) -> Any:  # noqa: ANN401  what the verb returns
        """Do the batch's task on the batch without its targets."""
        return tasks.run(self, batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> Any:  # noqa: ANN401  what the verb returns
        """Do the batch's task on the batch without its targets."""
        return tasks.run(self, batch)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]  # noqa: ANN401  nn.Module's own signature
        """Return the weights without the frozen children."""
        state: dict[str, Any] = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", "")
        for key in [key for key in state if key.startswith(tuple(f"{prefix}{name}." for name in self.frozen))]:
            del state[key]
        return state

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> None:
        """Load all weights but the frozen children's; a key too many, too few or misshapen is named."""
        load_state(self, dict(state_dict), source="the checkpoint", may_miss=tuple(f"{name}." for name in self.frozen))
