"""Tells when a training has diverged: at its end, and in every test of its checkpoint. `predict` refuses such images."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

REMEDY = "lower the learning rate, or clip gradients with --trainer.gradient_clip_val 1"


class TellDivergence(Callback):
    """Says in one line on standard error, at the end of `fit`, that losses or weights are not finite.

    Losses are counted on their device, so that no step waits for it.
    """

    def __init__(self) -> None:
        """Start without a count."""
        self._batches, self._step = 0, 0
        self._bad: Tensor | None = None
        self._first: Tensor | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the count."""
        self._batches, self._bad, self._first = 0, None, None

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ANN401  Lightning's own
        """Remember the step that the batch belongs to: several accumulate to one, and a resumed training goes on counting."""
        self._step = trainer.global_step + 1

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ANN401  Lightning's own
        """Count the batch if its loss is not finite; a method with several losses returns none and is judged at the end."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        self._batches += 1
        if not isinstance(loss, Tensor):
            return
        bad = (~loss.detach().isfinite()).any().long()
        if self._bad is None or self._first is None:
            self._bad, self._first = torch.zeros_like(bad), torch.zeros_like(bad)
        self._first = torch.where((self._bad == 0) & (bad > 0), self._step, self._first)
        self._bad = self._bad + bad

    @rank_zero_only
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tell."""
        if told := " and ".join(filter(None, (self._losses(trainer), broken_weights(pl_module)))):
            tell(f"the training diverged: {told}; {REMEDY}")

    def _losses(self, trainer: L.Trainer) -> str | None:
        if self._bad is not None and (bad := int(self._bad)):
            assert self._first is not None
            return f"the loss is not finite in {bad} of {self._batches} batches, first in step {int(self._first)}"
        names = [name for name, value in trainer.callback_metrics.items() if name.startswith("train/") and not value.isfinite().all()]
        return f"{', '.join(sorted(names))} is not finite in the last step" if names else None


def broken_weights(module: L.LightningModule) -> str | None:
    """Return in words how many of the module's own weights are not finite; None if all are."""
    weights = {key: value for key, value in module.state_dict().items() if isinstance(value, Tensor) and value.is_floating_point()}
    broken = [key for key, value in weights.items() if not value.isfinite().all()]
    return f"{len(broken)} of {len(weights)} weight tensors are not finite, first {broken[0]}" if broken else None


def metrics_doubt(module: L.LightningModule, values: Mapping[str, float | None], not_finite: int) -> str | None:
    """Return in words that a test's metrics are not finite because its weights or predictions are not; None if there is no such reason.

    Args:
        module: the tested method.
        values: the metrics by name.
        not_finite: number of predictions that are not finite.
    """
    weights = broken_weights(module)
    undefined = [name for name, value in values.items() if value is None or not torch.tensor(value).isfinite()]
    if weights is None and not (not_finite and undefined):
        return None
    why = f": {weights}, so the training has diverged" if weights else ""
    return f"{len(undefined)} of {len(values)} metrics are not finite{why}"


def tell(text: str) -> None:
    """Print one line on standard error."""
    print(f"fashiongen: {text}", file=sys.stderr)
