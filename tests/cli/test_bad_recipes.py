"""Bad recipes and output paths of every kind give a one-line error and exit status 2."""

from pathlib import Path

import pytest
from spoilt import FIT, PREDICT, TEST, Kind, check, overlay

from fashiongen.methods.baselines import MaskedCrop

KINDS = [
    # Recipes
    Kind(
        "a misspelt key",
        lambda w: overlay(data={"init_args": {"batchsize": 3}}),
        [*FIT, "--config", "overlay.yaml"],
        r"overlay\.yaml: unknown key 'batchsize'",
    ),
    Kind(
        "a value of the wrong type",
        lambda w: overlay(trainer={"max_steps": "many"}),
        [*FIT, "--config", "overlay.yaml"],
        r"overlay\.yaml: .*max_steps.*many",
    ),
    Kind(
        "an unknown class",
        lambda w: overlay(model={"class_path": "fashiongen.methods.igr.IGGR"}),
        [*FIT, "--config", "overlay.yaml"],
        r"overlay\.yaml: .*IGGR",
    ),
    Kind(
        "malformed YAML",
        lambda w: Path("bad.yaml").write_text("a: [b\nc: d: e"),
        [*FIT, "--config=bad.yaml"],
        r"bad\.yaml is not valid YAML",
    ),
    Kind("a recipe that is not there", lambda w: None, ["fit", "--config", "lost.yaml"], r"lost\.yaml: no such file"),
    Kind("a recipe that is a folder", lambda w: None, ["fit", "--config", "viton"], r"viton"),
    Kind(
        "a recipe that is a list",
        lambda w: Path("bad.yaml").write_text("- a\n- b\n"),
        ["fit", "--config", "bad.yaml"],
        r"bad\.yaml: has no keys",
    ),
    Kind(
        "a recipe that is not UTF-8",
        lambda w: Path("bad.yaml").write_bytes(b"a: \xff\n"),
        ["test", "--config", "bad.yaml"],
        r"bad\.yaml: not UTF-8 text",
    ),
    Kind("an empty recipe", lambda w: Path("bad.yaml").write_text(""), ["fit", "--config", "bad.yaml"], r"bad\.yaml: has no keys"),
    Kind("no recipe at all", lambda w: None, ["fit"], r"fit needs a recipe: `fashiongen fit --config NAME`"),
    Kind("an unknown task", lambda w: None, [*TEST, "--evaluate.task=vtof"], r"evaluate\.task=vtof: unknown task; choose one of .*vtoff"),
    Kind(
        "a task that the method cannot do",
        lambda w: w.monkeypatch.setattr(MaskedCrop, "take_off", None),
        TEST,
        r"evaluate\.task=vtoff: MaskedCrop does not support this task; it supports: no task",
    ),
    Kind(
        "an unknown protocol",
        lambda w: Path("crop.yaml").write_text(Path("crop.yaml").read_text() + "evaluate: {protocol: vtoff-lost}\n"),
        TEST,
        r"crop\.yaml: evaluate\.protocol: vtoff-lost: no such file, .* did you mean vtoff-",
    ),
    Kind("a size of nothing", lambda w: None, [*PREDICT, "--data.init_args.size=[0, 48]"], r"size.* must be at least 1"),
    Kind("an unknown layout", lambda w: None, ["wardrobe", "render", "viton_h", "x"], r"no layout 'viton_h'; it writes: .*viton_hd"),
    # Results
    Kind("a folder for images inside a file", lambda w: Path("out").write_text(""), [*PREDICT[:-1], "out/here"], r"cannot make the folder"),
    Kind("a file in the place of the images", lambda w: Path("out").write_text(""), PREDICT, r"cannot make the folder out"),
    Kind(
        "a record inside a file",
        lambda w: Path("a").write_text(""),
        [*TEST[:-1], "a/record.json"],
        r"evaluate\.out: cannot write a/record\.json: (File exists|Not a directory); choose another --evaluate\.out",
    ),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_bad_recipes(kind, world, capsys):
    check(kind, world, capsys)


def test_no_kind_is_lost():
    assert len({kind.name for kind in KINDS}) == len(KINDS) >= 18
