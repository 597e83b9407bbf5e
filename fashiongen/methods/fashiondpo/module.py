"""FashionDPO (Yu et al., SIGIR 2025): DiFashion fine-tuned without a reward model, by preferences between its own results.

What the authors' code does otherwise than their paper (`variant`), and what the paper leaves open, is in the folder's README.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import torch
from lightning.pytorch.utilities import rank_zero_info
from peft import LoraConfig
from rich.progress import track
from torch import Tensor

from fashiongen.checkpoints import read_state
from fashiongen.errors import UserError
from fashiongen.methods.fashiondpo.trajectories import (
    Labels,
    labels_of,
    log_probability,
    preference_loss,
    roll_out,
    step_distribution,
    timesteps_of,
)
from fashiongen.methods.mutual_diffusion import MutualDiffusion
from fashiongen.nn import noise
from fashiongen.nn.processes import gather
from fashiongen.nn.sampling import Sampling
from fashiongen.outfit_batches import Completed, FillBlankBatch, Generated, OutfitBatch
from fashiongen.tasks.outfits import compare_outfits

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""The linear layers that have a LoRA: those of all attention."""


class Expert(Protocol):
    """Scores results; it must not be among the metrics that judge the method."""

    def __call__(self, completed: Completed) -> Tensor:
        """Return a score for each result, (D, K), higher is better; NaN where it has none, such as without a history."""


class _Rollout(NamedTuple):
    """What an outfit was filled with: the place of its blank, the trajectories (S + 1, D, 4, h, w), and the results' labels, (D,)."""

    place: int
    path: Tensor
    labels: Labels


class FashionDPO(MutualDiffusion):
    """Trains LoRA weights in DiFashion's denoiser; its reference is the same denoiser without them.

    At the start of each epoch it fills one blank of every training outfit several times, and experts score the results. The epoch then
    trains on the pairs of a preferred and another result of the same blank, at steps drawn from the whole trajectory.
    """

    name: ClassVar[str] = "fashiondpo"
    from_parents: ClassVar[tuple[str, ...]] = ("unet", "mutual_encoder")

    def __init__(
        self,
        experts: dict[str, Any] | None = None,
        samples: int = 7,
        rollout_steps: int = 50,
        steps_per_batch: int = 1,
        beta: float = 0.1,
        ratio_clip: float = 0.1,
        rank: int = 4,
        **options: Any,  # noqa: ANN401  the base's own
    ) -> None:
        """Load the pretrained parts and add the LoRA.

        Args:
            experts: the experts by name, each an `Expert`.
            samples: how often a blank is filled.
            rollout_steps: DDIM steps of a trajectory, with eta = 1.
            steps_per_batch: how many steps of their trajectories a batch trains on, whose memory adds up. In expectation all are trained;
                the variant `code` trains on the last alone.
            beta: weight of staying near the reference.
            ratio_clip: how far a step's probability may move from the reference's before its gradient vanishes.
            rank: of the LoRA.
            options: options of DiFashion.

        Raises:
            UserError: if a part cannot be loaded or a setting is out of range.
        """
        super().__init__(**options)
        counts = {"samples": samples - 1, "rollout_steps": rollout_steps, "steps_per_batch": steps_per_batch, "rank": rank}
        if too_small := [name for name, count in counts.items() if count < 1]:
            raise UserError(f"FashionDPO: {', '.join(too_small)}: must be at least 1, and samples at least 2")
        Sampling(sampler="ddim", steps=rollout_steps + 1).check(self.schedule, "FashionDPO: rollout_steps")
        for name, value in (("beta", beta), ("ratio_clip", ratio_clip)):
            if not 0 < value < (1 if name == "ratio_clip" else torch.inf):
                raise UserError(f"FashionDPO: {name}: {value}: must be above 0" + (" and below 1" if name == "ratio_clip" else ""))
        self.experts: dict[str, Expert] = dict(experts or {})
        self.samples, self.rollout_steps, self.steps_per_batch = samples, rollout_steps, steps_per_batch
        self.beta, self.ratio_clip = beta, ratio_clip
        self.requires_grad_(False)
        self.unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(ATTENTION)))
        self._paths: dict[str, _Rollout] = {}
        self._has_parent = False

    def load_parents(self, parents: dict[str, Path]) -> None:
        """Start from DiFashion's checkpoint, which is the reference too."""
        for role, path in parents.items():
            if role != "difashion":
                raise UserError(f"FashionDPO supports the parent `difashion`, but the recipe names `{role}`")
            own = self.state_dict()
            state = {name: value for name, value in own.items() if ".lora_" in name}  # as it was initialised
            for name, value in read_state(path).items():
                head, _, tail = name.rpartition(".")
                inside = f"{head}.base_layer.{tail}"
                state[inside if inside in own else name] = value
            self.load_weights(state, source=str(path))
            self._has_parent = True

    def train(self, mode: bool = True) -> Self:
        """Leave the mutual encoder's dropout off, which would move the policy away from its reference."""
        super().train(mode)
        self.mutual_encoder.eval()
        return self

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Predict as the reference inside: without the LoRA."""
        self.unet.disable_adapters()
        try:
            yield
        finally:
            self.unet.enable_adapters()

    def on_train_start(self) -> None:
        """Refuse to train without DiFashion's weights: its mutual encoder and the history's channels would be untrained.

        Raises:
            UserError: if there are none, or no expert.
        """
        if not self._has_parent and self.trainer.ckpt_path is None:
            raise UserError("FashionDPO starts from DiFashion's checkpoint: add --parents.difashion CHECKPOINT")
        if not self.experts:
            raise UserError("FashionDPO: experts: none to score its results: name at least one")

    def on_train_epoch_start(self) -> None:
        """Fill a blank of each outfit of the epoch several times, and let the experts say which results are preferred.

        Raises:
            UserError: if no expert has a score for any result.
        """
        self._paths = {}
        waiting: list[tuple[list[str], list[int], Tensor]] = []
        scores: list[Tensor] = []
        training = self.training
        self.eval()
        for batch in self.epoch_batches():
            hidden, places = self.hidden(batch)
            with self.trainer.precision_plugin.forward_context():
                paths, scored = self.sampled(hidden)
            waiting.append((hidden.ids, places, paths.to(torch.float16).cpu()))
            scores.append(scored.cpu())
        self.train(training)
        of_processes = gather(torch.cat(scores, dim=2))
        labels = labels_of(torch.cat(of_processes, dim=2))  # of all processes: labels do not depend on their number
        if not labels.preferred.any():
            raise UserError("FashionDPO: experts: none has a score for any result of this epoch")
        start = sum(part.shape[2] for part in of_processes[: self.global_rank])
        for ids, places, paths in waiting:
            for row, (id_, place) in enumerate(zip(ids, places, strict=True)):
                mine = Labels(*(part[:, start + row] for part in labels))
                self._paths[id_] = _Rollout(place, paths[:, :, row], mine)
            start += len(ids)
        share = float(labels.preferred.float().mean())
        rank_zero_info(f"FashionDPO: {len(labels.preferred[0])} blanks filled {self.samples} times; {share:.2f} are preferred")

    def epoch_batches(self) -> Iterator[OutfitBatch]:
        """Yield the batches that this epoch will train on, within the trainer's limits; the training's own loader is not advanced."""
        loader: Any = copy(self.trainer.train_dataloader)
        count = int(self.trainer.num_training_batches)
        if self.trainer.max_steps > 0:
            count = min(count, (self.trainer.max_steps - self.global_step) * self.trainer.accumulate_grad_batches)
        shown = track(range(count), "sampling", disable=not self.trainer.is_global_zero, transient=True)
        for _, batch in zip(shown, loader, strict=False):  # in this order no batch is read beyond the count
            yield self.trainer.strategy.batch_to_device(batch, self.device)

    def hidden(self, batch: OutfitBatch) -> tuple[FillBlankBatch, list[int]]:
        """Hide one item of each training outfit, drawn by (seed, epoch, id); return the batch and the places."""
        draw = noise.uniform(noise.keys(batch.ids, self.seed, "blank", self.current_epoch))
        places = (draw * batch.blank.lengths.cpu()).long().tolist()
        slots = batch.blank.offsets[:-1] + torch.tensor(places, device=batch.blank.offsets.device)
        return batch.hide(slots), places

    @torch.no_grad()
    def sampled(self, batch: FillBlankBatch) -> tuple[Tensor, Tensor]:
        """Fill each blank several times: the trajectories (S + 1, D, B, 4, h, w), and the experts' scores (E, D, B)."""
        draws = range(self.samples)
        ids = [f"{id_}/{self.current_epoch}" for draw in draws for id_ in self.draw_ids(batch, draw)]
        predict = self.guided(batch, draws, self.known(batch))
        paths = roll_out(self.schedule, predict, self.pure_noise(batch, ids), self.rollout_steps, ids, self.seed, "rollout")
        result = Generated(images=self.codec.decode(paths[-1]).unflatten(0, (self.samples, -1)))
        completed = compare_outfits(result, batch)
        scores = torch.stack([expert(completed).float() for expert in self.experts.values()])
        return paths.unflatten(1, (self.samples, -1)), scores

    def training_step(self, batch: OutfitBatch, batch_idx: int) -> Tensor:
        """Return the loss of the preferences at some steps of the batch's trajectories.

        Raises:
            UserError: in a training that is resumed in the middle of an epoch, whose trajectories are lost.
        """
        if absent := [id_ for id_ in batch.ids if id_ not in self._paths]:
            raise UserError(
                f"FashionDPO cannot go on in the middle of an epoch: what it sampled, such as for {absent[0]}, is in no checkpoint; "
                "resume from one that was written at the end of an epoch"
            )
        known = [self._paths[id_] for id_ in batch.ids]
        slots = batch.blank.offsets[:-1] + torch.tensor([one.place for one in known], device=self.device)
        paths = torch.stack([one.path for one in known], dim=2).to(self.device, torch.float32)
        labels = Labels(*(torch.stack(parts, dim=1).to(self.device) for parts in zip(*(one.labels for one in known), strict=True)))
        loss = self.dpo_loss(batch.hide(slots), paths, labels, self.drawn_steps())
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch))
        return loss

    def drawn_steps(self) -> list[int]:
        """Return which steps of the trajectories this batch trains on, distinct, drawn by (seed, step)."""
        if self.variant == "code":
            return [self.rollout_steps - 1]
        keys = noise.keys([str(step) for step in range(self.rollout_steps)], self.seed, "steps", self.global_step)
        return noise.uniform(keys).argsort()[: self.steps_per_batch].tolist()

    def dpo_loss(self, batch: FillBlankBatch, paths: Tensor, labels: Labels, steps: list[int]) -> Tensor:
        """Return the loss of the preferences, the mean over `steps`.

        Args:
            batch: B outfits with a blank each.
            paths: their trajectories, (S + 1, D, B, 4, h, w).
            labels: which of the results are preferred, (D, B).
            steps: which steps, in 0 to S - 1.
        """
        with torch.no_grad():
            predict = self.guided(batch, range(len(paths[0])), self.known(batch))
        times = timesteps_of(self.schedule, self.rollout_steps).tolist()
        losses = []
        for step in steps:
            timestep, previous = times[step], [*times[1:], -1][step]
            before, after = paths[step].flatten(0, 1), paths[step + 1].flatten(0, 1)

            def probability(timestep: int = timestep, previous: int = previous, before: Tensor = before, after: Tensor = after) -> Tensor:
                epsilon = predict(before, torch.tensor(timestep, device=before.device), False)
                return log_probability(*step_distribution(self.schedule, epsilon, before, timestep, previous), after)

            with torch.no_grad(), self.reference():
                reference = probability()
            ratios = (probability() - reference).unflatten(0, paths.shape[1:3])
            losses.append(preference_loss(ratios, labels, self.beta, self.ratio_clip))
        return torch.stack(losses).mean()

    def validation_step(self, batch: OutfitBatch, batch_idx: int) -> None:
        """Validate nothing: there are no preferences without sampling; images are logged as for every method."""
