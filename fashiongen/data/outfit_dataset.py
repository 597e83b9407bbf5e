"""Datasets of outfits: samples as batches of one, and the distinct items as a catalogue. Sizes are (height, width)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fashiongen.batches import Ragged
from fashiongen.data.listing import read_lines
from fashiongen.data.outfit_images import ItemReader
from fashiongen.data.outfit_lists import BLANK, Frequency, History, OutfitRow
from fashiongen.data.pair_datasets import OnError
from fashiongen.errors import UserError
from fashiongen.outfit_batches import WHITE, OutfitBatch
from fashiongen.preference import preference_text
from fashiongen.wardrobe.outfits import STYLE

Show = Literal["all", "given", "nothing"]
"""What a sample shows of its outfit: `all` items, for training; those `given`, all but the missing one; `nothing`, if all are asked for."""

Likes = dict[str, tuple[str, ...]]
LIKED = {"Color": "colors", "Design features": "designs", STYLE: "styles"}
"""The attributes in which a user of the wardrobe has a taste, with their names in its truth."""

PreferenceSampler = Callable[[Frequency, tuple[str | int, ...], int], Mapping[str, Sequence[str]]]
"""Draws a user's preference from the frequencies of values in the history; see `Knowledge.preference`."""


@dataclass(frozen=True)
class World:
    """What the wardrobe knows: the attributes and category of each item, and what each user likes, by id."""

    items: dict[str, dict[str, str]]
    users: dict[str, Likes]


@dataclass(frozen=True)
class Knowledge:
    """What is known of a split besides its outfits.

    Attributes:
        names: the categories' names.
        history: the users' histories; None without.
        limit: the number of latest items that a history shows per category; None for all.
        caption: returns an item's structured caption; None without captions.
        frequencies: how often each value occurs in a user's history, by user and category; None without.
        sampler: draws a preference from them; None for no preferences.
        seed: seed of these draws.
        world: the wardrobe's truth; None for other data.
    """

    names: dict[int, str]
    history: History | None = None
    limit: int | None = None
    caption: Callable[[int], str] | None = None
    frequencies: dict[int, dict[int, Frequency]] | None = None
    sampler: PreferenceSampler | None = None
    seed: int = 0
    world: World | None = None

    @property
    def has_preferences(self) -> bool:
        """Whether users' preferences can be drawn."""
        return self.frequencies is not None and self.sampler is not None

    def past(self, user: int, category: int) -> tuple[int, ...]:
        """Return the latest items of a category that a user has interacted with, oldest first."""
        items = (self.history or {}).get(user, {}).get(category, ())
        return items if self.limit is None else items[max(0, len(items) - self.limit) :]

    def preference(self, user: int, category: int) -> str:
        """Return a user's preference in a category, JSON of the four attributes, the same in every epoch.

        The sampler is called with the frequencies, what the draw depends on (the user and the category), and the seed.
        """
        assert self.frequencies is not None and self.sampler is not None
        frequency = self.frequencies.get(user, {}).get(category, {})
        return preference_text(self.sampler(frequency, (user, category), self.seed))


class OutfitDataset(Dataset[Any]):
    """Outfits as batches of one; with `on_error="skip"` an outfit with a damaged image returns the reason instead."""

    def __init__(
        self,
        rows: Sequence[OutfitRow],
        batch: type[OutfitBatch],
        show: Show,
        known: Knowledge,
        reader: ItemReader | None,
        *,
        candidates: bool = False,
        candidate_images: bool = False,
        on_error: OnError = "fail",
    ) -> None:
        """Read `rows`.

        Args:
            rows: the outfits.
            batch: the type of the samples.
            show: what the samples show.
            known: what is known besides the outfits.
            reader: reads the images; None for none.
            candidates: whether the samples have candidates.
            candidate_images: whether they have their images too.
            on_error: how a damaged image is handled.
        """
        self.rows = rows
        self.batch = batch
        self.show: Show = show
        self.known = known
        self.reader = reader
        self.candidates = candidates
        self.candidate_images = candidate_images
        self.on_error: OnError = on_error

    def __len__(self) -> int:
        """Return the number of outfits."""
        return len(self.rows)

    def past(self, row: OutfitRow) -> list[tuple[int, ...]]:
        """Return the user's history in each slot's category."""
        return [self.known.past(row.user, category) for category in row.categories]

    def read_items(self, row: OutfitRow) -> list[int]:
        """Return all items whose images a sample is read from, with repetitions."""
        past = [] if self.known.history is None else [item for items in self.past(row) for item in items]
        return [*row.truth, *past, *(row.candidates if self.candidate_images else ())]

    def __getitem__(self, index: int) -> OutfitBatch | str:
        """Read one outfit; if it cannot be read and may be skipped, return the reason."""
        row = self.rows[index]
        try:
            images: dict[str, Any] = {} if self.reader is None else self._images(row, self.reader)
        except UserError as error:
            if self.on_error == "skip":
                return str(error)
            raise
        blank = self._blank(row)
        shown = [not hidden for hidden in blank.tolist()]
        return self.batch(
            ids=[row.id],
            user=[str(row.user)],
            outfit=[str(row.outfit)],
            category=Ragged.of([[self.known.names[category] for category in row.categories]]),
            items=Ragged.of([[str(item) if there else "" for item, there in zip(row.truth, shown, strict=True)]]),
            given=Ragged.of([~blank]),
            blank=Ragged.of([blank]),
            true_items=Ragged.of([list(map(str, row.truth))]),
            candidates=Ragged.of([list(map(str, row.candidates))]) if self.candidates else None,
            **images,
            **self._described(row, shown),
        )

    def _blank(self, row: OutfitRow) -> Tensor:
        """Return which items are asked for, (n,) bool."""
        if self.show == "given":
            return torch.tensor([item == BLANK for item in row.items])
        return torch.full((len(row.items),), self.show == "nothing")

    def _images(self, row: OutfitRow, reader: ItemReader) -> dict[str, Ragged]:
        """Read the images of an outfit's items, of the user's history, and of the candidates."""
        wanted = self.read_items(row)
        places = {item: place for place, item in enumerate(dict.fromkeys(wanted))}
        read = reader.images(list(places))

        def of(items: Sequence[int]) -> Tensor:
            return read[[places[item] for item in items]]

        true = of(row.truth)
        shown = true.clone()
        shown[self._blank(row)] = WHITE
        found = {"images": Ragged.of([shown]), "true_images": Ragged.of([true])}
        if self.known.history is not None:
            found["history"] = Ragged.of([Ragged.of([of(items) for items in self.past(row)])])
        if self.candidate_images:
            found["candidate_images"] = Ragged.of([of(row.candidates)])
        return found

    def _described(self, row: OutfitRow, shown: Sequence[bool]) -> dict[str, Any]:
        """Return what is known of the items and the user in ids and words."""
        known, found = self.known, dict[str, Any]()
        if known.history is not None:
            found["history_items"] = Ragged.of([Ragged.of([list(map(str, items)) for items in self.past(row)])])
        if known.caption is not None:
            captions = [known.caption(item) for item in row.truth]
            found["true_captions"] = Ragged.of([captions])
            found["captions"] = Ragged.of([[text if there else "" for text, there in zip(captions, shown, strict=True)]])
        if known.has_preferences:
            found["preference"] = Ragged.of([[known.preference(row.user, category) for category in row.categories]])
        if known.world is not None:
            attributes = [known.world.items[str(item)] for item in row.truth]
            found["attributes"] = Ragged.of([attributes])
            found["given_attributes"] = Ragged.of([[entry if there else {} for entry, there in zip(attributes, shown, strict=True)]])
            found["likes"] = [known.world.users[str(row.user)]]
        return found


class ItemDataset(Dataset[Tensor]):
    """The distinct items of outfits, each once: their images, (3, H, W) uint8.

    Attributes:
        ids: their ids.
        categories: the categories' names.
        attributes: the wardrobe's true attributes and category of each; None for other data.
    """

    def __init__(self, categories: Mapping[int, str], reader: ItemReader | None, world: World | None) -> None:
        """Read the items of `categories`, in its order; without a reader there are no images."""
        self.items = list(categories)
        self.ids = list(map(str, self.items))
        self.categories = list(categories.values())
        self.attributes = None if world is None else [world.items[id_] for id_ in self.ids]
        self.reader = reader

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.items)

    def __getitem__(self, index: int) -> Tensor:
        """Read one item's image.

        Raises:
            UserError: if the data are read without images, or this one is unreadable.
        """
        return self._images().image(self.items[index])

    def fingerprint(self) -> str:
        """Return a hash of the images' names and sizes."""
        paths = self._images().paths
        lines = [f"{item}\0{paths[item].name}\0{paths[item].stat().st_size}" for item in self.items]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def groups(self, by: str) -> list[str]:
        """Return the category of each item.

        Raises:
            UserError: if `by` is something else.
        """
        if by != "category":
            raise UserError(f"items have no {by}; set evaluate.by=category or leave it out")
        return self.categories

    def _images(self) -> ItemReader:
        if self.reader is None:
            raise UserError("the items are read without images: set data.init_args.images=true")
        return self.reader


def read_world(path: Path) -> World:
    """Read the wardrobe's truth: a line for each item and each user."""
    items: dict[str, dict[str, str]] = {}
    users: dict[str, Likes] = {}
    for row in map(json.loads, read_lines(path)):
        if row["kind"] == "user":
            users[row["id"]] = {name: tuple(row[key]) for name, key in LIKED.items()}
        else:
            items[row["id"]] = {"category": row["category"], **row["attributes"]}
    return World(items, users)
