"""The lists of DiFashion's layout: outfits of users, the missing items and their candidates, users' histories, and what is known of items.

Users, outfits, items and categories are numbers; item 0 is the blank. Each list is a `.npy` file that holds one pickled object.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from fashiongen.data.object_arrays import DamagedFileError, read_npy
from fashiongen.errors import UserError
from fashiongen.preference import preference_text

BLANK = 0
"""The item that stands for a missing one."""

STEMS = {"train": "train", "val": "valid", "test": "test"}
"""The splits as the files name them."""

COLUMNS = ("uids", "oids", "outfits", "category")

Items = tuple[int, ...]
History = dict[int, dict[int, Items]]
"""By user and category the items, in the order of the file."""

Frequency = dict[str, dict[str, float]]
"""By attribute and value how often it occurs in a user's history."""


@dataclass(frozen=True, slots=True)
class OutfitRow:
    """An outfit of a user.

    Attributes:
        id: unique in its split.
        user: the user.
        outfit: the outfit; in iFashion several users may have it.
        categories: the category of each slot.
        items: the item of each slot, 0 where it is missing.
        truth: the item of each slot.
        candidates: the items to choose among for the missing one, which is the first; empty without.
    """

    id: str
    user: int
    outfit: int
    categories: Items
    items: Items
    truth: Items
    candidates: Items = ()


def fail(message: str) -> NoReturn:
    """Stop at the first problem of a list, as reading does; a check collects them instead."""
    raise UserError(message)


class OutfitLists:
    """Reads the lists in a folder, each when it is asked for.

    Attributes:
        root: the folder.
        layout: the dataset's name, for messages.
    """

    def __init__(self, root: Path, layout: str) -> None:
        """Read from `root`."""
        self.root = root
        self.layout = layout

    def find(self, stem: str) -> Path | None:
        """Return the file of a list, by its name in one of the two generations of the authors' files; None if there is none."""
        for name in (f"{stem}.npy", f"new_{stem}.npy", f"processed/{stem}.npy", f"processed/new_{stem}.npy"):
            if (self.root / name).is_file():
                return self.root / name
        return None

    def require(self, stem: str, what: str) -> Path:
        """Return the file of a list.

        Raises:
            UserError: if it is missing.
        """
        found = self.find(stem)
        if found is None:
            raise UserError(f"{self.layout}: {self.root / stem}.npy is missing, which holds {what}; get it from the dataset's authors")
        return found

    def list_of(self, split: str) -> Path:
        """Return the file that lists the outfits of a split.

        Raises:
            UserError: if it is missing: iFashion's repository lacks the training outfits.
        """
        return self.require("train" if split == "train" else f"fitb_{STEMS[split]}", f"the {split} outfits")

    def files(self, split: str) -> list[Path]:
        """Return the existing files that decide the samples of a split."""
        name = STEMS[split]
        stems = ["train"] if split == "train" else [f"fitb_{name}", f"{name}_grd_dict", f"{name}_grd", f"fitb_{name}_retrieval_candidates"]
        found = [self.find(stem) for stem in (*stems, f"{name}_history", "id_cate_dict", "item_info", f"{name}_preference")]
        return [path for path in found if path is not None]

    @cached_property
    def categories(self) -> dict[int, str]:
        """The categories' names."""
        path = self.require("id_cate_dict", "the names of the categories")
        with expecting(path, "a dictionary of the categories' names"):
            return {int(number): _text(name) for number, name in read_npy(path).items()}

    @cached_property
    def category_of(self) -> dict[int, int]:
        """Each item's category, from `map/iid_cate_dict.npy`, or from each category's items where that is missing or broken (iFashion)."""
        path = self.root / "map" / "iid_cate_dict.npy"
        if path.is_file():
            try:
                found = read_npy(path)
            except DamagedFileError:
                found = {}
            if isinstance(found, dict) and found:
                return found
        path = self.root / "map" / "cate_iid_dict.npy"
        if not path.is_file():
            return {}
        with expecting(path, "a dictionary of the items of each category"):
            return {item: int(number) for number, items in read_npy(path).items() for item in items}

    @cached_property
    def info(self) -> dict[int, dict[str, Any]]:
        """What `item_info.npy` holds of each item: `original iid`, `category`, `url`, and DualFashion's `elements`; empty without it."""
        path = self.find("item_info")
        if path is None:
            return {}
        found = read_npy(path)
        with expecting(path, "a dictionary of items"):
            if not isinstance(found, dict) or not all(isinstance(entry, dict) for entry in found.values()):
                raise TypeError("no dictionary by item")
        return found

    @cached_property
    def has_captions(self) -> bool:
        """Whether the attributes of some items are known."""
        return any("elements" in entry for entry in self.info.values())

    def caption(self, item: int) -> str:
        """Return the structured caption of an item, the JSON of its four attributes."""
        known = self.info.get(item, {}).get("elements")
        return preference_text(known if isinstance(known, Mapping) else {})

    def rows(self, split: str, report: Callable[[str], None] = fail) -> list[OutfitRow]:
        """Read the outfits of a split, with the truth and the candidates of the missing items.

        Args:
            split: train, val or test.
            report: gets each problem of an outfit, which is then left out; by default the first one is raised.

        Raises:
            UserError: if a file is missing or unreadable.
        """
        path = self.list_of(split)
        listed, seen = read_flat(path), Counter[str]()
        truths = None if split == "train" else self._truths(split, [key[:2] for key in listed])
        candidates, source = (None, None) if split == "train" else self._candidates(split)
        rows: list[OutfitRow] = []
        for number, (user, outfit, items, categories) in enumerate(listed):
            id_ = f"{user}_{outfit}"
            seen[id_] += 1
            id_ = id_ if seen[id_] == 1 else f"{id_}_{seen[id_]}"
            truth = items if truths is None else truths[number]
            chosen = None if candidates is None else candidates.get((user, outfit), ())
            problem = self._problem(items, truth, categories, split, chosen)
            if problem or truth is None:
                file = source if "candidate" in problem else path
                report(f"{file}: user {user}, outfit {outfit}: {problem}; get the file again from the dataset's authors")
                continue
            rows.append(OutfitRow(id_, user, outfit, categories, items, truth, chosen or ()))
        if not rows:
            raise UserError(f"{path}: holds no outfits")
        return rows

    def _problem(self, items: Items, truth: Items | None, categories: Items, split: str, candidates: Items | None) -> str:
        """Return what is wrong with an outfit, "" if nothing is."""
        blanks = [slot for slot, item in enumerate(items) if item == BLANK]
        if not items or len(items) != len(categories):
            return f"has {len(items)} items and {len(categories)} categories"
        if unknown := [number for number in categories if number not in self.categories]:
            return f"has the category {unknown[0]}, which id_cate_dict.npy does not name"
        if split == "train":
            return f"its item {blanks[0] + 1} is missing (0), which training cannot learn" if blanks else ""
        if len(blanks) != 1:
            return f"{len(blanks)} of its items are missing (0) instead of one"
        if truth is None:
            return "its true items are not listed"
        shown = [item for item in items if item != BLANK]
        if len(truth) != len(items) or truth[blanks[0]] == BLANK or shown != [*truth[: blanks[0]], *truth[blanks[0] + 1 :]]:
            return f"its true items {list(truth)} are not those given {list(items)} with the missing one"
        if candidates is not None and (not candidates or candidates[0] != truth[blanks[0]]):
            first = candidates[0] if candidates else "not listed"
            return f"its first candidate is {first}, but it must be the missing item, {truth[blanks[0]]}"
        if candidates is not None and len(set(candidates)) < len(candidates):
            return "a candidate is listed twice"
        return ""

    def _truths(self, split: str, keys: Sequence[tuple[int, int]]) -> list[Items | None]:
        """Return the complete outfits by user and outfit, in the order of `keys`; None where one is not listed."""
        path = self.find(f"{STEMS[split]}_grd_dict")
        if path is not None:
            listed = read_flat(path)
            if [row[:2] for row in listed] == keys:
                return [row[2] for row in listed]
            by_key = {row[:2]: row[2] for row in listed}
            return [by_key.get(key) for key in keys]
        path = self.require(f"{STEMS[split]}_grd", f"the complete {split} outfits")
        with expecting(path, "a dictionary of complete outfits"):
            by_outfit = {int(outfit): numbers(entry["outfits"]) for outfit, entry in read_npy(path).items()}
        return [by_outfit.get(outfit) for _, outfit in keys]

    def _candidates(self, split: str) -> tuple[dict[tuple[int, int], Items] | None, Path | None]:
        """Return the candidates by user and outfit with their file; None if there is none."""
        path = self.find(f"fitb_{STEMS[split]}_retrieval_candidates")
        if path is None:
            return None, None
        with expecting(path, "a dictionary of candidates by user and outfit"):
            found = read_npy(path)
            by_key = {(int(user), int(outfit)): numbers(items) for user, outfits in found.items() for outfit, items in outfits.items()}
        return by_key, path

    def history(self, split: str) -> History | None:
        """Return the users' histories; None if there is no file."""
        path = self.find(f"{STEMS[split]}_history")
        if path is None:
            return None
        with expecting(path, "a dictionary of histories by user and category"):
            found = read_npy(path)
            return {
                int(user): {int(number): numbers(items) for number, items in by_category.items() if number != "null"}
                for user, by_category in found.items()
            }

    def frequencies(self, split: str) -> dict[int, dict[int, Frequency]] | None:
        """Return how often each value occurs in a user's history, by user and category (DualFashion); None if there is no file.

        DualFashion has files of training and test; validation reads the test's.
        """
        stems = (STEMS[split], "test") if split == "val" else (STEMS[split],)
        path = next((found for stem in stems if (found := self.find(f"{stem}_preference")) is not None), None)
        if path is None:
            return None
        with expecting(path, "a dictionary of preferences by user and category"):
            return {
                int(user): {int(number): _frequency(entry) for number, entry in by_category.items()}
                for user, by_category in read_npy(path).items()
            }


def read_flat(path: Path) -> list[tuple[int, int, Items, Items]]:
    """Read flat rows: user, outfit, items and categories of each.

    Raises:
        UserError: if the file is missing or unreadable, or holds something else.
    """
    with expecting(path, f"a dictionary of the lists {', '.join(COLUMNS)}"):
        table = read_npy(path)
        users, outfits, items, categories = (table[name] for name in COLUMNS)
        return [
            (int(user), int(outfit), numbers(of_slots), numbers(kinds))
            for user, outfit, of_slots, kinds in zip(users, outfits, items, categories, strict=True)
        ]


@contextmanager
def expecting(path: Path, what: str) -> Iterator[None]:
    """Turn what goes wrong in reading the content of a file into one line that says what it should hold.

    Raises:
        UserError: if the content is something else.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        detail = f"it has no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise UserError(f"{path}: does not hold {what} ({detail[:200]}); get the file again from the dataset's authors") from error


def numbers(values: Sequence[Any]) -> Items:
    """Return item or category numbers as plain integers.

    Raises:
        ValueError: if one is negative.
    """
    found = tuple(map(int, values))
    if found and min(found) < 0:
        raise ValueError(f"{min(found)} is no number of an item or a category")
    return found


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no name")
    return str(value)


def _frequency(entry: Mapping[str, Any]) -> Frequency:
    """Return the counts of a user's preference in a category; the authors write both `Frequency` and `frequency`."""
    counts = entry["Frequency"] if "Frequency" in entry else entry["frequency"]
    return {name: {_text(value): float(count) for value, count in of_values.items()} for name, of_values in counts.items()}
