"""The jobs done by the wardrobe, whose truth and rule are known: the embedded world's ceiling for any model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product

import torch
from torch import Tensor

from fashiongen.checkpoints import locate
from fashiongen.errors import UserError
from fashiongen.nn.classifier import AttributeClassifier
from fashiongen.preference import ATTRIBUTES, elements, preference_text, read_caption
from fashiongen.providers.jobs import Blank, History
from fashiongen.wardrobe import outfits as wardrobe
from fashiongen.wardrobe.outfits import STYLE
from fashiongen.wardrobe.world import ATTRIBUTES as VALUES
from fashiongen.wardrobe.world import CATEGORIES, HELD_OUT_CATEGORY_MATERIALS, HELD_OUT_COLOR_DESIGNS, NAMESPACES, Stream

SIZE = (64, 48)
"""The size of the images that the tiny classifiers were trained on, and the only one at which they read well."""

AT_ONCE = 64
"""How many images the classifier reads at a time."""


def fits(first: Mapping[str, str], second: Mapping[str, str]) -> bool:
    """Whether two items fit by the wardrobe's rule (`wardrobe.compatible`), given the attributes of their captions.

    A value that the wardrobe does not have, "Unknown" among them, fits nothing: there is no evidence that it does.
    """
    known = all(item.get(name) in VALUES[name] for item in (first, second) for name in ("Color", STYLE))
    return known and wardrobe.fits(first, second)


class WardrobeCaptions:
    """The true captions of the wardrobe's items."""

    def __init__(self, attributes: Mapping[str, Mapping[str, str]]) -> None:
        """Take the attributes of every item by its id."""
        self._attributes = attributes

    def describe(self, ids: Sequence[str], images: Sequence[Tensor] = ()) -> list[str]:
        """Return the true caption of each item; see `DescribesItems`. Images are not looked at.

        Raises:
            UserError: if an item is not known, or lacks an attribute.
        """
        for id in ids:
            if missing := [name for name in ATTRIBUTES if name not in self._attributes.get(id, {})]:
                raise UserError(f"caption of {id}: the wardrobe knows no {', '.join(missing)} of it: name items of the rendered world")
        return [preference_text(self._attributes[id]) for id in ids]


class WardrobePreferences:
    """The true preferences of the wardrobe's users, who like colours, designs and styles, and no material more than others ("Unknown")."""

    def __init__(self, likes: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        """Take what every user likes by their id: for some attributes the liked values."""
        self._likes = likes

    def prefer(self, histories: Sequence[History]) -> list[str]:
        """Return the preference of each history's user, the same in all categories; see `StatesPreferences`.

        Raises:
            UserError: if a user is not known.
        """
        for history in histories:
            if history.user not in self._likes:
                raise UserError(f"preference of {history.user}: the wardrobe knows no such user: name users of the rendered world")
        return [preference_text({name: sorted(liked) for name, liked in self._likes[history.user].items()}) for history in histories]


class WardrobeAugmentation:
    """Draws items that fit by the rule, keyed by (seed, blank)."""

    def __init__(self, seed: int = 0, namespace: str = "train") -> None:
        """Draw items of a namespace: outside of `test` none has a held-out combination of attributes.

        Raises:
            UserError: if there is no such namespace.
        """
        if namespace not in NAMESPACES:
            raise UserError(f"unknown wardrobe namespace {namespace!r}: choose one of {', '.join(NAMESPACES)}")
        self._seed, self._namespace = seed, namespace

    def augment(self, blanks: Sequence[Blank], n: int = 5) -> list[list[str]]:
        """Return `n` different captions for each blank; see `AugmentsText`.

        The items are drawn from those that fit the most of the given ones: all, unless these do not fit each other. If the blank has a
        preference, those with the most preferred values are drawn first.

        Raises:
            UserError: if the category is none of the wardrobe's, or fewer than `n` items fit.
        """
        return [self._draw(blank, n) for blank in blanks]

    def _draw(self, blank: Blank, n: int) -> list[str]:
        if blank.category not in CATEGORIES:
            raise UserError(f"{blank.id}: the wardrobe has no {blank.category!r}: name one of {', '.join(CATEGORIES)}")
        given = [read_caption(caption) for caption in blank.given]
        liked = {} if blank.preference is None else elements(blank.preference)
        pairs = {
            pair: sum(fits({"Color": pair[0], STYLE: pair[1]}, other) for other in given)
            for pair in product(VALUES["Color"], VALUES[STYLE])
        }
        best = max(pairs.values())
        tiers: dict[int, list[dict[str, str]]] = {}
        for values in product(*(VALUES[name] for name in ATTRIBUTES)):
            item = dict(zip(ATTRIBUTES, values, strict=True))
            if pairs[item["Color"], item[STYLE]] == best and self._allowed(blank.category, item):
                tiers.setdefault(sum(value in liked.get(name, ()) for name, value in item.items()), []).append(item)
        stream, drawn = Stream(self._seed, self._namespace, f"augmentation/{blank.id}", 0), list[str]()
        for _, items in sorted(tiers.items(), reverse=True):
            while items and len(drawn) < n:
                drawn.append(preference_text(items.pop(int(stream.number(0, len(items))))))
        if len(drawn) < n:
            raise UserError(f"{blank.id}: only {len(drawn)} different items of {blank.category} fit, not {n}: ask for fewer")
        return drawn

    def _allowed(self, category: str, item: Mapping[str, str]) -> bool:
        held_out = (item["Color"], item["Design features"]) in HELD_OUT_COLOR_DESIGNS or (
            category,
            item["Material"],
        ) in HELD_OUT_CATEGORY_MATERIALS
        return self._namespace == "test" or not held_out


class WardrobeJudge:
    """Judges captions by the rule."""

    def judge(self, captions: Sequence[str], blanks: Sequence[Blank]) -> list[float]:
        """Return 1 + 9 x the share of the given items that each caption's item fits; see `JudgesCaptions`."""
        return [self._score(read_caption(caption), blank) for caption, blank in zip(captions, blanks, strict=True)]

    def _score(self, item: Mapping[str, str], blank: Blank) -> float:
        if not blank.given:
            return math.nan
        return 1 + 9 * sum(fits(item, read_caption(given)) for given in blank.given) / len(blank.given)


class WardrobeImageJudge:
    """Judges images of the wardrobe by a classifier: 1 + 9 x the probability of the category that they should show.

    A generated image has no truth; this is a reading. A classifier that is in a method's reward must not be in its metrics.
    """

    def __init__(self, pretrained: str = "tiny", part: str = "classifier") -> None:
        """Load the classifier in `pretrained`: `tiny` with its `part` (`classifier` or `second/classifier`), or a folder.

        Raises:
            UserError: if there is none, or it reads no category.
        """
        self._network = AttributeClassifier.from_pretrained(locate(pretrained, part)).requires_grad_(False)
        if "category" not in self._network.heads:
            raise UserError(f"{pretrained}: the classifier reads {', '.join(self._network.heads)} and no category: name another")

    @torch.inference_mode()
    def judge_images(self, ids: Sequence[str], images: Sequence[Tensor], categories: Sequence[str]) -> list[float]:
        """Return the quality of each image; see `JudgesImages`. Square ones, as of outfits, lose their margins: see `frame`.

        Raises:
            UserError: if the classifier does not know a category.
        """
        known = self._network.heads["category"]
        for id, category in zip(ids, categories, strict=True):
            if category not in known:
                raise UserError(f"{id}: the classifier knows no {category!r}: name one of {', '.join(known)}")
        found: list[float] = []
        for start in range(0, len(ids), AT_ONCE):
            part = range(start, min(start + AT_ONCE, len(ids)))
            chances = self._network(torch.stack([frame(images[index]) for index in part]) / 255)["category"].softmax(dim=1)
            asked = torch.tensor([known.index(categories[index]) for index in part])
            found += (1 + 9 * chances.gather(1, asked[:, None])[:, 0]).tolist()
        return found


def frame(image: Tensor) -> Tensor:
    """Return an item's image, (3, H, W) uint8 on white, as floats in [0, 255] at the classifier's size, (3, 64, 48).

    The wardrobe's square images are its 4:3 ones with wider margins: those are cropped. Narrower images get margins.
    """
    height, width = image.shape[1:]
    margin = round((height * SIZE[1] / SIZE[0] - width) / 2)
    framed = torch.nn.functional.pad(image.float(), (margin, margin), value=255.0)  # a negative margin crops
    return torch.nn.functional.interpolate(framed[None], SIZE, mode="bilinear", antialias=True)[0]
