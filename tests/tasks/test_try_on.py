"""The task of virtual try-on: clusters, pasting into the photo, and its baselines."""

import pytest
import torch

from fashiongen.batches import TryOnBatch, to_float
from fashiongen.errors import UserError
from fashiongen.methods.baselines import Agnostic, PasteGarment
from fashiongen.metrics import DISTS, LPIPS, AttributeAgreement
from fashiongen.tasks import Protocol, find, run
from fashiongen.tasks.one_image import paste

H, W = 64, 48


def batch(count=3):
    generator = torch.Generator().manual_seed(0)
    person, garment = (torch.randint(0, 256, (count, 3, H, W), generator=generator, dtype=torch.uint8) for _ in range(2))
    mask = torch.zeros(count, 1, H, W, dtype=torch.bool)
    mask[:, :, 16:48, 12:36] = True
    agnostic = person.masked_fill(mask, 128)
    return TryOnBatch(
        ids=[*map(str, range(count))], agnostic=agnostic, mask=mask, garment=garment, category=["upper"] * count, person=person
    )


def test_a_pasted_prediction_shows_the_photo_outside_of_the_mask_alone():
    sample, prediction = batch(), torch.rand(3, 3, H, W) * 2 - 1
    photo = to_float(sample.agnostic).masked_fill(sample.mask, torch.nan)  # not read inside
    hard = paste(prediction, photo, sample.mask, "hard")
    assert torch.equal(hard, torch.where(sample.mask, prediction, to_float(sample.person)))
    soft = paste(prediction, photo, sample.mask, "soft")
    assert torch.equal(soft[..., 16:48, 12:36], prediction[..., 16:48, 12:36]) and soft.isfinite().all()
    edge, far = (0, 0, 15, 20), (0, 0, 2, 2)
    weight = (soft - to_float(sample.person))[edge] / (prediction - to_float(sample.person))[edge]
    assert 0.1 < weight < 0.9 and soft[far] == pytest.approx(to_float(sample.person)[far].item(), abs=1e-3)


def test_the_protocol_says_whether_predictions_are_pasted():
    task, sample = find("vton")(), batch()
    prediction = -torch.ones(3, 3, H, W)
    scores = {}
    for repaint in (None, "hard"):
        metric = LPIPS(extractor="tiny")
        protocol = Protocol(name="p", metrics={"lpips": metric}, repaint=repaint)
        task.update(None, task.check_prediction(None, prediction, sample), sample, protocol)
        scores[repaint] = metric.compute()
    assert scores["hard"] < scores[None]
    with pytest.raises(UserError, match=r"evaluate.repaint=hard: a vtoff has no photo to paste its predictions into: leave it out"):
        find("vtoff")().check_data(None, Protocol(name="p", metrics={}, repaint="hard"))


def test_samples_share_a_garment_or_a_person():
    sample = batch()
    sample.garment[1] = sample.garment[0]
    sample.agnostic[2] = sample.agnostic[1]
    keys = find("vton")().shared_keys(sample)
    assert keys[0][0] == keys[1][0] != keys[2][0] and keys[1][1] == keys[2][1] != keys[0][1]


def test_the_metrics_inside_the_mask_do_not_see_what_is_outside():
    sample = batch()
    truth = sample.person.float() / 255
    inside = torch.where(sample.mask, truth, torch.rand_like(truth))
    outside = torch.where(sample.mask, torch.rand_like(truth), truth)
    for metric in (
        LPIPS(extractor="tiny", region="foreground"),
        DISTS(extractor="tiny", region="foreground"),
        AttributeAgreement(extractor="tiny-classifier", region="foreground"),
    ):
        best = 1.0 if metric.higher_is_better else 0.0
        metric.update(inside, truth, sample.mask)
        assert metric.values().tolist() == pytest.approx([best] * 3, abs=1e-6)
        metric.reset()
        metric.update(outside, truth, sample.mask)
        assert abs(metric.compute() - best) > 0.01
        with pytest.raises(UserError, match="needs a mask"):
            metric.update(outside, truth)


def test_the_shop_image_is_stretched_into_the_mask():
    sample = batch()
    sample.garment[:] = torch.linspace(0, 255, W).round().to(torch.uint8)
    pasted = run(PasteGarment(), sample)
    inside = pasted[..., 16:48, 12:36]
    expected = torch.linspace(-1, 1, W).reshape(24, 2).mean(dim=1)  # half as wide: two columns each
    assert torch.allclose(inside, expected.expand_as(inside), atol=0.02)
    outside = ~sample.mask.expand_as(pasted)
    assert torch.equal(pasted[outside], to_float(sample.person)[outside])
    assert torch.equal(run(Agnostic(), sample), to_float(sample.agnostic))


def test_no_truth_reaches_a_baseline():
    sample = batch()
    for method in (PasteGarment(), Agnostic()):
        assert torch.equal(run(method, sample), method.try_on(find("vton").spoil_truth(sample)))
