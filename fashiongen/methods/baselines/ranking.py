"""Baselines of top-bottom retrieval: chance, popularity, nearest colours, and the wardrobe's own rule."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import ClassVar

import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor
from torch.nn.functional import one_hot

from fashiongen.batches import CandidateBatch, PairBatch, QueryBatch
from fashiongen.errors import UserError
from fashiongen.methods.base import Method
from fashiongen.methods.baselines.one_pass import OnePassMethod
from fashiongen.metrics.colour import srgb_to_lab
from fashiongen.nn import noise
from fashiongen.wardrobe.outfits import STYLE, harmonious
from fashiongen.wardrobe.world import ATTRIBUTES

BITS = 16  # of a key per embedding value: float32 represents them exactly
PAPER = 250  # of 255: a pixel with all three channels this high is background


class RandomRanking(Method):
    """Scores each pair with a random number that depends only on (seed, top id, bottom id)."""

    name: ClassVar[str] = "random"
    inner_product: ClassVar[bool] = False

    def embed_query(self, batch: QueryBatch) -> Tensor:
        """Return the tops' keys, (B, 4): 64 bits in four numbers."""
        return _split(noise.keys(batch.top_ids, self.seed, "random", "top")).to(self.device)

    def embed_candidate(self, batch: CandidateBatch) -> Tensor:
        """Return the bottoms' keys, (C, 4)."""
        return _split(noise.keys(batch.ids, self.seed, "random", "bottom")).to(self.device)

    def score(self, query: Tensor, candidate: Tensor) -> Tensor:
        """Return uniform numbers in [0, 1), (B, C), each drawn by the sum of the two keys."""
        keys = _join(query)[:, None] + _join(candidate)[None]
        return noise.uniform(keys.flatten(), keys.device).view_as(keys)


class Popularity(OnePassMethod):
    """Scores a bottom by the number of training pairs it occurs in, whatever the top; one epoch of `fit` counts them."""

    name: ClassVar[str] = "popularity"
    inner_product: ClassVar[bool] = True

    def __init__(self) -> None:
        """Start without a count."""
        super().__init__()
        self.bottoms: Tensor
        self.counts: Tensor
        # Sorted hashes instead of ids, so that a checkpoint holds only tensors. Two of a million ids collide with probability 3e-8.
        self.register_buffer("bottoms", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("counts", torch.zeros(0, dtype=torch.int64))

    def training_step(self, batch: PairBatch, batch_idx: int) -> STEP_OUTPUT:
        """Add the batch's bottoms to the counts."""
        if self.current_epoch == 0:
            new = self._hashes(batch.bottom_ids)
            self.bottoms, place = torch.cat([self.bottoms, new]).unique(return_inverse=True)
            counted = torch.cat([self.counts, torch.ones_like(new)])
            self.counts = torch.zeros_like(self.bottoms).index_add_(0, place, counted)
        return None

    def embed_query(self, batch: QueryBatch) -> Tensor:
        """Return ones, (B, 1): the top does not matter."""
        return torch.ones(len(batch), 1, device=self.device)

    def embed_candidate(self, batch: CandidateBatch) -> Tensor:
        """Return the counts, (C, 1), 0 for a bottom not seen in training."""
        if not len(self.bottoms):
            raise UserError("Popularity has counted no pair: run `fit` first and give its checkpoint by --ckpt_path")
        wanted = self._hashes(batch.ids)
        place = torch.searchsorted(self.bottoms, wanted).clamp(max=len(self.bottoms) - 1)
        return torch.where(self.bottoms[place] == wanted, self.counts[place], 0).float()[:, None]

    def score(self, query: Tensor, candidate: Tensor) -> Tensor:
        """Return the bottoms' counts, (B, C)."""
        return query @ candidate.T

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> None:
        """Load the counts, resizing the buffers to the checkpoint's size."""
        for name in ("bottoms", "counts"):
            if name in state_dict:
                setattr(self, name, torch.zeros_like(state_dict[name], device=self.device))
        super().load_state_dict(state_dict, strict, assign)

    def _hashes(self, ids: list[str]) -> Tensor:
        return noise.keys(ids, "popularity").to(self.bottoms.device)


class ColourNeighbour(Method):
    """Scores a pair by the similarity of its two colour histograms in CIE L*a*b*, without the white background.

    Each pixel is distributed over the eight nearest bins (trilinear), so that a small change of shade changes the histogram little.
    Histograms are compared by the Bhattacharyya coefficient, sum sqrt(p q), in [0, 1]: the highest has the smallest Hellinger
    distance, sqrt(1 - sum sqrt(p q)). An image of only background scores 0 with all others.
    """

    name: ClassVar[str] = "colour_neighbour"
    needs: ClassVar[frozenset[str]] = frozenset({"images"})
    inner_product: ClassVar[bool] = True

    def __init__(self, bins: int = 9) -> None:
        """Divide each axis, L* in [0, 100], a* and b* in [-110, 110], into `bins`; an odd number puts neutral greys into one bin."""
        super().__init__()
        if bins < 1:
            raise UserError(f"ColourNeighbour: bins: {bins}: must be at least 1")
        self.bins = bins

    def embed_query(self, batch: QueryBatch) -> Tensor:
        """Return the square roots of the tops' histograms, (B, bins^3), each of length one."""
        return self._histograms(batch.top)

    def embed_candidate(self, batch: CandidateBatch) -> Tensor:
        """Return the square roots of the bottoms' histograms, (C, bins^3)."""
        return self._histograms(batch.bottom)

    def score(self, query: Tensor, candidate: Tensor) -> Tensor:
        """Return the Bhattacharyya coefficients, (B, C) in [0, 1]."""
        return query @ candidate.T

    def _histograms(self, images: Tensor | None) -> Tensor:
        if images is None:
            raise UserError("ColourNeighbour needs images, but the data reads only the lists: set data.init_args.images=true")
        foreground = (images < PAPER).any(dim=1).flatten(1).float()  # (B, S * S)
        low, high = (torch.tensor(ends, device=images.device).view(3, 1, 1) for ends in ((0.0, -110.0, -110.0), (100.0, 110.0, 110.0)))
        place = (srgb_to_lab(images.float() / 255) - low) / (high - low) * self.bins - 0.5  # 0 at the first bin's centre
        below = place.floor()
        counts = torch.zeros(len(images), self.bins**3, device=images.device)
        for corner in product((0, 1), repeat=3):
            step = torch.tensor(corner, device=images.device).view(3, 1, 1)
            weight = torch.where(step == 1, place - below, below + 1 - place).prod(dim=1).flatten(1)
            lightness, a, b = (below.long() + step).clamp(0, self.bins - 1).flatten(2).unbind(dim=1)
            counts.scatter_add_(1, (lightness * self.bins + a) * self.bins + b, weight * foreground)
        return (counts / counts.sum(dim=1, keepdim=True).clamp(min=1)).sqrt()


class TrueRule(Method):
    """Scores 1 if the wardrobe's rule holds (colours in harmony, styles equal), else 0: the ceiling on the embedded world."""

    name: ClassVar[str] = "oracle"
    needs: ClassVar[frozenset[str]] = frozenset({"attributes"})
    inner_product: ClassVar[bool] = True

    def __init__(self) -> None:
        """Build the rule's matrix."""
        super().__init__()
        colours = ATTRIBUTES["Color"]
        self.harmony: Tensor
        harmony = torch.tensor([[float(harmonious(first, second)) for second in colours] for first in colours])
        self.register_buffer("harmony", harmony, persistent=False)

    def embed_query(self, batch: QueryBatch) -> Tensor:
        """Return which (style, colour) combinations match the tops, (B, styles * colours) of zeros and ones."""
        style, colour = self._encode(batch.attributes)
        return (style[:, :, None] * (colour @ self.harmony)[:, None, :]).flatten(1)

    def embed_candidate(self, batch: CandidateBatch) -> Tensor:
        """Return the bottoms' (style, colour), one-hot (C, styles * colours)."""
        style, colour = self._encode(batch.attributes)
        return (style[:, :, None] * colour[:, None, :]).flatten(1)

    def score(self, query: Tensor, candidate: Tensor) -> Tensor:
        """Return 1 where the rule holds, else 0, (B, C)."""
        return query @ candidate.T

    def _encode(self, attributes: list[dict[str, str]] | None) -> tuple[Tensor, Tensor]:
        """Return one-hot styles and colours, (B, styles) and (B, colours)."""
        if attributes is None:
            raise UserError(
                "TrueRule needs the attributes of each item, which only the wardrobe knows: set data.init_args.root to wardrobe"
            )
        encoded = []
        for name in (STYLE, "Color"):
            values = ATTRIBUTES[name]
            place = torch.tensor([values.index(item[name]) for item in attributes], dtype=torch.int64, device=self.harmony.device)
            encoded.append(one_hot(place, len(values)).float())
        return encoded[0], encoded[1]


def _split(keys: Tensor) -> Tensor:
    """Split int64 (B,) into floats (B, 4) of 16 bits each, lowest first."""
    return torch.stack([(keys >> BITS * place) & (2**BITS - 1) for place in range(4)], dim=1).float()


def _join(parts: Tensor) -> Tensor:
    """Undo `_split`: (B, 4) to int64 (B,)."""
    whole = parts.long()
    return whole[:, 0] | whole[:, 1] << BITS | whole[:, 2] << 2 * BITS | whole[:, 3] << 3 * BITS
