"""Metrics: torchmetrics classes, one file per family."""

from fashiongen.metrics.attributes import AgreementByChance, AttributeAgreement
from fashiongen.metrics.base import PairMetric, PerSample, SetMetric
from fashiongen.metrics.clip_scores import CLIPImageScore, CLIPScore, LPIPSToTruth, RetrievalAccuracy
from fashiongen.metrics.colour import ColourError
from fashiongen.metrics.compatibility import Compatibility
from fashiongen.metrics.complex_wavelet import CWSSIM
from fashiongen.metrics.distribution import FID, KID
from fashiongen.metrics.inception_score import CategoryAccuracy, InceptionScore
from fashiongen.metrics.outfit_diversity import LPIPSDiversity
from fashiongen.metrics.outfit_text import AttributeEntropy, SemanticDistance, TextAlign, TextCompatibility, TextPersonalisation
from fashiongen.metrics.outfits import OutfitMetric, OutfitSetMetric
from fashiongen.metrics.perceptual import DISTS, LPIPS, DINOSimilarity
from fashiongen.metrics.personalisation import Personalisation
from fashiongen.metrics.ranking import AUC, MRR, NDCG, RankingMetric, Recall
from fashiongen.metrics.structural import MSSSIM, SSIM
from fashiongen.metrics.true_values import TrueCompatibility, TruePreference

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
    "AttributeEntropy",
    "CLIPImageScore",
    "CLIPScore",
    "CategoryAccuracy",
    "ColourError",
    "Compatibility",
    "DINOSimilarity",
    "InceptionScore",
    "LPIPSDiversity",
    "LPIPSToTruth",
    "OutfitMetric",
    "OutfitSetMetric",
    "PairMetric",
    "PerSample",
    "Personalisation",
    "RankingMetric",
    "Recall",
    "RetrievalAccuracy",
    "SemanticDistance",
    "SetMetric",
    "TextAlign",
    "TextCompatibility",
    "TextPersonalisation",
    "TrueCompatibility",
    "TruePreference",
]
