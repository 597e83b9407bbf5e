"""Writes outfits of users in the folder layout and lists of iFashion and Polyvore-U (DiFashion's copies), with DualFashion's captions.

An outfit follows the world's rule (`compatible`) with its noise, and suits its user: of several that are drawn by the rule, it is the one
whose items the user likes most. The taste says nothing about what fits together, so the two can be told apart. As in Polyvore-U, all
splits have the same users; unlike there, a split has its own items, drawn from its own namespace. Histories hold training items alone.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fashiongen.errors import UserError
from fashiongen.wardrobe.draw import render_item
from fashiongen.wardrobe.layouts import Truth, write_layout, writes
from fashiongen.wardrobe.outfits import SLOTS, User, make_outfit, make_user
from fashiongen.wardrobe.world import ATTRIBUTES, CATEGORIES, Item, Stream

FORMS = {"train": "train", "val": "valid", "test": "test"}
"""The splits, which are also the namespaces of their items, as the files name them."""

OUTFITS_PER_USER, LEAST_USERS = 20, 6
DRAWN_OUTFITS = 8
"""The outfits that are drawn for a row, of which the user's favourite is written."""

CANDIDATES = 5
DRAWN_HISTORY = 4
"""The items that are drawn for an entry of a history, of which the user's favourite is written."""

HISTORY = (3, 8)
"""The least and the largest number of items that a user's history has in a category."""

EMPTY = "empty_image.png"
WORN: tuple[str, ...] = tuple(category for categories in SLOTS.values() for category in categories)
"""The categories of outfits. As in Polyvore-U, more are named than occur."""


@dataclass(frozen=True)
class _Row:
    """An outfit of a user: the items of the slots, which of them a test asks for, and the candidates for it; training has neither."""

    user: int
    outfit: int
    items: tuple[int, ...]
    blank: int = -1
    candidates: tuple[int, ...] = ()


@dataclass(frozen=True)
class _World:
    """Everything to write: users by number, items from number 1 on, rows by split, and histories by user and category."""

    users: list[User]
    items: dict[int, Item]
    rows: dict[str, list[_Row]]
    history: dict[int, dict[int, list[int]]]

    @cached_property
    def category(self) -> dict[int, int]:
        """The number of each item's category."""
        return {number: CATEGORIES.index(item.category) for number, item in self.items.items()}


@writes("ifashion")
def write_ifashion(root: str | Path, people: int, size: tuple[int, int], seed: int, workers: int | None = None) -> Path:
    """Write `people` outfits with images of `size` (height, width) as iFashion into the new folder `root` and return it.

    Three quarters of the outfits are for training, a tenth for validation, the rest for testing; there is a user for every 20, at least 6.
    Unlike iFashion's repository the folder is complete. It appears under its name only when all is written.

    Raises:
        UserError: if `root` is not empty, or validation would have too few items for the candidates.
    """
    world = _draw(people, seed)
    originals = {number: str(10_000_000 + number * 1009) for number in world.items}
    places = {number: f"{item.category}/{originals[number]}.png" for number, item in world.items.items()}
    return _write(Path(root), "ifashion", world, originals, places, {"seed": seed, "size": list(size), "people": people}, workers)


@writes("polyvore_u")
def write_polyvore_u(root: str | Path, people: int, size: tuple[int, int], seed: int, workers: int | None = None) -> Path:
    """Write outfits as Polyvore-U, with all images in the folder `291x291`; otherwise like `write_ifashion`."""
    world = _draw(people, seed)
    names = {number: str(number) for number in world.items}
    places = {number: f"291x291/{number}.png" for number in world.items}
    return _write(Path(root), "polyvore_u", world, names, places, {"seed": seed, "size": list(size), "people": people}, workers)


def _draw(people: int, seed: int) -> _World:
    """Draw users, outfits, candidates and histories."""
    validation = people // 10
    counts = {"train": people * 3 // 4, "val": validation, "test": people - validation - people * 3 // 4}
    if validation < CANDIDATES:
        raise UserError(f"{people} outfits leave too few items for validation's candidates: ask for at least {10 * CANDIDATES}")
    users = [make_user(seed, "train", number) for number in range(max(LEAST_USERS, people // OUTFITS_PER_USER))]
    items: dict[int, Item] = {}
    rows: dict[str, list[_Row]] = {}
    outfit = 0
    for split, count in counts.items():
        drawn: list[tuple[int, tuple[int, ...]]] = []
        for row in range(count):
            user = row * len(users) // count
            numbers = range(len(items) + 1, len(items) + 1 + len(SLOTS))
            items.update(zip(numbers, _favourite(seed, split, row, users[user]), strict=True))
            drawn.append((user, tuple(numbers)))
        rows[split] = [_Row(user, outfit + row, numbers) for row, (user, numbers) in enumerate(drawn)]
        outfit += count
        if split != "train":
            of_split = [row.items for row in rows[split]]
            asked = [_blank(seed, split, row, of_split, items) for row in range(count)]
            rows[split] = [replace(row, blank=slot, candidates=some) for row, (slot, some) in zip(rows[split], asked, strict=True)]
    trained: dict[str, list[int]] = {}
    for number in (number for row in rows["train"] for number in row.items):
        trained.setdefault(items[number].category, []).append(number)
    return _World(users, items, rows, {number: _past(seed, number, user, trained, items) for number, user in enumerate(users)})


def _favourite(seed: int, split: str, row: int, user: User) -> list[Item]:
    """Return the items of the outfit that a user likes most of those drawn for a row, the first of several."""
    drawn = [make_outfit(seed, split, row * DRAWN_OUTFITS + number) for number in range(DRAWN_OUTFITS)]
    liking = [sum(user.liking(item) for item in outfit.items.values()) for outfit in drawn]
    return list(drawn[liking.index(max(liking))].items.values())


def _blank(seed: int, split: str, row: int, outfits: Sequence[tuple[int, ...]], items: Mapping[int, Item]) -> tuple[int, tuple[int, ...]]:
    """Draw the slot that a test asks for, and its candidates: the true item, then others of its category, or else of its slot."""
    stream = Stream(seed, split, "blank", row)
    slot = stream.choice(range(len(SLOTS)))
    true = outfits[row][slot]
    others = [outfit[slot] for outfit in outfits if outfit[slot] != true]
    alike: list[int] = []
    rest: list[int] = []
    for number in others:
        (alike if items[number].category == items[true].category else rest).append(number)
    return slot, (true, *(_taken(stream, alike if alike else rest) for _ in range(CANDIDATES - 1)))


def _taken(stream: Stream, left: list[int]) -> int:
    """Draw an item and take it out of those left."""
    return left.pop(left.index(stream.choice(left)))


def _past(seed: int, number: int, user: User, trained: Mapping[str, list[int]], items: Mapping[int, Item]) -> dict[int, list[int]]:
    """Draw a user's history in each category of outfits: training items, each the favourite of some; repetitions happen."""
    stream = Stream(seed, "train", "history", number)
    past: dict[int, list[int]] = {}
    for category in WORN:
        options = trained.get(category)
        length = stream.choice(range(HISTORY[0], HISTORY[1] + 1))
        if options:
            past[CATEGORIES.index(category)] = [
                max((stream.choice(options) for _ in range(DRAWN_HISTORY)), key=lambda item: user.liking(items[item]))
                for _ in range(length)
            ]
    return past


def _write(
    root: Path,
    layout: str,
    world: _World,
    originals: Mapping[int, str],
    places: Mapping[int, str],
    about: Truth,
    workers: int | None,
) -> Path:
    size = about["size"]
    assert isinstance(size, list)
    return write_layout(
        root,
        layout,
        [(number, places[number], item) for number, item in world.items.items()],
        partial(_write_item, (size[0], size[1])),
        partial(_write_lists, world, originals, places),
        ["map", *sorted({place.rpartition("/")[0] for place in places.values()})],
        about,
        workers,
        [_truth_of(number, user) for number, user in enumerate(world.users)],
    )


def _write_item(size: tuple[int, int], root: Path, job: tuple[int, str, Item]) -> Truth:
    """Write an item's image and return its ground truth."""
    number, place, item = job
    Image.fromarray(render_item(item, *size)).save(root / place)
    about: Truth = {"kind": "item", "id": str(number), "item": item.id, "category": item.category}
    return {**about, "attributes": item.attributes, "caption": item.caption()}


def _truth_of(number: int, user: User) -> Truth:
    about: Truth = {"kind": "user", "id": str(number), "user": user.id}
    return {**about, "colors": sorted(user.colors), "designs": sorted(user.designs), "styles": sorted(user.styles)}


def _write_lists(world: _World, originals: Mapping[int, str], places: Mapping[int, str], root: Path) -> None:
    """Write all lists of the layout."""
    for split, rows in world.rows.items():
        _write_outfits(world, FORMS[split], rows, root)
    by_category = {
        number: [item for item, of in world.category.items() if of == number] for number in dict.fromkeys(world.category.values())
    }
    _save(root / "id_cate_dict.npy", dict(enumerate(CATEGORIES)))
    _save(root / "map" / "cate_iid_dict.npy", by_category)
    _save(root / "map" / "iid_cate_dict.npy", world.category)
    _save(root / "all_item_image_paths.npy", [EMPTY, *(places[number] for number in world.items)])
    elements = {number: {name: item.attributes[name] for name in ATTRIBUTES} for number, item in world.items.items()}
    described = {
        number: {"original iid": originals[number], "category": item.category, "url": "", "elements": elements[number]}
        for number, item in world.items.items()
    }
    _save(root / "item_info.npy", described)
    with Image.open(root / places[1]) as first:
        Image.new("RGB", first.size, "white").save(root / EMPTY)


def _write_outfits(world: _World, name: str, rows: Sequence[_Row], root: Path) -> None:
    """Write the lists of a split."""
    _save(root / f"{name}_history.npy", world.history)
    _save(root / f"{name}_preference.npy", _preferences(world))
    whole = {row: list(row.items) for row in rows}
    flat = {
        "uids": [row.user for row in rows],
        "oids": [row.outfit for row in rows],
        "outfits": list(whole.values()),
        "category": [[world.category[number] for number in row.items] for row in rows],
    }
    if name == "train":
        _save(root / "train.npy", flat)
        return
    given = {row: [0 if slot == row.blank else number for slot, number in enumerate(row.items)] for row in rows}
    _save(root / f"fitb_{name}.npy", {**flat, "outfits": list(given.values())})
    _save(root / f"fitb_{name}_dict.npy", _by_user(given))
    _save(root / f"{name}_grd_dict.npy", flat)
    true = {row.outfit: {"outfits": whole[row], "category": [world.category[number] for number in row.items]} for row in rows}
    _save(root / f"{name}_grd.npy", true)
    _save(root / f"fitb_{name}_retrieval_candidates.npy", _by_user({row: list(row.candidates) for row in rows}))


def _by_user(values: Mapping[_Row, list[int]]) -> dict[int, dict[int, list[int]]]:
    nested: dict[int, dict[int, list[int]]] = {}
    for row, value in values.items():
        nested.setdefault(row.user, {})[row.outfit] = value
    return nested


def _preferences(world: _World) -> dict[int, dict[int, dict[str, dict[str, dict[str, int]]]]]:
    """Return how often each attribute's values occur in each user's history, by category."""
    return {
        user: {
            category: {"Frequency": {name: dict(Counter(world.items[item].attributes[name] for item in past)) for name in ATTRIBUTES}}
            for category, past in of_user.items()
        }
        for user, of_user in world.history.items()
    }


def _save(path: Path, value: Any) -> None:  # noqa: ANN401  a list or dictionary of plain values
    """Save plain values in a 0-d object array, as the authors do."""
    array = np.empty((), dtype=object)
    array[()] = value
    np.save(path, array, allow_pickle=True)
