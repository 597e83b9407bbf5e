"""Paired comparisons of each row with the best of its column."""

import csv
import io
import json

import numpy as np
import pytest
from bench_folder import N, only, write_test
from scipy import stats

from fashiongen.benchmark.arrange import read
from fashiongen.benchmark.boards import differs_from_best
from fashiongen.benchmark.csv_table import csv_text
from fashiongen.benchmark.markdown import markdown
from fashiongen.intervals import holm, interval

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


def test_a_sample_without_its_cluster_leaves_the_values(tmp_path):
    """Of a file that was written by another program: the comparison then counts each sample by itself."""
    for recipe, value in (("a.yaml", 1.0), ("b.yaml", 3.0)):
        folder = write_test(tmp_path, recipe, {"lpips[tiny]": value}, cluster_of=lambda index: index // 2)
        file = folder / "record.per_sample.jsonl"
        first, *rest = map(json.loads, file.read_text().splitlines())
        del first["cluster"]
        file.write_text("\n".join(map(json.dumps, [first, *rest])))
    cell = only(tmp_path)[1]["b"].cells["lpips[tiny]"]
    assert cell.untested is None and cell.difference.samples == N


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
    assert (
        "| **12.31** |" in text
        and "| *12.34* ? |" in text
        and "| 1212.00 ? |" in text
        and "?: not compared" in text
        and "No two rows were compared" in text
    )


def test_a_first_sample_without_a_value_leaves_the_metric_one_of_samples(tmp_path):
    for recipe in ("a.yaml", "b.yaml"):
        file = write_test(tmp_path, recipe, {"ssim": 0.5 if recipe == "a.yaml" else 0.3}) / "record.per_sample.jsonl"
        first, *rest = file.read_text().splitlines()
        file.write_text("\n".join([json.dumps({"id": json.loads(first)["id"]}), *rest]))
    cell = only(tmp_path)[1]["b"].cells["ssim"]
    assert cell.untested is None and cell.difference.samples == N - 1


def values_of(folder, metric="ssim"):
    return [json.loads(line)[metric] for line in (folder / "record.per_sample.jsonl").read_text().splitlines()]


def test_a_row_of_several_seeds_has_an_interval_over_seeds_and_clusters(tmp_path):
    def cluster_of(index):
        return f"t{index % 10}"

    folders = [
        write_test(tmp_path, IGR, {"ssim": value}, seed=seed, cluster_of=cluster_of, clusters="top")
        for seed, value in enumerate((0.5, 0.6, 0.4))
    ]
    write_test(tmp_path, "one.yaml", {"ssim": 0.45}, cluster_of=cluster_of, clusters="top")
    write_test(tmp_path, "same.yaml", {"ssim": 0.3}, cluster_of=cluster_of, clusters="top", seed=0, scatter=False)
    write_test(tmp_path, "same.yaml", {"ssim": 0.3}, cluster_of=cluster_of, clusters="top", seed=1, scatter=False)
    write_test(tmp_path, "bare.yaml", {"ssim": 0.2}, checkpoint=None, cluster_of=cluster_of, clusters="top")
    board, rows = only(tmp_path)
    cells = {name: row.cells["ssim"] for name, row in rows.items()}
    clusters = [cluster_of(index) for index in range(N)]
    expected = interval(np.array([values_of(folder) for folder in folders]), clusters)
    assert cells["igr"].interval == pytest.approx((expected.low, expected.high)) and cells["igr"].over == "3 seeds and 10 clusters"
    assert cells["one"].over == "10 clusters, this checkpoint" and cells["bare"].over == "10 clusters, this run"
    # A method without chance is not certain: it has the interval over clusters of one run.
    same = cells["same"]
    once = interval(np.array([values_of(tmp_path / "nodes" / "test--same--seed0--vtoff-tiny--VITONHD")]), clusters)
    assert same.interval == pytest.approx((once.low, once.high)) and same.interval[1] - same.interval[0] > 0.01
    assert cells["one"].difference.seeds == (1, 3) and cells["one"].difference.clusters == 10
    told = " ".join(board.statistics())
    assert (
        "all samples with the same top, directly or over other samples." in told
        and "name no clusters" not in told
        and "about this checkpoint, not about the method" in told
    )
    text = markdown(read(tmp_path))
    assert text.count("(this checkpoint) |") == 1 and text.count("(this run) |") == 1 and "method \\(crossed" not in text
    lines = {line["row"]: line for line in csv.DictReader(io.StringIO(csv_text(read(tmp_path))))}
    assert {name: line["about"] for name, line in lines.items()} == {
        "igr": "the method", "one": "this checkpoint", "same": "the method", "bare": "this run",
    }  # fmt: skip


def test_records_without_clusters_count_samples_and_the_page_says_so(tmp_path):
    for recipe, value in (("a.yaml", 0.5), ("b.yaml", 0.3)):
        folder = write_test(tmp_path, recipe, {"ssim": value})
    board, rows = only(tmp_path)
    found = values_of(folder)
    assert rows["b"].cells["ssim"].interval == pytest.approx(stats.t.interval(0.95, N - 1, loc=np.mean(found), scale=stats.sem(found)))
    assert rows["b"].cells["ssim"].over == f"{N} samples, this checkpoint"
    assert any("name no clusters. Their samples count as independent" in sentence for sentence in board.statistics())


def test_clusters_of_one_record_serve_an_older_one(tmp_path):
    write_test(tmp_path, "new.yaml", {"ssim": 0.5}, cluster_of=lambda index: f"t{index // 4}", clusters="top")
    write_test(tmp_path, "old.yaml", {"ssim": 0.3})
    difference = only(tmp_path)[1]["old"].cells["ssim"].difference
    assert (difference.clusters, difference.samples) == (10, N)


def test_p_values_are_adjusted_for_the_comparisons_of_a_column(tmp_path):
    for name, value in (("a", 0.6), ("b", 0.47), ("c", 0.478), ("d", 0.1)):
        write_test(tmp_path, f"{name}.yaml", {"ssim": value, "fid[x]": value})
    board, rows = only(tmp_path)
    cells = [rows[name].cells["ssim"] for name in "bcd"]
    assert [cell.adjusted for cell in cells] == holm([cell.difference.p for cell in cells])
    assert {cell.family for cell in cells} == {3} and rows["a"].cells["ssim"].adjusted is None
    assert any("over the same samples: 3 in 1 column." in sentence for sentence in board.statistics())
    cells[0].adjusted = 0.06
    assert differs_from_best(cells[0]) is False  # the mark follows the adjusted p-value, not the interval
    (line,) = [line for line in csv.DictReader(io.StringIO(csv_text(read(tmp_path)))) if (line["row"], line["metric"]) == ("d", "ssim")]
    assert float(line["p_holm"]) >= float(line["p"]) and line["comparisons"] == "3"


def test_equal_methods_whose_seeds_differ_are_not_told_apart(tmp_path):
    """Every sample of one seed is better than every sample of the other row's: a bootstrap over samples is certain of a difference."""
    for seed, (mine, yours) in enumerate(zip((0.50, 0.62, 0.56), (0.60, 0.66, 0.52), strict=True)):
        write_test(tmp_path, "a.yaml", {"ssim": mine}, seed=seed)
        write_test(tmp_path, "b.yaml", {"ssim": yours}, seed=seed)
    cell = only(tmp_path)[1]["a"].cells["ssim"]
    assert differs_from_best(cell) is False and cell.difference.seeds == (3, 3)
    once = [
        np.mean([values_of(tmp_path / "nodes" / f"test--{name}--seed{seed}--vtoff-tiny--VITONHD") for seed in range(3)], axis=0)
        for name in "ab"
    ]
    assert stats.ttest_rel(*once).pvalue < 0.01
