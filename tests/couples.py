"""Deterministic random tops and bottoms, for tests of methods that rank."""

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fashiongen.batches import CandidateBatch, PairBatch, QueryBatch
from fashiongen.data.base import FashionData
from fashiongen.data.loading import EpochSampler, Loader, ResumableLoader, share


def image(name: str, size: int) -> Tensor:
    """Draw the image of an item, (1, 3, size, size) uint8."""
    generator = torch.Generator().manual_seed(sum(ord(letter) * 31**place for place, letter in enumerate(name)))
    return torch.randint(0, 256, (1, 3, size, size), generator=generator, dtype=torch.uint8)


def pair(row: int, top: str, bottom: str, positives: tuple[str, ...], size: int = 16) -> PairBatch:
    images = {"top": image(top, size), "bottom": image(bottom, size)}
    return PairBatch(ids=[f"row-{row}"], top_ids=[top], bottom_ids=[bottom], positives=[positives], **images)


class Pairs(Dataset):
    """Row i is top i with bottom i; each top goes with the next row's bottom too."""

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size

    def __len__(self):
        return self.count

    def __getitem__(self, index: int) -> PairBatch:
        known = (f"bottom-{index}", f"bottom-{(index + 1) % self.count}")
        return pair(index, f"top-{index}", f"bottom-{index}", known, self.size)


def pairs(count: int = 6, size: int = 16) -> PairBatch:
    dataset = Pairs(count, size)
    return PairBatch.collate([dataset[index] for index in range(count)])


def queries(batch: PairBatch) -> QueryBatch:
    return QueryBatch(ids=batch.ids, top_ids=batch.top_ids, top=batch.top, positive=batch.bottom_ids)


def candidates(batch: PairBatch) -> CandidateBatch:
    return CandidateBatch(ids=batch.bottom_ids, bottom=batch.bottom)


class Couples(FashionData):
    """Training rows in an order of (seed, epoch), resumable in mid-epoch, and a few for validation."""

    name = "couples"
    task = "retrieval"
    split = "test"
    offers = frozenset()

    def __init__(self, count: int = 18, size: int = 16, batch_size: int = 4) -> None:
        super().__init__()
        self.count, self.size, self.batch_size = count, size, batch_size

    def train_dataloader(self):
        dataset = Pairs(self.count, self.size)
        sampler = EpochSampler(dataset, **share(self.trainer))
        return ResumableLoader(dataset, sampler=sampler, batch_size=self.batch_size)

    def val_dataloader(self):
        return Loader(Pairs(4, self.size), batch_size=2)
