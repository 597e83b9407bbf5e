"""Agreement of attributes between prediction and truth, as predicted by a classifier."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from fashiongen.errors import UserError
from fashiongen.metrics.base import PairMetric, Region, SetMetric
from fashiongen.metrics.features import INJECTED, TINY, WORN, FrozenNetwork
from fashiongen.nn.classifier import AttributeClassifier
from fashiongen.nn.crop import cut_out

Judge = Callable[[Tensor], dict[str, Tensor]]


class AttributeAgreement(PairMetric):
    """Share of attributes that a classifier predicts equally for prediction and truth; range [0, 1], higher is better.

    The classifier (the judge) reads both images, so its errors on real images penalise no method; equal images agree fully. Chance is not
    0: a constant image agrees as often as the most frequent value occurs, so report such a baseline too. The judge must not be a network
    that a method was trained with or against. Source: own definition. The extractor is part of its name.

    Degenerate input: a non-finite image scores NaN.
    """

    higher_is_better = True

    def __init__(
        self,
        extractor: str = "tiny-classifier",
        attribute: str = "mean",
        region: Region = "whole",
        judge: Judge | None = None,
        network: AttributeClassifier | None = None,
    ) -> None:
        """Compare the attributes that the judge reads.

        Args:
            extractor: Name of the judging classifier.
            attribute: One attribute's name, or `mean` over all.
            region: `whole` images, or the `foreground`: what the mask shows, cropped to its box, mid-grey outside of it. The judge
                `tiny-worn-classifier` was trained on such images of people.
            judge: Instead, a callable from images `(B, 3, H, W)` in [0, 1] to the value's index `(B,)` of each attribute.
            network: Instead, a classifier, reported as `custom` (like a judge) or under its own `extractor` name.
        """
        super().__init__()
        if judge is not None and network is not None:
            raise UserError("AttributeAgreement takes a judge or a network, not both: leave one out")
        self.attribute = attribute
        self.region = region
        self._network = None if judge is not None else FrozenNetwork(extractor, network, choices=(*TINY, WORN))
        # In a partial, a judge that is an nn.Module does not become a submodule.
        self._judge = None if judge is None else partial(judge)
        self.extractor = INJECTED if self._network is None else self._network.name

    def score(self, prediction: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        """Return the share of the selected attributes that agree `(B,)`."""
        if self.region == "foreground" and mask is not None:
            height, width = target.shape[2:]
            prediction, target = (cut_out(images, mask, (height, width)) for images in (prediction, target))
        predicted, true = self._read(prediction), self._read(target)
        if self.attribute != "mean" and self.attribute not in true:
            raise UserError(f"AttributeAgreement(attribute={self.attribute}): the judge reads {', '.join(true)}; choose one, or mean")
        names = list(true) if self.attribute == "mean" else [self.attribute]
        return torch.stack([predicted[name] == true[name] for name in names]).float().mean(dim=0)

    def _read(self, images: Tensor) -> dict[str, Tensor]:
        if self._judge is not None:
            return self._judge(images)
        assert self._network is not None
        read: dict[str, Tensor] = self._network.on(images.device).read(images)
        return read


class AgreementByChance(SetMetric):
    """Mean agreement of each prediction with the truths of all *other* samples; range [0, 1].

    This is what the same predictions would score if each had been made from another sample's input: the chance level of
    `AttributeAgreement`, which is not ranked itself. All attributes have equal weight. Source: own definition. The extractor is part of
    its name.

    Degenerate input: fewer than two samples or a non-finite image gives NaN.
    """

    higher_is_better = None
    pairs = True

    def __init__(self, extractor: str = "tiny-classifier", network: AttributeClassifier | None = None) -> None:
        """Compare the attributes that the classifier named `extractor`, or `network` instead, reads."""
        super().__init__()
        self._network = FrozenNetwork(extractor, network, choices=TINY)
        self.extractor = self._network.name

    def features(self, images: Tensor) -> Tensor:
        """Return each attribute's value index, as floats `(B, A)`."""
        return torch.stack(list(self._network.on(images.device).read(images).values()), dim=1).float()

    def distance(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over attributes and over ordered pairs of different samples."""
        n_samples, n_attributes = predictions.shape
        values = int(torch.cat([predictions, targets]).max()) + 1
        counts = [torch.nn.functional.one_hot(read.long(), values).sum(dim=0).double() for read in (predictions, targets)]
        agreeing = (counts[0] * counts[1]).sum() - (predictions == targets).sum()
        return agreeing / (n_samples * (n_samples - 1) * n_attributes)
