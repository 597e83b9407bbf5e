"""CW-SSIM against the published definition, written out in NumPy: matlabPyrTools' buildSCFpyr with its tables, and cwssim_index."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from fashiongen.errors import UserError
from fashiongen.metrics import CWSSIM
from fashiongen.metrics.complex_wavelet import complex_bands


def raised_cosine(position):
    """rcosFn(1, position): a table of a raised cosine that climbs from 0 to 1 within half of its width on either side of `position`."""
    samples = 1024
    x = np.pi * np.arange(-samples - 1, 2) / (2 * samples)
    y = np.cos(x) ** 2
    y[0], y[-1] = y[1], y[-2]
    return position + 2 / np.pi * (x + np.pi / 4), y


def last_level(image, height, n_bands):
    """The complex bands of the last level, one array a direction."""
    rows, columns = image.shape
    x, y = np.meshgrid((np.arange(columns) - columns // 2) / (columns / 2), (np.arange(rows) - rows // 2) / (rows / 2))
    angle, radius = np.arctan2(y, x), np.sqrt(x**2 + y**2)
    radius[rows // 2, columns // 2] = radius[rows // 2, columns // 2 - 1]
    log_radius = np.log2(radius)
    where, table = raised_cosine(-0.5)
    climbing, falling = np.sqrt(table), np.sqrt(1 - table)
    order = n_bands - 1
    constant = 2 ** (2 * order) * math.factorial(order) ** 2 / (n_bands * math.factorial(2 * order))
    turns = np.pi * np.arange(-2049, 1026) / 1024
    wrapped = (turns + np.pi) % (2 * np.pi) - np.pi
    lobe = 2 * np.sqrt(constant) * np.cos(turns) ** order * (np.abs(wrapped) < np.pi / 2)

    dft = np.fft.fftshift(np.fft.fft2(image)) * np.interp(log_radius, where, falling)
    for level in range(1, height + 1):
        where = where - 1
        if level == height:
            bands = []
            for band in range(n_bands):
                mask = np.interp(angle, turns + np.pi * band / n_bands, lobe) * np.interp(log_radius, where, climbing)
                bands.append(np.fft.ifft2(np.fft.ifftshift((-1j) ** order * dft * mask)))
            return bands
        dims = np.array(dft.shape)
        centre = np.ceil((dims + 0.5) / 2)
        low_dims = np.ceil((dims - 0.5) / 2)
        start = (centre - np.ceil((low_dims + 0.5) / 2)).astype(int)
        end = (start + low_dims).astype(int)
        inner = (slice(start[0], end[0]), slice(start[1], end[1]))
        log_radius, angle, dft = log_radius[inner], angle[inner], dft[inner]
        dft = dft * np.interp(log_radius, where, falling)
    raise AssertionError


def cwssim_index(image_1, image_2, levels, orientations):
    bands_1, bands_2 = (last_level(image, levels, orientations) for image in (image_1, image_2))
    rows, columns = bands_1[0].shape
    weights = np.zeros((rows - 6, columns - 6))
    for row in range(rows - 6):
        for column in range(columns - 6):
            distance = (row - (rows - 7) / 2) ** 2 + (column - (columns - 7) / 2) ** 2
            weights[row, column] = math.exp(-distance / (2 * (rows / 4) ** 2))
    weights /= weights.sum()
    total = 0.0
    for band_1, band_2 in zip(bands_1, bands_2, strict=True):
        for row in range(rows - 6):
            for column in range(columns - 6):
                c_1, c_2 = band_1[row : row + 7, column : column + 7], band_2[row : row + 7, column : column + 7]
                similarity = 2 * abs((c_1 * c_2.conj()).sum()) / ((abs(c_1) ** 2).sum() + (abs(c_2) ** 2).sum())
                total += weights[row, column] * similarity
    return total / orientations


def images(height, width, count=2):
    generator = torch.Generator().manual_seed(0)
    target = interpolate(torch.rand(count, 3, 8, 6, generator=generator), (height, width), mode="bicubic").clamp(0, 1)
    other = (target + target.flip(3)) / 2 + 0.15 * torch.randn(target.shape, generator=generator)
    return other.clamp(0, 1), target


def grey(images):
    return (images.double() * torch.tensor([0.299, 0.587, 0.114]).double().view(3, 1, 1)).sum(dim=1).numpy() * 255


@pytest.mark.parametrize(
    ("height", "width", "levels", "orientations"), [(96, 72, 4, 8), (75, 67, 3, 4), (80, 64, 2, 5), (64, 66, 4, 8), (20, 18, 1, 2)]
)
def test_equals_the_definition_written_out(height, width, levels, orientations):
    prediction, target = images(height, width)
    metric = CWSSIM(levels=levels, orientations=orientations)
    metric.update(prediction, target)
    expected = [cwssim_index(*pair, levels, orientations) for pair in zip(grey(prediction), grey(target), strict=True)]
    assert metric.values().tolist() == pytest.approx(expected, abs=2e-4)
    assert 0.1 < min(expected) < max(expected) < 0.99


def test_the_bands_are_the_definition_s():
    _, target = images(96, 72, count=1)
    ours = complex_bands(torch.from_numpy(grey(target)), 4, 8)[0].numpy()
    expected = np.stack(last_level(grey(target)[0], 4, 8))
    assert ours.shape == (8, 12, 9) and np.abs(expected).max() > 1
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-3 * np.abs(expected).max())


def value(prediction, target):
    metric = CWSSIM()
    metric.update(prediction, target)
    return metric.compute().item()


def test_a_small_shift_hurts_little_and_another_image_much():
    _, target = images(128, 96, count=2)
    fine = (target + 0.3 * interpolate(torch.rand(2, 3, 32, 24, generator=torch.Generator().manual_seed(1)), (128, 96))).clamp(0, 1)
    assert value(fine, fine) == pytest.approx(1, abs=1e-6)
    assert value(1 - fine, fine) == pytest.approx(1, abs=1e-6)  # the phase of every coefficient turns alike
    assert value(fine.roll(1, dims=3), fine) > 0.9 > 0.8 > value(fine.flip(0), fine)


def test_images_without_structure():
    white, grey_ = torch.ones(1, 3, 64, 64), torch.full((1, 3, 64, 64), 0.5)
    assert value(white, grey_) == pytest.approx(1, abs=1e-3)
    assert value(white, images(64, 64, count=1)[1]) < 0.01


def test_a_too_small_image_is_refused():
    with pytest.raises(UserError, match="at least 64 pixels"):
        CWSSIM().update(*images(63, 100))
    with pytest.raises(UserError, match="at least 16 pixels"):
        CWSSIM(levels=2).update(*images(100, 15))
