from dataclasses import dataclass

import pytest
import torch

from fashiongen import tasks
from fashiongen.batches import Batch, TryOffBatch


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


def test_the_exact_batch_type_selects_the_verb_and_targets_are_hidden():
    assert tasks.supported(Peeks) == ["vtoff"]
    assert tasks.supported(object) == []
    assert torch.equal(tasks.run(Peeks(), BATCH), BATCH.person)
    with pytest.raises(TypeError, match="no task takes a Other"):
        tasks.run(Peeks(), Other(**vars(BATCH)))
    with pytest.raises(TypeError, match="no task takes a Batch"):
        tasks.run(Peeks(), Batch(ids=["a"]))


def test_a_method_without_the_verb_is_named():
    with pytest.raises(TypeError, match=r"object cannot do the task 'vtoff'.*take_off"):
        tasks.run(object(), BATCH)


def test_abilities_are_protocols():
    assert isinstance(Peeks(), tasks.TASKS["vtoff"].ability)
    assert not isinstance(object(), tasks.TASKS["vtoff"].ability)
