"""Baselines of outfits for a person: catalogue items by chance, popularity or similarity, the mean history, and the wardrobe's own rule.

Those of a catalogue show items of the training outfits. A test has no access to the training data, so `fit` collects them in one epoch and
the checkpoint holds their images, 3 * H * W bytes each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor
from torch.nn.functional import interpolate

from fashiongen.batches import to_float
from fashiongen.errors import UserError
from fashiongen.methods.base import Method
from fashiongen.methods.baselines.one_pass import OnePassMethod
from fashiongen.nn import noise
from fashiongen.outfit_batches import WHITE, ComposeBatch, FillBlankBatch, Generated, OutfitBatch
from fashiongen.wardrobe.outfits import STYLE, harmonious
from fashiongen.wardrobe.world import ATTRIBUTES

UNKNOWN = -1
"""An attribute that is not known: real data have none."""


class MeanHistory(Method):
    """Returns the mean image of the user's history in the blank's category; white without any."""

    name: ClassVar[str] = "mean_history"
    needs: ClassVar[frozenset[str]] = frozenset({"images", "history"})

    def __init__(self, draws: int = 1) -> None:
        """Return the same image in each of `draws`."""
        super().__init__()
        if draws < 1:
            raise UserError("MeanHistory: draws must be at least 1")
        self.draws = draws

    def fill_blank(self, batch: FillBlankBatch) -> Generated:
        """Return the mean of each blank's history."""
        return self.mean(batch)

    def compose_outfit(self, batch: ComposeBatch) -> Generated:
        """Return the mean of each slot's history."""
        return self.mean(batch)

    def mean(self, batch: OutfitBatch) -> Generated:
        """Return (D, K, 3, H, W) in [-1, 1]."""
        assert batch.history is not None and batch.images is not None
        history, slots = batch.history.values, batch.blank_slots()
        pixels = history.values.float()
        total = torch.zeros(len(history), *batch.images.values.shape[1:], device=pixels.device).index_add_(0, history.row_of, pixels)
        count = history.lengths.view(-1, 1, 1, 1)
        mean = torch.where(count > 0, total / count.clamp(min=1), WHITE)[slots] / 127.5 - 1
        return Generated(images=mean.expand(self.draws, *mean.shape).clone())


class CatalogueMethod(OnePassMethod):
    """Chooses for each blank an item of its category among those of the training outfits; a subclass says which.

    A category's items are at most `per_category`: those whose ids have the smallest hashes, a choice that depends on no order.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"images"})

    def __init__(self, draws: int = 1, per_category: int = 300) -> None:
        """Start without items.

        Args:
            draws: how often each blank is filled.
            per_category: the most items of a category that are collected.
        """
        super().__init__()
        if min(draws, per_category) < 1:
            raise UserError(f"{type(self).__name__}: draws and per_category must be at least 1")
        self.draws, self.per_category = draws, per_category
        self.images: Tensor
        self.items: Tensor
        self.category: Tensor
        self.attributes: Tensor
        self.register_buffer("images", torch.zeros(0, dtype=torch.uint8))
        self.register_buffer("items", torch.zeros(0, dtype=torch.int64))  # hashes of the ids
        self.register_buffer("category", torch.zeros(0, dtype=torch.int64))  # hashes of the names
        self.register_buffer("attributes", torch.zeros(0, len(ATTRIBUTES), dtype=torch.int64))
        self._collected: dict[int, dict[int, tuple[Tensor, Tensor]]] = {}

    def training_step(self, batch: OutfitBatch, batch_idx: int) -> STEP_OUTPUT:
        """Collect the batch's items."""
        if self.current_epoch == 0:
            assert batch.true_items is not None and batch.true_images is not None
            items, categories = _keys(batch.true_items.values), _keys(batch.category.values)
            attributes = _indices(None if batch.attributes is None else batch.attributes.values, len(items))
            for place, (item, category) in enumerate(zip(items.tolist(), categories.tolist(), strict=True)):
                self.collect(item, category, batch.true_images.values[place].cpu().clone(), attributes[place])
        return None

    def collect(self, item: int, category: int, image: Tensor, attributes: Tensor) -> None:
        """Keep an item unless its category is full of items with smaller hashes."""
        of_category = self._collected.setdefault(category, {})
        of_category[item] = (image, attributes)
        if len(of_category) > self.per_category:
            del of_category[max(of_category)]

    def on_train_epoch_end(self) -> None:
        """Join the collected items in buffers, which are saved in the checkpoint, in the order of their hashes."""
        if not self._collected:
            return
        rows = [(category, item) for category, items in sorted(self._collected.items()) for item in sorted(items)]
        device = self.device
        self.category = torch.tensor([category for category, _ in rows], device=device)
        self.items = torch.tensor([item for _, item in rows], device=device)
        self.images = torch.stack([self._collected[category][item][0] for category, item in rows]).to(device)
        self.attributes = torch.stack([self._collected[category][item][1] for category, item in rows]).to(device)
        self._collected = {}

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> None:  # noqa: ANN401  nn.Module's own signature
        """Load the collected items, resizing the buffers to the checkpoint's size."""
        for name in dict(self.named_buffers()).keys() & state_dict.keys():
            setattr(self, name, torch.zeros_like(state_dict[name], device=self.device))
        super().load_state_dict(state_dict, strict, assign)

    def fill_blank(self, batch: FillBlankBatch) -> Generated:
        """Return a catalogue item for each blank."""
        return self.chosen(batch)

    def compose_outfit(self, batch: ComposeBatch) -> Generated:
        """Return a catalogue item for each slot."""
        return self.chosen(batch)

    def chosen(self, batch: OutfitBatch) -> Generated:
        """Return the items with the highest scores among those of each blank's category: (D, K, 3, H, W) in [-1, 1].

        Raises:
            UserError: if nothing was collected, or no item of a category.
        """
        if not len(self.items):
            raise UserError(f"{type(self).__name__} has collected no item: run `fit` first and give its checkpoint by --ckpt_path")
        slots = batch.blank_slots()
        names = [batch.category.values[slot] for slot in slots.tolist()]
        fits = _keys(names).to(self.device)[:, None] == self.category[None]
        if not bool(fits.any(dim=1).all()):
            absent = names[int((~fits.any(dim=1)).nonzero()[0])]
            raise UserError(f"{type(self).__name__}: no training outfit has an item of the category {absent!r}")
        chosen = self.choose(batch, fits)
        return Generated(images=to_float(self.images[chosen.flatten()]).unflatten(0, chosen.shape))

    def choose(self, batch: OutfitBatch, fits: Tensor) -> Tensor:
        """Return the place of an item for each draw and blank, (D, K), among those that `fits` (K, N) allows."""
        raise NotImplementedError

    def random_scores(self, batch: OutfitBatch) -> Tensor:
        """Return uniform numbers in [0, 1) for each draw, blank and item, (D, K, N), each from the ids of all three."""
        blanks = zip(batch.blank_samples().tolist(), batch.blank_slots().tolist(), strict=True)
        ids = [f"{batch.ids[sample]}/{slot - int(batch.blank.offsets[sample])}" for sample, slot in blanks]
        names = [f"{id_}/{draw}" for draw in range(self.draws) for id_ in ids]
        keys = noise.keys(names, self.seed, "item").to(self.device)[:, None] + self.items[None]
        return noise.uniform(keys.flatten(), keys.device).view(self.draws, len(ids), len(self.items))


class RandomItem(CatalogueMethod):
    """Returns a random item of the blank's category, another one in each draw."""

    name: ClassVar[str] = "random_item"

    def choose(self, batch: OutfitBatch, fits: Tensor) -> Tensor:
        """Return the item with the highest random number."""
        return self.random_scores(batch).masked_fill(~fits, -1.0).argmax(dim=2)


class PopularItem(CatalogueMethod):
    """Returns the item of the blank's category that occurs in most training outfits; of several the one with the smallest hash."""

    name: ClassVar[str] = "popular_item"

    def __init__(self, draws: int = 1) -> None:
        """Start without items; in each of `draws` the same is returned."""
        super().__init__(draws=draws, per_category=1)
        self._counts: dict[tuple[int, int], int] = {}

    def collect(self, item: int, category: int, image: Tensor, attributes: Tensor) -> None:
        """Count an item, and keep it if it is now its category's most frequent one."""
        self._counts[category, item] = count = self._counts.get((category, item), 0) + 1
        kept = next(iter(self._collected.get(category, {})), None)
        if kept is None or (-count, item) < (-self._counts[category, kept], kept):
            self._collected[category] = {item: (image, attributes)}

    def choose(self, batch: OutfitBatch, fits: Tensor) -> Tensor:
        """Return the only item of each category."""
        return fits.int().argmax(dim=1).expand(self.draws, -1)


class NearestItem(CatalogueMethod):
    """Returns the item of the blank's category that is most like the given items: by the mean distance of reduced images.

    An outfit recommendation has no given items: the first item of the catalogue is returned.
    """

    name: ClassVar[str] = "nearest_item"

    def __init__(self, draws: int = 1, per_category: int = 300, feature_size: tuple[int, int] = (16, 12)) -> None:
        """Start without items.

        Args:
            draws: how often each blank is filled, always with the same item.
            per_category: the most items of a category that are collected.
            feature_size: height and width at which images are compared.
        """
        super().__init__(draws, per_category)
        self.feature_size = feature_size

    def choose(self, batch: OutfitBatch, fits: Tensor) -> Tensor:
        """Return the item with the smallest mean distance to the given ones."""
        assert batch.images is not None
        given = batch.given.values.nonzero().flatten()
        features = self._features(batch.images.values[given]), self._features(self.images)
        distances = torch.cdist(*features, compute_mode="donot_use_mm_for_euclid_dist")  # the other way depends on the batch
        total = torch.zeros(len(batch), len(self.items), device=self.device).index_add_(0, batch.given.row_of[given], distances)
        return total[batch.blank_samples()].masked_fill(~fits, torch.inf).argmin(dim=1).expand(self.draws, -1)

    def _features(self, images: Tensor) -> Tensor:
        return interpolate(to_float(images), size=self.feature_size, mode="bilinear", antialias=True).flatten(1)


class TrueOutfit(CatalogueMethod):
    """The wardrobe's oracle: the item that fits most of the outfit's other items and has most of what the user truly likes.

    It knows the true attributes of the given items and of the catalogue, and the user's taste, which other methods must not. The items of a
    recommended outfit are chosen one after another, each the best beside the earlier ones, which need not make the best outfit. Of equally
    good items a random one is chosen.
    """

    name: ClassVar[str] = "true_outfit"
    needs: ClassVar[frozenset[str]] = frozenset({"images", "attributes", "likes"})

    def choose(self, batch: OutfitBatch, fits: Tensor) -> Tensor:
        """Return the best item of each blank, slot after slot."""
        if batch.given_attributes is None or batch.likes is None:
            raise UserError("TrueOutfit knows the wardrobe's truth alone: set data.init_args.root=wardrobe")
        liked = torch.stack([_liked(likes) for likes in batch.likes]).to(self.device)  # (B, attributes, values)
        rule = _rule().to(self.device)
        taste = torch.stack([liked[:, place, self.attributes[:, place]] for place in range(len(ATTRIBUTES))]).sum(dim=0) / 3
        known = _indices(batch.given_attributes.values, len(batch.given.values)).to(self.device)
        known = known.expand(self.draws, *known.shape).clone()
        slots, samples, luck = batch.blank_slots(), batch.blank_samples(), self.random_scores(batch)
        chosen = torch.zeros(self.draws, len(slots), dtype=torch.int64, device=self.device)
        place = slots - batch.blank.offsets[samples]
        rows = batch.blank.row_of
        for turn in place.unique().tolist():
            now = (place == turn).nonzero().flatten()
            there = (known[..., 0] != UNKNOWN)[:, None] & (rows[None] == samples[now][:, None])[None]  # (D, k, T)
            suits = rule[_values(known)][:, :, _values(self.attributes)].float()  # (D, T, N)
            fitting = torch.einsum("dkt,dtn->dkn", there.float(), suits) / there.sum(dim=2, keepdim=True).clamp(min=1)
            score = fitting + taste[samples[now]] + 1e-3 * luck[:, now]
            chosen[:, now] = score.masked_fill(~fits[now], -1.0).argmax(dim=2)
            known[:, slots[now]] = self.attributes[chosen[:, now]]
        return chosen


def _keys(names: Sequence[str]) -> Tensor:
    return noise.keys(names, "name")


def _indices(attributes: Sequence[dict[str, str]] | None, count: int) -> Tensor:
    """Return the place of each value of the wardrobe's attributes, (N, 4); UNKNOWN where an item has none."""
    if attributes is None:
        return torch.full((count, len(ATTRIBUTES)), UNKNOWN)
    rows = [[values.index(known[name]) if name in known else UNKNOWN for name, values in ATTRIBUTES.items()] for known in attributes]
    return torch.tensor(rows, dtype=torch.int64).reshape(count, len(ATTRIBUTES))


def _liked(likes: dict[str, tuple[str, ...]]) -> Tensor:
    """Return 1 where a user likes a value, (attributes, values)."""
    liked = torch.zeros(len(ATTRIBUTES), max(map(len, ATTRIBUTES.values())))
    for row, (name, values) in enumerate(ATTRIBUTES.items()):
        liked[row, [values.index(value) for value in likes.get(name, ())]] = 1.0
    return liked


def _values(attributes: Tensor) -> Tensor:
    """Return one number for colour and style together, (...), of attributes (..., 4); of unknown ones that of the first values."""
    names = list(ATTRIBUTES)
    colour, style = (attributes[..., names.index(name)].clamp(min=0) for name in ("Color", STYLE))
    return colour * len(ATTRIBUTES[STYLE]) + style


def _rule() -> Tensor:
    """Return whether two items fit, by their colours and styles as in `_values`: (V, V) bool."""
    colours, styles = ATTRIBUTES["Color"], ATTRIBUTES[STYLE]
    harmony = torch.tensor([[harmonious(first, second) for second in colours] for first in colours])
    same = torch.eye(len(styles), dtype=torch.bool)
    return (harmony[:, None, :, None] & same[None, :, None, :]).flatten(2, 3).flatten(0, 1)
