"""Batches of top-bottom retrieval and a loader of them, for tests of the methods."""

import lightning.pytorch as L
import torch
from torch.utils.data import Dataset

from fashiongen.batches import CandidateBatch, PairBatch, QueryBatch
from fashiongen.data.loading import EpochSampler, Loader, ResumableLoader
from fashiongen.nn.negatives import negative_mask, rolled_mask


def pairs(bottom_ids, positives=None, top_ids=None, size=64, images=True):
    """Rows with these bottoms; by default each row's only positive is its own bottom."""
    count = len(bottom_ids)

    def drawn():
        return torch.randint(256, (count, 3, size, size), dtype=torch.uint8) if images else None

    return PairBatch(
        ids=[f"row{index}" for index in range(count)],
        top_ids=list(top_ids or [f"top{index}" for index in range(count)]),
        bottom_ids=list(bottom_ids),
        positives=positives or [(name,) for name in bottom_ids],
        top=drawn(),
        bottom=drawn(),
    )


def queries(batch: PairBatch) -> QueryBatch:
    return QueryBatch(ids=batch.ids, top_ids=batch.top_ids, top=batch.top)


def candidates(batch: PairBatch) -> CandidateBatch:
    return CandidateBatch(ids=batch.bottom_ids, bottom=batch.bottom)


def rolled_negatives(batch: PairBatch, rolls) -> torch.Tensor:
    """Which of the rolled bottoms are negatives of the rows' tops, (R, B)."""
    return rolled_mask(negative_mask(batch.bottom_ids, batch.positives), rolls)


class Rows(Dataset):
    def __init__(self, batch):
        self.batch = batch

    def __len__(self):
        return len(self.batch)

    def __getitem__(self, index):
        return self.batch.select([index])


class PairData(L.LightningDataModule):
    """The rows of one batch, in an order of their own in each epoch; a broken run goes on in mid-epoch."""

    def __init__(self, batch, batch_size=4):
        super().__init__()
        self.rows, self.batch_size = Rows(batch), batch_size

    def train_dataloader(self):
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        sampler = EpochSampler(self.rows, seed=3)
        return ResumableLoader(self.rows, sampler=sampler, batch_size=self.batch_size, trained=lambda: progress.current.processed)

    def val_dataloader(self):
        return Loader(self.rows, batch_size=self.batch_size)
