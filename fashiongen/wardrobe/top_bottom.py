"""Writes tops and the bottoms worn with them in the folder layout and lists of FashionVC, ExpReduced and FashionTaobaoTB (GeCo's copies).

Pairs come from outfits and follow the world's rule (`compatible`) with its noise. As in the datasets, some tops and some bottoms appear in
several pairs. Each split has its own items, drawn from its own namespace; in the real lists, splits share a few items.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fashiongen.errors import UserError
from fashiongen.wardrobe.draw import render_item
from fashiongen.wardrobe.layouts import Truth, save_jpeg, write_layout, writes
from fashiongen.wardrobe.outfits import compatible, make_outfit
from fashiongen.wardrobe.world import Item, Stream

NAMESPACES = {"train": "train", "val": "val", "test": "test"}
NEGATIVES = 9
# As in FashionVC, where 17,140 training pairs have 12,309 tops and 11,281 bottoms.
REUSED_BOTTOM, REUSED_TOP = 0.3, 0.3
# How many earlier pairs are searched for a fitting item.
_TRIES = 30


@dataclass(frozen=True)
class _Layout:
    """The lists of one dataset: their names, whether its ids are md5 sums, and whether a test top may have several bottoms."""

    lists: dict[str, str]
    md5: bool = False
    several: bool = False


FASHION_VC = _Layout({"train": "traindata_unique.csv", "val": "devdata_tops.csv", "test": "testdata_tops.csv"})
EXP_REDUCED = _Layout({"train": "traindata_unique_1.csv", "val": "devdata_tops_reduced_rs1.csv", "test": "testdata_tops_reduced_rs1.csv"})
FASHION_TAOBAO_TB = _Layout(
    {"train": "train_no_dup_1vs9.csv", "val": "valid_no_dup_1vs9.csv", "test": "test_disj.csv"}, md5=True, several=True
)


@dataclass(frozen=True)
class _Pair:
    """A top and a bottom that are worn together, and the outfit they come from."""

    top: Item
    bottom: Item
    outfit: str


@writes("fashionvc")
def write_fashionvc(root: str | Path, people: int, size: tuple[int, int], seed: int, workers: int | None = None) -> Path:
    """Write `people` pairs with images of `size` (height, width) as FashionVC into the new folder `root` and return it.

    Three quarters of the pairs are for training, a tenth for validation, the rest for testing. The folder appears under its name only when
    it is complete.

    Raises:
        UserError: if `root` is not empty, or validation would have too few bottoms for nine negatives.
    """
    return _write(Path(root), "fashionvc", FASHION_VC, people, size, seed, workers)


@writes("exp_reduced")
def write_exp_reduced(root: str | Path, people: int, size: tuple[int, int], seed: int, workers: int | None = None) -> Path:
    """Write pairs as ExpReduced; otherwise like `write_fashionvc`."""
    return _write(Path(root), "exp_reduced", EXP_REDUCED, people, size, seed, workers)


@writes("fashion_taobao_tb")
def write_fashion_taobao_tb(root: str | Path, people: int, size: tuple[int, int], seed: int, workers: int | None = None) -> Path:
    """Write pairs as FashionTaobaoTB, where a test top may have several bottoms; otherwise like `write_fashionvc`."""
    return _write(Path(root), "fashion_taobao_tb", FASHION_TAOBAO_TB, people, size, seed, workers)


def _write(root: Path, name: str, layout: _Layout, people: int, size: tuple[int, int], seed: int, workers: int | None) -> Path:
    validation = people // 10
    tests = people - validation - people * 3 // 4
    if validation < 2 * (NEGATIVES + 1):
        raise UserError(f"{people} pairs leave too few bottoms for validation: ask for at least {20 * (NEGATIVES + 1)}")
    counts = {"train": people - validation - tests, "val": validation, "test": tests}
    pairs = {split: _pairs(split, count, seed, layout.several or split == "train") for split, count in counts.items()}
    items = {item.id: item for split in pairs.values() for pair in split for item in (pair.top, pair.bottom)}
    ids = {id_: _public_id(id_, number, layout.md5) for number, id_ in enumerate(items)}
    return write_layout(
        root,
        name,
        [(ids[item.id], item) for item in items.values()],
        partial(_write_item, size),
        partial(_write_lists, layout, pairs, ids, seed),
        ["files", "img"],
        {"seed": seed, "size": list(size), "people": people},
        workers,
    )


def _public_id(id_: str, number: int, md5: bool) -> str:
    return hashlib.md5(id_.encode(), usedforsecurity=False).hexdigest() if md5 else str(100_000_000 + number * 1009)


def _pairs(split: str, count: int, seed: int, several: bool) -> list[_Pair]:
    """Draw the distinct pairs of a split; if a test top may have only one bottom, tops are not reused."""
    stream = Stream(seed, NAMESPACES[split], "top-bottom", 0)
    pairs: list[_Pair] = []
    known: set[tuple[str, str]] = set()
    for number in range(count):
        outfit = make_outfit(seed, NAMESPACES[split], number)
        pair = _Pair(outfit.items["top"], outfit.items["bottom"], outfit.id)
        keeps_top, keeps_bottom = several and stream.chance(REUSED_TOP), stream.chance(REUSED_BOTTOM)
        for _ in range(_TRIES if pairs else 0):
            earlier = stream.choice(pairs)
            reused = _Pair(earlier.top, pair.bottom, outfit.id) if keeps_top else _Pair(pair.top, earlier.bottom, outfit.id)
            fresh = (reused.top.id, reused.bottom.id) not in known
            if (keeps_top or keeps_bottom) and fresh and compatible(reused.top, reused.bottom):
                pair = reused
                break
        known.add((pair.top.id, pair.bottom.id))
        pairs.append(pair)
    return pairs


def _write_item(size: tuple[int, int], root: Path, job: tuple[str, Item]) -> Truth:
    """Write an item's image and return its ground truth."""
    id_, item = job
    save_jpeg(root / "img" / f"{id_}.jpg", render_item(item, *size))
    return {"id": id_, "item": item.id, "category": item.category, "attributes": item.attributes, "caption": item.caption()}


def _write_lists(layout: _Layout, pairs: dict[str, list[_Pair]], ids: dict[str, str], seed: int, root: Path) -> None:
    """Write the three lists; negatives are bottoms of the same split that are not positives of the top in any row."""
    for split, rows in pairs.items():
        bottoms = list(dict.fromkeys(ids[pair.bottom.id] for pair in rows))
        positives: dict[str, set[str]] = {}
        for pair in rows:
            positives.setdefault(pair.top.id, set()).add(ids[pair.bottom.id])
        stream = Stream(seed, NAMESPACES[split], "negatives", 0)
        with_negatives = layout.md5 or split != "train"
        header = ["tshirt", "positive_pant", *(["outfit_id", "has_exploded"] if layout.md5 else [])]
        header += [f"neg_{number}" for number in range(1, NEGATIVES + 1)] if with_negatives else []
        lines = [header]
        for pair in rows:
            line = [ids[pair.top.id], ids[pair.bottom.id], *([pair.outfit, "False"] if layout.md5 else [])]
            lines.append(line + (_others(stream, bottoms, positives[pair.top.id]) if with_negatives else []))
        (root / "files" / layout.lists[split]).write_text("".join(",".join(line) + "\n" for line in lines), encoding="utf-8")


def _others(stream: Stream, bottoms: Sequence[str], positives: set[str]) -> list[str]:
    """Draw distinct bottoms that are not in `positives`."""
    drawn: dict[str, None] = {}
    while len(drawn) < NEGATIVES:
        bottom = stream.choice(bottoms)
        if bottom not in positives:
            drawn[bottom] = None
    return list(drawn)
