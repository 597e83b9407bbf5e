import numpy as np
import pytest
import torch
from skimage.color import deltaE_ciede2000, rgb2lab

from fashiongen.metrics import ColourError
from fashiongen.metrics.colour import ciede2000, srgb_to_lab

# Sharma, Wu and Dalal 2005, table 1: L*, a*, b* of both colours and their difference.
SHARMA = """
50 2.6772 -79.7751 50 0 -82.7485 2.0425
50 3.1571 -77.2803 50 0 -82.7485 2.8615
50 2.8361 -74.0200 50 0 -82.7485 3.4412
50 -1.3802 -84.2814 50 0 -82.7485 1.0000
50 -1.1848 -84.8006 50 0 -82.7485 1.0000
50 -0.9009 -85.5211 50 0 -82.7485 1.0000
50 0 0 50 -1 2 2.3669
50 -1 2 50 0 0 2.3669
50 2.4900 -0.0010 50 -2.4900 0.0009 7.1792
50 2.4900 -0.0010 50 -2.4900 0.0010 7.1792
50 2.4900 -0.0010 50 -2.4900 0.0011 7.2195
50 2.4900 -0.0010 50 -2.4900 0.0012 7.2195
50 -0.0010 2.4900 50 0.0009 -2.4900 4.8045
50 -0.0010 2.4900 50 0.0010 -2.4900 4.8045
50 -0.0010 2.4900 50 0.0011 -2.4900 4.7461
50 2.5 0 50 0 -2.5 4.3065
50 2.5 0 73 25 -18 27.1492
50 2.5 0 61 -5 29 22.8977
50 2.5 0 56 -27 -3 31.9030
50 2.5 0 58 24 15 19.4535
50 2.5 0 50 3.1736 0.5854 1.0000
50 2.5 0 50 3.2972 0 1.0000
50 2.5 0 50 1.8634 0.5757 1.0000
50 2.5 0 50 3.2592 0.3350 1.0000
60.2574 -34.0099 36.2677 60.4626 -34.1751 39.4387 1.2644
63.0109 -31.0961 -5.8663 62.8187 -29.7946 -4.0864 1.2630
61.2901 3.7196 -5.3901 61.4292 2.2480 -4.9620 1.8731
35.0831 -44.1164 3.7933 35.0232 -40.0716 1.5901 1.8645
22.7233 20.0904 -46.6940 23.0331 14.9730 -42.5619 2.0373
36.4612 47.8580 18.3852 36.2715 50.5065 21.2231 1.4146
90.8027 -2.0831 1.4410 91.1528 -1.6435 0.0447 1.4441
90.9257 -0.5406 -0.9208 88.6381 -0.8985 -0.7239 1.5381
6.7747 -0.2908 -2.4247 5.8714 -0.0985 -2.2286 0.6377
2.0776 0.0795 -1.1350 0.9033 -0.0636 -0.5514 0.9082
"""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_published_pairs(dtype):
    table = torch.tensor([[float(cell) for cell in line.split()] for line in SHARMA.strip().splitlines()], dtype=dtype)
    first, second, expected = table[:, :3], table[:, 3:6], table[:, 6]
    torch.testing.assert_close(ciede2000(first, second), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(ciede2000(second, first), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_skimage_on_random_images(dtype):
    first, second = np.random.default_rng(0).random((2, 4, 50, 50, 3))
    second[1] = first[1] + 0.02 * second[1] - 0.02 * first[1]  # near pairs too
    first[2], second[2, :25] = first[2, :, :, :1], second[2, :25, :, :1]  # greys
    first[3, :25] *= 0.05  # the linear part of the curves
    first, second = rgb2lab(first), rgb2lab(second)
    ours = ciede2000(*(torch.tensor(colours, dtype=dtype).permute(0, 3, 1, 2) for colours in (first, second)))
    # In float32 the hue of a near grey is rounding noise.
    np.testing.assert_allclose(ours.numpy(), deltaE_ciede2000(first, second), rtol=0, atol=1e-4 if dtype == torch.float64 else 5e-3)


def test_lab_equals_skimage():
    images = torch.rand(2, 3, 30, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    images[1] *= 0.1
    expected = rgb2lab(images.permute(0, 2, 3, 1).numpy())
    # skimage rounds the constants of the curve's linear part (7.787 for 7.787037...), which costs it up to 1.6e-4 there.
    np.testing.assert_allclose(srgb_to_lab(images).permute(0, 2, 3, 1).numpy(), expected, rtol=0, atol=2e-4)
    np.testing.assert_allclose(srgb_to_lab(images.float()).permute(0, 2, 3, 1).numpy(), expected, rtol=0, atol=5e-4)


def test_black_and_white_differ_by_100():
    metric = ColourError(region="whole")
    metric.update(torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4))
    assert metric.compute().item() == pytest.approx(100, abs=1e-3)


def test_the_median_ignores_a_few_pixels_and_the_mean_does_not():
    target = torch.full((1, 3, 4, 4), 0.5)
    prediction = target.clone()
    prediction[..., 0, :3] = 1.0
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    mask[..., :2, :] = True  # three of eight foreground pixels are wrong
    median, mean, whole = ColourError(), ColourError(reduction="mean"), ColourError(region="whole", reduction="mean")
    for metric in (median, mean, whole):
        metric.update(prediction, target, mask)
    step = deltaE_ciede2000(rgb2lab(np.ones((1, 1, 3))), rgb2lab(np.full((1, 1, 3), 0.5))).item()
    assert median.compute() == 0
    assert mean.compute().item() == pytest.approx(step * 3 / 8, rel=1e-4)
    assert whole.compute().item() == pytest.approx(step * 3 / 16, rel=1e-4)


def test_even_count_takes_the_lower_median():
    target = torch.full((1, 3, 1, 4), 0.5)
    prediction = target.clone()
    prediction[..., 2:] = 1.0
    metric = ColourError(region="whole")
    metric.update(prediction, target)
    assert metric.compute() == 0
