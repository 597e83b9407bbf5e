"""The jobs done beforehand: their results in files of JSON lines.

One object a line. Captions: `{"id", "caption"}`; preferences: `{"user", "category", "preference"}`; augmentation: `{"id", "captions"}`;
judgements: `{"id", "caption", "score"}`, or without `caption` if a sample has one; of images `{"id", "score"}`. A caption or preference is
an object of the four attributes, whose values are texts or lists of texts, or its JSON as text. One that lacks attributes is completed with
"Unknown", as in the authors' files; one without any is an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from fashiongen.errors import UserError
from fashiongen.preference import preference_text, read_caption
from fashiongen.providers.jobs import Blank, History


class Lines:
    """The objects of a file of JSON lines, found by some of their fields."""

    def __init__(self, root: str | Path, file: str, fields: tuple[str, ...], optional: str | None = None) -> None:
        """Read `file`, a path inside `root`.

        Args:
            root: the folder of the data.
            file: the file, relative to it.
            fields: the fields that identify a line.
            optional: a further field that does where a line has it: a caption, which is compared by its content.

        Raises:
            UserError: if the file is missing, leaves the root, a line is no such object, or two lines of the same name differ.
        """
        self.path = Path(root).expanduser() / file
        if not self.path.resolve().is_relative_to(Path(root).expanduser().resolve()):
            raise UserError(f"{file}: points outside of {root}: put the file there")
        self._fields, self._lines = fields, dict[tuple[str, ...], tuple[int, dict[str, Any]]]()
        try:
            text = self.path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"{self.path}: cannot be read ({getattr(error, 'strerror', None) or 'no UTF-8'}): give a file of JSON lines"
            ) from error
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                self._add(number, line, optional)

    def _add(self, number: int, line: str, optional: str | None) -> None:
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict) or not all(isinstance(content.get(name), str | int) for name in self._fields):
            raise self.wrong(number, f"is no JSON object with {' and '.join(self._fields)}")
        name = tuple(str(content[field]) for field in self._fields)
        if optional is not None and optional in content:
            name += (self.caption(number, content, optional),)
        before, known = self._lines.setdefault(name, (number, content))
        if known != content:
            raise self.wrong(number, f"differs from line {before}, which is of the same {' and '.join(self._fields)}, {'/'.join(name)}")

    def get(self, *names: str, or_else: tuple[str, ...] | None = None) -> tuple[int, dict[str, Any]]:
        """Return the line of `names`, or of `or_else`, with its number.

        Raises:
            UserError: if there is none.
        """
        found = self._lines.get(names) or (self._lines.get(or_else) if or_else else None)
        if found is None:
            raise UserError(f"{self.path}: has no line of {'/'.join(or_else or names)}: add it")
        return found

    def caption(self, number: int, content: Mapping[str, Any], field: str) -> str:
        """Return the caption or preference in a line's field.

        Raises:
            UserError: if it has none of the attributes.
        """
        return self.structured(number, content.get(field), field)

    def structured(self, number: int, value: object, field: str) -> str:
        """Return a caption from an object or a text; errors as `caption`."""
        found = read_caption(value if isinstance(value, str) else json.dumps(value))
        if not found:
            raise self.wrong(number, f"its {field} has none of the four attributes")
        return preference_text(found)

    def score(self, number: int, content: Mapping[str, Any]) -> float:
        """Return the score in a line.

        Raises:
            UserError: if it is no number from 1 to 10.
        """
        score = content.get("score")
        if not isinstance(score, int | float) or isinstance(score, bool) or not 1 <= score <= 10:
            raise self.wrong(number, "its score is no number from 1 to 10")
        return float(score)

    def wrong(self, number: int, what: str) -> UserError:
        """Return the error that a line is wrong."""
        return UserError(f"{self.path}, line {number}: {what}: correct it")


class FileCaptions:
    """Captions from a file."""

    def __init__(self, root: str | Path, file: str) -> None:
        """Read `file` inside `root`; errors as of `Lines`."""
        self._lines = Lines(root, file, ("id",))

    def describe(self, ids: Sequence[str], images: Sequence[Tensor] = ()) -> list[str]:
        """Return the caption of each item; see `DescribesItems`. Images are not looked at.

        Raises:
            UserError: if an item has no line, or its caption no attribute.
        """
        return [self._lines.caption(*self._lines.get(id), "caption") for id in ids]


class FilePreferences:
    """Preferences from a file."""

    def __init__(self, root: str | Path, file: str) -> None:
        """Read `file` inside `root`; errors as of `Lines`."""
        self._lines = Lines(root, file, ("user", "category"))

    def prefer(self, histories: Sequence[History]) -> list[str]:
        """Return the preference of each history's user and category; see `StatesPreferences`.

        Raises:
            UserError: if there is no line, or it has no attribute.
        """
        return [self._lines.caption(*self._lines.get(history.user, history.category), "preference") for history in histories]


class FileAugmentation:
    """Captions of fitting items from a file."""

    def __init__(self, root: str | Path, file: str) -> None:
        """Read `file` inside `root`; errors as of `Lines`."""
        self._lines = Lines(root, file, ("id",))

    def augment(self, blanks: Sequence[Blank], n: int) -> list[list[str]]:
        """Return the first `n` different captions of each blank; see `AugmentsText`.

        Raises:
            UserError: if a blank has no line, or fewer different captions.
        """
        return [self._captions(blank, n) for blank in blanks]

    def _captions(self, blank: Blank, n: int) -> list[str]:
        number, content = self._lines.get(blank.id)
        listed = content.get("captions")
        if not isinstance(listed, list):
            raise self._lines.wrong(number, "has no list of captions")
        captions = list(dict.fromkeys(self._lines.structured(number, caption, "captions") for caption in listed))
        if len(captions) < n:
            raise self._lines.wrong(number, f"has {len(captions)} different captions, not {n}")
        return captions[:n]


class FileJudge:
    """Judgements of captions from a file."""

    def __init__(self, root: str | Path, file: str) -> None:
        """Read `file` inside `root`; errors as of `Lines`."""
        self._lines = Lines(root, file, ("id",), "caption")

    def judge(self, captions: Sequence[str], blanks: Sequence[Blank]) -> list[float]:
        """Return the score of each caption, or else of its blank; see `JudgesCaptions`.

        Raises:
            UserError: if there is no line, or no score in it.
        """
        named = [(preference_text(read_caption(caption)), blank.id) for caption, blank in zip(captions, blanks, strict=True)]
        return [self._lines.score(*self._lines.get(id, caption, or_else=(id,))) for caption, id in named]


class FileImageJudge:
    """Judgements of images from a file."""

    def __init__(self, root: str | Path, file: str) -> None:
        """Read `file` inside `root`; errors as of `Lines`."""
        self._lines = Lines(root, file, ("id",))

    def judge_images(self, ids: Sequence[str], images: Sequence[Tensor] = (), categories: Sequence[str] = ()) -> list[float]:
        """Return the score of each image by its id; see `JudgesImages`.

        Raises:
            UserError: if an image has no line, or no score in it.
        """
        return [self._lines.score(*self._lines.get(id)) for id in ids]
