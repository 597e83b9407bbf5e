"""How clearly a classifier recognises the generated items, and whether as their category: Inception Score and its accuracy."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from fashiongen.errors import UserError
from fashiongen.metrics.features import CATEGORY_EXTRACTORS, FrozenNetwork
from fashiongen.metrics.outfits import OutfitMetric, OutfitSetMetric, attribute_logits, embed
from fashiongen.nn.classifier import AttributeClassifier
from fashiongen.outfit_batches import Completed

Prior = Literal["marginal", "uniform"]

EPS = 1e-16
CATEGORY = "category"


class InceptionScore(OutfitSetMetric):
    """The exponential of the mean divergence between each image's classes and a prior; range [1, C] for C classes, higher is better.

    `prior="marginal"`: Salimans et al. 2016, the mean of all images' classes, so that all classes must occur. `prior="uniform"`: the
    uniform distribution of DiFashion's code (`eval_utils.py`), which rewards clear images of a single class as much. Both in one split,
    over all generated images. The classifier is part of the name: with `inception-50` this is DiFashion's IS, with `tiny-classifier` it
    is not.

    Degenerate input: a non-finite image gives NaN, no image too. One image, or equal ones, score 1 against the marginal.
    """

    higher_is_better = True

    def __init__(
        self, prior: Prior = "marginal", extractor: str = "tiny-classifier", network: nn.Module | None = None, weights: str | None = None
    ) -> None:
        """Classify with the named network.

        Args:
            prior: `marginal` or `uniform`.
            extractor: `tiny-classifier`, or `inception-50` with the authors' weights.
            network: instead, a classifier, reported as `custom` or under its own `extractor` name.
            weights: the file of the weights of `inception-50`.
        """
        super().__init__()
        if prior not in get_args(Prior):
            raise UserError(f"InceptionScore: prior: {prior!r}: choose {' or '.join(get_args(Prior))}")
        self.prior = prior
        self._network = FrozenNetwork(extractor, network, weights, CATEGORY_EXTRACTORS)
        self.extractor = self._network.name

    def describe(self, completed: Completed) -> Tensor:
        """Return the probabilities of the classes of each generated image, (D * K, C)."""
        return class_probabilities(type(self).__name__, completed.images, self._network.on(completed.images.device)).flatten(0, 1)

    def summary(self, rows: Tensor) -> Tensor:
        """Return the score of probabilities (N, C)."""
        prior = rows.mean(dim=0) if self.prior == "marginal" else torch.full_like(rows[0], 1 / rows.shape[1])
        return (rows * ((rows + EPS).log() - (prior + EPS).log())).sum(dim=1).mean().exp()


class CategoryAccuracy(OutfitMetric):
    """Share of generated images that a classifier recognises as their category, among its `k` most likely; range [0, 1].

    This is IS-acc: DiFashion's code counts the first class, DualFashion's the first three, so their numbers are of two metrics. Classes
    with equal probability are in every order equally likely, so a classifier that cannot tell gets k / C. The classifier is part of the
    name.

    Degenerate input: a non-finite image scores NaN.
    """

    higher_is_better = True

    def __init__(
        self, k: int = 1, extractor: str = "tiny-classifier", network: nn.Module | None = None, weights: str | None = None
    ) -> None:
        """Classify with the named network.

        Args:
            k: how many of the most likely classes may be the category.
            extractor: `tiny-classifier`, or `inception-50` with the authors' weights.
            network: instead, a classifier, reported as `custom` or under its own `extractor` name.
            weights: the file of the weights of `inception-50`.
        """
        super().__init__()
        if k < 1:
            raise UserError(f"CategoryAccuracy: k: {k}: must be at least 1")
        self.k = k
        self._network = FrozenNetwork(extractor, network, weights, CATEGORY_EXTRACTORS)
        self.extractor = self._network.name

    def score(self, completed: Completed) -> tuple[Tensor, Tensor]:
        """Return the share of an outfit's images that are recognised, (B,)."""
        network = self._network.on(completed.images.device)
        places = {label: index for index, label in enumerate(class_labels(network))}
        if unknown := sorted({category for category in completed.category if category not in places}):
            raise UserError(
                f"CategoryAccuracy: the classifier {self.extractor} has no class {unknown[0]!r}: choose one with the dataset's categories"
            )
        probabilities = class_probabilities(type(self).__name__, completed.images, network)
        own = torch.tensor([places[category] for category in completed.category], dtype=torch.int64, device=probabilities.device)
        likelihood = probabilities.gather(2, own.expand(len(probabilities), -1)[..., None])
        above = (probabilities > likelihood).sum(dim=2)
        equal = (probabilities == likelihood).sum(dim=2).clamp(min=1)
        return completed.per_sample((self.k - above).clamp(min=0).minimum(equal).double() / equal)


def class_labels(network: Any) -> tuple[str, ...]:  # noqa: ANN401  an AttributeClassifier, or anything with `labels`
    """Return the names of a classifier's classes, in the order of its outputs."""
    labels: tuple[str, ...] = network.heads[CATEGORY] if isinstance(network, AttributeClassifier) else network.labels
    return labels


def class_probabilities(name: str, images: Tensor, network: Any) -> Tensor:  # noqa: ANN401  or anything with `probabilities`
    """Return the probabilities of a classifier's classes for images (..., 3, H, W): (..., C), NaN for an image that is not finite."""
    if not isinstance(network, AttributeClassifier):
        return embed(name, "generated", images, network, "probabilities", network.probabilities)
    parts: dict[str, Tensor] = attribute_logits(name, images, network)
    return parts[CATEGORY].softmax(dim=-1)
