"""The jobs of providers, as small interfaces, and what they are given.

Each job has four sources: files (`files`), a local checkpoint or an endpoint (`models` with `checkpoint` or `endpoint`), and the wardrobe's
truth or rule (`rule`). Captions and preferences are the JSON of `fashiongen.preference`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class History:
    """What a user has interacted with in one category.

    Attributes:
        user: the user's id.
        category: the category in words.
        captions: the structured captions of the items, repetitions included.
    """

    user: str
    category: str
    captions: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The name of the history, for messages."""
        return f"{self.user}/{self.category}"


@dataclass(frozen=True, kw_only=True)
class Blank:
    """An incomplete outfit in words: the item that is missing, and those that are given.

    Attributes:
        id: the sample's id; of several blanks of an outfit each has its own.
        category: the category of the missing item in words.
        given: the structured captions of the given items.
        preference: what the user likes, in the form of a caption; None if it is not known or does not count.
    """

    id: str
    category: str
    given: tuple[str, ...] = ()
    preference: str | None = None


class DescribesItems(Protocol):
    """Writes structured captions of items."""

    def describe(self, ids: Sequence[str], images: Sequence[Tensor]) -> list[str]:
        """Return a caption for each item.

        Args:
            ids: the items' ids.
            images: their images, (3, H, W) uint8 RGB; a sequence that opens them on demand need not hold them all.
        """
        ...


class StatesPreferences(Protocol):
    """Says what users like."""

    def prefer(self, histories: Sequence[History]) -> list[str]:
        """Return a preference for each history."""
        ...


class AugmentsText(Protocol):
    """Invents items that complete outfits."""

    def augment(self, blanks: Sequence[Blank], n: int) -> list[list[str]]:
        """Return `n` different captions of fitting items for each blank."""
        ...


class JudgesCaptions(Protocol):
    """Judges in words whether an item fits an outfit."""

    def judge(self, captions: Sequence[str], blanks: Sequence[Blank]) -> list[float]:
        """Return the compatibility of each caption with the given items of its blank, in [1, 10], NaN where nothing is given."""
        ...


class JudgesImages(Protocol):
    """Judges the quality of images of items."""

    def judge_images(self, ids: Sequence[str], images: Sequence[Tensor], categories: Sequence[str]) -> list[float]:
        """Return the quality of each image as one of its category, in [1, 10].

        Args:
            ids: the images' ids.
            images: (3, H, W) uint8 RGB each.
            categories: the categories that they should show, in words.
        """
        ...
