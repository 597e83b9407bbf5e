"""The training loop for methods with several losses, each with its own optimizer, such as GANs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, ParallelStrategy
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from fashiongen.batches import Batch
from fashiongen.errors import UserError
from fashiongen.methods.base import Method


class MultiLossMethod(Method):
    """A method that minimises several losses in turn on each batch.

    A subclass lists its losses in `trains` and yields them from `training_losses`, in that order. After each one this class runs the
    backward pass, clips, steps the optimizer of that loss and logs `train/NAME`; only then does it request the next loss, which
    therefore sees the updated weights. While a loss is computed, the networks of the earlier losses have `requires_grad` off, and no
    loss leaves a gradient in another's networks.

    A step of the trainer (`max_steps`, `global_step`, `every_n_train_steps`) is one batch, in which every optimizer steps once. With
    `accumulate_grad_batches: k` it is k batches, and each optimizer steps on the last of them with the mean of their gradients.
    `gradient_clip_val` clips the gradients of each loss's networks separately.

    Attributes:
        trains: the losses by name, in the order of their steps, each with the dotted names of the modules it trains.
    """

    trains: ClassVar[dict[str, tuple[str, ...]]]

    def __init_subclass__(cls, **kwargs: Any) -> None:  # noqa: ANN401  as in any class
        """Count the optimizers."""
        super().__init_subclass__(**kwargs)
        if "trains" in vars(cls):
            cls.n_optimizers = len(cls.trains)

    def __init__(self, optimizer: OptimizerCallable = Adam, lr_scheduler: LRSchedulerCallable | None = None) -> None:
        """Store the factories of the optimizers, one per loss, and of their learning-rate schedulers, stepped once per training step."""
        super().__init__(optimizer, lr_scheduler)
        self.automatic_optimization = False

    def training_losses(self, batch: Any, draw_step: int) -> Iterator[tuple[str, Tensor]]:  # noqa: ANN401  the task's batch
        """Yield the name and value of each loss in `trains`, computed lazily.

        Args:
            batch: the training batch.
            draw_step: keys the random draws of this step, see `draw_step`.
        """
        raise NotImplementedError

    @property
    def draw_step(self) -> int:
        """The key of a training step's random draws: step x number of optimizers, as when each optimizer's step was counted."""
        return self.global_step * self.n_optimizers

    def configure_callbacks(self) -> Sequence[Callback] | Callback:
        """Pass as automatic optimization in Lightning's check of the trainer's settings, which comes next; see `setup`.

        Lightning rejects clipping and accumulation for manual optimization, since its own loop would ignore them; this class implements
        them. The trainer is not changed, so an error before `setup` loses no setting.
        """
        self.automatic_optimization = True
        return []

    def setup(self, stage: str) -> None:
        """Switch back to manual optimization; let DDP expect that a backward pass skips the other losses' networks."""
        self.automatic_optimization = False
        if isinstance(self.trainer.strategy, DDPStrategy):
            self.trainer.strategy._ddp_kwargs["find_unused_parameters"] = True

    def configure_optimizers(self) -> Any:  # noqa: ANN401  Lightning's own union of shapes
        """Give each loss an optimizer over the trainable parameters of its modules.

        Raises:
            UserError: if the strategy, the precision or the scheduler cannot work with several optimizers.
        """
        name = type(self).__name__
        if isinstance(self.trainer.strategy, DeepSpeedStrategy):
            raise UserError(
                f"{name} has {self.n_optimizers} optimizers and DeepSpeed takes one: leave out the zero2 overlay, "
                "or use recipes/overlays/ddp.yaml"
            )
        precision = self.trainer.precision_plugin
        if isinstance(precision, MixedPrecision) and precision.scaler is not None and self.trainer.accumulate_grad_batches > 1:
            raise UserError(
                f"{name}: trainer.accumulate_grad_batches: with precision 16-mixed the losses' gradients would be scaled unequally; "
                "use bf16-mixed or a larger batch"
            )
        optimizers = [self.optimizer(self._parameters_of(modules)) for modules in self.trains.values()]
        if self.lr_scheduler is None:
            return optimizers
        schedulers = [self.lr_scheduler(optimizer) for optimizer in optimizers]
        if any(isinstance(scheduler, ReduceLROnPlateau) for scheduler in schedulers):
            raise UserError(
                f"{name}: lr_scheduler: ReduceLROnPlateau waits for one metric, and {self.n_optimizers} losses do not share one; "
                "choose another scheduler"
            )
        return optimizers, schedulers

    def _parameters_of(self, modules: tuple[str, ...]) -> list[nn.Parameter]:
        return [parameter for name in modules for parameter in self.get_submodule(name).parameters() if parameter.requires_grad]

    def on_fit_start(self) -> None:
        """Print what is trained, without Lightning's twenty-line advice to save the weights from before a step."""
        warnings.filterwarnings("ignore", message="Using ModelCheckpoint with manual optimization")
        super().on_fit_start()

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Minimise each loss in turn."""
        every = self.trainer.accumulate_grad_batches
        # Like Lightning's own loop, also step on the last batch of an epoch.
        steps = (batch_idx + 1) % every == 0 or self.trainer.is_last_batch
        optimizers: Any = self.optimizers()
        parameters = [[parameter for group in optimizer.param_groups for parameter in group["params"]] for optimizer in optimizers]
        losses = self.training_losses(batch, self.draw_step)
        last = len(optimizers) - 1
        trained = [parameter for group in parameters for parameter in group if parameter.requires_grad]
        if batch_idx % every == 0:
            for optimizer in optimizers:
                optimizer.zero_grad()
        try:
            for place, (expected, optimizer) in enumerate(zip(self.trains, optimizers, strict=True)):
                # A StopIteration would be swallowed by Lightning's loop.
                name, loss = next(losses, (None, None))
                if name != expected or loss is None:
                    raise RuntimeError(f"{type(self).__name__}.training_losses yields {name!r} where `trains` has {expected!r}")
                self._backward(loss / every, [parameter for group in parameters[place + 1 :] for parameter in group], sync=steps)
                if steps:
                    self._step(optimizer, counts=place == last)
                self.log(f"train/{name}", loss.detach(), prog_bar=True, batch_size=len(batch))
                for parameter in parameters[place]:
                    parameter.requires_grad_(False)
            if (surplus := next(losses, None)) is not None:
                raise RuntimeError(f"{type(self).__name__}.training_losses yields {surplus[0]!r}, which `trains` lacks")
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)
        if steps:
            schedulers: Any = self.lr_schedulers() or []
            for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
                scheduler.step()

    def _backward(self, loss: Tensor, later: list[nn.Parameter], *, sync: bool) -> None:
        """Run the backward pass without changing gradients of the `later` losses' parameters; without `sync` DDP does not average yet."""
        # Such gradients exist during accumulation. Copy them, since DDP averages in place the gradients that such batches used.
        before = [None if parameter.grad is None else parameter.grad.clone() for parameter in later]
        strategy = self.trainer.strategy
        with strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) and not sync else nullcontext():
            self.manual_backward(loss)
        for parameter, gradient in zip(later, before, strict=True):
            parameter.grad = gradient

    def _step(self, optimizer: Any, *, counts: bool) -> None:  # noqa: ANN401  LightningOptimizer, which is no Optimizer to mypy
        """Step an optimizer; only the one that `counts` increments the trainer's step count."""
        if counts:
            optimizer.step()
        else:
            self.trainer.strategy.optimizer_step(optimizer.optimizer, lambda: None)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the gradients of one loss's networks with the trainer's settings; float16 gradients are already unscaled.

        An override must call this method.
        """
        self.clip_gradients(optimizer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Mark that steps are counted in batches."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["steps_are_batches"] = True

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Reject resuming from a checkpoint that counts each optimizer's steps, as before version 0.1.0.

        Raises:
            UserError: in `fit`; the weights can still be tested.
        """
        super().on_load_checkpoint(checkpoint)
        if self._trainer is not None and self.trainer.training and "steps_are_batches" not in checkpoint:
            raise UserError(
                f"--ckpt_path: {type(self).__name__} cannot resume from a checkpoint of an earlier version, which counts steps "
                "differently: train again (`test`, `predict` and --parents still accept it)"
            )
