"""Items of the wardrobe: a small fashion world with known ground truth, drawn from named random streams."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from fashiongen.errors import UserError

WORLD_VERSION = 1
NAMESPACES: tuple[str, ...] = ("pretrain", "train", "val", "test")

GARMENT_TYPE: dict[str, str] = {
    "tshirt": "upper",
    "shirt": "upper",
    "sweater": "upper",
    "hoodie": "upper",
    "tanktop": "upper",
    "jacket": "upper",
    "coat": "upper",
    "trousers": "lower",
    "skirt": "lower",
    "shorts": "lower",
    "dress": "full",
    "jumpsuit": "full",
    "shoes": "other",
    "bag": "other",
    "hat": "other",
}
CATEGORIES: tuple[str, ...] = tuple(GARMENT_TYPE)

T = TypeVar("T")
RGB = tuple[int, int, int]
COLORS: dict[str, RGB] = {
    "black": (30, 30, 34),
    "white": (246, 246, 246),
    "grey": (142, 144, 148),
    "red": (212, 32, 40),
    "orange": (246, 132, 20),
    "yellow": (250, 220, 50),
    "green": (36, 146, 72),
    "blue": (38, 84, 200),
    "purple": (124, 52, 168),
    "pink": (248, 150, 192),
    "brown": (112, 66, 34),
    "beige": (222, 198, 158),
}
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "Color": tuple(COLORS),
    "Material": ("cotton", "denim", "knit", "leather", "lace"),
    "Design features": ("solid", "stripes", "dots", "checks", "letters", "logo"),
    "Clothing Fashion Style": ("casual", "formal", "sporty", "romantic"),
}
GLYPHS = "AEFHKLTVXZ"
LOGOS: tuple[str, ...] = ("star", "ring", "diamond", "heart")
NECKLINES: tuple[str, ...] = ("round", "vee", "square")


class Stream:
    """A named random stream that gives the same numbers on every machine and Python version."""

    def __init__(self, seed: int, namespace: str, kind: str, index: int) -> None:
        """Open the stream of one object (`kind`, `index`) in one namespace."""
        # Only `.random()` is used: Python guarantees its sequence for a string seed across versions.
        self._random = random.Random(f"{WORLD_VERSION}/{seed}/{namespace}/{kind}/{index}")

    def number(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number drawn uniformly from [low, high)."""
        return low + (high - low) * self._random.random()

    def choice(self, options: Sequence[T]) -> T:
        """One of the options, drawn uniformly."""
        return options[int(self._random.random() * len(options))]

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self._random.random() < probability


def _held_out_pairs(first: Sequence[str], second: Sequence[str], share: float) -> frozenset[tuple[str, str]]:
    """A fixed share of all pairs, in the order of their hashes, without a repeated value of `first`."""
    pairs = sorted(((a, b) for a in first for b in second), key=lambda pair: hashlib.sha256("/".join(pair).encode()).hexdigest())
    chosen: dict[str, tuple[str, str]] = {}
    for pair in pairs:
        if len(chosen) < round(share * len(pairs)) and pair[0] not in chosen:
            chosen[pair[0]] = pair
    return frozenset(chosen.values())


HELD_OUT_COLOR_DESIGNS = _held_out_pairs(ATTRIBUTES["Color"], ATTRIBUTES["Design features"], 0.08)
HELD_OUT_CATEGORY_MATERIALS = _held_out_pairs(CATEGORIES, ATTRIBUTES["Material"], 0.08)


@dataclass(frozen=True)
class Item:
    """One garment or accessory. All geometry numbers lie in [0, 1]; a category uses those that apply to it."""

    id: str
    category: str
    attributes: dict[str, str] = field(hash=False)
    jitter: tuple[float, float, float]
    second: float
    sleeve: float
    length: float
    width: float
    flare: float
    neckline: str
    phase: float
    letters: str
    logo: str

    @property
    def garment_type(self) -> str:
        """One of upper, lower, full, other."""
        return GARMENT_TYPE[self.category]

    @property
    def rgb(self) -> RGB:
        """The main colour: the named colour with this item's small jitter."""
        red, green, blue = (min(255, max(0, round(base + shift))) for base, shift in zip(COLORS[self.color], self.jitter, strict=True))
        return red, green, blue

    @property
    def color(self) -> str:
        """The name of the main colour."""
        return self.attributes["Color"]

    @property
    def second_rgb(self) -> RGB:
        """The colour of the print, with a brightness far from the main colour's."""
        options = [rgb for rgb in COLORS.values() if abs(brightness(rgb) - brightness(COLORS[self.color])) > 90]
        return options[int(self.second * len(options))]

    @property
    def sleeves(self) -> str:
        """One of long, short, no: how much of the arm is covered."""
        if self.category in ("tanktop",) or self.garment_type in ("lower", "other"):
            return "no"
        if self.category == "tshirt":
            return "short"
        if self.category in ("sweater", "hoodie", "jacket", "coat"):
            return "long"
        if self.category == "shirt":
            return "long" if self.sleeve > 0.4 else "short"
        return "long" if self.sleeve > 0.67 else "short" if self.sleeve > 0.33 else "no"

    @property
    def unseen(self) -> bool:
        """Whether the item has a combination that occurs only in the test namespace."""
        return held_out(self)

    def caption(self) -> str:
        """A sentence in a fixed grammar that contains every attribute's value literally."""
        words = [self.attributes[name] for name in ("Color", "Material", "Design features", "Clothing Fashion Style")]
        article = "an" if words[0][0] in "aeiou" else "a"
        return f"{article} {' '.join(words)} {self.category} {self._cut_in_words()}"

    def _cut_in_words(self) -> str:
        """The part of the caption that describes the cut."""
        if self.garment_type in ("upper", "full"):
            return f"with {self.sleeves} sleeves"
        shape = "long" if self.length > 0.5 else "short"
        return f"with a {'wide' if self.flare > 0.5 else 'narrow'} {shape} cut"


def brightness(rgb: RGB) -> float:
    """Perceived brightness in [0, 255] (ITU-R 601)."""
    return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]


def held_out(item: Item) -> bool:
    """Whether (Color, Design features) or (category, Material) is a combination reserved for the test namespace."""
    color_design = (item.attributes["Color"], item.attributes["Design features"])
    return color_design in HELD_OUT_COLOR_DESIGNS or (item.category, item.attributes["Material"]) in HELD_OUT_CATEGORY_MATERIALS


def make_item(seed: int, namespace: str, index: int, categories: Sequence[str] = CATEGORIES) -> Item:
    """Item number `index` of a namespace; outside of `test` it has no held-out combination."""
    return allowed_item(Stream(seed, namespace, "item", index), namespace, f"{namespace}-{index:06d}", categories)


def allowed_item(stream: Stream, namespace: str, id: str, categories: Sequence[str]) -> Item:
    """The next item of a stream that is allowed in the namespace."""
    if namespace not in NAMESPACES:
        raise UserError(f"unknown wardrobe namespace {namespace!r}: choose one of {', '.join(NAMESPACES)}")
    while True:
        item = draw_item(stream, id, categories)
        if namespace == "test" or not held_out(item):
            return item


def draw_item(stream: Stream, id: str, categories: Sequence[str]) -> Item:
    """One item from a stream; every attribute and number is drawn uniformly and independently."""
    return Item(
        id=id,
        category=stream.choice(categories),
        attributes={name: stream.choice(values) for name, values in ATTRIBUTES.items()},
        jitter=(stream.number(-7, 7), stream.number(-7, 7), stream.number(-7, 7)),
        second=stream.number(),
        sleeve=stream.number(),
        length=stream.number(),
        width=stream.number(),
        flare=stream.number(),
        neckline=stream.choice(NECKLINES),
        phase=stream.number(),
        letters="".join(stream.choice(GLYPHS) for _ in range(3)),
        logo=stream.choice(LOGOS),
    )
