"""Structured captions in words, and a user's preference drawn from those of the history (Preference Weighted Sampling).

A structured caption is the JSON of four attributes, as DualFashion defines it: it describes an item, or what a user likes. Imports nothing
heavy: datasets, metrics and providers share it.
"""

from __future__ import annotations

import json
import math
import random
import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Literal

from fashiongen.errors import UserError

ATTRIBUTES = ("Color", "Material", "Design features", "Clothing Fashion Style")
"""The attributes A of DualFashion, section 4.2, in the order of every caption."""

UNKNOWN = "Unknown"
"""The value of an attribute about which nothing is known."""

MOST_OBJECTS = 8
"""The number of JSON objects that `read_caption` looks for in an answer, so that a long hostile text stays cheap."""

_SYNONYMS = {
    "colour": "Color",
    "colors": "Color",
    "colours": "Color",
    "materials": "Material",
    "design feature": "Design features",
    "design": "Design features",
    "fashion style": "Clothing Fashion Style",
    "clothing style": "Clothing Fashion Style",
    "style": "Clothing Fashion Style",
    **{name.casefold(): name for name in ATTRIBUTES},
}
_STRING = r'"((?:[^"\\]|\\.)*)"'
_SPAN = re.compile(rf'"(?:{"|".join(ATTRIBUTES)})"\s*:\s*{_STRING}')
# A name, a colon, and a quoted value or the rest of the line: what is left of a caption that is not quite JSON.
_NAMES = "|".join(sorted(_SYNONYMS, key=len, reverse=True))
_LOOSE = re.compile(rf"""(?<!\w)({_NAMES})["'*]{{0,3}}\s{{0,3}}:\*{{0,2}}\s{{0,9}}(?:{_STRING}|'([^'\n]*)'|([^\n]*))""", re.IGNORECASE)


def preference_text(values: Mapping[str, str | Sequence[str]]) -> str:
    """Return the JSON of the four attributes in their fixed order; several values are joined by ", ", and none are "Unknown".

    Letters beyond ASCII stay as they are (the authors' code escapes them), so that a text encoder reads the words.

    >>> preference_text({"Color": ["red", "blue"], "Material": "cotton"})
    '{"Color": "red, blue", "Material": "cotton", "Design features": "Unknown", "Clothing Fashion Style": "Unknown"}'
    """
    return json.dumps({name: _joined(values.get(name)) or UNKNOWN for name in ATTRIBUTES}, ensure_ascii=False)


def read_caption(text: str) -> dict[str, str]:
    """Read the attributes of a structured caption as a model or a person may have written it.

    Accepted are JSON in a sentence or a code fence, lists as values, trailing commas, missing braces, single quotes, lines `Color: red`,
    other letter cases of the names, and names such as `colour` and `style`. Of several objects the first with a known attribute counts.

    Returns:
        The values by attribute, in the fixed order; an attribute that is absent or empty is left out, "Unknown" is not.

    >>> read_caption('Here you are: {"color": ["red", "blue"], "Style": "casual"}')
    {'Color': 'red, blue', 'Clothing Fashion Style': 'casual'}
    """
    found = next((values for values in map(_attributes, _objects(text)) if values), None)
    if found is None:
        found = _attributes({name: _unquoted(*quoted) for name, *quoted in _LOOSE.findall(text)})
    return {name: found[name] for name in ATTRIBUTES if found.get(name)}


def value_spans(text: str) -> list[tuple[int, int]]:
    r"""Return where the values of the attributes stand in a structured caption: start and end of each, without the quotes, in order.

    A mask of the tokens whose offsets overlap a span is DualFashion's label mask. A span holds the value as JSON writes it: a quote
    in the value is `\"` there. The authors' expression, `"key"\s*:\s*"([^"]*)"`, ends such a value at the quote.

    >>> text = preference_text({"Color": "red"})
    >>> [text[start:end] for start, end in value_spans(text)]
    ['red', 'Unknown', 'Unknown', 'Unknown']
    """
    return [match.span(1) for match in _SPAN.finditer(text)]


def elements(caption: str | Mapping[str, str | Sequence[str]]) -> dict[str, list[str]]:
    """Return the fashion elements of a caption by attribute: its values, those in one text separated at commas, without "Unknown"."""
    values = read_caption(caption) if isinstance(caption, str) else {name: _joined(caption.get(name)) for name in ATTRIBUTES}
    parts = {name: [part.strip() for part in values.get(name, "").split(",")] for name in ATTRIBUTES}
    return {name: [part for part in found if part and part.casefold() != UNKNOWN.casefold()] for name, found in parts.items()}


def count_frequencies(captions: Iterable[str | Mapping[str, str | Sequence[str]]]) -> dict[str, dict[str, float]]:
    """Count how often each element occurs in the captions of a history, repeated items as often as they are repeated.

    Args:
        captions: structured captions, as text or as dictionaries of values or lists of values.

    Returns:
        For each of the four attributes the counts by element, in the order of their first occurrence; "Unknown" is not counted.
    """
    frequency: dict[str, dict[str, float]] = {name: {} for name in ATTRIBUTES}
    for caption in captions:
        for name, found in elements(caption).items():
            for element in dict.fromkeys(found):  # a caption that says the same twice is one item
                frequency[name][element] = frequency[name].get(element, 0) + 1
    return frequency


def probabilities(
    frequency: Mapping[str, float], *, temperature: float = 1.0, score: Literal["count", "share"] = "count"
) -> dict[str, float]:
    """Return P(v) of eq. 12, exp(f(v) / T) / sum_v' exp(f(v') / T), of an attribute's elements, sorted by name.

    Elements with a count of 0 do not occur in the history and have no probability. Arguments and errors as in `sample_preference`.
    """
    if not temperature > 0:
        raise UserError(
            f"temperature: {temperature} is not above 0: give 1.0 as the paper, or a small number for the most frequent value alone"
        )
    if score not in ("count", "share"):
        raise UserError(f"score: {score!r} is unknown: choose count or share")
    for value, count in frequency.items():
        if not (math.isfinite(count) and count >= 0):
            raise UserError(f"the frequency of {value!r} is {count}: give counts of at least 0, as count_frequencies does")
    counts = {value: float(frequency[value]) for value in sorted(frequency) if frequency[value] > 0}
    if not counts:
        return {}
    total = sum(counts.values()) if score == "share" else 1.0
    most = max(counts.values())
    weights = {value: math.exp((count - most) / total / temperature) for value, count in counts.items()}  # at most 1: nothing overflows
    whole = math.fsum(weights.values())
    return {value: weight / whole for value, weight in weights.items()}


def sample_preference(
    frequency: Mapping[str, Mapping[str, float]],
    names: Sequence[str | int],
    seed: int,
    *,
    temperature: float = 1.0,
    draws: int = 10,
    score: Literal["count", "share"] = "count",
) -> dict[str, list[str]]:
    """Draw a user's preference from the elements of the history: Preference Weighted Sampling, DualFashion, section 4.2, eq. 12.

    For each attribute, N elements are drawn independently with P(v) = exp(f(v) / T) / sum_v' exp(f(v') / T), and duplicates removed.

    Args:
        frequency: for each attribute the counts by element, as `count_frequencies` returns them; the order of neither matters.
        names: what the draws depend on besides the seed, such as the user and the category.
        seed: the seed.
        temperature: T. Below 1 the frequent elements are preferred more, above 1 less; towards 0 only the most frequent are drawn, each as
            often where several are, towards infinity all are alike.
        draws: N.
        score: f(v): the `count` of v in the history, or its `share` of the attribute's. The paper says "frequency score" and how often an
            element appears; the authors' code reads preferences drawn before. The default is the count: shares differ by less than 1, so
            that with T = 1 no element would be more than e = 2.7 times as likely as another, however frequent.

    Returns:
        For each of the four attributes the drawn elements in the order of their first draw; ["Unknown"] for an attribute without any.

    Raises:
        UserError: if the temperature, the number of draws, the score or a frequency is out of range.
    """
    if draws < 1:
        raise UserError(f"draws: {draws} is below 1: give 10 as the paper")
    drawn = {}
    for name in ATTRIBUTES:
        chances = probabilities(frequency.get(name, {}), temperature=temperature, score=score)
        values, bounds = list(chances), list(accumulate(chances.values()))
        # Python guarantees the sequence of `.random()` for a string seed; JSON keeps names that contain a separator apart.
        stream = random.Random(json.dumps(["preference", *(str(part) for part in (seed, *names)), name]))
        places = (bisect_right(bounds, stream.random() * bounds[-1]) for _ in range(draws)) if values else ()
        drawn[name] = list(dict.fromkeys(values[min(place, len(values) - 1)] for place in places)) or [UNKNOWN]
    return drawn


def _joined(value: object) -> str:
    """Return a value or a list of values as one text; "" for anything else."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(part for part in map(_joined, value) if part)
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value).strip()
    return ""


def _objects(text: str) -> Iterable[dict[str, Any]]:
    """Yield the first JSON objects in a text."""
    decoder, start = json.JSONDecoder(), -1
    for _ in range(MOST_OBJECTS):
        start = text.find("{", start + 1)
        if start < 0:
            return
        try:
            content, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):  # no JSON; nested a thousand times
            continue
        start = end - 1
        yield content


def _attributes(content: Mapping[str, Any]) -> dict[str, str]:
    """Return the values of known attributes, "" where one has no text."""
    named = {_SYNONYMS.get(" ".join(name.replace("_", " ").split()).casefold(), ""): _joined(value) for name, value in content.items()}
    return {name: value for name, value in named.items() if name}


def _unquoted(double: str, single: str, rest: str) -> str:
    """Return the value of a loose pair: in double quotes, in single quotes, or the rest of the line."""
    if double:
        try:
            return str(json.loads(f'"{double}"'))
        except ValueError:
            return double
    return single or rest.strip().strip("\"'{}[],* ")
