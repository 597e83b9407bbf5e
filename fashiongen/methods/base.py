"""The base class of all methods."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import lightning.pytorch as L
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from fashiongen import tasks, weights_read
from fashiongen.batches import Batch
from fashiongen.checkpoints import load_state, some
from fashiongen.errors import UserError
from fashiongen.nn.encodings import Encoding, EncodingCache
from fashiongen.records import WeightsEntry

Origin = Literal["run", "parent", "pretrained"]
WEIGHTS = "weights_read"
"""The key of a checkpoint that names the weights which its training has read."""


class Method(L.LightningModule):
    """A method: a LightningModule that implements the interface of each task it supports (see `fashiongen.tasks`).

    A subclass implements its tasks' interfaces and, if it learns, `training_step` and `validation_step`. It logs losses;
    `fashiongen.evaluation.Evaluate` computes the metrics. With several losses and optimizers it derives from
    `fashiongen.methods.multi_loss.MultiLossMethod`, which has the training loop.

    Attributes:
        name: the method's name in records, tables and recipes.
        needs: what a DataModule must offer for the method to run, such as "mask".
        frozen: submodules whose weights come from `pretrained`; checkpoints omit them, except for adapters trained inside.
        from_parents: submodules that are not trained either, but come from a parent's checkpoint; checkpoints include them.
        n_optimizers: number of optimizers; DeepSpeed supports one.
        trains_on_all: an epoch of training serves every sample, an incomplete last batch included, which is otherwise dropped.
        weights_read: the weights that were read since its construction, for records.
        weights_resumed: those that the training had read which this one resumes, as in its record.
        encoding_cache: if set, `encoded` caches in memory what the frozen encoders return for training samples.
    """

    name: ClassVar[str] = ""
    needs: ClassVar[frozenset[str]] = frozenset()
    frozen: ClassVar[tuple[str, ...]] = ()
    from_parents: ClassVar[tuple[str, ...]] = ()
    n_optimizers: ClassVar[int] = 1
    trains_on_all: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:  # noqa: ANN401  as in any class
        """Refuse a child that would come from two places."""
        super().__init_subclass__(**kwargs)
        if twice := sorted(set(cls.frozen) & set(cls.from_parents)):
            raise TypeError(f"{cls.__name__}: {', '.join(twice)}: a child comes from `pretrained` (frozen) or from a parent, not from both")

    def __init__(self, optimizer: OptimizerCallable = torch.optim.AdamW, lr_scheduler: LRSchedulerCallable | None = None) -> None:
        """Store the factories of the optimizer and of the learning-rate scheduler, which is stepped once per training step."""
        super().__init__()
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.encoding_cache: EncodingCache | None = None
        self.weights_read = weights_read.begin()
        self.weights_resumed: list[WeightsEntry] = []
        self.register_load_state_dict_post_hook(_forgive_pretrained)  # type: ignore[no-untyped-call]  # torch leaves it untyped

    @property
    def seed(self) -> int:
        """The run's seed (`--seed_everything`), which keys all random draws."""
        return int(os.environ.get("PL_GLOBAL_SEED", "0"))

    def encodings(self) -> dict[str, Encoding]:
        """Return the outputs of the frozen encoders by kind, which `data encode` can precompute."""
        return {}

    def encoded(self, kind: str, batch: Batch) -> Tensor:
        """Return a frozen encoder's output for the batch, (B, ...): from the batch if a disk cache was read, else computed.

        In training it also goes through `encoding_cache`, if the method has one. Validation and tests never use that cache.
        """
        if batch.encoded is not None:
            return batch.encoded[kind].float()
        encoding = self.encodings()[kind]
        if self.encoding_cache is not None and self.training:
            return self.encoding_cache(kind, batch.ids, lambda: encoding(batch))
        return encoding(batch)

    def load_parents(self, parents: dict[str, Path]) -> None:
        """Load the checkpoints of earlier stages, by role; a method without stages has none."""
        if parents:
            raise UserError(f"{type(self).__name__} has no parents, but the recipe names: {', '.join(sorted(parents))}")

    def configure_optimizers(self) -> Any:  # noqa: ANN401  Lightning's own union of shapes
        """Give the optimizer only the trainable parameters; a method without any trains nothing."""
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        if not trainable:
            return None
        optimizer = self.optimizer(trainable)
        if self.lr_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.lr_scheduler(optimizer), "interval": "step"}}

    def parts(self) -> dict[str, nn.Module]:
        """Return the modules, by name, whose trainable parameter counts `fit` prints."""
        return dict(self.named_children())

    def on_fit_start(self) -> None:
        """Print the trained parts in one line."""
        parts = []
        for name, child in self.parts().items():
            total = sum(parameter.numel() for parameter in child.parameters())
            trained = sum(parameter.numel() for parameter in child.parameters() if parameter.requires_grad)
            if trained:
                parts.append(f"{name} {trained:,}" + (f" of {total:,}" if trained != total else ""))
            elif total:
                parts.append(f"{name} {'from its parent' if name in self.from_parents else 'frozen'}")
        rank_zero_info(f"{type(self).__name__} trains: {', '.join(parts) or 'nothing'}")

    def test_step(self, batch: Batch, batch_idx: int) -> Any:  # noqa: ANN401  what the interface's method returns
        """Run the batch's task on the batch without its targets."""
        return tasks.run(self, batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> Any:  # noqa: ANN401  what the interface's method returns
        """Run the batch's task on the batch without its targets."""
        return tasks.run(self, batch)

    def origins(self) -> dict[str, Origin]:
        """Return the origin of each weight, by its key in `state_dict`.

        `pretrained`: it is in a `frozen` submodule, not trained and not in an adapter; checkpoints omit it, and loading does not change it.
        Adapters are identified by peft's own list of their layers, whether they are active or not.
        `parent`: likewise in a submodule of `from_parents`; `run`: all others. Checkpoints include both, and loading requires both.
        """
        frozen, from_parents = (tuple(f"{name}." for name in names) for names in (self.frozen, self.from_parents))
        layers = ((name, layer) for name, module in self.named_modules() for layer in getattr(module, "adapter_layer_names", ()))
        adapters = tuple(f"{name}.{layer}." for name, layer in layers)

        def origin(key: str, trained: bool) -> Origin:
            if trained or key.startswith(adapters):
                return "run"
            return "parent" if key.startswith(from_parents) else "pretrained" if key.startswith(frozen) else "run"

        weights = {key: origin(key, parameter.requires_grad) for key, parameter in self.named_parameters(remove_duplicate=False)}
        return weights | {key: origin(key, trained=False) for key, _ in self.named_buffers(remove_duplicate=False)}

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]  # noqa: ANN401  nn.Module's own signature
        """Return the weights except those from `pretrained`."""
        state: dict[str, Any] = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", "")
        for key, origin in self.origins().items():
            if origin == "pretrained":
                state.pop(f"{prefix}{key}", None)
        return state

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Name the weights that were read, which a resumed training reads no more, and refuse to save less than is trained.

        That happens if a callback that averages weights copied them before more of them were trained.

        Raises:
            UserError: one line that names the callback's mistake.
        """
        checkpoint[WEIGHTS] = weights_read.entries(self.weights_read, self.weights_resumed)
        saved = checkpoint.get("state_dict") or {}  # strategies that shard the weights save them elsewhere
        if saved and (absent := sorted(self.state_dict().keys() - saved.keys())):
            raise UserError(
                f"the checkpoint would lack weights that are trained: {some(absent)}; unfreeze them in the constructor, "
                "before the callback that averages weights copies them"
            )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember in a resumed training which weights it started from."""
        if self._trainer is not None and self.trainer.training:  # `load_from_checkpoint` has no trainer
            self.weights_resumed = checkpoint.get(WEIGHTS, [])

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> None:
        """Load all weights except those from `pretrained`; raise a UserError that names each missing, left over or misshapen key."""
        self.load_weights(dict(state_dict), source="the checkpoint")

    def load_weights(self, state: dict[str, Tensor], *, source: str) -> None:
        """Load the state dict of a checkpoint of this class; errors name its `source`.

        Raises:
            UserError: one line that names each key that is missing, left over or of another shape.
        """
        may_miss = {key for key, origin in self.origins().items() if origin == "pretrained"}
        load_state(self, state, source=source, may_miss=may_miss)


def _forgive_pretrained(method: nn.Module, incompatible: Any) -> None:  # noqa: ANN401  torch's own named tuple, which it does not export
    """Allow missing `pretrained` weights when a wrapper of the method, such as EMA's averaged model, loads a state dict strictly."""
    assert isinstance(method, Method)
    absent = {key for key, origin in method.origins().items() if origin == "pretrained"}
    wrapped = [key for key in incompatible.missing_keys if key.partition(".")[2] in absent]
    for key in wrapped:
        incompatible.missing_keys.remove(key)
