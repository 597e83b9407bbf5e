"""The contract of every DataModule. A test class inherits `DataContract` and provides the fixture `make`."""

import json
from dataclasses import fields

import pytest
import torch
from torch import Tensor

from fashiongen import tasks
from fashiongen.batches import Batch, Ragged
from fashiongen.data import FashionData
from fashiongen.errors import UserError

STAGES = ("fit", "validate", "test", "predict")
TRAINED = ("train", "val")


def same(one, other):
    """Return whether two values of a batch's field are equal."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, Ragged):
        return same(one.values, other.values) and same(one.offsets, other.offsets)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    return one == other


def equal(batches, others):
    """Return whether two passes gave the same batches in the same order."""
    return len(batches) == len(others) and all(
        type(one) is type(other) and all(same(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))
        for one, other in zip(batches, others, strict=True)
    )


def loaders_of(data, stage):
    """The loaders of a stage."""
    if stage == "fit":
        return [data.train_dataloader()]
    found = {"validate": data.val_dataloader, "test": data.test_dataloader, "predict": data.predict_dataloader}[stage]()
    return found if isinstance(found, list) else [found]


class DataContract:
    """Inherit it, and give the fixture `make`: a function that builds the DataModule, small, with further options of its constructor."""

    def stages(self, make):
        """For each stage, a DataModule that is set up for it; a stage that the dataset does not support is a one-line error."""
        ready = {}
        for stage in STAGES:
            data = make()
            data.prepare_data()
            try:
                data.setup(stage)
            except UserError as error:
                assert "\n" not in str(error)
            else:
                ready[stage] = data
        assert {"test", "predict"} & ready.keys()
        return ready

    def test_it_describes_itself(self, make):
        assert isinstance(make(), FashionData)
        for data in self.stages(make).values():
            assert data.name and isinstance(data.split, str) and isinstance(data.offers, frozenset) and data.split in data.datasets
            assert data.task in tasks.known() and data.eval_batch_size >= 1 and data.num_workers >= 0
            described = json.loads(json.dumps(data.describe()))
            assert described["name"] == data.name and described["offers"] == sorted(data.offers)

    def test_each_stage_gives_batches_with_unique_ids(self, make):
        for stage, data in self.stages(make).items():
            for loader in loaders_of(data, stage):
                batches = list(loader)
                assert batches and all(isinstance(batch, Batch) for batch in batches)
                ids = [id_ for batch in batches for id_ in batch.ids]
                assert len(set(ids)) == len(ids)
                if stage in ("test", "predict"):
                    assert {type(batch) for batch in batches} == {tasks.find(data.task).batch}
                    assert len(ids) == len(data.datasets[data.split])
                    if stage == "test":
                        named = data.sample_names()
                        assert list(named) == ids and all(name for roles in named.values() for name in roles.values())
                    assert max(map(len, batches)) <= data.eval_batch_size

    def test_what_it_offers_is_in_every_batch_and_nothing_else(self, make):
        """Fields that a dataset may lack are those with a default; `images` and the like are no field's name."""
        for stage, data in self.stages(make).items():
            for batch in (batch for loader in loaders_of(data, stage) for batch in loader):
                for field in fields(batch):
                    value = getattr(batch, field.name)
                    if field.name in data.offers:
                        assert value is not None, field.name
                    elif isinstance(value, Tensor) and field.name in self.optional(batch):
                        raise AssertionError(f"{field.name} is not offered")

    def optional(self, batch):
        """The fields of a batch that a method may ask for by name, where a dataset has them; those of the retrieval tasks are `images`."""
        return {field.name for field in fields(batch) if field.default is None} - {"encoded", "skipped", "top", "bottom"}

    def test_order_and_samples_are_the_same_each_time(self, make):
        for stage, data in self.stages(make).items():
            again = make()
            again.setup(stage)
            for one, other in zip(loaders_of(data, stage), loaders_of(again, stage), strict=True):
                first = list(one)
                assert equal(first, list(other))
                if stage == "fit":
                    one.sampler.set_epoch(1)
                    later = list(one)
                    assert [batch.ids for batch in later] != [batch.ids for batch in first]

    def test_workers_change_nothing(self, make):
        stage, data = next(iter(self.stages(make).items()))
        spread = make(num_workers=2)
        spread.setup(stage)
        for one, other in zip(loaders_of(data, stage), loaders_of(spread, stage), strict=True):
            assert equal(list(one), list(other))

    def test_batches_can_be_pinned_split_and_put_together(self, make, monkeypatch):
        monkeypatch.setattr(Tensor, "pin_memory", lambda self, *args: self.clone())  # it needs a GPU
        stage, data = next(iter(self.stages(make).items()))
        batch = next(iter(loaders_of(data, stage)[0]))
        assert equal([batch.pin_memory()], [batch])
        parts = [batch.select([index]) for index in range(len(batch))]
        assert equal([type(batch).collate(parts)], [batch])
        hidden = batch.without_target()
        assert all(getattr(hidden, target) is None for target in batch.TARGETS)

    def test_the_fingerprint_is_of_the_data_and_not_of_the_settings(self, make):
        for stage, data in self.stages(make).items():
            again = make(eval_batch_size=1)
            again.setup(stage)
            assert data.fingerprint() == again.fingerprint() == data.fingerprint() and data.fingerprint()

    def test_true_images_are_found_or_refused(self, make):
        data = next(iter(self.stages(make).values()))
        for part in ("garment", "person", "nonsense"):
            try:
                images = data.images_of(data.split, part)
            except UserError as error:
                assert "\n" not in str(error)
            else:
                assert part != "nonsense" and len(images) == len(data.datasets[data.split])
                assert images[0].dtype == torch.uint8 and images[0].shape == (3, *data.size) and images.fingerprint()


class FolderContract(DataContract):
    """Of a dataset in a folder, the fixture `make` takes `root` too, and the fixture `changeable` is a copy that a test may change."""

    def test_a_changed_file_changes_the_fingerprint(self, make, changeable):
        stage = next(iter(self.stages(make)))
        data = make(root=str(changeable))
        data.setup(stage)
        before = data.fingerprint()
        files = [path for path in sorted(changeable.rglob("*")) if path.is_file() and path.suffix in (".jpg", ".png")]
        for path in files:
            with path.open("ab") as file:
                file.write(b"\0")
        again = make(root=str(changeable))
        again.setup(stage)
        assert again.fingerprint() != before

    def test_the_check_finds_the_folder_usable(self, make, changeable):
        report = type(make()).check(changeable)
        assert report.usable and not report.findings
        assert report.lines()[-1] == f"{report.layout} at {changeable}: usable" and json.loads(report.as_json())["usable"]

    @pytest.mark.parametrize("task", [*tasks.known(), "nonsense"])
    def test_the_task_is_honoured(self, make, task):
        """A dataset of several tasks gives the batches of the one that is asked for, or refuses it in one line."""
        try:
            data = make(task=task)
        except TypeError:  # it supports one task, and has no such option
            assert make().task in tasks.known()
            return
        except UserError as error:
            assert "\n" not in str(error) and task != make().task
            return
        stage, data = next(iter(self.stages(lambda **options: make(task=task, **options)).items()))
        assert data.task == task and all(type(batch) is tasks.find(task).batch for batch in loaders_of(data, stage)[0])
