from dataclasses import dataclass

import pytest
import torch
from lightning.fabric.utilities import move_data_to_device

from fashiongen.batches import Batch, Ragged, TryOffBatch, to_float, to_uint8


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


@dataclass(kw_only=True)
class Outfits(Batch):
    """What outfits will need: items per outfit, and per user a history per category."""

    images: Ragged
    names: Ragged
    history: dict[str, Ragged]
    nested: Ragged


def outfit(name: str, items: list[int], shoes: list[str], wardrobe: list[list[int]]) -> Outfits:
    return Outfits(
        ids=[name],
        images=Ragged.of([torch.tensor(items, dtype=torch.float32).reshape(-1, 1, 1, 1).expand(-1, 3, 4, 4)]),
        names=Ragged.of([[f"{name}{item}" for item in items]]),
        history={"shoes": Ragged.of([shoes])},
        nested=Ragged.of([Ragged.of([torch.tensor(row, dtype=torch.int64) for row in wardrobe])]),
    )


SAMPLES = [outfit("a", [1, 2], ["x"], [[1], [2, 3]]), outfit("b", [], [], []), outfit("c", [3, 4, 5], ["y", "z"], [[], [4], [5, 6, 7]])]


def as_lists(ragged: Ragged) -> list:
    rows = [ragged[index] for index in range(len(ragged))]
    return [as_lists(row) if isinstance(row, Ragged) else row.tolist() if isinstance(row, torch.Tensor) else row for row in rows]


def test_ragged_fields_are_collated_and_selected():
    batch = Outfits.collate(SAMPLES)
    assert batch.images.values.shape == (5, 3, 4, 4) and batch.images.offsets.tolist() == [0, 2, 2, 5]
    assert [row[:, 0, 0, 0].tolist() for row in (batch.images[0], batch.images[1], batch.images[2])] == [[1, 2], [], [3, 4, 5]]
    assert as_lists(batch.names) == [["a1", "a2"], [], ["c3", "c4", "c5"]]
    assert as_lists(batch.history["shoes"]) == [["x"], [], ["y", "z"]]
    assert as_lists(batch.nested) == [[[1], [2, 3]], [], [[], [4], [5, 6, 7]]]
    assert batch.images.row_of.tolist() == [0, 0, 2, 2, 2] and batch.images.lengths.tolist() == [2, 0, 3]
    again = batch.select([2, 1, 0, 2])
    assert again.ids == ["c", "b", "a", "c"]
    assert as_lists(again.nested) == [[[], [4], [5, 6, 7]], [], [[1], [2, 3]], [[], [4], [5, 6, 7]]]
    assert as_lists(again.names) == [["c3", "c4", "c5"], [], ["a1", "a2"], ["c3", "c4", "c5"]]
    # Collating what was selected one by one gives the whole again.
    parts = Outfits.collate([batch.select([index]) for index in range(3)])
    assert torch.equal(parts.images.values, batch.images.values) and as_lists(parts.nested) == as_lists(batch.nested)


def test_a_ragged_row_out_of_range_is_an_error():
    rows = Ragged.of([[1], [2, 3]])
    assert rows[-1] == [2, 3] and len(rows) == 2 and len(Ragged.of([])) == 0
    with pytest.raises(IndexError, match="row 2 of 2"):
        rows[2]
    assert [row for row in rows] == [[1], [2, 3]]


def test_negative_rows_count_from_the_end_as_in_tensors_and_lists():
    batch = Outfits.collate(SAMPLES)
    last = batch.select([-1, -3])
    assert last.ids == ["c", "a"] and as_lists(last.names) == [["c3", "c4", "c5"], ["a1", "a2"]]
    assert as_lists(last.nested) == [[[], [4], [5, 6, 7]], [[1], [2, 3]]]
    for wrong in ([3], [0, -4]):
        with pytest.raises(IndexError, match="of 3"):
            batch.names.select(wrong)
    assert len(batch.names.select([])) == 0


def test_rows_keep_their_type_and_device():
    with pytest.raises(TypeError, match=r"torch.float32 and torch.int64"):
        Ragged.of([torch.tensor([2**24 + 1]), torch.tensor([])])
    on_device = Ragged.of([torch.zeros(2, 3, device="meta"), torch.zeros(0, 3, device="meta")])
    assert on_device.offsets.device.type == "meta"
    assert Ragged.of([on_device]).offsets.device.type == "meta"


def test_a_ragged_field_absent_in_some_samples_is_an_error():
    broken = outfit("d", [1], [], [])
    broken.names = None
    with pytest.raises(ValueError, match="'names' is present in some"):
        Outfits.collate([SAMPLES[0], broken])


def test_lightning_moves_and_pins_ragged_fields():
    batch = Outfits.collate(SAMPLES)
    moved = move_data_to_device(batch, torch.device("meta"))
    assert isinstance(moved.images, Ragged) and moved.images.values.device.type == moved.images.offsets.device.type == "meta"
    assert moved.nested.values.values.device.type == "meta" and moved.names.values == batch.names.values
    if torch.cuda.is_available():
        pinned = batch.pin_memory()
        assert pinned.images.values.is_pinned() and pinned.nested.values.offsets.is_pinned()
