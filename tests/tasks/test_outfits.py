"""Outfits for a person: what a method may see, what its result must be, and how results are kept, shown and compared."""

from types import SimpleNamespace

import pytest
import torch
from drawn_outfits import SIZE, outfit_batch

from fashiongen import tasks
from fashiongen.batches import Ragged, TryOffBatch, to_float, to_uint8
from fashiongen.errors import UserError
from fashiongen.outfit_batches import ComposeBatch, FillBlankBatch, Generated
from fashiongen.tasks import Protocol
from fashiongen.tasks.outfits import compare_outfits

HEIGHT, WIDTH = SIZE


class Files:
    """Predictions as if written to files."""

    def __init__(self, images, broken=()):
        self._images, self._broken = dict(images), broken

    def images(self, names):
        return torch.stack([to_uint8(self._images[name]) for name in names])

    def not_finite(self, names):
        return torch.tensor([name in self._broken for name in names])


class Filler:
    """A method that returns what it is given."""

    name = "filler"
    draws = 2


def generated(batch, draws=2):
    torch.manual_seed(0)
    return Generated(images=torch.rand(draws, len(batch.blank_slots()), 3, *SIZE) * 2 - 1)


@pytest.fixture(params=["pfitb", "gor"])
def batch(request):
    return outfit_batch(task=request.param)


def test_the_batch_s_type_selects_the_task():
    assert tasks.task_of(outfit_batch(task="pfitb")).name == "pfitb" and tasks.task_of(outfit_batch(task="gor")).name == "gor"
    assert FillBlankBatch.TARGETS == ComposeBatch.TARGETS


def test_a_method_sees_no_truth(batch):
    seen = batch.without_target()
    assert all(getattr(seen, name) is None for name in batch.TARGETS)
    hidden = seen.blank.values
    assert (seen.images.values[hidden] == 255).all() and not (batch.true_images.values[hidden] == 255).all()
    assert [id_ == "" for id_ in seen.items.values] == hidden.tolist()


def test_a_result_has_an_image_for_each_blank_and_draw(batch):
    task, result = tasks.task_of(batch)(), generated(batch)
    assert torch.equal(task.check_prediction(Filler(), result, batch).images, result.images)
    for wrong in (result.images, Generated(images=result.images[:, 1:]), Generated(images=result.images[:1])):
        with pytest.raises(TypeError, match="Filler"):
            task.check_prediction(Filler(), wrong, batch)
    with pytest.raises(TypeError, match="captions"):
        task.check_prediction(Filler(), Generated(images=result.images, captions=[["{}"]] * 2), batch)


def test_a_protocol_states_the_number_of_draws(batch):
    task, method = tasks.task_of(batch)(), Filler()
    task.start(None, method, Protocol(name="p", metrics={}, draws=5))
    assert method.draws == 5
    with pytest.raises(TypeError, match="must return images"):
        task.check_prediction(method, generated(batch, draws=2), batch)
    with pytest.raises(UserError, match="no attribute `draws`"):
        task.start(None, SimpleNamespace(), Protocol(name="p", metrics={}, draws=5))
    with pytest.raises(UserError, match=r"evaluate\.draws"):
        tasks.find("vtoff")().applied(SimpleNamespace(), Protocol(name="p", metrics={}, draws=5))
    assert tasks.task_of(batch)().applied(SimpleNamespace(), Protocol(name="p", metrics={}, draws=5)).draws == 5


def test_what_is_kept_is_read_again(batch):
    task, result = tasks.task_of(batch)(), generated(batch)
    kept = task.images(result, batch)
    assert [name for name, _ in kept] == batch.ids
    blanks = batch.blank.lengths if batch.blank.values.all() else torch.ones(3, dtype=torch.int64)
    assert [image.shape[2] for _, image in kept] == (2 * blanks * WIDTH).tolist()
    task.draws = 2
    read = task.read_prediction(Files(kept), batch)
    assert read.images.shape == result.images.shape and (read.images - result.images).abs().max() <= 1 / 255 + 1e-6
    broken = task.read_prediction(Files(kept, [batch.ids[1]]), batch)
    lost = broken.images.isnan().flatten(2).all(dim=2).all(dim=0)
    assert torch.equal(lost, batch.blank_samples() == 1) and broken.images[:, ~lost].isfinite().all()


def test_files_of_another_size_or_number_of_draws_are_told(batch):
    task, kept = tasks.task_of(batch)(), tasks.task_of(batch)().images(generated(batch), batch)
    task.draws = None
    with pytest.raises(UserError, match="side by side"):
        task.read_prediction(Files([(name, image[:, :, :-1]) for name, image in kept]), batch)
    task.draws = 3
    with pytest.raises(UserError, match="hold 2 draws of each blank, the protocol wants 3"):
        task.read_prediction(Files(kept), batch)


def test_metrics_see_the_completed_outfits():
    batch = outfit_batch(task="pfitb")
    completed = compare_outfits(generated(batch), batch)
    assert completed.sample.tolist() == [0, 1, 2] and completed.slot.tolist() == [0, 1, 2] and completed.n_samples == 3
    assert completed.category == [batch.category[row][row] for row in range(3)]
    assert completed.given.lengths.tolist() == [3, 3, 3] and completed.history.lengths.tolist() == [2, 0, 1]
    for row in range(3):
        others = [slot for slot in range(4) if slot != row]
        torch.testing.assert_close(completed.given[row], batch.true_images[row][others].float() / 255)
        torch.testing.assert_close(completed.truth[row], batch.true_images[row][row].float() / 255)
        assert completed.attributes[row]["category"] == completed.category[row]
    values = torch.tensor([[1.0, 2.0, torch.nan], [3.0, 4.0, 5.0]])
    means, defined = completed.per_sample(values)
    assert means[:2].tolist() == [2.0, 3.0] and means[2].isnan() and defined.all()
    means, defined = completed.per_sample(values, torch.tensor([True, False, True]))
    assert defined.tolist() == [True, False, True]


def test_an_outfit_recommendation_has_no_given_items():
    batch = outfit_batch(task="gor")
    completed = compare_outfits(generated(batch), batch)
    assert completed.given.lengths.tolist() == [0, 0, 0] and completed.sample.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert completed.slot.tolist() == [0, 1, 2, 3] * 3 and completed.images.shape == (2, 12, 3, *SIZE)


def test_validation_and_gallery_show_whole_outfits(batch):
    task, result = tasks.task_of(batch)(), generated(batch)
    row = task.gallery_rows(result, batch, [1])[0]
    assert set(row.images) == {task.prediction, *task.gallery} and row.id == batch.ids[1]
    shown = row.images["outfit"].unflatten(2, (4, WIDTH)).permute(2, 0, 1, 3)
    blank = batch.blank[1]
    assert torch.equal(shown[~blank], batch.images[1][~blank])
    assert torch.equal(shown[blank], to_uint8(result.images[0][batch.blank_samples() == 1]))
    assert [image.shape for _, image in task.sheets(result, batch)] == [(3, 3 * HEIGHT, 4 * WIDTH)] * 3  # the history and two draws


def test_captions_are_named_by_sample_slot_and_draw():
    batch = outfit_batch(task="pfitb")
    result = Generated(images=generated(batch).images, captions=[["a", "b", "c"], ["d", "e", "f"]])
    lines = tasks.task_of(batch)().captions(result, batch)
    assert lines[1] == {"id": batch.ids[1], "draw": 0, "slot": 1, "caption": "b"} and lines[5]["draw"] == 1 and len(lines) == 6


def test_a_copy_of_an_input_is_found():
    batch = outfit_batch(task="pfitb")
    task, result = tasks.task_of(batch)(), generated(batch)
    result.images[1, 0] = to_float(batch.images[0][2])
    result.images[0, 2] = to_float(batch.history[2][2][0])
    result.images[0, 1] = to_float(batch.true_images[1][1])
    distances = task.distances_to_inputs(result, batch)
    assert [value == 0 for value in distances["a given item"].tolist()] == [True, False, False]
    assert [value == 0 for value in distances["an item of the history"].tolist()] == [False, False, True]
    assert distances["an item of the history"][1] == torch.inf  # there is none
    assert [value == 0 for value in distances["the true image"].tolist()] == [False, True, False]


def test_samples_of_a_user_are_one_cluster():
    batch = outfit_batch(task="pfitb")
    keys = tasks.task_of(batch)().shared_keys(batch)
    assert keys[0][0] == keys[2][0] != keys[1][0] and len({key[1] for key in keys}) == 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"repaint": "hard"}, "evaluate.repaint"),
        ({"reference": SimpleNamespace()}, "evaluate.reference"),
        ({"size": (32, 32)}, "data.init_args.size"),
        ({"metrics": {"lpips": SimpleNamespace(pairs=True)}}, "one image per sample"),
        ({"metrics": {"per": SimpleNamespace(of_outfits=True, reads=frozenset({"history"}))}}, "needs history"),
    ],
)
def test_a_protocol_that_does_not_fit_is_told_before_any_work(changed, message):
    data = SimpleNamespace(name="toys", offers=frozenset({"images"}), size=SIZE)
    task = tasks.find("pfitb")()
    task.check_data(data, Protocol(name="p", metrics={"fid": SimpleNamespace(pairs=False)}, size=SIZE))
    with pytest.raises(UserError, match=message):
        task.check_data(data, Protocol(**{"name": "p", "metrics": {}, **changed}))
    with pytest.raises(UserError, match=r"images=true"):
        task.check_data(SimpleNamespace(name="toys", offers=frozenset(), size=None), Protocol(name="p", metrics={}))


def test_outfits_of_different_lengths_share_a_batch():
    first, second = outfit_batch(1), outfit_batch(2)
    longer = Ragged.of([torch.cat([first.images[0], first.images[0]])])
    assert len(Ragged.concatenate([longer, second.images])) == 3 and not hasattr(TryOffBatch, "blank")
