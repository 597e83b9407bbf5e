from dataclasses import dataclass

import pytest
import torch

from fashiongen import tasks
from fashiongen.batches import Batch, Ragged, TryOffBatch
from fashiongen.errors import UserError


class Peeks:
    def take_off(self, batch):
        assert batch.garment is None
        return batch.person


@dataclass(kw_only=True)
class Other(TryOffBatch):
    pass


BATCH = TryOffBatch(
    ids=["a"],
    person=torch.zeros(1, 3, 4, 4),
    mask=torch.ones(1, 1, 4, 4, dtype=torch.bool),
    category=["upper"],
    garment=torch.ones(1, 3, 4, 4),
)


def test_the_exact_batch_type_selects_the_method_and_targets_are_hidden():
    assert tasks.supported(Peeks) == ["vtoff"]
    assert tasks.supported(object) == []
    assert torch.equal(tasks.run(Peeks(), BATCH), BATCH.person)
    with pytest.raises(TypeError, match="no task takes a Other"):
        tasks.run(Peeks(), Other(**vars(BATCH)))
    with pytest.raises(TypeError, match="no task takes a Batch"):
        tasks.run(Peeks(), Batch(ids=["a"]))


def test_a_method_without_the_interface_is_named():
    with pytest.raises(TypeError, match=r"object does not support the task 'vtoff'.*take_off"):
        tasks.run(object(), BATCH)


def test_interfaces_are_protocols():
    assert isinstance(Peeks(), tasks.find("vtoff").interface)
    assert not isinstance(object(), tasks.find("vtoff").interface)


def test_tasks_are_found_by_name_and_by_path():
    assert {"retrieval", "vtoff"} <= set(tasks.known())
    assert tasks.find("fashiongen.tasks.try_off.TryOff") is tasks.find("vtoff") is tasks.task_of(BATCH)
    for name, words in (
        ("vtof", "choose one of .*retrieval.*vtoff"),
        ("nowhere.Task", "No module named 'nowhere'"),
        ("pathlib.Path", "unknown task"),
    ):
        with pytest.raises(UserError, match=words):
            tasks.find(name)


def test_half_an_interface_is_none():
    class Embeds:
        def embed_query(self, batch): ...

        def embed_candidate(self, batch): ...

    class Ranks(Embeds):
        def score(self, query, candidate): ...

    assert tasks.supported(Embeds) == [] and tasks.supported(Ranks) == ["retrieval"]


def test_spoiling_the_truth_leaves_the_input():
    spoiled = tasks.find("vtoff").spoil_truth(BATCH)
    assert spoiled.garment.isnan().all() and spoiled.garment_mask is None
    assert torch.equal(spoiled.person, BATCH.person) and spoiled.ids == BATCH.ids


@dataclass(kw_only=True)
class Outfits(Batch):
    TARGETS = ("images", "names", "history")
    images: Ragged
    names: Ragged
    history: dict[str, Ragged]


class Composes(tasks.Task):
    batch = Outfits


def test_ragged_targets_are_spoiled_too():
    names = Ragged.of([["top", "shoes"], []])
    batch = Outfits(
        ids=["a", "b"],
        images=Ragged.of([torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(0, 3, 4, 4, dtype=torch.uint8)]),
        names=names,
        history={"bag": Ragged.of([torch.tensor([1]), torch.tensor([2, 3])])},
    )
    spoiled = Composes.spoil_truth(batch)
    assert spoiled.images.values.isnan().all() and spoiled.history["bag"].values.isnan().all()
    assert spoiled.names.values == ["spoiled", "spoiled"] and torch.equal(spoiled.names.offsets, names.offsets)
