"""Order, sharding and resuming, the last with Lightning's Trainer."""

import warnings

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn
from torch.utils.data import Dataset

from fashiongen.batches import TryOffBatch
from fashiongen.data.loading import EpochSampler, Loader, ResumableLoader, ShardSampler, permutation
from fashiongen.errors import UserError

N, BATCH = 23, 4
STEPS = N // BATCH


class Numbers(Dataset):
    """Sample i is an image whose every value is i; reading is counted in this process."""

    def __init__(self, length=N, broken=None):
        self.length, self.broken, self.read = length, broken, []

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index == self.broken:
            raise UserError(f"sample {index} is broken: fix it")
        self.read.append(index)
        person = torch.full((1, 3, 2, 2), index, dtype=torch.uint8)
        return TryOffBatch(ids=[str(index)], person=person, mask=person[:, :1] > 0, category=["upper"])


class Remembers(L.LightningModule):
    """Learns from the order: each step's gradient depends on the batch and on the weight before."""

    def __init__(self, stop_at=None, epochs_scheduler=False):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen, self.epochs, self.stop_at = [], [], stop_at

    def training_step(self, batch, batch_idx):
        if self.stop_at == (self.current_epoch, batch_idx):
            raise RuntimeError("out of memory, say")
        self.seen.append(list(batch.ids))
        self.epochs.append(self.current_epoch)
        return (self.weight * batch.person.float().mean() / 10 - batch_idx).square()

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.02)


class Data(L.LightningDataModule):
    def __init__(self, workers=0, batch=BATCH, length=N):
        super().__init__()
        self.dataset, self.workers, self.batch = Numbers(length), workers, batch

    def train_dataloader(self):
        loop = self.trainer.fit_loop.epoch_loop
        return ResumableLoader(
            self.dataset,
            sampler=EpochSampler(self.dataset, seed=3),
            batch_size=self.batch,
            trained=lambda: loop.batch_progress.current.processed,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
        )

    def val_dataloader(self):
        return Loader(self.dataset, sampler=ShardSampler(self.dataset), batch_size=5)


def fit(tmp_path, module, data=None, ckpt=None, callbacks=(), **options):
    torch.manual_seed(0)
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        callbacks=list(callbacks), enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        **{"max_epochs": 3, "limit_val_batches": 0, **options},
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, data or Data(), ckpt_path=ckpt)
    return module


def whole_run(tmp_path, **options):
    return fit(tmp_path / "whole", Remembers(), **options)


def test_orders_differ_by_epoch_and_by_seed_and_cover_everything():
    orders = {(seed, epoch): permutation(50, seed, epoch) for seed in range(3) for epoch in range(3)}
    assert all(sorted(order) == list(range(50)) for order in orders.values())
    assert len({tuple(order) for order in orders.values()}) == 9
    assert orders[0, 1] == permutation(50, 0, 1)


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_each_step_of_the_single_process_order(world):
    dataset = Numbers()
    single = ResumableLoader(dataset, sampler=EpochSampler(dataset, seed=1), batch_size=2 * world)
    shards = [
        ResumableLoader(dataset, sampler=EpochSampler(dataset, seed=1, num_replicas=world, rank=rank), batch_size=2)
        for rank in range(world)
    ]
    steps = list(zip(*shards, strict=True))
    assert len(steps) == N // (2 * world) == len(list(single))
    for whole, parts in zip(single, steps, strict=True):
        assert sorted(whole.ids) == sorted(id_ for part in parts for id_ in part.ids)


@pytest.mark.parametrize("block", [1, BATCH, N + 1])
@pytest.mark.parametrize("world", [1, 2, 5, 30])
def test_evaluation_yields_each_sample_exactly_once(world, block):
    dataset = Numbers()
    samplers = [ShardSampler(dataset, num_replicas=world, rank=rank, block=block) for rank in range(world)]
    assert sorted(index for sampler in samplers for index in sampler) == list(range(N))
    assert [len(sampler) for sampler in samplers] == [len(list(sampler)) for sampler in samplers]


def test_processes_run_the_batches_that_a_single_one_would():
    dataset = Numbers()

    def batches(world, rank):
        sampler = ShardSampler(dataset, num_replicas=world, rank=rank, block=BATCH)
        return [tuple(batch.ids) for batch in Loader(dataset, sampler=sampler, batch_size=BATCH)]

    assert sorted(batches(1, 0)) == sorted(batch for rank in range(3) for batch in batches(3, rank))


def test_a_share_of_an_empty_dataset_has_a_length_but_no_batch():
    dataset = Numbers(2)
    loader = Loader(dataset, sampler=ShardSampler(dataset, num_replicas=3, rank=2), batch_size=1)
    assert (len(loader), list(loader)) == (1, [])
    nothing = Numbers(0)
    assert len(Loader(nothing, sampler=ShardSampler(nothing), batch_size=1)) == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_state_counts_what_was_handed_out_and_skipping_reads_nothing(workers):
    dataset = Numbers()

    def loader():
        return ResumableLoader(dataset, sampler=EpochSampler(dataset, seed=5), batch_size=BATCH, num_workers=workers)

    first = loader()
    first.sampler.set_epoch(2)
    batches = [batch.ids for batch in first]
    iterator = iter(first)
    assert [next(iterator).ids for _ in range(2)] == batches[:2]
    state = first.state_dict()
    assert (state["epoch"], state["batches"]) == (2, 2)

    dataset.read.clear()
    again = loader()
    again.load_state_dict(state)
    assert again.state_dict() == state
    assert [batch.ids for batch in again] == batches[2:]
    if workers == 0:
        assert [str(index) for index in dataset.read] == [id_ for batch in batches[2:] for id_ in batch]
    assert len(again) == STEPS
    # Lightning tells the sampler the next epoch before it asks for a batch of it.
    again.sampler.set_epoch(3)
    assert (again.state_dict()["epoch"], again.state_dict()["batches"]) == (2, STEPS)
    assert len([batch.ids for batch in again]) == STEPS


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("every", [STEPS + 2, 2 * STEPS, 1])
def test_a_run_resumed_from_a_step_checkpoint_equals_the_unbroken_one(tmp_path, workers, every):
    """Interrupted one step after the checkpoint, which is in mid-epoch, at an epoch's last step, or at the first step."""
    if every == 1 and workers:
        pytest.skip("covered without workers")
    whole = whole_run(tmp_path, data=Data(workers))
    keeper = ModelCheckpoint(tmp_path, every_n_train_steps=every, save_last=True, save_top_k=1)
    broken = fit(tmp_path, Remembers(), Data(workers), callbacks=[keeper], max_steps=every + (0 if every == 1 else 1))
    assert broken.seen == whole.seen[: len(broken.seen)]

    resumed = fit(tmp_path, Remembers(), Data(workers), ckpt=tmp_path / "last.ckpt")
    assert resumed.seen == whole.seen[every:]
    assert resumed.epochs == whole.epochs[every:]
    assert torch.equal(resumed.weight, whole.weight)


def test_a_second_break_in_the_same_epoch_does_not_lose_the_place(tmp_path):
    whole = whole_run(tmp_path)
    fit(tmp_path, Remembers(), callbacks=[ModelCheckpoint(tmp_path / "a", every_n_train_steps=1, save_last=True)], max_steps=STEPS + 1)
    fit(
        tmp_path, Remembers(), ckpt=tmp_path / "a/last.ckpt", max_steps=STEPS + 3,
        callbacks=[ModelCheckpoint(tmp_path / "b", every_n_train_steps=1, save_last=True)],
    )  # fmt: skip
    resumed = fit(tmp_path, Remembers(), ckpt=tmp_path / "b/last.ckpt")
    assert resumed.seen == whole.seen[STEPS + 3 :]
    assert torch.equal(resumed.weight, whole.weight)


def test_resuming_between_epochs_uses_the_next_epochs_order(tmp_path):
    whole = whole_run(tmp_path)
    keeper = ModelCheckpoint(tmp_path, every_n_epochs=1, save_last=True, save_on_train_epoch_end=True)
    fit(tmp_path, Remembers(), callbacks=[keeper], max_epochs=1)
    resumed = fit(tmp_path, Remembers(), ckpt=tmp_path / "last.ckpt")
    assert resumed.seen == whole.seen[STEPS:]
    assert torch.equal(resumed.weight, whole.weight)


def test_resuming_after_a_validation_in_mid_epoch(tmp_path):
    options = {"val_check_interval": 2, "limit_val_batches": 1, "num_sanity_val_steps": 0}
    whole = whole_run(tmp_path, **options)

    class StopsAfter(Callback):
        def on_validation_end(self, trainer, pl_module):
            if trainer.global_step == STEPS + 2:
                trainer.save_checkpoint(tmp_path / "mid.ckpt")

    fit(tmp_path, Remembers(), callbacks=[StopsAfter()], **options)
    resumed = fit(tmp_path, Remembers(), ckpt=tmp_path / "mid.ckpt", **options)
    assert resumed.seen == whole.seen[STEPS + 2 :]
    assert torch.equal(resumed.weight, whole.weight)


def test_a_batch_that_failed_in_training_is_repeated(tmp_path):
    whole = whole_run(tmp_path)
    keeper = ModelCheckpoint(tmp_path, filename="broke", save_on_exception=True, save_top_k=-1)
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(tmp_path, Remembers(stop_at=(1, 2)), callbacks=[keeper])
    (checkpoint,) = (path for path in tmp_path.glob("*.ckpt") if torch.load(path, weights_only=True)["global_step"] == STEPS + 2)
    resumed = fit(tmp_path, Remembers(), ckpt=checkpoint)
    assert resumed.seen == whole.seen[STEPS + 2 :]
    assert torch.equal(resumed.weight, whole.weight)


@pytest.mark.parametrize("other", [{"batch": 2}, {"length": N + 8}])
def test_resuming_in_mid_epoch_with_another_batch_or_data_is_refused(tmp_path, other):
    fit(tmp_path, Remembers(), callbacks=[ModelCheckpoint(tmp_path, every_n_train_steps=1, save_last=True)], max_steps=2)
    with pytest.raises(UserError, match="global batches of 4") as error:
        fit(tmp_path, Remembers(), Data(**other), ckpt=tmp_path / "last.ckpt")
    assert "\n" not in str(error.value)


def test_overfit_batches_still_works(tmp_path):
    module = fit(tmp_path, Remembers(), overfit_batches=2, max_epochs=2)
    assert module.seen == 2 * [["0", "1", "2", "3"], ["4", "5", "6", "7"]]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_workers_user_error_stays_one_line(workers):
    dataset = Numbers(broken=7)
    with pytest.raises(UserError) as error:
        list(Loader(dataset, sampler=ShardSampler(dataset), batch_size=3, num_workers=workers))
    assert str(error.value) == "sample 7 is broken: fix it"
