"""Metrics: torchmetrics classes, one file per family."""

from fashiongen.metrics.attributes import AgreementByChance, AttributeAgreement
from fashiongen.metrics.base import PairMetric, PerSample, SetMetric
from fashiongen.metrics.colour import ColourError
from fashiongen.metrics.complex_wavelet import CWSSIM
from fashiongen.metrics.distribution import FID, KID
from fashiongen.metrics.perceptual import DISTS, LPIPS, DINOSimilarity
from fashiongen.metrics.ranking import AUC, MRR, NDCG, RankingMetric, Recall
from fashiongen.metrics.structural import MSSSIM, SSIM

__all__ = [
    "AUC",
    "CWSSIM",
    "DISTS",
    "FID",
    "KID",
    "LPIPS",
    "MRR",
    "MSSSIM",
    "NDCG",
    "SSIM",
    "AgreementByChance",
    "AttributeAgreement",
    "ColourError",
    "DINOSimilarity",
    "PairMetric",
    "PerSample",
    "RankingMetric",
    "Recall",
    "SetMetric",
]
