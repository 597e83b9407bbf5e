"""Results of providers in files of JSON lines."""

import json

import pytest

from fashiongen.errors import UserError
from fashiongen.preference import preference_text
from fashiongen.providers import Blank, FileAugmentation, FileCaptions, FileImageJudge, FileJudge, FilePreferences, History

RED = {"Color": "red", "Material": "cotton", "Design features": "solid", "Clothing Fashion Style": "casual"}
BLUE = RED | {"Color": "blue"}
OUTFIT = Blank(id="o1", category="skirt", given=(preference_text(RED),))


@pytest.fixture
def write(tmp_path):
    def written(*lines) -> tuple:
        text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / "lines.jsonl").write_text(text + "\n", encoding="utf-8")
        return tmp_path / "data", "lines.jsonl"

    return written


def test_captions_are_objects_lists_or_text(write):
    lists = {name: [value, "x"] for name, value in RED.items()}
    place = write({"id": 1, "caption": RED}, "", {"id": "2", "caption": lists}, {"id": "3", "caption": json.dumps({"Color": "red"})})
    joined = preference_text({name: f"{value}, x" for name, value in RED.items()})
    assert FileCaptions(*place).describe(["3", "1", "2"]) == [preference_text({"Color": "red"}), preference_text(RED), joined]
    with pytest.raises(UserError, match=r"lines.jsonl: has no line of 4: add it"):
        FileCaptions(*place).describe(["4"])


def test_preferences_are_of_a_user_and_a_category(write):
    place = write({"user": 7, "category": "skirt", "preference": RED}, {"user": 7, "category": "bag", "preference": BLUE})
    histories = [History(user="7", category="bag"), History(user="7", category="skirt")]
    assert FilePreferences(*place).prefer(histories) == [preference_text(BLUE), preference_text(RED)]
    with pytest.raises(UserError, match="has no line of 7/hat"):
        FilePreferences(*place).prefer([History(user="7", category="hat")])


def test_augmentations_are_different_captions(write):
    place = write({"id": "o1", "captions": [RED, RED, BLUE]}, {"id": "o2", "captions": "red"})
    assert FileAugmentation(*place).augment([OUTFIT], 2) == [[preference_text(RED), preference_text(BLUE)]]
    with pytest.raises(UserError, match="line 1: has 2 different captions, not 3: correct it"):
        FileAugmentation(*place).augment([OUTFIT], 3)
    with pytest.raises(UserError, match="line 2: has no list of captions"):
        FileAugmentation(*place).augment([Blank(id="o2", category="skirt")], 1)


def test_judgements_are_of_a_caption_or_of_a_sample(write):
    place = write({"id": "o1", "caption": RED, "score": 9}, {"id": "o1", "caption": BLUE, "score": 2}, {"id": "o2", "score": 5.5})
    captions, other = [preference_text(BLUE), preference_text(RED), preference_text(RED)], Blank(id="o2", category="skirt")
    assert FileJudge(*place).judge(captions, [OUTFIT, OUTFIT, other]) == [2, 9, 5.5]
    with pytest.raises(UserError, match="has no line of o1"):
        FileJudge(*place).judge([preference_text(RED | {"Color": "green"})], [OUTFIT])
    assert FileImageJudge(*write({"id": "o1/0", "score": 3})).judge_images(["o1/0"]) == [3]
    for score in (0, 11, "7", None, True, float("nan")):
        with pytest.raises(UserError, match="line 1: its score is no number from 1 to 10"):
            FileImageJudge(*write({"id": "o1", "score": score})).judge_images(["o1"])


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "line 2: is no JSON object with id"),
        ("[" * 100_000, "line 2: is no JSON object with id"),
        ({"caption": RED}, "line 2: is no JSON object with id"),
        ({"id": "1", "caption": BLUE}, "line 2: differs from line 1, which is of the same id, 1: correct it"),
    ],
)
def test_damaged_lines_are_named(write, line, told):
    with pytest.raises(UserError, match=told) as caught:
        FileCaptions(*write({"id": "1", "caption": RED}, line))
    assert "\n" not in str(caught.value)
    assert FileCaptions(*write({"id": "1", "caption": RED}, {"id": "1", "caption": RED})).describe(["1"])  # a mere repetition
    with pytest.raises(UserError, match="line 1: its caption has none of the four attributes"):
        FileCaptions(*write({"id": "1", "caption": {"Size": "XL"}})).describe(["1"])


def test_files_stay_inside_the_root(write, tmp_path):
    root, name = write({"id": "1", "caption": RED})
    (tmp_path / "secret.jsonl").write_text((root / name).read_text())
    (root / "link.jsonl").symlink_to(tmp_path / "secret.jsonl")
    for outside in ("../secret.jsonl", str(tmp_path / "secret.jsonl"), "link.jsonl"):
        with pytest.raises(UserError, match="points outside of"):
            FileCaptions(root, outside)
    for unreadable in ("absent.jsonl", "."):
        with pytest.raises(UserError, match="cannot be read"):
            FileCaptions(root, unreadable)
    (root / name).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"cannot be read \(no UTF-8\)"):
        FileCaptions(root, name)
