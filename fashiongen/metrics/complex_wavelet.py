"""CW-SSIM: structural similarity of complex wavelet coefficients, robust to small shifts and rotations."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from fashiongen.errors import UserError
from fashiongen.metrics.base import PairMetric
from fashiongen.metrics.structural import luma

WINDOW = 7
# For coefficients of images in [0, 255]: far below any structure's response, it makes two images without structure equal.
STABILISER = 1e-9


class CWSSIM(PairMetric):
    """Complex-wavelet structural similarity of the luma; range [0, 1], 1 for equal images, higher is better; no extractor.

    Source: Sampat et al. 2009, equation (8): in each 7 x 7 window of a subband `(2 |sum c_1 c_2*| + K) / (sum |c_1|^2 + sum |c_2|^2 + K)`
    with K = 0, as in the authors' `cwssim_index.m`: the subbands are the orientations of the last level of a complex steerable pyramid
    (Portilla and Simoncelli 2000), the windows are weighted by a Gaussian around the middle of the image, sigma a quarter of the subband's
    height, and the subbands are averaged. pyiqa, which TryOffDiff's authors use, ports the same code with 4 levels and 8 orientations.
    pyiqa is not installed here: the test compares with a NumPy reference written from the published definition.

    Degenerate input: a non-finite image scores NaN; two images of constant colour are equal; a constant and a non-constant image
    score 0.
    """

    higher_is_better = True

    def __init__(self, levels: int = 4, orientations: int = 8) -> None:
        """Compare the last of `levels` levels in `orientations` directions; the shorter side needs 4 x 2^levels pixels."""
        super().__init__()
        self.levels = levels
        self.orientations = orientations

    def score(self, prediction: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        """Return the similarity `(B,)`."""
        least = 4 * 2**self.levels
        if min(target.shape[2:]) < least:
            raise UserError(
                f"CWSSIM(levels={self.levels}) needs images of at least {least} pixels a side: give fewer levels, or leave it out"
            )
        bands_1, bands_2 = (
            complex_bands(luma(images.nan_to_num())[:, 0], self.levels, self.orientations) for images in (prediction, target)
        )
        product = bands_1 * bands_2.conj()
        energy = bands_1.abs() ** 2 + bands_2.abs() ** 2
        correlation = torch.complex(_window_mean(product.real), _window_mean(product.imag)).abs()
        similarity = (2 * correlation + STABILISER) / (_window_mean(energy) + STABILISER)
        return (similarity * _centre_weights(similarity.shape[2:], bands_1.shape[2] / 4).to(similarity)).sum(dim=(2, 3)).mean(dim=1)


def complex_bands(images: Tensor, levels: int, orientations: int) -> Tensor:
    """Return the last level of the complex steerable pyramid of `(B, H, W)` float64: `(B, orientations, H', W')` complex128.

    All filters are defined in the centred Fourier domain: with r the radius (1 at the Nyquist frequency) and levels j = 1, 2, ...,
    the band-pass is `cos(pi / 2 clip(log2 r + j, -1, 0))`, its low-pass complement `-sin` of the same, and an orientation takes
    `2 a cos(angle - pi b / orientations)^(orientations - 1)` on its own half plane. Between levels the spectrum's outer half is cut off.
    """
    spectrum = torch.fft.fftshift(torch.fft.fft2(images), dim=(-2, -1))
    log_radius, angle = (grid.to(images.device) for grid in _polar_grid(*images.shape[1:]))
    spectrum = spectrum * _low_pass(log_radius, 0)
    for level in range(1, levels):
        rows, columns = (_middle_half(size) for size in spectrum.shape[1:])
        spectrum, log_radius, angle = spectrum[:, rows, columns], log_radius[rows, columns], angle[rows, columns]
        spectrum = spectrum * _low_pass(log_radius, level)
    band_pass = torch.cos(math.pi / 2 * (log_radius + levels).clamp(-1, 0))
    order = orientations - 1
    amplitude = 2**order * math.factorial(order) / math.sqrt(orientations * math.factorial(2 * order))
    bands = []
    for index in range(orientations):
        turned = torch.remainder(angle - math.pi * index / orientations + math.pi, 2 * math.pi) - math.pi
        direction = 2 * amplitude * torch.cos(turned) ** order * (turned.abs() < math.pi / 2)
        band = (-1j) ** order * spectrum * band_pass * direction
        bands.append(torch.fft.ifft2(torch.fft.ifftshift(band, dim=(-2, -1))))
    return torch.stack(bands, dim=1)


def _polar_grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return log2 of the radius and the angle of each frequency `(H, W)`; the mean (radius 0) gets its left neighbour's radius."""
    y, x = (((torch.arange(size, dtype=torch.float64) - size // 2) / (size / 2)) for size in (height, width))
    radius = torch.hypot(y[:, None], x[None, :])
    radius[height // 2, width // 2] = radius[height // 2, width // 2 - 1]
    return radius.log2(), torch.atan2(y[:, None], x[None, :])


def _low_pass(log_radius: Tensor, level: int) -> Tensor:
    return torch.sin(-math.pi / 2 * (log_radius + level).clamp(-1, 0))


def _middle_half(size: int) -> slice:
    """Return the indices of the inner half of a centred spectrum, its mean still in the middle."""
    kept = math.ceil((size - 0.5) / 2)
    start = math.ceil((size + 0.5) / 2) - math.ceil((kept + 0.5) / 2)
    return slice(start, start + kept)


def _window_mean(values: Tensor) -> Tensor:
    """Return the mean over each 7 x 7 window fully inside the image."""
    return functional.avg_pool2d(values, WINDOW, stride=1)


def _centre_weights(size: torch.Size, sigma: float) -> Tensor:
    """Return a Gaussian around the middle `(H, W)` whose sum is 1."""
    y, x = (torch.exp(-((torch.arange(side, dtype=torch.float64) - (side - 1) / 2) ** 2) / (2 * sigma**2)) for side in size)
    weights = y[:, None] * x[None, :]
    return weights / weights.sum()
