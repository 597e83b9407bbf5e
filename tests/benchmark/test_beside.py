"""What is shown next to a board's own numbers: the published ones, and the protocol in full."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from bench_folder import write_test

from fashiongen.benchmark.arrange import read
from fashiongen.benchmark.csv_table import csv_text
from fashiongen.benchmark.markdown import markdown
from fashiongen.benchmark.published import default_folder, read_published
from fashiongen.errors import UserError

ROOT = Path(__file__).parents[2]

IGR = "recipes/tiny/igr.yaml"


def test_published_rows_stand_apart(tmp_path):
    write_test(tmp_path, IGR, {"ssim": 0.5}, protocol="vtoff-igr")
    published = read_published(default_folder())
    assert default_folder() == ROOT / "benchmarks" / "published"
    (board,) = read(tmp_path, published).boards
    blocks = {(block.paper, block.table): block for block in board.published}
    assert set(blocks) == {("igr", "1"), ("igr", "2"), ("igr", "3"), ("twgtm", "3"), ("twgtm", "4")}
    assert {key for key, block in blocks.items() if block.protocol == "vtoff-igr"} == {("igr", "1"), ("igr", "2"), ("igr", "3")}
    first = blocks["igr", "1"]
    row = next(row for row in first.rows if row.row == "TryOffDiff")
    assert row.origin == "ran" and row.values["ssim"].count(".") == 1
    assert any("other-paper: TWGTM's Table 3 prints other numbers" in note for note in row.notes)
    assert any(note.startswith("contradiction: ") for note in blocks["igr", "3"].notes)
    assert [row.name for row in board.rows] == ["igr"] and "0.7895" not in csv_text(read(tmp_path, published))
    text = markdown(read(tmp_path, published))
    assert text.index("<details><summary>Published") < text.index("0.7895") < text.rindex("</details>")
    assert "protocol vtoff-igr: the same protocol)" in text and "protocol vtoff-twgtm: not comparable: another protocol" in text


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, []),
        ({"protocol": "other"}, ["another protocol"]),
        ({"dataset": "viton_hd-clean"}, ["another dataset"]),
        ({"data": {"world": "wardrobe"}}, ["the data here are the embedded world's"]),
        ({"split": "train"}, ["split test (here train)"]),
        ({"n_samples": 7, "data": {"size": "64x48"}}, ["samples 2032 (here 7)", "size 1024x768 (here 64x48)"]),
    ],
)
def test_published_numbers_are_compared_only_under_the_same_conditions(tmp_path, fields, words):
    given = {"protocol": "vtoff-igr", "n_samples": 2032, **fields}
    write_test(tmp_path, IGR, {"ssim": 0.5}, **{**given, "data": {"size": "1024x768", **given.get("data", {})}})
    published = read_published(default_folder())
    (board,) = read(tmp_path, published).boards
    block = next(block for block in board.published if (block.paper, block.table, block.dataset) == ("igr", "2", "viton_hd"))
    assert board.unlike(replace(block, samples="2032", size="1024x768")) == words
    assert board.unlike(block) == [word for word in words if "samples" not in word and "size" not in word]  # the paper tells neither
    assert ("wardrobe" in board.label) == ("embedded" in " ".join(words))


def test_published_numbers_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no \*.yaml in this folder"):
        read_published(tmp_path)
    igr = (ROOT / "benchmarks" / "published" / "igr.yaml").read_text(encoding="utf-8")
    paper = yaml.safe_load(igr)
    for values, words in (("abc", "ValueError"), ({"ssim": 0.5}, "TypeError: .*: values must be strings, in quotes")):
        paper["tables"][0]["rows"][0]["values"]["viton_hd"] = values
        (tmp_path / "paper.yaml").write_text(json.dumps(paper))
        with pytest.raises(UserError, match=rf"paper.yaml: not a valid file of published numbers \({words}"):
            read_published(tmp_path)
    (tmp_path / "paper.yaml").write_text(json.dumps({"schema": 1, "tables": [{"kind": "results"}]}))
    with pytest.raises(UserError, match=r"paper.yaml: not a valid file of published numbers \(KeyError"):
        read_published(tmp_path)


def test_the_protocol_is_shown_in_full(tmp_path, monkeypatch):
    write_test(tmp_path / "run", str(ROOT / IGR), {"ssim": 0.5})
    # A name that points outside of recipes/tasks is not followed, even to a file that claims it.
    (tmp_path / "recipes" / "tasks").mkdir(parents=True)
    (tmp_path / "secret.yaml").write_text("evaluate: {protocol: ../../secret}")
    write_test(tmp_path / "run", str(tmp_path / "recipes" / "x.yaml"), {"ssim": 0.5}, protocol="../../secret", node="astray")
    monkeypatch.chdir(tmp_path)
    texts = {board.protocol: board.protocol_text for board in read(tmp_path / "run").boards}
    assert texts == {"vtoff-tiny": (ROOT / "recipes" / "tasks" / "vtoff-tiny.yaml").read_text(), "../../secret": None}
    text = markdown(read(tmp_path / "run"))
    assert f"```yaml\n{texts['vtoff-tiny']}```\n" in text and text.count("Only the protocol's name is known") == 1
    assert "compare times on the same device only" in text
    # Nothing in the text ends the code.
    (tmp_path / "recipes" / "tasks" / "evil.yaml").write_text("# ````\n# <b>\nevaluate: {protocol: evil}\n")
    write_test(tmp_path / "evil", str(tmp_path / "recipes" / "x.yaml"), {"ssim": 0.5}, protocol="evil")
    assert "`````yaml\n# ````\n# <b>\nevaluate: {protocol: evil}\n`````\n" in markdown(read(tmp_path / "evil"))
