import pytest
import torch
from torch import Tensor

from fashiongen.batches import TryOffBatch, to_float
from fashiongen.errors import UserError
from fashiongen.methods.baselines import MaskedCrop, MeanGarment, NearestGarment, White


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
