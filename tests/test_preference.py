"""Preference Weighted Sampling (DualFashion, eq. 12), and structured captions written and read."""

import doctest
import json
import math
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import pytest

from fashiongen import preference
from fashiongen.errors import UserError
from fashiongen.preference import (
    ATTRIBUTES,
    UNKNOWN,
    count_frequencies,
    preference_text,
    probabilities,
    read_caption,
    sample_preference,
    value_spans,
)
from fashiongen.wardrobe import ATTRIBUTES as OF_WARDROBE

COUNTS = {"Color": {"black": 3, "white": 2, "red": 1}, "Material": {"cotton": 5}, "Design features": {}}
CAPTION = {"Color": "red", "Material": "cotton", "Design features": "solid", "Clothing Fashion Style": "casual"}


def test_the_wardrobe_has_the_same_attributes():
    assert tuple(OF_WARDROBE) == ATTRIBUTES


@pytest.mark.parametrize(("score", "scale"), [("count", 1), ("share", 6)])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_draws_follow_equation_12(score, scale, temperature):
    weights = {value: math.exp(count / scale / temperature) for value, count in COUNTS["Color"].items()}
    expected = {value: weight / sum(weights.values()) for value, weight in weights.items()}
    assert probabilities(COUNTS["Color"], temperature=temperature, score=score) == pytest.approx(expected, abs=1e-12)
    n = 1000
    options = {"temperature": temperature, "draws": 1, "score": score}
    drawn = Counter(sample_preference(COUNTS, ("user", index), 0, **options)["Color"][0] for index in range(n))
    chi_square = sum((drawn[value] - n * chance) ** 2 / (n * chance) for value, chance in expected.items())
    assert chi_square < 13.8, drawn  # 2 degrees of freedom: P = 0.001


def test_ten_draws_are_independent():
    """An element is in the preference with probability 1 - (1 - P)^10, whatever else is; attributes have streams of their own."""
    chance, n = probabilities(COUNTS["Color"])["red"], 1000
    seen = sum("red" in sample_preference(COUNTS, (index,), 0)["Color"] for index in range(n))
    expected = 1 - (1 - chance) ** 10
    assert abs(seen / n - expected) < 4 * math.sqrt(expected * (1 - expected) / n)
    both = {name: {str(value): 1 for value in range(50)} for name in ATTRIBUTES}
    drawn = sample_preference(both, ("user",), 0)
    assert len({tuple(values) for values in drawn.values()}) == 4


def test_duplicates_are_removed_in_the_order_of_the_first_draw():
    single = [sample_preference(COUNTS, ("user",), 3, draws=n)["Color"] for n in range(1, 11)]
    for shorter, longer in pairwise(single):
        assert longer[: len(shorter)] == shorter and len(longer) - len(shorter) <= 1 and len(set(longer)) == len(longer)
    orders = {tuple(sample_preference(COUNTS, (index,), 0)["Color"]) for index in range(100)}
    assert len(orders) > 4  # not sorted


def test_hundreds_do_not_overflow_and_small_temperatures_share_ties():
    many = {"a": 900.0, "b": 900.0, "c": 899.0}
    assert probabilities(many) == pytest.approx({"a": 0.4223, "b": 0.4223, "c": 0.1554}, abs=1e-4)
    for temperature in (1e-3, 1e-300, 5e-324):
        assert probabilities(many, temperature=temperature) == {"a": 0.5, "b": 0.5, "c": 0.0}
    assert probabilities(many, temperature=math.inf) == pytest.approx(dict.fromkeys("abc", 1 / 3))
    drawn = {value for index in range(50) for value in sample_preference({"Color": many}, (index,), 0, temperature=1e-9)["Color"]}
    assert drawn == {"a", "b"}


def test_a_draw_depends_on_seed_and_names_alone():
    once = sample_preference(COUNTS, ("u1", "skirt"), 7)
    backwards = {name: dict(reversed(list(values.items()))) for name, values in reversed(list(COUNTS.items()))}
    assert sample_preference(backwards, ("u1", "skirt"), 7) == once
    code = f"from fashiongen.preference import *; print(sample_preference({COUNTS!r}, ('u1', 'skirt'), 7))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == str(once)
    wide = {"Color": {str(value): 1 for value in range(200)}}
    differing = [(("a", "b"), 0), (("a/b",), 0), (("b", "a"), 0), (("a", "b"), 1), ((), 0)]
    assert len({tuple(sample_preference(wide, names, seed)["Color"]) for names, seed in differing}) == len(differing)
    assert sample_preference(wide, (1,), 0) == sample_preference(wide, ("1",), 0)  # ids from files are text, elsewhere numbers
    # Frozen: another version or machine must draw the same.
    assert sample_preference(wide, ("user", 3), 0)["Color"][:3] == ["176", "42", "128"]


def test_what_does_not_occur_is_unknown():
    assert sample_preference(COUNTS, (), 0)["Design features"] == sample_preference(COUNTS, (), 0)["Clothing Fashion Style"] == [UNKNOWN]
    assert sample_preference({"Color": {"red": 0, "blue": 1}}, (), 0, temperature=math.inf)["Color"] == ["blue"]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"temperature": 0.0}, "temperature: 0.0 is not above 0"),
        ({"temperature": math.nan}, "temperature: nan"),
        ({"draws": 0}, "draws: 0 is below 1"),
        ({"score": "rank"}, "score: 'rank' is unknown"),
        ({"frequency": {"Color": {"red": -1}}}, "the frequency of 'red' is -1"),
        ({"frequency": {"Color": {"red": math.inf}}}, "the frequency of 'red' is inf"),
    ],
)
def test_settings_out_of_range_are_told_in_one_line(changed, told):
    with pytest.raises(UserError, match=f"^{told}.*give|^{told}.*choose") as caught:
        sample_preference(**({"frequency": COUNTS, "names": ("user",), "seed": 0} | changed))
    assert "\n" not in str(caught.value)


def test_a_history_is_counted():
    captions = [
        {"Color": "black, white", "Material": ["cotton", "lace"]},
        '{"Color": "black", "Material": "Unknown"}',
        {"Color": "black, black", "Material": "", "Other": "x"},
    ]
    counted = count_frequencies(captions)
    assert counted == {
        "Color": {"black": 3, "white": 1},
        "Material": {"cotton": 1, "lace": 1},
        "Design features": {},
        "Clothing Fashion Style": {},
    }
    assert list(counted) == list(ATTRIBUTES)


VALUES = ["red", 'the "new" look', "a\\b", "rosé, naïve 红", "tab\tline\nbreak", '", "Color": "blue', "{}", "it's"]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("ascii_only", [False, True])
def test_spans_reproduce_the_values(value, ascii_only):
    values = {**CAPTION, "Color": value, "Design features": value}
    text = json.dumps(values) if ascii_only else preference_text(values)  # the authors' way and ours
    spans = value_spans(text)
    assert [json.loads(f'"{text[start:end]}"') for start, end in spans] == [values[name] for name in ATTRIBUTES]
    assert read_caption(text) == values


def test_the_text_has_the_four_keys_in_order():
    text = preference_text(dict(reversed(CAPTION.items())) | {"Color": ["red", "blue"], "Size": "XL"})
    assert list(json.loads(text).items()) == list({**CAPTION, "Color": "red, blue"}.items())
    assert json.loads(preference_text({"Color": [], "Material": " "})) == dict.fromkeys(ATTRIBUTES, UNKNOWN)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(CAPTION),
        f"Sure! Here is the JSON:\n```json\n{json.dumps(CAPTION, indent=2)}\n```\nAnything else {{?}}",
        json.dumps({"note": {"x": 1}}) + json.dumps(CAPTION),
        json.dumps({name.upper().replace(" ", "_"): [value] for name, value in CAPTION.items()}),
        json.dumps({"colour": "red", "material": "cotton", "design": "solid", "style": "casual"}),
        "{'Color': 'red', 'Material': 'cotton', 'Design features': 'solid', 'Clothing Fashion Style': 'casual'}",
        '"Color": "red", "Material": "cotton", "Design features": "solid", "Clothing Fashion Style": "casual",',
        json.dumps(CAPTION)[:-2] + '",}',
        json.dumps(CAPTION, separators=(",", ":"))[:-1],
        "- **Color**: red\n- **Material:** cotton\nDesign features: solid\nStyle: casual",
    ],
)
def test_captions_are_read_as_models_write_them(text):
    assert read_caption(text) == CAPTION


def test_a_caption_without_attributes_is_empty():
    for text in (
        "",
        "a red skirt",
        "[1, 2]",
        "{}",
        '{"Color": null, "Material": {"a": 1}}',
        "{" * 5000,
        "*" * 100_000,
        '"Color"' * 9000,
        '{"a":' * 5000,
    ):
        assert read_caption(text) == {}, text[:40]
    assert read_caption('{"Color": "Unknown"}') == {"Color": "Unknown"}


def test_examples():
    assert doctest.testmod(preference).failed == 0


def test_the_module_imports_nothing_heavy():
    code = "import sys, fashiongen.preference; print({'torch', 'numpy', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"
