"""Metrics of pictures: torchmetrics classes, one file a family."""

from fashiongen.metrics.attributes import AgreementByChance, AttributeAgreement
from fashiongen.metrics.base import PairMetric, SetMetric
from fashiongen.metrics.colour import ColourError
from fashiongen.metrics.complex_wavelet import CWSSIM
from fashiongen.metrics.distribution import FID, KID
from fashiongen.metrics.perceptual import DISTS, LPIPS, DINOSimilarity
from fashiongen.metrics.structural import MSSSIM, SSIM

__all__ = [
    "CWSSIM",
    "DISTS",
    "FID",
    "KID",
    "LPIPS",
    "MSSSIM",
    "SSIM",
    "AgreementByChance",
    "AttributeAgreement",
    "ColourError",
    "DINOSimilarity",
    "PairMetric",
    "SetMetric",
]
