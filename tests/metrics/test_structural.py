import pytest
import torch
from torchmetrics.image import MultiScaleStructuralSimilarityIndexMeasure, StructuralSimilarityIndexMeasure

from fashiongen.errors import UserError
from fashiongen.metrics import MSSSIM, SSIM
from fashiongen.metrics.structural import BETAS, SHORTEST_SIDES, betas_for


def noisy_pair(height, width, samples=3):
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(samples, 3, height, width, generator=generator)
    return (target + 0.2 * torch.randn(target.shape, generator=generator)).clamp(0, 1), target


def test_ssim_equals_torchmetrics():
    prediction, target = noisy_pair(64, 48)
    metric, reference = SSIM(), StructuralSimilarityIndexMeasure(data_range=1.0)
    for either in (metric, reference):
        either.update(prediction, target)
    torch.testing.assert_close(metric.compute(), reference.compute(), rtol=0, atol=1e-6)


def test_ssim_of_constants_is_the_luminance_term():
    metric = SSIM()
    metric.update(torch.full((1, 3, 20, 20), 0.25), torch.full((1, 3, 20, 20), 0.75))
    assert metric.compute().item() == pytest.approx((2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4), abs=1e-3)


def test_ssim_of_the_foreground_is_the_mean_of_the_map_inside_the_mask():
    prediction, target = noisy_pair(64, 48)
    everything = torch.ones(3, 1, 64, 48, dtype=torch.bool)
    left = everything.clone()
    left[..., 24:] = False
    whole, first, second, full = SSIM(), SSIM("foreground"), SSIM("foreground"), SSIM("foreground")
    whole.update(prediction, target)
    first.update(prediction, target, left)
    second.update(prediction, target, ~left)
    full.update(prediction, target, everything)
    torch.testing.assert_close(full.values(), whole.values())
    torch.testing.assert_close((first.values() + second.values()) / 2, whole.values())
    assert not torch.allclose(first.values(), second.values())


def test_ssim_of_an_inverted_picture_is_negative():
    target = noisy_pair(64, 48)[1]
    metric = SSIM()
    metric.update(1 - target, target)
    assert -1 <= metric.compute() < -0.5


def test_ms_ssim_equals_torchmetrics():
    prediction, target = noisy_pair(192, 180)
    metric, reference = MSSSIM(), MultiScaleStructuralSimilarityIndexMeasure(data_range=1.0)
    for either in (metric, reference):
        either.update(prediction, target)
    torch.testing.assert_close(metric.compute(), reference.compute(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("side", "scales"), [(11, 1), (21, 1), (22, 2), (43, 2), (44, 3), (48, 3), (96, 3), (98, 3), (99, 4), (175, 4), (176, 5)]
)
def test_ms_ssim_takes_as_many_scales_as_fit(side, scales):
    assert len(betas_for(side)) == scales
    assert sum(betas_for(side)) == pytest.approx(1, abs=2e-4)  # the paper's five sum to 1.0001
    assert betas_for(side)[0] / betas_for(side)[-1] == pytest.approx(BETAS[0] / BETAS[scales - 1])
    prediction, target = noisy_pair(side, side + 3, samples=1)
    chosen, given = MSSSIM(), MSSSIM(betas=betas_for(side))
    for metric in (chosen, given):
        metric.update(prediction, target)
    assert 0 < chosen.compute() < 1
    assert chosen.compute() == given.compute()


def test_ms_ssim_of_too_small_a_picture_is_refused():
    with pytest.raises(UserError, match="11 pixels"):
        MSSSIM().update(*noisy_pair(10, 40))
    for scales in range(2, 6):
        with pytest.raises(UserError, match="leave betas out"):
            MSSSIM(betas=[1 / scales] * scales).update(*noisy_pair(SHORTEST_SIDES[scales - 1] - 1, 200))


def test_ms_ssim_of_an_inverted_picture_is_zero():
    target = noisy_pair(64, 48)[1]
    metric = MSSSIM()
    metric.update(1 - target, target)
    assert metric.compute() == 0
