import pytest
import torch
from lightning.fabric.utilities import move_data_to_device

from fashiongen.batches import TryOffBatch, to_float, to_uint8


def sample(name: str, **fields) -> TryOffBatch:
    defaults = {
        "person": torch.randint(256, (1, 3, 8, 6), dtype=torch.uint8),
        "mask": torch.ones(1, 1, 8, 6, dtype=torch.bool),
        "category": ["upper"],
        "garment": torch.randint(256, (1, 3, 8, 6), dtype=torch.uint8),
    }
    return TryOffBatch(ids=[name], **{**defaults, **fields})


def test_collating_concatenates_samples():
    samples = [sample("a"), sample("b"), sample("c")]
    batch = TryOffBatch.collate(samples)
    assert (len(batch), batch.ids, batch.parse) == (3, ["a", "b", "c"], None)
    assert torch.equal(batch.person[1], samples[1].person[0])
    again = batch.select([2, 0])
    assert again.ids == ["c", "a"]
    assert torch.equal(again.garment[1], samples[0].garment[0])


def test_a_field_absent_in_some_samples_is_an_error():
    with pytest.raises(ValueError, match="'garment'"):
        TryOffBatch.collate([sample("a"), sample("b", garment=None)])


def test_without_target_hides_every_target():
    hidden = sample("a", garment_mask=torch.ones(1, 1, 8, 6, dtype=torch.bool)).without_target()
    assert hidden.garment is None and hidden.garment_mask is None
    assert hidden.person is not None


def test_what_is_encoded_goes_with_its_sample_and_is_hidden_from_what_is_judged():
    kinds = [{"one": torch.full((1, 2), float(index)), "two": torch.zeros(1, 3)} for index in range(3)]
    batch = TryOffBatch.collate([sample(str(index), encoded=encoded) for index, encoded in enumerate(kinds)])
    assert torch.equal(batch.encoded["one"], torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]))
    assert batch.encoded["two"].shape == (3, 3)
    assert torch.equal(batch.select([2, 0]).encoded["one"][:, 0], torch.tensor([2.0, 0.0]))
    assert batch.without_target().encoded is None
    with pytest.raises(ValueError, match=r"'encoded\[two\]' is present in some"):
        TryOffBatch.collate([sample("a", encoded=kinds[0]), sample("b", encoded={"one": kinds[1]["one"]})])
    with pytest.raises(ValueError, match="'encoded' is present in some"):
        TryOffBatch.collate([sample("a", encoded=kinds[0]), sample("b")])


def test_lightning_can_move_it():
    moved = move_data_to_device(sample("a", encoded={"one": torch.zeros(1, 2)}), torch.device("meta"))
    assert moved.encoded["one"].device.type == "meta"
    assert isinstance(moved, TryOffBatch)
    assert moved.person.device.type == "meta"
    assert moved.ids == ["a"]


def test_pixels_survive_the_way_to_float_and_back():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(to_uint8(to_float(images)), images)
    assert to_float(images).aminmax() == (-1.0, 1.0)
    assert to_uint8(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]
