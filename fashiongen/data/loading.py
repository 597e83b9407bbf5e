"""Loading: the order of samples, each process's share, and mid-epoch resume.

The order is a permutation of the whole dataset keyed by (seed, epoch), distributed to the processes one sample at a time, so that a
training step sees the same samples however many processes share the global batch.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence, Sized
from typing import Any, TypeVar

import lightning.pytorch as L
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from fashiongen.batches import Batch
from fashiongen.errors import UserError

AnyBatch = TypeVar("AnyBatch", bound=Batch)


def permutation(length: int, seed: int, epoch: int) -> list[int]:
    """Return the order of `length` samples in one epoch of training.

    Seed and epoch are hashed together: with torch's own `seed + epoch`, epoch 1 of seed 0 would equal epoch 0 of seed 1.
    """
    mixed = int.from_bytes(hashlib.sha256(f"order/{seed}/{epoch}".encode()).digest()[:8], "big", signed=True)
    order: list[int] = torch.randperm(length, generator=torch.Generator().manual_seed(mixed)).tolist()
    return order


def length_of(dataset: Sized | Dataset[Any]) -> int:
    """Return the number of samples."""
    if not isinstance(dataset, Sized):
        raise TypeError(f"{type(dataset).__name__} has no length")
    return len(dataset)


class EpochSampler(DistributedSampler[int]):
    """Training order: each process gets every `num_replicas`-th sample of the epoch's permutation, all equally many.

    Lightning calls `set_epoch` and, since this is a DistributedSampler, neither replaces it nor rebuilds the loader.

    Attributes:
        start: number of this process's samples that the next iteration skips because an earlier run has served them.
    """

    def __init__(self, dataset: Dataset[Any], *, num_replicas: int = 1, rank: int = 0, seed: int = 0) -> None:
        """Serve process `rank` of `num_replicas`; at most `num_replicas - 1` samples at an epoch's end are dropped."""
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=True, seed=seed, drop_last=True)
        self.start = 0

    def __iter__(self) -> Iterator[int]:
        """Yield this process's indices of the epoch, skipping the first `start` once."""
        start, self.start = self.start, 0
        order = permutation(length_of(self.dataset), self.seed, self.epoch)[: self.total_size]
        return iter(order[self.rank :: self.num_replicas][start:])


class ShardSampler(DistributedSampler[int]):
    """Evaluation order: every `num_replicas`-th block of samples, in order, each sample exactly once.

    With blocks of the batch size, the processes together run the same batches as a single one. Rounding depends on the other samples in
    a batch, and FID on it in the fifth digit; with this order a test gives the same number on any number of processes.
    """

    def __init__(self, dataset: Dataset[Any], *, num_replicas: int = 1, rank: int = 0, block: int = 1) -> None:
        """Serve process `rank` of `num_replicas` without padding, in blocks of `block` consecutive samples."""
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=False)
        self.block = block
        self.num_samples = sum(1 for _ in self)

    def __iter__(self) -> Iterator[int]:
        """Yield this process's indices in ascending order."""
        length = length_of(self.dataset)
        for start in range(self.rank * self.block, length, self.num_replicas * self.block):
            yield from range(start, min(start + self.block, length))


def share(trainer: L.Trainer | None) -> dict[str, int]:
    """Return `num_replicas` and `rank` of this process for a sampler; a strategy that shards a model may define its own."""
    own = trainer.distributed_sampler_kwargs if trainer else None
    return {"num_replicas": own["num_replicas"], "rank": own["rank"]} if own else {"num_replicas": 1, "rank": 0}


def require_at_least_one(owner: str, **settings: int | Sequence[int] | None) -> None:
    """Reject settings of a DataModule below 1, such as batch and image sizes; None means not set.

    Raises:
        UserError: naming the first such setting.
    """
    for name, value in settings.items():
        if value is not None and min(value if isinstance(value, Sequence) else (value,)) < 1:
            raise UserError(f"{owner}: data.{name}={value} must be at least 1")


def collate(samples: Sequence[AnyBatch]) -> AnyBatch:
    """Concatenate batches of one into a batch."""
    return type(samples[0]).collate(samples)


class Loader(DataLoader[Any]):
    """A DataLoader of `Batch` that starts lazily and re-raises a worker's UserError as one line.

    It iterates as a generator: sampler and workers start at the first `next()`. Lightning creates the iterator before it sets the sampler's
    epoch, so an eager one would serve the first epoch's order again after a resume.
    """

    def __init__(self, dataset: Dataset[Any], **options: Any) -> None:  # noqa: ANN401  DataLoader's own options
        """Load `dataset`, whose samples are batches of one, with DataLoader's options."""
        super().__init__(dataset, **{"collate_fn": collate, **options})

    def __len__(self) -> int:
        """Return the number of batches, at least 1 even for an empty share, which still yields no batch.

        Lightning skips the whole loop, with its hooks, in a process whose loader has length 0, and the other processes would wait
        forever if the hooks gather something.
        """
        length = super().__len__()
        return max(length, 1) if isinstance(self.sampler, ShardSampler) and length_of(self.dataset) else length

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yield the batches of one pass."""
        try:
            yield from super().__iter__()
        except UserError as error:
            # A worker's exception has the worker's traceback as its message.
            raise UserError(str(error).rstrip().rpartition("UserError: ")[2]) from None


class ResumableLoader(Loader):
    """A training loader whose state is its position in the epoch: a run interrupted mid-epoch continues with exactly the next batch.

    Batches are counted when they are returned, not when workers prefetch them. On resume the served samples are skipped without loading
    them. Lightning stores the state in the checkpoint of the fit loop.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        sampler: EpochSampler,
        batch_size: int,
        trained: Callable[[], int] | None = None,
        **options: Any,  # noqa: ANN401  DataLoader's own options
    ) -> None:
        """Load batches of `batch_size` of this process's samples, by default whole batches only.

        Args:
            dataset: its samples are batches of one.
            sampler: defines the order.
            batch_size: samples per process and step.
            trained: returns how many batches of the current epoch have been trained on, so that a batch whose training step failed
                (interrupt, out of memory) is not counted as served.
            options: DataLoader's options.
        """
        super().__init__(dataset, sampler=sampler, batch_size=batch_size, **{"drop_last": True, **options})
        self._trained = trained
        self._epoch = 0
        self._served = 0
        self._resume: dict[str, int] | None = None

    def _shape(self) -> dict[str, int]:
        replicas = self.sampler.num_replicas if isinstance(self.sampler, DistributedSampler) else 1
        return {"global_batch": (self.batch_size or 1) * replicas, "samples": length_of(self.dataset)}

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yield the batches of the sampler's epoch or, after `load_state_dict`, the remaining ones."""
        # With `overfit_batches` Lightning uses a sequential sampler here, with the same order in every pass.
        epoch = getattr(self.sampler, "epoch", 0)
        self._served = self._left_out(epoch)
        self._epoch = epoch
        if isinstance(self.sampler, EpochSampler):
            self.sampler.start = self._served * (self.batch_size or 1)
        for batch in super().__iter__():
            self._served += 1
            yield batch

    def _left_out(self, epoch: int) -> int:
        """Return how many batches of `epoch` an earlier run has served; the state of another, finished epoch does not count."""
        resume, self._resume = self._resume, None
        if resume is None or resume["epoch"] != epoch or resume["batches"] == 0:
            return 0
        shape = self._shape()
        if any(resume[key] != shape[key] for key in shape):
            saved, here = (f"{state['samples']} samples in global batches of {state['global_batch']}" for state in (resume, shape))
            raise UserError(
                f"cannot resume in mid-epoch: the checkpoint was saved with {saved}, this run has {here}; "
                "use the same data and the same product of batch size and processes"
            )
        return resume["batches"]

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and its number of finished batches."""
        if self._resume is not None:
            return dict(self._resume)
        served = self._served if self._trained is None else min(self._served, self._trained())
        return {"epoch": self._epoch, "batches": served, **self._shape()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from `state` at the next iteration, if it is in the same epoch."""
        self._resume = dict(state)
        if isinstance(self.sampler, DistributedSampler):
            self.sampler.set_epoch(state["epoch"])
