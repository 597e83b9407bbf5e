from types import SimpleNamespace

import lightning.pytorch as L
import pytest
import torch
from torch import Tensor

from fashiongen.batches import TryOffBatch, to_float
from fashiongen.data import VITONHD, FashionVC
from fashiongen.errors import UserError
from fashiongen.methods.baselines import MaskedCrop, MeanGarment, NearestGarment, Popularity, White
from fashiongen.methods.baselines.one_pass import OnePassMethod
from fashiongen.methods.baselines.outfits import CatalogueMethod


def batch(person: Tensor, mask: Tensor, garment: Tensor | None = None, category: str = "upper") -> TryOffBatch:
    return TryOffBatch(
        ids=[str(index) for index in range(len(person))], person=person, mask=mask, category=[category] * len(person), garment=garment
    )


@pytest.fixture
def photos():
    person = torch.randint(256, (4, 3, 16, 12), dtype=torch.uint8)
    mask = torch.zeros(4, 1, 16, 12, dtype=torch.bool)
    mask[:, :, 4:12, 2:8] = True
    return batch(person, mask, torch.randint(256, (4, 3, 16, 12), dtype=torch.uint8))


def test_white_is_white(photos):
    assert (White().take_off(photos) == 1).all()


def test_the_masked_crop_fills_the_image(photos):
    photos.mask[0] = True
    shown = MaskedCrop().take_off(photos)
    torch.testing.assert_close(shown[0], to_float(photos.person[0]))
    inside = torch.nn.functional.interpolate(to_float(photos.person[1:2, :, 4:12, 2:8]), size=(16, 12), mode="bilinear")
    assert (shown[1] - inside[0]).abs().mean() < 0.25
    hole = photos.select([2])
    hole.mask[0, 0, 5:11, 3:7] = False
    assert (MaskedCrop().take_off(hole)[0, :, 6:10, 5:7] == 1).all()


def test_the_mean_garment_is_the_mean_by_category(photos):
    method = MeanGarment(size=(16, 12))
    with pytest.raises(UserError, match="run `fit` first"):
        method.take_off(photos)
    method.training_step(photos.select([0, 1]), 0)
    method.training_step(photos.select([2]), 1)
    lower = photos.select([3])
    lower.category = ["lower"]
    method.training_step(lower, 2)
    torch.testing.assert_close(method.take_off(photos)[0], to_float(photos.garment[:3]).mean(dim=0))
    torch.testing.assert_close(method.take_off(lower)[0], to_float(photos.garment[3]))
    again = MeanGarment(size=(16, 12))
    again.load_state_dict(method.state_dict())
    assert torch.equal(again.take_off(photos), method.take_off(photos))
    full = photos.select([0])
    full.category = ["full"]
    assert (method.take_off(full) == 1).all()


@pytest.mark.parametrize(("method", "state"), [(MeanGarment(size=(16, 12)), "count"), (NearestGarment(feature_size=(8, 6)), "features")])
def test_garments_are_gathered_in_the_first_epoch_alone(photos, monkeypatch, method, state):
    for epoch, shown in enumerate((photos, photos.select([0]))):
        monkeypatch.setattr(type(method), "current_epoch", epoch)
        method.training_step(shown, 0)
        method.on_train_epoch_end()
        seen = getattr(method, state)
        assert len(photos) == (len(seen) if state == "features" else seen.sum())


def test_the_nearest_garment_is_that_of_the_same_photo(photos):
    method = NearestGarment(feature_size=(8, 6))
    with pytest.raises(UserError, match="run `fit` first"):
        method.take_off(photos)
    method.training_step(photos.select([0, 1]), 0)
    method.training_step(photos.select([2, 3]), 1)
    method.on_train_epoch_end()
    again = NearestGarment(feature_size=(8, 6))
    again.load_state_dict(method.state_dict())
    order = [2, 0, 3]
    assert torch.equal(again.take_off(photos.select(order)), to_float(photos.garment[order]))


ONE_PASS = {
    MeanGarment: lambda method: method.count.sum(),
    NearestGarment: lambda method: len(method.garments),
    Popularity: lambda method: method.counts.sum(),
}
BUILD = {MeanGarment: lambda: MeanGarment(size=(64, 48)), NearestGarment: NearestGarment, Popularity: Popularity}


def fit(method, data):
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        max_epochs=1, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(method, data)
    return method


def training_data(method, batch_size):
    if method is Popularity:
        return FashionVC("wardrobe", people=240, size=(64, 64), batch_size=batch_size, num_workers=0, images=False)
    return VITONHD("wardrobe", people=40, size=(64, 48), batch_size=batch_size, num_workers=0, validation=0)


def test_every_baseline_that_collects_is_here():
    assert set(OnePassMethod.__subclasses__()) - {CatalogueMethod} == set(ONE_PASS)  # its tests are in test_baselines_outfits.py


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize("method", ONE_PASS)
def test_every_training_sample_is_collected_whatever_the_batch_size(method, cache):
    counted = []
    for batch_size in (7, 1000):  # the last batch is incomplete; the only one is
        data = training_data(method, batch_size)
        counted.append((int(ONE_PASS[method](fit(BUILD[method](), data))), len(data.datasets["train"])))
        assert counted[-1][1] % batch_size
    print(counted)
    assert counted[0] == counted[1] and counted[0][0] == counted[0][1] > 7


def test_methods_that_learn_still_train_on_whole_batches(cache):
    """The batch's size is part of their results."""
    data = training_data(White, 7)
    data.setup("fit")
    assert {len(batch) for batch in data.train_dataloader()} == {7}


@pytest.mark.parametrize("method", ONE_PASS)
def test_training_in_several_processes_is_refused_before_they_are_set_up(method):
    collecting = BUILD[method]()
    collecting._trainer = SimpleNamespace(world_size=2)
    with pytest.raises(UserError, match=f"{method.__name__} collects from the training data in one process: add --trainer.devices 1"):
        collecting.setup("fit")
    collecting.setup("test")


def test_a_checkpoint_too_large_is_refused_at_the_first_batch(photos):
    """VITON-HD's 11,647 pairs at 1024x768 would be 27 GB."""
    method = NearestGarment()
    method._trainer = SimpleNamespace(num_training_batches=11647 // 4, current_epoch=0)
    large = photos.select([0, 1, 2, 3])
    large.garment = torch.zeros(4, 3, 1024, 768, dtype=torch.uint8)
    with pytest.raises(UserError, match=r"garments of 1024x768 would make a checkpoint of 27\.\d GB, and most_gigabytes is 4: lower data"):
        method.training_step(large, 0)
    assert not method._gathered
    NearestGarment(most_gigabytes=30.0)
