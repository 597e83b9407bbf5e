"""How different the images are that are generated for one blank, or for one outfit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from fashiongen.errors import UserError
from fashiongen.metrics.features import FrozenNetwork
from fashiongen.metrics.outfits import OutfitMetric, mean_of_draws
from fashiongen.metrics.perceptual import LPIPS_EXTRACTORS, images_at_once, pair_distances
from fashiongen.outfit_batches import Completed

Over = Literal["draws", "outfit"]


class LPIPSDiversity(OutfitMetric):
    """Mean LPIPS over all pairs of generated images; 0 if they are equal, higher is more diverse, which by itself is not better images.

    `over="draws"`: pairs of the draws of one blank. `over="outfit"`: pairs of the generated images of one outfit in one draw. Source:
    DualFashion section 5.1.3 ("between each pair of multiple generated images within each outfit"); its code
    (`calculate_pairwise_lpips_given_groups`, with `vgg`) pairs all images of a person and outfit and takes the mean over all pairs, which
    is the same where all outfits have as many. The extractor is part of the name.

    Degenerate input: a non-finite image scores NaN. Fewer than two images have no pair: such an outfit is undefined (the authors' code
    then says 0).
    """

    higher_is_better = True

    def __init__(self, over: Over = "draws", extractor: str = "tiny", network: nn.Module | None = None, weights: str | None = None) -> None:
        """Measure in the named extractor.

        Args:
            over: `draws` or `outfit`.
            extractor: `tiny`, `alex`, `vgg` or `squeeze`.
            network: instead, an attribute classifier or a `lpips.LPIPS`, reported as `custom` or under its own `extractor` name.
            weights: torchvision's file for that network, by default torchvision's location.
        """
        super().__init__()
        if over not in get_args(Over):
            raise UserError(f"LPIPSDiversity: over: {over!r}: choose {' or '.join(get_args(Over))}")
        self.over = over
        self._network = FrozenNetwork(extractor, network, weights, LPIPS_EXTRACTORS)
        self.extractor = self._network.name

    def score(self, completed: Completed) -> tuple[Tensor, Tensor]:
        """Return an outfit's mean over its groups of images of the mean over a group's pairs, (B,)."""
        draws, blanks = completed.images.shape[:2]
        if self.over == "draws":
            group = torch.arange(blanks, device=completed.sample.device).expand(draws, -1)
            means, count = self._group_means(completed.images, group, blanks)
            return completed.per_sample(means[None], count >= 2)
        offset = completed.n_samples * torch.arange(draws, device=completed.sample.device)[:, None]
        means, count = self._group_means(completed.images, offset + completed.sample, draws * completed.n_samples)
        return mean_of_draws(means.reshape(draws, -1), (count >= 2).reshape(draws, -1))

    def _group_means(self, images: Tensor, group: Tensor, n_groups: int) -> tuple[Tensor, Tensor]:
        """Return the mean distance of the pairs in each group, (G,) float64, and the number of its images, (G,).

        Args:
            images: (D, K, 3, H, W).
            group: (D, K) int64, the group of each.
            n_groups: G.
        """
        network = self._network.on(images.device)
        order = group.flatten().argsort(stable=True)
        count = torch.bincount(group.flatten(), minlength=n_groups)
        flat, sorted_group = images.flatten(0, 1), group.flatten()[order]
        total = torch.zeros(n_groups, dtype=torch.float64, device=images.device)
        for start, end in _chunks(count.tolist(), images_at_once(images)):
            of = sorted_group[start:end]
            first, second = torch.triu_indices(end - start, end - start, offset=1, device=images.device)
            together = of[first] == of[second]
            first, second = first[together], second[together]
            distances = pair_distances(network, flat[order[start:end]].float().nan_to_num(0.0, 1.0, 0.0), first, second)
            total.index_add_(0, of[first], distances.double())
        return total / (count * (count - 1) / 2), count


def _chunks(sizes: list[int], most: int) -> Iterator[tuple[int, int]]:
    """Join consecutive groups to chunks of at most `most` images, or of one group, and return the first and one past the last of each."""
    start = end = 0
    for size in sizes:
        if end > start and end + size - start > most:
            yield start, end
            start = end
        end += size
    if end > start:
        yield start, end
