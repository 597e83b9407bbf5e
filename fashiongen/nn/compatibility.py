"""The evaluator of outfits: a network that scores how well the items of an outfit go together, from features of their images.

Source: the compatibility network of Moosaei et al. (CVPRW 2022, "OutfitGAN") as in DiFashion's code (`compatibility_net.py`), whose weights
load by their keys. There it takes outfits of four items, one outfit after the other; here outfits of any lengths in one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from fashiongen.checkpoints import load_state, read_state

DROPOUT = 0.35
PAIR_WIDTHS = (512, 512, 256, 256)
OUTFIT_WIDTHS = (128, 128, 32)


class FashionEvaluator(nn.Module):
    """Scores outfits: every pair of items is embedded, in the order of the items, and the mean of an outfit's pairs is scored.

    >>> sum(parameter.numel() for parameter in FashionEvaluator().parameters())
    2615681
    """

    def __init__(self, width: int = 1024, hidden: int = 1024) -> None:
        """Build the network.

        Args:
            width: length of an item's features, 1024 for CLIP ViT-H/14.
            hidden: length of an item's embedding.
        """
        super().__init__()
        self.width = width
        self.feat_layer = nn.Linear(width, hidden)
        self.emb_layer = nn.Sequential(*_blocks(2 * hidden, PAIR_WIDTHS))
        self.eval_layer = nn.Sequential(*_blocks(PAIR_WIDTHS[-1], OUTFIT_WIDTHS), nn.Linear(OUTFIT_WIDTHS[-1], 1))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, features: Tensor, present: Tensor | None = None) -> Tensor:
        """Return the score of each outfit before the sigmoid, (B,).

        Args:
            features: (B, n, width) of the items of each outfit, in the order of its slots; not normalised.
            present: (B, n) bool, which of the slots hold an item; by default all. An outfit of fewer than two items has no pair, and the
                score NaN.
        """
        if present is None:
            present = features.new_ones(features.shape[:2], dtype=torch.bool)
        items = self.feat_layer(features)
        first, second = torch.triu_indices(features.shape[1], features.shape[1], offset=1, device=features.device)
        outfit, pair = (present[:, first] & present[:, second]).nonzero(as_tuple=True)
        pairs = torch.cat([items[outfit, first[pair]], items[outfit, second[pair]]], dim=1)  # (P, 2 hidden)
        embedded = self.emb_layer(pairs)
        total = embedded.new_zeros(len(features), embedded.shape[1]).index_add_(0, outfit, embedded)
        count = torch.bincount(outfit, minlength=len(features))
        scores: Tensor = self.eval_layer(total / count[:, None])[:, 0]
        return scores

    def probability(self, features: Tensor, present: Tensor | None = None) -> Tensor:
        """Return the compatibility of each outfit, (B,) in [0, 1]; see `forward`."""
        probability: Tensor = self(features, present).sigmoid()
        return probability

    @classmethod
    def from_file(cls, file: Path) -> Self:
        """Build the network with the weights of a file, such as the authors' `fashion_evaluator_*.pth`, whatever its widths.

        Raises:
            UserError: if the file cannot be read safely or lacks keys, which are named.
        """
        state = read_state(file)
        first = state.get("feat_layer.weight")
        hidden, width = first.shape if first is not None and first.ndim == 2 else (1024, 1024)
        network = cls(width, hidden)
        load_state(network, state, source=str(file))
        return network.eval()


def compatibility_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the mean binary cross-entropy of outfits' scores, (B,) before the sigmoid, a scalar; `labels` (B,) are 1 if an outfit fits."""
    return functional.binary_cross_entropy_with_logits(scores, labels.to(scores))


def _blocks(width: int, widths: Sequence[int]) -> list[nn.Module]:
    """Return for each of `widths` a linear layer from the one before, layer norm, ReLU and dropout."""
    layers: list[nn.Module] = []
    for before, after in zip((width, *widths), widths, strict=False):
        layers += [nn.Linear(before, after), nn.LayerNorm(after), nn.ReLU(), nn.Dropout(DROPOUT)]
    return layers
