"""Paired comparisons of each row with the best of its column."""

import json

import pytest
from bench_folder import N, only, write_test

from fashiongen.benchmark.arrange import read
from fashiongen.benchmark.boards import differs_from_best
from fashiongen.benchmark.markdown import markdown

IGR = "recipes/tiny/igr.yaml"


def test_rows_are_tested_against_the_best_over_the_same_samples(tmp_path):
    for seed in range(2):
        write_test(tmp_path, IGR, {"lpips[tiny]": 2.0, "fid[x]": 1.0}, seed=seed)
    write_test(tmp_path, "close.yaml", {"lpips[tiny]": 2.02, "fid[x]": 2.0})
    write_test(tmp_path, "far.yaml", {"lpips[tiny]": 3.0, "fid[x]": 3.0})
    write_test(tmp_path, "other.yaml", {"lpips[tiny]": 2.5, "fid[x]": 4.0}, ids=[f"other{index}" for index in range(N)])
    write_test(tmp_path, "lost.yaml", {"lpips[tiny]": 2.5, "fid[x]": 4.0}, per_sample=None)
    write_test(tmp_path, "astray.yaml", {"lpips[tiny]": 2.5}, per_sample="../test--far--seed0--vtoff-tiny--VITONHD/record.per_sample.jsonl")
    _, rows = only(tmp_path)
    best = rows["igr"].cells["lpips[tiny]"]
    assert (best.rank, best.difference, best.untested) == ("best", None, None)
    far = rows["far"].cells["lpips[tiny]"]
    assert far.difference.mean == pytest.approx(far.value - best.value) and far.difference.samples == N
    assert (differs_from_best(far), differs_from_best(rows["close"].cells["lpips[tiny]"]), differs_from_best(best)) == (True, False, None)
    untested = {name: rows[name].cells["lpips[tiny]"].untested for name in ("other", "lost", "astray")}
    assert untested == {
        "other": "untested: not the same samples as the best",
        "lost": "untested: no values per sample",
        "astray": "untested: no values per sample",  # a path that leaves the record's folder is not followed
    }
    assert "whole set" in rows["far"].cells["fid[x]"].untested
    assert rows["far"].cells["fid[x]"].difference is None


def test_a_tie_for_the_best_does_not_differ_from_itself(tmp_path):
    """Values that differ only by rounding, all in one direction."""
    ids = [f"{index}" for index in range(N)]
    for recipe, value in (("a.yaml", 0.3), ("b.yaml", 0.1 + 0.2)):
        folder = write_test(tmp_path, recipe, {"ssim": value}, ids=ids)
        record = json.loads((folder / "record.json").read_text())
        record["metrics"]["ssim"]["value"] = value
        (folder / "record.json").write_text(json.dumps(record))
        (folder / "record.per_sample.jsonl").write_text("\n".join(json.dumps({"id": id_, "ssim": value}) for id_ in ids))
    cells = [row.cells["ssim"] for row in only(tmp_path)[0].rows]
    assert [cell.rank for cell in cells] == ["best", "best"]
    assert cells[1].difference.mean == 0.0 and differs_from_best(cells[1]) is False


def test_what_is_untested_is_marked_and_a_bad_baseline_takes_no_digit(tmp_path):
    for recipe, value in (("a.yaml", 12.31), ("b.yaml", 12.34), ("white.yaml", 1212.0)):
        write_test(tmp_path, recipe, {"fid[x]": value})
    text = markdown(read(tmp_path))
    assert "| **12.31** |" in text and "| *12.34* ? |" in text and "| 1212.00 ? |" in text and "?: not tested" in text


def test_a_first_sample_without_a_value_leaves_the_metric_one_of_samples(tmp_path):
    for recipe in ("a.yaml", "b.yaml"):
        file = write_test(tmp_path, recipe, {"ssim": 0.5 if recipe == "a.yaml" else 0.3}) / "record.per_sample.jsonl"
        first, *rest = file.read_text().splitlines()
        file.write_text("\n".join([json.dumps({"id": json.loads(first)["id"]}), *rest]))
    cell = only(tmp_path)[1]["b"].cells["ssim"]
    assert cell.untested is None and cell.difference.samples == N - 1
