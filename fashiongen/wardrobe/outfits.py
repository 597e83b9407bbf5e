"""Outfits that follow a known rule with known noise, and users whose taste is independent of that rule."""

from collections.abc import Mapping
from dataclasses import dataclass

from fashiongen.wardrobe.world import ATTRIBUTES, Item, Stream, allowed_item

NOISE = 0.1
SLOTS: dict[str, tuple[str, ...]] = {
    "top": ("tshirt", "shirt", "sweater", "hoodie", "tanktop", "jacket", "coat"),
    "bottom": ("trousers", "skirt", "shorts"),
    "shoes": ("shoes",),
    "bag": ("bag",),
}
NEUTRALS = frozenset({"black", "white", "grey"})
# Which bright colours go together; neutrals go with everything, and every colour goes with itself.
HARMONY: dict[str, frozenset[str]] = {
    "red": frozenset({"blue", "beige"}),
    "orange": frozenset({"blue", "brown"}),
    "yellow": frozenset({"blue", "purple"}),
    "green": frozenset({"beige", "brown"}),
    "blue": frozenset({"red", "orange", "yellow"}),
    "purple": frozenset({"yellow", "pink"}),
    "pink": frozenset({"purple", "brown"}),
    "brown": frozenset({"orange", "green", "pink", "beige"}),
    "beige": frozenset({"red", "green", "brown"}),
}
STYLE = "Clothing Fashion Style"
_TRIES = 2000


@dataclass(frozen=True)
class Outfit:
    """One item per slot; `noisy` holds the slots that were drawn without the rule."""

    id: str
    items: dict[str, Item]
    noisy: frozenset[str]


@dataclass(frozen=True)
class User:
    """A user's preferred attribute values: two colours, two designs, two styles."""

    id: str
    colors: frozenset[str]
    designs: frozenset[str]
    styles: frozenset[str]

    def liking(self, item: Item) -> float:
        """The share, in [0, 1], of the item's colour, design and style that the user likes."""
        liked = (
            item.attributes["Color"] in self.colors,
            item.attributes["Design features"] in self.designs,
            item.attributes[STYLE] in self.styles,
        )
        return sum(liked) / len(liked)


def harmonious(first: str, second: str) -> bool:
    """Whether two colours go together; the order does not matter."""
    return first == second or first in NEUTRALS or second in NEUTRALS or second in HARMONY[first]


def fits(first: Mapping[str, str], second: Mapping[str, str]) -> bool:
    """The rule on attributes: the colours are in harmony and the styles are the same; the order does not matter."""
    return first[STYLE] == second[STYLE] and harmonious(first["Color"], second["Color"])


def compatible(first: Item, second: Item) -> bool:
    """The rule on items: see `fits`."""
    return fits(first.attributes, second.attributes)


def make_outfit(seed: int, namespace: str, index: int) -> Outfit:
    """Outfit number `index`: the top is free, and every other slot fits all earlier ones that follow the rule, except with `NOISE`.

    A noisy slot is drawn without the rule, so it may fit by chance.
    """
    stream = Stream(seed, namespace, "outfit", index)
    name = f"{namespace}-outfit-{index:06d}"
    items: dict[str, Item] = {}
    noisy: set[str] = set()
    for slot, categories in SLOTS.items():
        if items and stream.chance(NOISE):
            noisy.add(slot)
        anchors = [item for other, item in items.items() if other not in noisy]
        for _ in range(_TRIES):
            item = allowed_item(stream, namespace, f"{name}-{slot}", categories)
            if slot in noisy or all(compatible(anchor, item) for anchor in anchors):
                break
        else:
            raise RuntimeError(f"{name}: no fitting {slot} found in {_TRIES} draws: the colour table leaves no choice")
        items[slot] = item
    return Outfit(id=name, items=items, noisy=frozenset(noisy))


def make_user(seed: int, namespace: str, index: int) -> User:
    """User number `index`; the preferences have their own random stream."""
    stream = Stream(seed, namespace, "user", index)
    return User(
        id=f"{namespace}-user-{index:06d}",
        colors=_two(stream, ATTRIBUTES["Color"]),
        designs=_two(stream, ATTRIBUTES["Design features"]),
        styles=_two(stream, ATTRIBUTES[STYLE]),
    )


def _two(stream: Stream, values: tuple[str, ...]) -> frozenset[str]:
    """Two different values."""
    first = stream.choice(values)
    return frozenset({first, stream.choice([value for value in values if value != first])})
