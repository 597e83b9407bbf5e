"""What models are asked, and how their answers are read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fashiongen.preference import ATTRIBUTES, preference_text, read_caption
from fashiongen.providers.jobs import Blank, History

SCORES = tuple(str(score) for score in range(1, 11))
"""What a judge may answer."""

FORM = json.dumps(dict.fromkeys(ATTRIBUTES, "..."))
RULES = "Each value is a short phrase; separate several with commas."

CAPTION = (
    "Describe the fashion item in the image by four attributes. "
    f'Answer with nothing but this JSON object, filled in: {FORM}. {RULES} Write "Unknown" only for what the image does not show.'
)
ALLOWED = "Choose each value from this list and write it exactly so:\n{values}"

PREFERENCE = (
    "These are the items of the category {category} that a user has chosen so far:\n{items}\n"
    "State in four attributes what the user likes in this category, not what the items happen to be. "
    f"Answer with nothing but this JSON object, filled in: {{form}}. {RULES}"
)

AUGMENTATION = (
    "You are a stylist. An outfit has these items:\n{items}\n{preference}"
    "Propose {n} different items of the category {category} that complete the outfit: their colours, materials, designs and styles match "
    f"those of all its items. Answer with nothing but a JSON list of {{n}} objects of this form: {{form}}. {RULES}"
)
LIKES = "The user likes: {preference}\n"

COMPATIBILITY = (
    "You are a stylist. An outfit has these items:\n{items}\n"
    "Judge how well this item of the category {category} fits all of them in colour, material, design and style:\n{caption}\n"
    "Use the scale from 1 (conflicts with the outfit) over 5 (wearable, with obvious conflicts) to 10 (fits perfectly). "
    'Answer with nothing but this JSON object: {{"score": N}}, N an integer.'
)

QUALITY = (
    "The image should be a product photo of one item of the category {category} on a white background. "
    "Judge its quality: is it this category, complete, sharp, free of artefacts and believable? "
    "Use the scale from 1 (unrecognisable) over 5 (recognisable, with obvious faults) to 10 (a flawless product photo). "
    'Answer with nothing but this JSON object: {{"score": N}}, N an integer.'
)

_SCALES = re.compile(r"\b1\s*(?:to|-|and)\s*10\b|(?:/|\bout of)\s*10\b", re.IGNORECASE)
_NUMBERS = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?!\w)")
_NAMED_SCORE = re.compile(r"\bscore\b[\"'*]*\s*[:=]?[\s\"'*]*(-?\d+(?:\.\d+)?)(?!\w)", re.IGNORECASE)


def caption_prompt(vocabulary: Mapping[str, Sequence[str]] | None = None) -> str:
    """Ask for the structured caption of an image, with values of the vocabulary if there is one."""
    if vocabulary is None:
        return CAPTION
    values = _lines([f"{name}: {', '.join(vocabulary[name])}" for name in ATTRIBUTES])
    return f"{CAPTION} {ALLOWED.format(values=values)}"


def preference_prompt(history: History) -> str:
    """Ask what a user likes."""
    return PREFERENCE.format(form=FORM, category=history.category, items=_lines(history.captions))


def augmentation_prompt(blank: Blank, n: int) -> str:
    """Ask for `n` items that complete an outfit."""
    likes = "" if blank.preference is None else LIKES.format(preference=blank.preference)
    return AUGMENTATION.format(form=FORM, items=_lines(blank.given), preference=likes, n=n, category=blank.category)


def compatibility_prompt(caption: str, blank: Blank) -> str:
    """Ask how well an item fits an outfit."""
    return COMPATIBILITY.format(items=_lines(blank.given), category=blank.category, caption=caption)


def quality_prompt(category: str) -> str:
    """Ask how good an image of a category is."""
    return QUALITY.format(category=category)


def complete_caption(answer: str, vocabulary: Mapping[str, Sequence[str]] | None = None) -> str | None:
    """Return the caption in an answer; None if an attribute is missing, or has a value that is not in the vocabulary."""
    found = read_caption(answer)
    if len(found) < len(ATTRIBUTES):
        return None
    if vocabulary is not None:
        spelled = {name: {value.casefold(): value for value in values} for name, values in vocabulary.items()}
        if any(value.casefold() not in spelled[name] for name, value in found.items()):
            return None
        found = {name: spelled[name][value.casefold()] for name, value in found.items()}
    return preference_text(found)


def different_captions(answer: str, n: int) -> list[str] | None:
    """Return the first `n` different captions with all four attributes in an answer; None if there are fewer."""
    objects = (entry for content in _contents(answer) for entry in (content if isinstance(content, list) else [content]))
    found = (complete_caption(json.dumps(entry)) for entry in objects if isinstance(entry, dict))
    captions = list(dict.fromkeys(caption for caption in found if caption is not None))
    return captions[:n] if len(captions) >= n else None


def read_score(answer: str) -> float | None:
    """Return the score in an answer: a number named so, or the only one, the scale left out; None without an integer from 1 to 10.

    >>> read_score('{"score": 7}'), read_score("On a scale of 1 to 10: 8/10."), read_score("Between 6 and 8"), read_score("11")
    (7.0, 8.0, None, None)
    """
    named = _NAMED_SCORE.findall(answer)
    numbers = named or _NUMBERS.findall(_SCALES.sub(" ", answer))
    if len({float(number) for number in numbers}) != 1:
        return None
    score = float(numbers[0])
    return score if score.is_integer() and 1 <= score <= 10 else None


def _lines(texts: Sequence[str]) -> str:
    return "\n".join(f"- {text}" for text in texts)


def _contents(text: str) -> Iterator[Any]:
    """Yield the JSON lists and objects in a text, outermost ones only."""
    decoder, place = json.JSONDecoder(), 0
    for _ in range(100):  # an answer of many brackets that are no JSON stays cheap
        starts = [start for start in (text.find("[", place), text.find("{", place)) if start >= 0]
        if not starts:
            return
        try:
            content, place = decoder.raw_decode(text, min(starts))
        except (ValueError, RecursionError):
            place = min(starts) + 1
            continue
        yield content
