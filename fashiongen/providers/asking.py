"""Asks a model many questions: answers are cached as they come, so that a killed run goes on, and bad ones are asked for again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import track
from torch import Tensor

from fashiongen.errors import UserError

T = TypeVar("T")
SHOWN = 120
"""The most letters of a bad answer in a message."""


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        id: the sample's id, for messages; the answer does not depend on it, except in how a second answer is drawn.
        prompt: the question.
        image: opens the image that it is about, (3, H, W) uint8 RGB; None without.
        choices: the keys of the JSON object that is asked for, and their allowed values; None if the answer is free.
    """

    id: str
    prompt: str
    image: Callable[[], Tensor] | None = None
    choices: Mapping[str, Sequence[str]] | None = None


class Answers(Protocol):
    """Answers questions."""

    @property
    def identity(self) -> str:
        """The model and the settings that an answer depends on; no secret."""
        ...

    @property
    def sees_images(self) -> bool:
        """Whether questions may have an image."""
        ...

    def answers(self, questions: Sequence[Question], attempt: int) -> Iterator[tuple[int, str]]:
        """Yield (index of the question, answer) as answers come, in any order; later attempts give other answers to the same question."""
        ...


class AnswerCache:
    """Answers in a file of JSON lines, `{key, id, answer}`, written one by one.

    A line that a kill has cut off is no JSON; it is left where it is, and its question is asked again.
    """

    def __init__(self, path: str | Path | None) -> None:
        """Read the answers in `path`; without a path nothing is kept beyond this run.

        Raises:
            UserError: if the file cannot be read.
        """
        self.path = None if path is None else Path(path).expanduser()
        self.known: dict[str, str] = {}
        self._cut = False
        if self.path is None or not self.path.exists():
            return
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise UserError(f"{self.path}: {error.strerror}; name a file for the answers, existing or new") from error
        self._cut = bool(text) and not text.endswith("\n")
        for line in text.split("\n"):
            try:
                entry = json.loads(line)
                key, answer = entry["key"], entry["answer"]
            except (ValueError, RecursionError, KeyError, TypeError):
                continue
            if isinstance(key, str) and isinstance(answer, str):
                self.known[key] = answer

    def add(self, key: str, id: str, answer: str) -> None:
        """Keep an answer, in the file at once.

        Raises:
            UserError: if the file cannot be written.
        """
        self.known[key] = answer
        if self.path is None:
            return
        line = json.dumps({"key": key, "id": id, "answer": answer}, ensure_ascii=True) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n" + line if self._cut else line)
        except OSError as error:
            raise UserError(f"{self.path}: {error.strerror}; make room or name another file for the answers") from error
        self._cut = False


def ask(
    model: Answers,
    questions: Sequence[Question],
    read: Callable[[str], T | None],
    *,
    what: str,
    needs: str,
    cache: AnswerCache,
    attempts: int = 3,
) -> list[T]:
    """Return the value of each question's answer; equal questions are asked once.

    Args:
        model: what is asked.
        questions: the questions.
        read: reads an answer; None means a bad one, which is asked for again and never cached.
        what: what the answers are, for messages, such as "caption".
        needs: what a good answer has, for messages.
        cache: holds answers of earlier runs, and receives the new ones.
        attempts: how often a question is asked at most.

    Raises:
        UserError: if a question still has a bad answer; all other answers are in the cache by then.
    """
    if not model.sees_images and any(question.image is not None for question in questions):
        raise UserError(f"{model.identity}: sees no images, which a {what} needs: name a vision-language model")
    keys = [_key(model.identity, question) for question in questions]
    values: dict[str, T] = {}
    open_: dict[str, Question] = {}
    for key, question in zip(keys, questions, strict=True):
        value = read(cache.known[key]) if key in cache.known else None
        if value is None:
            open_.setdefault(key, question)
        else:
            values[key] = value
    bad: dict[str, str] = {}
    for attempt in range(attempts):
        if not open_:
            break
        asked = list(open_.items())
        found = model.answers([question for _, question in asked], attempt)
        for index, answer in track(found, f"{what}s", total=len(asked), console=Console(stderr=True), transient=True):
            key, question = asked[index]
            value = read(answer)
            if value is None:
                bad[key] = answer
                continue
            cache.add(key, question.id, answer)
            values[key] = value
            del open_[key]
    if open_:
        key, question = next(iter(open_.items()))
        others = f" (and {len(open_) - 1} more)" if len(open_) > 1 else ""
        raise UserError(
            f"{what} of {question.id}{others}: {attempts} answers of {model.identity} have not {needs}, the last being "
            f"{shortened(bad[key])!r}; give more tokens or another model, or run again"
        )
    return [values[key] for key in keys]


def shortened(text: str, most: int = SHOWN) -> str:
    r"""Return a text as one line of at most `most` letters.

    >>> shortened("a\n  b"), shortened("abcdef", 5)
    ('a b', 'ab...')
    """
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


def _key(identity: str, question: Question) -> str:
    """Return a hash of all that an answer depends on."""
    image = None
    if question.image is not None:
        pixels = question.image().cpu().contiguous()
        image = [list(pixels.shape), hashlib.sha256(pixels.numpy().tobytes()).hexdigest()]
    choices = None if question.choices is None else {name: list(values) for name, values in question.choices.items()}
    return hashlib.sha256(json.dumps([identity, question.prompt, image, choices]).encode()).hexdigest()
