"""How similar what is generated is to what the person has chosen before."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from fashiongen.metrics.features import CLIP_EXTRACTORS, FrozenNetwork
from fashiongen.metrics.outfits import OutfitMetric, cosine, embed, embed_rows, needed
from fashiongen.outfit_batches import Completed


class Personalisation(OutfitMetric):
    """100 times the cosine of CLIP's features of a generated image and of the person's history in its category; range [-100, 100].

    The history's vector is the mean of the items' features as they are, not normalised. Source: DiFashion's code
    (`evaluate_personalization_given_data_sim`), DualFashion section 5.1.3, with `clip-vit-h-14`. The extractor is part of the name.

    Degenerate input: a non-finite image, generated or in the history, scores NaN. A blank in whose category the person has no history is
    left out (the authors skip it silently); an outfit of such blanks alone is undefined.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"history"})
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
        """Return an outfit's mean over draws and blanks with a history, (B,)."""
        name = type(self).__name__
        history = needed(name, "the persons' histories with images", completed.history)
        network = self._network.on(completed.images.device)
        generated = embed(name, "generated", completed.images, network, "features", network.features)
        chosen = embed_rows(name, "history", history, network, "features", network.features, generated)
        lengths = history.lengths.to(generated.device)
        row_of = torch.repeat_interleave(torch.arange(len(history), device=generated.device), lengths)
        total = generated.new_zeros(len(history), generated.shape[-1], dtype=torch.float64).index_add_(0, row_of, chosen.double())
        mean = total / lengths.clamp(min=1)[:, None]
        return completed.per_sample(100 * cosine(generated, mean), lengths > 0)
