"""What the published metrics of outfits estimate, known in the wardrobe: whether items fit by the world's rule, and whether they are liked.

The attributes of generated images are read by the tiny classifier, whose accuracy bounds both values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from fashiongen.errors import UserError
from fashiongen.metrics.features import TINY, FrozenNetwork
from fashiongen.metrics.outfits import OutfitMetric, mean_of_draws, needed, read_attributes, slot_table
from fashiongen.nn.classifier import AttributeClassifier
from fashiongen.outfit_batches import Completed
from fashiongen.wardrobe.outfits import STYLE, fits

Rule = Callable[[Mapping[str, str], Mapping[str, str]], bool]

RULE_ATTRIBUTES = ("Color", STYLE)
LIKED_ATTRIBUTES = ("Color", "Design features", STYLE)
TRUTH = "the wardrobe's true attributes"


class TrueCompatibility(OutfitMetric):
    """Share of pairs of a generated item and another item of its completed outfit that fit by the world's rule; range [0, 1].

    The colour and style of generated items are read off their images, those of given items are known. In an outfit recommendation all
    pairs are of generated items. Chance is not 0, and true outfits stay below 1 by the world's noise. Source: own definition. The
    classifier is part of the name.

    Degenerate input: a non-finite image scores NaN; an outfit without such a pair is undefined.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"attributes"})
    higher_is_better = True

    def __init__(self, extractor: str = "tiny-classifier", rule: Rule = fits, network: AttributeClassifier | None = None) -> None:
        """Read the attributes `RULE_ATTRIBUTES` with the classifier `extractor`, or with `network` instead, and judge pairs by `rule`.

        Args:
            extractor: name of the classifier.
            rule: whether two items fit, given their attributes, in the order of their slots; by default the wardrobe's.
            network: instead, a classifier, reported as `custom` or under its own `extractor` name.
        """
        super().__init__()
        self._network = FrozenNetwork(extractor, network, choices=TINY)
        self.extractor = self._network.name
        self.rule = rule

    def score(self, completed: Completed) -> tuple[Tensor, Tensor]:
        """Return an outfit's share of its pairs, mean over draws, (B,)."""
        name = type(self).__name__
        needed(name, TRUTH, completed.attributes)
        network = self._network.on(completed.images.device)
        known = [] if completed.given is None else needed(name, TRUTH, completed.given_attributes).values
        heads = [_values(name, network, attribute) for attribute in RULE_ATTRIBUTES]
        read = read_attributes(name, completed.images, network)
        # An item's code is a number for its two values together.
        generated = read[RULE_ATTRIBUTES[0]] * len(heads[1]) + read[RULE_ATTRIBUTES[1]]  # (D, K)
        codes = [_place(name, heads[0], item, 0) * len(heads[1]) + _place(name, heads[1], item, 1) for item in known]
        given = torch.tensor(codes, dtype=torch.int64, device=generated.device)
        table, present = slot_table(name, completed)
        items = torch.cat([given.expand(len(generated), -1), generated], dim=1)[:, table]  # (D, B, L)
        first, second = torch.triu_indices(table.shape[1], table.shape[1], offset=1, device=table.device)
        blank = table >= len(given)
        counted = present[:, first] & present[:, second] & (blank[:, first] | blank[:, second])  # (B, P)
        fitting = self._fitting(heads).to(items.device)[items[..., first], items[..., second]] & counted
        shares = fitting.sum(dim=2).double() / counted.sum(dim=1)
        return mean_of_draws(shares, (counted.sum(dim=1) > 0).expand(len(generated), -1))

    def _fitting(self, heads: list[tuple[str, ...]]) -> Tensor:
        """Return the rule as a table over codes, (V, V) bool: it is asked once for each pair of values, not of items."""
        items = [dict(zip(RULE_ATTRIBUTES, (one, two), strict=True)) for one in heads[0] for two in heads[1]]
        return torch.tensor([[bool(self.rule(first, second)) for second in items] for first in items])


class TruePreference(OutfitMetric):
    """Share of the colour, design and style of a generated item that its person likes; range [0, 1], higher is better.

    The attributes are read off the image; the liking is the world's (`fashiongen.wardrobe.outfits.User.liking`). Chance is not 0. Source:
    own definition. The classifier is part of the name.

    Degenerate input: a non-finite image scores NaN.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"likes"})
    higher_is_better = True

    def __init__(self, extractor: str = "tiny-classifier", network: AttributeClassifier | None = None) -> None:
        """Read the attributes with the classifier `extractor`, or with `network` instead, reported as `custom` or under its own name."""
        super().__init__()
        self._network = FrozenNetwork(extractor, network, choices=TINY)
        self.extractor = self._network.name

    def score(self, completed: Completed) -> tuple[Tensor, Tensor]:
        """Return an outfit's mean over draws and blanks, (B,)."""
        name = type(self).__name__
        likes: list[dict[str, tuple[str, ...]]] = needed(name, "the wardrobe's true liking of each person", completed.likes)
        network = self._network.on(completed.images.device)
        read = read_attributes(name, completed.images, network)
        liked = []
        for attribute in LIKED_ATTRIBUTES:
            values = _values(name, network, attribute)
            table = torch.tensor([[value in person[attribute] for value in values] for person in likes], device=completed.images.device)
            liked.append(table.reshape(len(likes), len(values))[completed.sample.expand(read[attribute].shape), read[attribute]])
        return completed.per_sample(torch.stack(liked).double().mean(dim=0))


def _values(name: str, network: AttributeClassifier, attribute: str) -> tuple[str, ...]:
    if attribute not in network.heads:
        raise UserError(f"{name}: the classifier reads {', '.join(network.heads)}, not {attribute!r}: choose one trained on the wardrobe")
    return network.heads[attribute]


def _place(name: str, values: tuple[str, ...], item: Mapping[str, str], attribute: int) -> int:
    value = item[RULE_ATTRIBUTES[attribute]]
    if value not in values:
        raise UserError(f"{name}: the classifier does not know the {RULE_ATTRIBUTES[attribute]} {value!r} of a given item: choose another")
    return values.index(value)
