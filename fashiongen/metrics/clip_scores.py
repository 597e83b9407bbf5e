"""Whether what is generated shows its category and its true item, in the features of CLIP or LPIPS."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from fashiongen.metrics.features import CLIP_EXTRACTORS, FrozenNetwork
from fashiongen.metrics.outfits import OutfitMetric, cosine, embed, embed_rows, finite_images, needed
from fashiongen.metrics.perceptual import LPIPS_EXTRACTORS, images_at_once, pair_distances
from fashiongen.metrics.shared import embedded_texts
from fashiongen.nn.outfits import EVALUATION_PAIRS, item_prompt
from fashiongen.outfit_batches import Completed

# Cosines that differ by less are equal: a network's features of the same image differ by rounding with its place in a batch.
TIE = 1e-6


class CLIPScore(OutfitMetric):
    """100 times the cosine of CLIP's features of a generated image and of its category's prompt; range [-100, 100], higher is better.

    The prompt is `evaluation_prompt(category)`. Source: DiFashion's code (`calculate_clip_score`), with `clip-vit-h-14`. The extractor is
    part of the name.

    Degenerate input: a non-finite image scores NaN.
    """

    higher_is_better = True

    def __init__(self, extractor: str = "tiny-clip", network: nn.Module | None = None, weights: str | None = None) -> None:
        """Compare in the features of the named extractor.

        Args:
            extractor: one of `fashiongen.metrics.features.CLIP_EXTRACTORS`.
            network: instead, a module with `features(images)` and `text_features(texts)`, reported as `custom` or under its own
                `extractor` name.
            weights: the extractor's folder, by default its repository in the hub's cache.
        """
        super().__init__()
        self._network = FrozenNetwork(extractor, network, weights, CLIP_EXTRACTORS)
        self.extractor = self._network.name

    def prepare(self) -> None:
        """Load the network with its text tower."""
        prepare_texts(self._network, self.device)

    def score(self, completed: Completed) -> tuple[Tensor, Tensor]:
        """Return an outfit's mean over draws and blanks, (B,)."""
        network = self._network.on(completed.images.device)
        generated = embed(type(self).__name__, "generated", completed.images, network, "features", network.features)
        if not completed.category:
            return completed.per_sample(generated.sum(dim=-1).double())
        texts = embedded_texts(network, [evaluation_prompt(category) for category in completed.category])
        return completed.per_sample(100 * cosine(generated, texts))


class CLIPImageScore(OutfitMetric):
    """100 times the cosine of CLIP's features of a generated image and of the true item; range [-100, 100], higher is better.

    Source: DiFashion's code (`calculate_clip_img_score`), with `clip-vit-h-14`. For outfit recommendations the authors compare 2 x 2
    collages of the four items; here always item by item, so that the numbers of both tasks are of one metric. The extractor is part of
    the name.

    Degenerate input: a non-finite image scores NaN; equal images score 100.
    """

    higher_is_better = True

    def __init__(self, extractor: str = "tiny-clip", network: nn.Module | None = None, weights: str | None = None) -> None:
        """Compare in the features of the named extractor.

        Args:
            extractor: one of `fashiongen.metrics.features.CLIP_EXTRACTORS`.
            network: instead, a module with `features(images)`, reported as `custom` or under its own `extractor` name.
            weights: the extractor's folder, by default its repository in the hub's cache.
        """
        super().__init__()
        self._network = FrozenNetwork(extractor, network, weights, CLIP_EXTRACTORS)
        self.extractor = self._network.name

    def score(self, completed: Completed) -> tuple[Tensor, Tensor]:
        """Return an outfit's mean over draws and blanks, (B,)."""
        name = type(self).__name__
        truth = needed(name, "the true items' images", completed.truth)
        network = self._network.on(completed.images.device)
        generated = embed(name, "generated", completed.images, network, "features", network.features)
        true = embed(name, "truth", truth, network, "features", network.features)
        return completed.per_sample(100 * cosine(generated, true))


class LPIPSToTruth(OutfitMetric):
    """Perceptual distance of a generated image to the true item; 0 for equal images, lower is better.

    The distance is that of `fashiongen.metrics.LPIPS`, with `vgg` DiFashion's (`calculate_lpips_given_data`). For outfit recommendations
    the authors compare 2 x 2 collages of the four items; here always item by item. The extractor is part of the name.

    Degenerate input: a non-finite image scores NaN.
    """

    higher_is_better = False

    def __init__(self, extractor: str = "tiny", network: nn.Module | None = None, weights: str | None = None) -> None:
        """Measure in the named extractor.

        Args:
            extractor: `tiny`, `alex`, `vgg` or `squeeze`.
            network: instead, an attribute classifier or a `lpips.LPIPS`, reported as `custom` or under its own `extractor` name.
            weights: torchvision's file for that network, by default torchvision's location.
        """
        super().__init__()
        self._network = FrozenNetwork(extractor, network, weights, LPIPS_EXTRACTORS)
        self.extractor = self._network.name

    def score(self, completed: Completed) -> tuple[Tensor, Tensor]:
        """Return an outfit's mean over draws and blanks, (B,)."""
        name = type(self).__name__
        truth = needed(name, "the true items' images", completed.truth)
        network = self._network.on(completed.images.device)
        draws = len(completed.images)
        if truth.shape != completed.images.shape[1:]:
            raise ValueError(f"{name} takes pairs of images, got {tuple(completed.images.shape[1:])} and {tuple(truth.shape)}")
        per_chunk = max(1, images_at_once(truth) // (draws + 1))
        distances = torch.cat(
            [
                _to_last(network, torch.cat([generated, true[None]]).float().nan_to_num(0.0, 1.0, 0.0))
                for generated, true in zip(completed.images.split(per_chunk, dim=1), truth.split(per_chunk), strict=True)
            ],
            dim=1,
        )
        finite = finite_images(name, "truth", truth)
        return completed.per_sample(torch.where(finite, distances.double(), torch.nan))


class RetrievalAccuracy(OutfitMetric):
    """Share of generated images that are closest to the true item among the candidates, by the cosine of CLIP's features; range [0, 1].

    Source: DiFashion's code (`calculate_clip_retrieval_acc_given_data`), with `clip-vit-h-14` and five candidates of which the first is
    true: an `argmax` gives it every tie. Here a tie of n candidates at the top, the true one among them, gives 1/n, so that a generator
    whose features tell nothing gets chance. Cosines within 1e-6 are equal. The extractor is part of the name.

    Degenerate input: a non-finite image, generated or a candidate, scores NaN; an outfit without candidates is undefined. Features of
    zero have the cosine 0 to all.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"candidates"})
    higher_is_better = True

    def __init__(self, extractor: str = "tiny-clip", network: nn.Module | None = None, weights: str | None = None) -> None:
        """Compare in the features of the named extractor.

        Args:
            extractor: one of `fashiongen.metrics.features.CLIP_EXTRACTORS`.
            network: instead, a module with `features(images)`, reported as `custom` or under its own `extractor` name.
            weights: the extractor's folder, by default its repository in the hub's cache.
        """
        super().__init__()
        self._network = FrozenNetwork(extractor, network, weights, CLIP_EXTRACTORS)
        self.extractor = self._network.name

    def score(self, completed: Completed) -> tuple[Tensor, Tensor]:
        """Return an outfit's mean over draws and blanks, (B,)."""
        name = type(self).__name__
        candidates = needed(name, "candidates with images", completed.candidates)
        network = self._network.on(completed.images.device)
        generated = embed(name, "generated", completed.images, network, "features", network.features)
        features = embed_rows(name, "candidate", candidates, network, "features", network.features, generated)
        lengths = candidates.lengths.to(generated.device)
        # A table (B, C) of rows of `features`; what is beyond an outfit's candidates is masked.
        places = torch.arange(max(int(lengths.max()) if len(lengths) else 0, 1), device=generated.device)
        present = (places < lengths[:, None])[completed.sample]
        rows = (candidates.offsets[:-1].to(generated.device)[:, None] + places).clamp(max=max(len(features) - 1, 0))[completed.sample]
        if not len(features):
            return completed.per_sample(generated.new_zeros(generated.shape[:2]), present[:, 0])
        cosines = cosine(generated[:, :, None], features[rows])  # (D, K, C)
        best = cosines.masked_fill(~present, -torch.inf).amax(dim=-1, keepdim=True)
        tied = (cosines >= best - TIE) & present
        values = tied[..., 0].double() / tied.sum(dim=-1).clamp(min=1)
        finite = (cosines.isfinite() | ~present).all(dim=-1)
        return completed.per_sample(torch.where(finite, values, torch.nan), present[:, 0])


def evaluation_prompt(category: str) -> str:
    """Return DiFashion's prompt of a category in its evaluation (`cate_trans`).

    >>> evaluation_prompt("women's sandals")
    "A photo of a pair of women's sandals, on white background"
    """
    return item_prompt(category, EVALUATION_PAIRS, quality=False)


def prepare_texts(network: FrozenNetwork, device: torch.device) -> None:
    """Load a network with its text tower, so that missing weights are reported before any work."""
    load = getattr(network.on(device), "load_texts", None)
    if load is not None:
        load()


def _to_last(network: nn.Module, images: Tensor) -> Tensor:
    """Return LPIPS of all but the last of images (D + 1, K, 3, H, W) to the last, (D, K)."""
    places = torch.arange(images.shape[0] * images.shape[1], device=images.device).reshape(images.shape[:2])
    first, second = places[:-1], places[-1:].expand_as(places[:-1])
    return pair_distances(network, images.flatten(0, 1), first.flatten(), second.flatten()).reshape(first.shape)
