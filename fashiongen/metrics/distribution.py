"""Distances between sets of images: FID and KID, computed once in float64 on the CPU."""

import math

import torch
from torch import Tensor, nn

from fashiongen.metrics.base import SetMetric
from fashiongen.metrics.features import SET_EXTRACTORS, FrozenNetwork
from fashiongen.metrics.shared import once


class _FeatureDistance(SetMetric):
    """Distance between sets of pooled features of a named extractor."""

    def __init__(self, extractor: str = "tiny-classifier", network: nn.Module | None = None, weights: str | None = None) -> None:
        """Measure in the features of the named extractor.

        Args:
            extractor: one of `fashiongen.metrics.features.SET_EXTRACTORS`.
            network: instead, a module with `features(images)`, reported as `custom` or under its own `extractor` name.
            weights: the extractor's file or folder, by default the location of its published weights.
        """
        super().__init__()
        self._network = FrozenNetwork(extractor, network, weights, SET_EXTRACTORS)
        self.extractor = self._network.name

    def features(self, images: Tensor) -> Tensor:
        """Return the pooled features `(B, F)`."""
        network = self._network.on(images.device)
        features: Tensor = once(images, network, "features", network.features)
        return features


class FID(_FeatureDistance):
    """Frechet distance between Gaussians fitted to both sets; range [0, inf), lower is better; the extractor is part of its name.

    Source: Heusel et al. 2017, equation (6), in float64 with unbiased covariances: equal to clean-fid's `frechet_distance` on the same
    features. It is biased upwards for small sets (Binkowski et al. 2018), so only numbers from equal counts are comparable. With
    `inception-v3` this is clean-fid's FID, with `clip-vit-b-32` its CLIP-FID (Kynkaanniemi et al. 2022); see `extractors` for their
    preprocessing.

    Degenerate input: fewer than two samples, or a non-finite image anywhere, gives NaN; two sets of one constant image each differ by
    the squared distance of their features.
    """

    higher_is_better = False

    def distance(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Return the Frechet distance of two sets of features `(N, F)`."""
        return frechet_distance(predictions, targets)


class KID(_FeatureDistance):
    """Kernel distance: the unbiased squared MMD; may be slightly negative, 0 in expectation for equal distributions, lower is better.

    Source: Binkowski et al. 2018, section 4 with the kernel `(x.y / F + 1)^3`; the mean over `subsets` random subsets of each set, drawn
    without replacement. The value is reported times `scale`: the Dress Code paper prints it times 100, CatVTON and IGR times 1000; a scale
    other than 1 belongs in the metric's name (`kid_x1e3`). The extractor is part of its name.

    Subsets hold `subset_size` samples, or all of the smaller set if it has fewer. They are drawn with `seed` from the features after
    sorting, so the value depends on neither batch order nor number of processes. Rounding that differs with the batch size can swap
    neighbours in that order, which changes the value by a small fraction of what another seed would.

    Degenerate input: fewer than two samples, or a non-finite image anywhere, gives NaN.
    """

    higher_is_better = False

    def __init__(
        self,
        extractor: str = "tiny-classifier",
        subsets: int = 100,
        subset_size: int = 1000,
        seed: int = 0,
        scale: float = 1.0,
        network: nn.Module | None = None,
        weights: str | None = None,
    ) -> None:
        """Measure in the features of the named extractor.

        Args:
            extractor: one of `fashiongen.metrics.features.SET_EXTRACTORS`.
            subsets: number of random subsets.
            subset_size: samples per subset, at most the size of the smaller set.
            seed: seed of the subsets.
            scale: factor for the value.
            network: instead, a module with `features(images)`, reported as `custom` or under its own `extractor` name.
            weights: the extractor's file or folder, by default the location of its published weights.
        """
        super().__init__(extractor, network, weights)
        self.scale = scale
        self.subsets = subsets
        self.subset_size = subset_size
        self.seed = seed

    def convention(self) -> str:
        """Return how the value is scaled: published tables differ."""
        return f"is KID times {self.scale:g}: published tables print it times 1, 100 or 1000"

    def distance(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Return the mean kernel distance over subsets of two sets of features `(N, F)`."""
        size = min(self.subset_size, len(predictions), len(targets))
        if size == len(predictions) == len(targets):
            return self.scale * squared_mmd(predictions, targets)  # every subset is the whole set
        generator = torch.Generator().manual_seed(self.seed)
        direction = torch.randn(predictions.shape[1], generator=generator, dtype=torch.float64)
        predictions, targets = (features[torch.argsort(features @ direction)] for features in (predictions, targets))
        draws = [
            squared_mmd(*(features[torch.randperm(len(features), generator=generator)[:size]] for features in (predictions, targets)))
            for _ in range(self.subsets)
        ]
        return self.scale * torch.stack(draws).mean()


def frechet_distance(features_1: Tensor, features_2: Tensor) -> Tensor:
    """Return `|m_1 - m_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2))` for features `(N, F)` and `(M, F)`, float64, N and M at least 2.

    With `S_i = A_i^T A_i` the last trace is the nuclear norm of `A_1 A_2^T`, which needs no square root of a nearly singular matrix.
    """
    difference = features_1.mean(dim=0) - features_2.mean(dim=0)
    root_1, root_2 = _covariance_root(features_1), _covariance_root(features_2)
    cross: Tensor = torch.linalg.svdvals(root_1 @ root_2.T).sum()
    return (difference.square().sum() + root_1.square().sum() + root_2.square().sum() - 2 * cross).clamp(min=0)


def _covariance_root(features: Tensor) -> Tensor:
    """Return some A `(min(N, F), F)` with `A^T A` the unbiased covariance of features `(N, F)`."""
    centred = (features - features.mean(dim=0)) / math.sqrt(len(features) - 1)
    root: Tensor = torch.linalg.qr(centred, mode="r").R
    return root


def squared_mmd(features_1: Tensor, features_2: Tensor) -> Tensor:
    """Return the unbiased estimate of the squared MMD between features `(N, F)` and `(M, F)` under the kernel `(x.y / F + 1)^3`."""
    return _mean_off_diagonal(features_1) + _mean_off_diagonal(features_2) - 2 * _kernel(features_1, features_2).mean()


def _mean_off_diagonal(features: Tensor) -> Tensor:
    kernel = _kernel(features, features)
    return (kernel.sum() - kernel.diagonal().sum()) / (len(kernel) * (len(kernel) - 1))


def _kernel(features_1: Tensor, features_2: Tensor) -> Tensor:
    return torch.pow(features_1 @ features_2.T / features_1.shape[1] + 1, 3)
