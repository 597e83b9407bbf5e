"""Metrics of pictures: torchmetrics classes, one file a family."""

from fashiongen.metrics.attributes import AgreementByChance, AttributeAgreement
from fashiongen.metrics.base import PairMetric, SetMetric
from fashiongen.metrics.colour import ColourError
from fashiongen.metrics.distribution import FID, KID
from fashiongen.metrics.perceptual import DISTS, LPIPS
from fashiongen.metrics.structural import MSSSIM, SSIM

__all__ = [
    "DISTS",
    "FID",
    "KID",
    "LPIPS",
    "MSSSIM",
    "SSIM",
    "AgreementByChance",
    "AttributeAgreement",
    "ColourError",
    "PairMetric",
    "SetMetric",
]
