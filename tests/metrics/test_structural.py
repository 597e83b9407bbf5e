import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torchmetrics.image import MultiScaleStructuralSimilarityIndexMeasure, StructuralSimilarityIndexMeasure

from fashiongen.errors import UserError
from fashiongen.metrics import MSSSIM, SSIM
from fashiongen.metrics.structural import BETAS, SHORTEST_SIDES, betas_for, luma, luma_ssim


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


def test_ssim_of_an_inverted_image_is_negative():
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


def test_ms_ssim_of_a_too_small_image_is_refused():
    with pytest.raises(UserError, match="11 pixels"):
        MSSSIM().update(*noisy_pair(10, 40))
    for scales in range(2, 6):
        with pytest.raises(UserError, match="leave betas out"):
            MSSSIM(betas=[1 / scales] * scales).update(*noisy_pair(SHORTEST_SIDES[scales - 1] - 1, 200))


def test_ms_ssim_of_an_inverted_image_is_zero():
    target = noisy_pair(64, 48)[1]
    metric = MSSSIM()
    metric.update(1 - target, target)
    assert metric.compute() == 0


def by_skimage(prediction, target):
    """SSIM of the luma in 256 levels, windows inside the image, as scikit-image computes it with the paper's settings."""
    luma = [np.rint(np.tensordot(image.double().numpy(), [0.299, 0.587, 0.114], axes=(0, 0)) * 255) for image in (prediction, target)]
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    return structural_similarity(*luma, **settings)


def smooth_pair(height, width, samples=2):
    """Images whose windows all correlate, so that no structure term is negative."""
    generator = torch.Generator().manual_seed(0)
    target = torch.nn.functional.interpolate(torch.rand(samples, 3, 5, 4, generator=generator), (height, width), mode="bilinear")
    return 0.2 + 0.7 * target, target


def test_ssim_of_the_luma_equals_scikit_image():
    prediction, target = smooth_pair(64, 48)
    metric = SSIM(channels="luma")
    metric.update(prediction, target)
    expected = [by_skimage(*pair) for pair in zip(prediction, target, strict=True)]
    assert metric.values().tolist() == pytest.approx(expected, abs=1e-6)
    assert max(expected) < 0.99


def test_ssim_of_the_luma_sets_negative_structure_to_zero_as_pyiqa_does():
    target = noisy_pair(64, 48)[1]
    luma, rgb = SSIM(channels="luma"), SSIM()
    for metric in (luma, rgb):
        metric.update(1 - target, target)
    assert rgb.compute() < -0.5 and 0 <= luma.compute() < 0.05


def test_ms_ssim_of_the_luma_is_the_product_over_scales():
    prediction, target = smooth_pair(96, 66)
    one, three = MSSSIM(channels="luma", betas=[1.0]), MSSSIM(channels="luma", betas=[0.2, 0.3, 0.5])
    plain = SSIM(channels="luma")
    for metric in (one, three, plain):
        metric.update(prediction, target)
    torch.testing.assert_close(one.values(), plain.values())
    maps = [luma(image).round() for image in (prediction, target)]
    expected = 1.0
    for beta in (0.2, 0.3, 0.5):
        similarity, structure = luma_ssim(*maps)
        expected = expected * (similarity if beta == 0.5 else structure) ** beta
        # 96x66, 48x33, then 24x17 with a border of zeros, as pyiqa pools odd sizes.
        maps = [torch.nn.functional.avg_pool2d(torch.nn.functional.pad(m, [m.shape[3] % 2] * 2 + [m.shape[2] % 2] * 2), 2) for m in maps]
    torch.testing.assert_close(three.values().double(), expected, rtol=1e-6, atol=1e-6)


def test_ssim_of_the_luma_has_no_foreground():
    with pytest.raises(UserError, match="whole images"):
        SSIM(region="foreground", channels="luma")
