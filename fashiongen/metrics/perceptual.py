"""Distances between pictures in the feature maps of a network: LPIPS and DISTS."""

import torch
from torch import Tensor
from torch.nn import functional

from fashiongen.metrics.base import PairMetric
from fashiongen.metrics.features import FrozenNetwork
from fashiongen.nn.classifier import AttributeClassifier

# The constants c1 and c2 of DISTS.
STABILISER = 1e-6


class LPIPS(PairMetric):
    """Perceptual distance; range [0, 2 x layers], 0 for equal pictures, lower is better; the extractor is part of its name.

    Source: Zhang et al. 2018, equation (1), with all channel weights 1 for `tiny`: that network has no weights fitted to human judgement,
    so `lpips[tiny]` is no published LPIPS. Its layers are all stages of the tiny attribute classifier: stage1 to stage4.

    Degenerate input: a non-finite picture scores NaN. A position where no channel is active has no direction: its distance is 0 to another
    such position and 1 to any other.
    """

    higher_is_better = False

    def __init__(self, extractor: str = "tiny", network: AttributeClassifier | None = None) -> None:
        """Measure in the stages of the named extractor, or of `network`, then reported as `custom` or under a name of its own."""
        super().__init__()
        self._network = FrozenNetwork(extractor, network)
        self.extractor = self._network.name

    def score(self, prediction: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        """Return the distance `(B,)`."""
        stages = self._network.on(prediction.device).stages
        return lpips(stages(prediction), stages(target))


class DISTS(PairMetric):
    """Distance of structure and texture; range [0, 1.5], 0 for equal pictures, lower is better; the extractor is part of its name.

    Source: Ding et al. 2020, its sum of texture and structure terms, with alpha = beta = 1 / (2 x channels) for `tiny`: that network has no
    weights fitted to human judgement, so `dists[tiny]` is no published DISTS. Its layers are the picture itself and all stages of the tiny
    attribute classifier.

    Degenerate input: a non-finite picture scores NaN. Two constant feature maps have equal texture by the constants c1 = c2 = 1e-6.
    """

    higher_is_better = False

    def __init__(self, extractor: str = "tiny", network: AttributeClassifier | None = None) -> None:
        """Measure in the stages of the named extractor, or of `network`, then reported as `custom` or under a name of its own."""
        super().__init__()
        self._network = FrozenNetwork(extractor, network)
        self.extractor = self._network.name

    def score(self, prediction: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        """Return the distance `(B,)`."""
        stages = self._network.on(prediction.device).stages
        return dists([prediction, *stages(prediction)], [target, *stages(target)])


def lpips(maps_1: list[Tensor], maps_2: list[Tensor]) -> Tensor:
    """Return `sum_l mean_hw |f_l / |f_l| - g_l / |g_l||^2` `(B,)` over layers l of feature maps `(B, C_l, H_l, W_l)`."""
    distances = [
        (functional.normalize(map_1, dim=1, eps=1e-10) - functional.normalize(map_2, dim=1, eps=1e-10)).square().sum(dim=1).mean(dim=(1, 2))
        for map_1, map_2 in zip(maps_1, maps_2, strict=True)
    ]
    return torch.stack(distances).sum(dim=0)


def dists(maps_1: list[Tensor], maps_2: list[Tensor]) -> Tensor:
    """Return `1 - sum(alpha l + beta s)` `(B,)` over all channels of all layers, with `alpha = beta = 1 / (2 x channels)`.

    `l = (2 m_1 m_2 + c) / (m_1^2 + m_2^2 + c)` compares the means and `s = (2 v_12 + c) / (v_1 + v_2 + c)` the variation of a channel.
    """
    differences = [_dissimilarity(map_1, map_2) for map_1, map_2 in zip(maps_1, maps_2, strict=True)]
    return torch.cat(differences, dim=1).mean(dim=1)


def _dissimilarity(map_1: Tensor, map_2: Tensor) -> Tensor:
    """Return `1 - (l + s) / 2` for each channel `(B, C)`, written so that equal maps give exactly 0."""
    mean_1, mean_2 = (values.mean(dim=(2, 3), keepdim=True) for values in (map_1, map_2))
    centred_1, centred_2 = map_1 - mean_1, map_2 - mean_2
    variance_1, variance_2 = (values.square().mean(dim=(2, 3)) for values in (centred_1, centred_2))
    covariance = (centred_1 * centred_2).mean(dim=(2, 3))
    mean_1, mean_2 = mean_1[:, :, 0, 0], mean_2[:, :, 0, 0]
    texture = (2 * mean_1 * mean_2 + STABILISER) / (mean_1.square() + mean_2.square() + STABILISER)
    structure = (2 * covariance + STABILISER) / (variance_1 + variance_2 + STABILISER)
    return ((1 - texture) + (1 - structure)) / 2
