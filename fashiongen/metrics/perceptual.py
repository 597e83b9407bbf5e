"""Distances between images in a network's feature maps, LPIPS and DISTS, and similarity of DINOv2's class tokens."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fashiongen.errors import UserError
from fashiongen.metrics.base import PairMetric, Region, grey_outside
from fashiongen.metrics.features import FrozenNetwork
from fashiongen.nn.classifier import AttributeClassifier

Size = tuple[int, int]

LPIPS_EXTRACTORS = ("tiny", "alex", "vgg", "squeeze")
# Bounds the images whose feature maps are in memory at once: those of 2 million pixels take 1 GB in VGG16.
PIXELS_AT_ONCE = 2**21

# The constants c1 and c2 of DISTS.
STABILISER = 1e-6


class LPIPS(PairMetric):
    """Perceptual distance; 0 for equal images, lower is better; the extractor is part of its name.

    `alex`, `vgg`, `squeeze`: Zhang et al. 2018, equation (1), as the authors' library `lpips` computes it, version 0.1, with its bundled
    channel weights, at the images' own size. torchmetrics gives the same number.

    `tiny`: the same equation with all channel weights 1: that network has no weights fitted to human judgement, so `lpips[tiny]` is not
    the published LPIPS; range [0, 8]. Its layers are all stages of the tiny attribute classifier: stage1 to stage4.

    Degenerate input: a non-finite image scores NaN. A position without active channels has no direction: its distance is 0 to another
    such position and at most 1 times the channel weights to any other.
    """

    higher_is_better = False

    def __init__(
        self, extractor: str = "tiny", region: Region = "whole", network: nn.Module | None = None, weights: str | None = None
    ) -> None:
        """Measure in the named extractor.

        Args:
            extractor: `tiny`, `alex`, `vgg` or `squeeze`.
            region: `whole` images, or the `foreground`: both images are mid-grey outside the mask.
            network: instead, an attribute classifier or a `lpips.LPIPS`, reported as `custom` or under its own `extractor` name.
            weights: torchvision's file for that network, by default torchvision's location.
        """
        super().__init__()
        self.region = region
        self._network = FrozenNetwork(extractor, network, weights, LPIPS_EXTRACTORS)
        self.extractor = self._network.name

    def score(self, prediction: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        """Return the distance `(B,)`."""
        prediction, target = (grey_outside(images, mask, self.region) for images in (prediction, target))
        network = self._network.on(prediction.device)
        if isinstance(network, AttributeClassifier):
            return lpips(network.stages(prediction), network.stages(target))
        distances: Tensor = network(prediction, target, normalize=True)
        return distances.flatten()


class DISTS(PairMetric):
    """Distance of structure and texture; 0 for equal images, lower is better; the extractor is part of its name.

    `vgg16`: Ding et al. 2020, as torchmetrics computes it with the authors' weights alpha and beta. It does not resize: the authors' code
    first resizes the shorter side to 256 pixels, so set the protocol's `size`.

    `tiny`: the same sum with alpha = beta = 1 / (2 x channels): that network has no weights fitted to human judgement, so `dists[tiny]` is
    not the published DISTS; range [0, 1.5]. Its layers are the image itself and all stages of the tiny attribute classifier.

    Degenerate input: a non-finite image scores NaN. Two constant feature maps have equal structure through the constants c1 = c2 = 1e-6.
    """

    higher_is_better = False

    def __init__(
        self,
        extractor: str = "tiny",
        size: Size | None = None,
        region: Region = "whole",
        network: nn.Module | None = None,
        weights: str | None = None,
    ) -> None:
        """Measure in the named extractor.

        Args:
            extractor: `tiny` or `vgg16`.
            size: height and width to resize both images to first, antialiased bilinear; by default they are not resized.
            region: `whole` images, or the `foreground`: both images are mid-grey outside the mask.
            network: instead, an attribute classifier or torchmetrics' `DISTSNetwork`, reported as `custom` or under its own
                `extractor` name.
            weights: torchvision's VGG16 file, by default torchvision's location.
        """
        super().__init__()
        self.region = region
        self._network = FrozenNetwork(extractor, network, weights, ("tiny", "vgg16"))
        self.extractor = self._network.name
        self.size = None if size is None else tuple(size)

    def score(self, prediction: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        """Return the distance `(B,)`."""
        prediction, target = (grey_outside(images, mask, self.region) for images in (prediction, target))
        if self.size is not None:
            prediction, target = (
                functional.interpolate(images, size=self.size, mode="bilinear", antialias=True) for images in (prediction, target)
            )
        network = self._network.on(prediction.device)
        if isinstance(network, AttributeClassifier):
            return dists([prediction, *network.stages(prediction)], [target, *network.stages(target)])
        distances: Tensor = network(prediction, target)
        return distances.reshape(len(prediction))  # the network squeezes a batch of one


class DINOSimilarity(PairMetric):
    """Cosine between DINOv2's class tokens of prediction and truth; range [-1, 1], 1 for equal images, higher is better.

    The papers that report a "DINO similarity" do not define it; this is our own definition. The model is part of the metric's name; resize
    and crop are those of DINOv2's own evaluation (Oquab et al. 2023: shorter side 256, middle 224 x 224, bicubic) unless a protocol says
    otherwise. They crop the top and bottom of a portrait image.

    Degenerate input: a non-finite image scores NaN.
    """

    higher_is_better = True

    def __init__(
        self,
        extractor: str = "dinov2-base",
        resize: int = 256,
        crop: int = 224,
        network: nn.Module | None = None,
        weights: str | None = None,
    ) -> None:
        """Compare the class tokens of the named model.

        Args:
            extractor: `dinov2-small`, `dinov2-base` or `dinov2-large`.
            resize: length of the shorter side after resizing, in pixels.
            crop: side of the center crop that follows.
            network: instead, a `fashiongen.metrics.extractors.DINOFeatures`, reported as `custom` or under its own `extractor` name.
            weights: the model's folder in transformers' format, or another hub id; by default `facebook/NAME` in the hub's cache.
        """
        super().__init__()
        if crop > resize:
            raise UserError(f"DINOSimilarity(resize={resize}, crop={crop}): the crop must not be larger than what it is cut from")
        self._network = FrozenNetwork(extractor, network, weights, ("dinov2-small", "dinov2-base", "dinov2-large"))
        self.extractor = self._network.name
        self.resize = resize
        self.crop = crop

    def score(self, prediction: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        """Return the cosine `(B,)`."""
        network = self._network.on(prediction.device)
        predicted, true = (network.features(images, resize=self.resize, crop=self.crop) for images in (prediction, target))
        return functional.cosine_similarity(predicted, true, dim=1)


def pair_distances(network: nn.Module, images: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return LPIPS between pairs of images, (P,); each image passes through the network once, and all their maps are in memory.

    Args:
        network: an attribute classifier or a `lpips.LPIPS`.
        images: (N, 3, H, W) in [0, 1].
        first: (P,) int64, an image of each pair.
        second: (P,) int64, the other one.
    """
    if not len(first):
        return images.new_zeros(0)
    if isinstance(network, AttributeClassifier):
        maps = [functional.normalize(values, dim=1, eps=1e-10) for values in network.stages(images)]
        weigh: list[Any] = [partial(torch.sum, dim=1, keepdim=True)] * len(maps)
    else:  # the library's own layers, one by one
        from lpips import normalize_tensor

        published: Any = network
        maps = [normalize_tensor(values) for values in published.net(published.scaling_layer(2 * images - 1))]
        weigh = list(published.lins)
    chosen = zip(first.split(len(images)), second.split(len(images)), strict=True)
    distances = [
        torch.stack([layer((values[a] - values[b]).square()).mean(dim=(1, 2, 3)) for layer, values in zip(weigh, maps, strict=True)]).sum(0)
        for a, b in chosen
    ]
    return torch.cat(distances)


def images_at_once(images: Tensor) -> int:
    """Return how many images of the size of (..., H, W) ones may have their maps in memory together, at least 2."""
    return max(2, PIXELS_AT_ONCE // (images.shape[-2] * images.shape[-1]))


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
