"""The wardrobe's truth and rule, with outfits checked by hand; and preferences drawn from histories."""

import itertools
import json
import math

import pytest
import torch

from fashiongen.checkpoints import tiny_weights
from fashiongen.errors import UserError
from fashiongen.preference import count_frequencies, preference_text, read_caption, sample_preference
from fashiongen.providers import (
    Blank,
    History,
    SampledPreferences,
    WardrobeAugmentation,
    WardrobeCaptions,
    WardrobeImageJudge,
    WardrobeJudge,
    WardrobePreferences,
)
from fashiongen.providers.rule import SIZE, fits
from fashiongen.wardrobe import ATTRIBUTES, compatible, make_item, render_item
from fashiongen.wardrobe.world import HELD_OUT_CATEGORY_MATERIALS, HELD_OUT_COLOR_DESIGNS


def caption(color: str, style: str = "casual", material: str = "cotton", design: str = "solid") -> str:
    return preference_text({"Color": color, "Material": material, "Design features": design, "Clothing Fashion Style": style})


def blank(*given: str, **fields) -> Blank:
    return Blank(**({"id": "u/o", "category": "skirt", "given": given} | fields))


def test_the_rule_is_that_of_the_wardrobe():
    items = [make_item(0, "test", index) for index in range(150)]
    pairs = list(itertools.combinations(items, 2))
    assert all(fits(a.attributes, b.attributes) == compatible(a, b) for a, b in pairs)
    assert 0 < sum(compatible(a, b) for a, b in pairs) < len(pairs)


@pytest.mark.parametrize(
    ("item", "given", "score"),
    [
        (caption("red"), [caption("blue"), caption("black"), caption("red")], 10),  # harmony, neutral, the same
        (caption("red"), [caption("green"), caption("pink"), caption("blue", "formal")], 1),  # no harmony twice, another style
        (caption("red"), [caption("blue"), caption("green"), caption("blue", "sporty")], 4),  # one of three
        (caption("red"), [caption("beige"), caption("green")], 5.5),
        (caption("teal"), [caption("black")], 1),  # not in the wardrobe
        (preference_text({}), [preference_text({})], 1),  # Unknown proves nothing
        ("no caption", [caption("black")], 1),
        (caption("red"), [], math.nan),
    ],
)
def test_judgements_by_hand(item, given, score):
    assert WardrobeJudge().judge([item], [blank(*given)]) == pytest.approx([score], nan_ok=True)


def test_augmentations_fit_all_given_items_and_differ():
    given = (caption("red"), caption("black"), caption("blue"))
    drawn = WardrobeAugmentation().augment([blank(*given, id=f"o{index}") for index in range(30)], 5)
    assert all(len(set(captions)) == 5 for captions in drawn)
    flat = [text for captions in drawn for text in captions]
    assert set(WardrobeJudge().judge(flat, [blank(*given)] * len(flat))) == {10}
    values = [read_caption(text) for text in flat]
    # By hand: red fits red, blue, beige and neutrals; blue fits blue, red, orange, yellow and neutrals.
    assert {value["Color"] for value in values} == {"red", "blue", "black", "white", "grey"}
    assert {value["Clothing Fashion Style"] for value in values} == {"casual"}
    assert {value["Design features"] for value in values} == set(ATTRIBUTES["Design features"])
    for value in values:
        assert (value["Color"], value["Design features"]) not in HELD_OUT_COLOR_DESIGNS
        assert ("skirt", value["Material"]) not in HELD_OUT_CATEGORY_MATERIALS


def test_augmentations_are_keyed():
    one, two, first = blank(caption("red"), id="a"), blank(caption("red"), id="b"), WardrobeAugmentation()
    both = first.augment([one, two])
    assert first.augment([two, one]) == both[::-1] and both[0] != both[1]
    assert WardrobeAugmentation(seed=1).augment([one]) != both[:1]
    assert WardrobeAugmentation(namespace="test").augment([one]) != both[:1]


def test_where_none_fits_all_most_are_fitted():
    given = (caption("red"), caption("blue"), caption("green", "formal"))
    (captions,) = WardrobeAugmentation().augment([blank(*given)], 8)
    assert {read_caption(text)["Clothing Fashion Style"] for text in captions} == {"casual"}
    assert set(WardrobeJudge().judge(captions, [blank(*given)] * 8)) == {7}
    free = WardrobeAugmentation().augment([blank(id=str(index)) for index in range(40)], 1)  # the first item of an outfit
    assert {read_caption(text)["Clothing Fashion Style"] for (text,) in free} == set(ATTRIBUTES["Clothing Fashion Style"])


def test_preferred_values_come_first():
    likes = preference_text({"Color": "white, green", "Material": "lace", "Clothing Fashion Style": "formal"})
    (captions,) = WardrobeAugmentation(namespace="test").augment([blank(caption("red"), preference=likes)], 6)
    values = [read_caption(text) for text in captions]
    assert all((value["Color"], value["Material"], value["Clothing Fashion Style"]) == ("white", "lace", "casual") for value in values)
    assert len({value["Design features"] for value in values}) == 6


def test_what_the_wardrobe_does_not_have_is_told():
    with pytest.raises(UserError, match="u/o: the wardrobe has no 'sari': name one of tshirt"):
        WardrobeAugmentation().augment([blank(category="sari")])
    with pytest.raises(UserError, match=r"u/o: only [0-9]+ different items of skirt fit, not 5000"):
        WardrobeAugmentation().augment([blank(caption("red"))], 5000)
    with pytest.raises(UserError, match="unknown wardrobe namespace 'all'"):
        WardrobeAugmentation(namespace="all")


def test_true_captions_and_preferences():
    item = make_item(0, "train", 3)
    assert json.loads(WardrobeCaptions({"3": item.attributes}).describe(["3"])[0]) == item.attributes
    with pytest.raises(UserError, match="caption of 4: the wardrobe knows no Color, Material"):
        WardrobeCaptions({"3": item.attributes}).describe(["3", "4"])
    likes = {"u": {"Color": ("red", "blue"), "Clothing Fashion Style": ("casual",)}}
    (found,) = WardrobePreferences(likes).prefer([History(user="u", category="skirt")])
    expected = {"Color": "blue, red", "Material": "Unknown", "Design features": "Unknown", "Clothing Fashion Style": "casual"}
    assert json.loads(found) == expected
    with pytest.raises(UserError, match="preference of v: the wardrobe knows no such user"):
        WardrobePreferences(likes).prefer([History(user="v", category="skirt")])


@pytest.mark.parametrize("size", [(64, 48), (64, 64), (256, 192)])
def test_images_are_judged_by_the_category_that_they_show(size):
    """Items of the test half, at the size of the classifier's training and at those of outfits: the right category is told from another."""
    categories = ["skirt", "bag", "shoes", "hat", "dress", "coat"]
    items = [make_item(3, "test", index, [category]) for index, category in enumerate(categories)]
    images = [torch.tensor(render_item(item, *size)).permute(2, 0, 1) for item in items]
    judge, ids = WardrobeImageJudge(), [item.id for item in items]
    right, wrong = judge.judge_images(ids, images, categories), judge.judge_images(ids, images, categories[1:] + categories[:1])
    assert 8 < min(right) and max(right) <= 10 and 1 <= min(wrong) and max(wrong) < 2
    one = judge.judge_images(ids[:1], images[:1], categories[:1])
    assert one == pytest.approx(right[:1], abs=1e-3)  # whatever is judged beside it


def test_the_classifier_of_images_may_be_another():
    image = torch.full((3, 64, 48), 255, dtype=torch.uint8)
    first, second = WardrobeImageJudge(), WardrobeImageJudge(part="second/classifier")
    assert first.judge_images(["a"], [image], ["bag"]) != second.judge_images(["a"], [image], ["bag"])
    with pytest.raises(UserError, match="a: the classifier knows no 'sari'"):
        first.judge_images(["a"], [image], ["sari"])
    assert list(SIZE) == json.loads((tiny_weights() / "BUILD.json").read_text())["size"]


def test_preferences_are_drawn_by_user_and_category():
    captions = tuple(caption(color) for color in ["red", "red", "blue", "green", "white"])
    histories = [History(user="u", category=category, captions=captions) for category in ("skirt", "bag")]
    found = SampledPreferences(seed=4, temperature=2.0, draws=3, score="share").prefer(histories)
    options = {"temperature": 2.0, "draws": 3, "score": "share"}
    assert found == [
        preference_text(sample_preference(count_frequencies(captions), ("u", category), 4, **options)) for category in ("skirt", "bag")
    ]
    assert set(json.loads(SampledPreferences().prefer([History(user="u", category="hat")])[0]).values()) == {"Unknown"}
