"""Answers as models give them."""

import doctest
import json

import pytest

from fashiongen.preference import preference_text
from fashiongen.providers import asking, prompts
from fashiongen.providers.prompts import complete_caption, different_captions, read_score

RED = {"Color": "red", "Material": "cotton", "Design features": "solid", "Clothing Fashion Style": "casual"}
BLUE = RED | {"Color": "blue"}


def test_examples():
    assert doctest.testmod(prompts).failed == doctest.testmod(asking).failed == 0


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        *((str(score), score) for score in range(1, 11)),
        ('{"score": 7}', 7),
        ('```json\n{"score": "7"}\n```', 7),
        ("**Score:** 9, since 3 of 4 items match", 9),
        ("7/10", 7),
        ("I give it 6 out of 10.", 6),
        ("10/10", 10),
        ("Rated 1 to 10, it is an 8.", 8),
        ("7.0", 7),
        *(
            (text, None)
            for text in ("", "good", "0", "11", "7.5", "-3", "score: -3", "6 or 7", '{"score": 0}', "v2", "1-10", '{"score": 1e1}')
        ),
    ],
)
def test_scores(answer, score):
    assert read_score(answer) == score


def test_captions_need_all_attributes():
    assert complete_caption(json.dumps(RED)) == preference_text(RED)
    for name in RED:
        assert complete_caption(json.dumps({other: value for other, value in RED.items() if other != name})) is None
    vocabulary = {name: [value] for name, value in RED.items()}
    assert complete_caption(json.dumps(RED | {"Color": "Red"}), vocabulary) == preference_text(RED)
    assert complete_caption(json.dumps(BLUE), vocabulary) is None


def test_lists_of_captions():
    both, texts = [preference_text(RED), preference_text(BLUE)], json.dumps([RED, {"Color": "red"}, RED, BLUE])
    for answer in (texts, f"Sure [1]:\n```json\n{texts}\n```", f"1. {json.dumps(RED)}\n2. {json.dumps(BLUE)}"):
        assert different_captions(answer, 2) == both
        assert different_captions(answer, 1) == both[:1] and different_captions(answer, 3) is None
    for hostile in ("[" * 100_000, "{" * 100_000, "[]", "", '{"a": [1, "b"]}'):
        assert different_captions(hostile, 1) is None
