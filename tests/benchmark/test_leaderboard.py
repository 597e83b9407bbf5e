"""The leaderboard's numbers: marks, intervals, paired tests, what shares a column, and the files that it writes."""

import base64
import csv
import io
import json
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from bench_folder import N, write_fit, write_folder, write_test
from PIL import Image
from scipy import stats

from fashiongen.benchmark.arrange import mark, read
from fashiongen.benchmark.boards import Cell, apart
from fashiongen.benchmark.leaderboard import CSV_COLUMNS, csv_text, markdown, seconds
from fashiongen.benchmark.published import default_folder, read_published
from fashiongen.benchmark.statistics import RESAMPLES, mean_over_seeds, paired_bootstrap
from fashiongen.benchmark.webpage import page
from fashiongen.cli import main
from fashiongen.errors import UserError

ROOT = Path(__file__).parents[2]
IGR = "recipes/tiny/igr.yaml"


def ranks(values, higher):
    cells = [Cell(value=value, interval=None, over="") for value in values]
    mark(cells, higher_is_better=higher)
    return [cell.rank for cell in cells]


def only(folder):
    """The one board of a folder, and its rows by name."""
    (board,) = read(folder).boards
    return board, {row.name: row for row in board.rows}


# ---- marks


@pytest.mark.parametrize(
    ("values", "higher", "expected"),
    [
        ([0.1, 0.3, 0.2], True, [None, "best", "second"]),
        ([0.1, 0.3, 0.2], False, ["best", None, "second"]),
        ([0.3, 0.3, 0.2], True, ["best", "best", None]),  # two best leave no second
        ([0.3, 0.2, 0.2], True, ["best", "second", "second"]),
        ([0.3, 0.1 + 0.2, 0.2], True, ["best", "best", None]),  # they differ by rounding alone
        ([None, -5.0, None], True, [None, "best", None]),
        ([-1.0, -2.0], False, ["second", "best"]),
        ([], True, []),
    ],
)
def test_best_and_second_best(values, higher, expected):
    assert ranks(values, higher) == expected


# ---- intervals


@pytest.mark.parametrize("values", [[0.5, 0.7], [2.05, 2.08, 2.02], [1.0, 1.0, 1.0, 1.0], [-3.0, 8.0, 1.0, 0.5, 2.0]])
def test_the_interval_over_seeds_is_scipys(values):
    mean, interval = mean_over_seeds(values)
    error = stats.sem(values)
    expected = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=error) if error else (mean, mean)
    assert mean == pytest.approx(np.mean(values))
    assert interval == pytest.approx(expected)


def test_one_seed_has_no_interval_over_seeds():
    assert mean_over_seeds([0.25]) == (0.25, None)


def test_a_row_says_what_its_interval_is_over(tmp_path):
    for seed, value in enumerate((1.0, 2.0, 4.0)):
        write_test(tmp_path, IGR, {"fid[x]": value}, seed=seed)
    write_test(tmp_path, "white.yaml", {"fid[x]": 3.0, "ssim": 0.4})
    board, rows = only(tmp_path)
    assert [column.key for column in board.columns] == ["fid[x]", "ssim"]
    cell = rows["igr"].cells["fid[x]"]
    assert (cell.value, cell.over) == (pytest.approx(7 / 3), "3 seeds")
    assert cell.interval == pytest.approx(stats.t.interval(0.95, 2, loc=7 / 3, scale=stats.sem([1, 2, 4])))
    ssim = rows["white"].cells["ssim"]
    assert ssim.over == f"{N} samples" and ssim.interval == pytest.approx((ssim.value - 0.1, ssim.value + 0.1))
    assert rows["white"].cells["fid[x]"].over == ""
    assert "ssim" not in rows["igr"].cells


# ---- the paired bootstrap


def test_the_paired_bootstrap_tells_a_difference_from_none():
    generator = np.random.default_rng(1)
    noise = generator.normal(0, 1, 200)
    columns = np.stack([noise - noise.mean(), 0.4 + noise * 0.5, np.zeros(200)], axis=1)
    none, clear, equal = paired_bootstrap(columns)
    assert none.low < 0 < none.high and none.p > 0.5
    assert 0 < clear.low < clear.mean < clear.high and clear.p == pytest.approx(2 / (RESAMPLES + 1))
    assert (equal.mean, equal.low, equal.high, equal.p) == (0, 0, 0, 1)
    # Over many samples the percentile interval is close to the normal one.
    half = 1.96 * columns[:, 1].std(ddof=1) / np.sqrt(200)
    assert (clear.low, clear.high) == pytest.approx((clear.mean - half, clear.mean + half), abs=0.015)


def test_the_paired_bootstrap_repeats_itself_and_leaves_out_what_has_no_value():
    values = np.random.default_rng(2).normal(0.1, 1, (30, 1))
    holes = np.concatenate([values, np.full((5, 1), np.nan)])
    assert paired_bootstrap(values) == paired_bootstrap(values)
    (found,) = paired_bootstrap(holes)
    assert (found.samples, found.mean) == (30, pytest.approx(values.mean()))
    assert paired_bootstrap(np.full((5, 1), np.nan)) == [None]
    assert paired_bootstrap(np.ones((1, 2))) == [None, None]


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
    assert (apart(far), apart(rows["close"].cells["lpips[tiny]"]), apart(best)) == (True, False, None)
    untested = {name: rows[name].cells["lpips[tiny]"].untested for name in ("other", "lost", "astray")}
    assert untested == {
        "other": "untested: not the same samples as the best",
        "lost": "untested: no values per sample",
        "astray": "untested: no values per sample",  # a path that leaves the record's folder is not followed
    }
    assert "whole set" in rows["far"].cells["fid[x]"].untested
    assert rows["far"].cells["fid[x]"].difference is None


def test_a_tie_for_the_best_does_not_differ_from_itself(tmp_path):
    """Values that differ by rounding alone, all in one direction."""
    ids = [f"{index}" for index in range(N)]
    for recipe, value in (("a.yaml", 0.3), ("b.yaml", 0.1 + 0.2)):
        folder = write_test(tmp_path, recipe, {"ssim": value}, ids=ids)
        record = json.loads((folder / "record.json").read_text())
        record["metrics"]["ssim"]["value"] = value
        (folder / "record.json").write_text(json.dumps(record))
        (folder / "record.per_sample.jsonl").write_text("\n".join(json.dumps({"id": id_, "ssim": value}) for id_ in ids))
    cells = [row.cells["ssim"] for row in only(tmp_path)[0].rows]
    assert [cell.rank for cell in cells] == ["best", "best"]
    assert cells[1].difference.mean == 0.0 and apart(cells[1]) is False


def test_what_is_untested_is_marked_and_a_bad_baseline_takes_no_digit(tmp_path):
    for recipe, value in (("a.yaml", 12.31), ("b.yaml", 12.34), ("white.yaml", 1212.0)):
        write_test(tmp_path, recipe, {"fid[x]": value})
    text = markdown(read(tmp_path))
    assert "| **12.31** |" in text and "| *12.34* ? |" in text and "| 1212.00 ? |" in text and "?: that is untested" in text


def test_a_first_sample_without_a_value_leaves_the_metric_one_of_samples(tmp_path):
    for recipe in ("a.yaml", "b.yaml"):
        file = write_test(tmp_path, recipe, {"ssim": 0.5 if recipe == "a.yaml" else 0.3}) / "record.per_sample.jsonl"
        first, *rest = file.read_text().splitlines()
        file.write_text("\n".join([json.dumps({"id": json.loads(first)["id"]}), *rest]))
    cell = only(tmp_path)[1]["b"].cells["ssim"]
    assert cell.untested is None and cell.difference.samples == N - 1


# ---- what shares a column, and what does not


def test_protocols_data_and_extractors_keep_apart(tmp_path):
    write_test(tmp_path, IGR, {"lpips[tiny]": 2.0, "lpips[alex]": 0.2})
    write_test(tmp_path, IGR, {"lpips[alex]": 0.3}, protocol="vtoff-igr")
    write_test(tmp_path, IGR, {"lpips[alex]": 0.4}, node="other-data", data={"fingerprint": "00" * 32, "size": "64x48"})
    write_test(tmp_path, "b.yaml", {"lpips[alex]": 0.1}, extractors={"lpips[alex]": {"weights": "w", "sha256": "1234" * 16}})
    boards = read(tmp_path).boards
    assert [(board.label, board.protocol) for board in boards] == [
        ("vtoff on viton_hd", "vtoff-igr"), ("vtoff on viton_hd (1)", "vtoff-tiny"), ("vtoff on viton_hd (2)", "vtoff-tiny"),
    ]  # fmt: skip
    both = next(board for board in boards if len(board.rows) == 2)
    assert sorted(column.key for column in both.columns) == ["lpips[alex] weights 12341234", "lpips[alex] weights 91f391f3", "lpips[tiny]"]
    assert all(len([row for row in both.rows if column.key in row.cells]) == 1 for column in both.columns)


def test_rows_are_recipes_with_their_overlays(tmp_path):
    overlay = "recipes/overlays/igr-no-garmnet.yaml"
    write_test(tmp_path, IGR, {"ssim": 0.5})
    write_test(tmp_path, IGR, {"ssim": 0.4}, overlays=[overlay, "recipes/tasks/vtoff-tiny.yaml"])
    write_test(tmp_path, "recipes/igr.yaml", {"ssim": 0.3}, node="full-size")
    _, rows = only(tmp_path)
    assert set(rows) == {"recipes/tiny/igr.yaml", "igr + igr-no-garmnet", "recipes/igr.yaml"}


def test_a_seed_counts_once_and_code_that_changed_is_told(tmp_path):
    write_test(tmp_path, IGR, {"fid[x]": 1.0}, node="a", started="2026-01-01T00:00:00+00:00")
    write_test(tmp_path, IGR, {"fid[x]": 2.0}, node="b", started="2026-01-02T00:00:00+00:00")
    write_test(tmp_path, IGR, {"fid[x]": 4.0}, seed=1, source_sha256="99" * 32)
    _, rows = only(tmp_path)
    assert rows["igr"].cells["fid[x]"].value == 3.0
    assert rows["igr"].notes == ["2 records of seed 0: the last one counts", "its seeds were run by different versions of the code"]


def test_a_retrieval_method_chooses_the_size_that_it_looks_at(tmp_path):
    data = {"fingerprint": "7c68" * 16}
    for task, boards in (("retrieval", 1), ("vtoff", 2)):
        for recipe, size in (("a.yaml", "64x48"), ("b.yaml", "128x128")):
            write_test(tmp_path / task, recipe, {"auc": 0.5}, task=task, data={**data, "size": size})
        assert len(read(tmp_path / task).boards) == boards


def test_a_name_keeps_what_follows_its_last_dot(tmp_path):
    for name in ("guidance-2.0", "guidance-2.5"):
        write_test(tmp_path, IGR, {"ssim": 0.5}, overlays=[name], node=name)
    assert list(only(tmp_path)[1]) == ["igr + guidance-2.0", "igr + guidance-2.5"]


def plan(folder, keys):
    """Write a suite that plans these nodes with these keys."""
    content = {"suite": "s", "nodes": [{"id": id_, "kind": "test", **({"key": key} if key else {})} for id_, key in keys.items()]}
    (folder / "suite.json").write_text(json.dumps(content), encoding="utf-8")


def test_records_that_the_suite_does_not_plan_are_no_rows_and_stale_ones_say_so(tmp_path):
    for node, value in (("now", 3.0), ("before", 2.0), ("gone", 1.0)):
        write_test(
            tmp_path, f"{node}.yaml", {"fid[x]": value}, node=node, key="k1", source_sha256="99" * 32 if node == "before" else "ab" * 32
        )
    plan(tmp_path, {"now": "k1", "before": "k2"})
    board, rows = only(tmp_path)
    assert {name: row.notes for name, row in rows.items()} == {
        "now": [], "before": ["of other settings, data or code than the suite plans: seed 0"],
    }  # fmt: skip
    assert rows["before"].cells["fid[x]"].rank == "best"
    assert board.notes == ["Its rows were run by different versions of the code."]
    found = read(tmp_path)
    assert [(node.id, node.status) for node in found.nodes if node.status != "ok"] == [("gone", "unplanned")]
    text = markdown(found)
    assert "| gone | unplanned | not in the suite any more; its record says ok |" in text and board.notes[0] in text
    # A plan that has no keys, or no plan, tells nothing.
    plan(tmp_path, {"now": None})
    assert [row.notes for row in only(tmp_path)[1].values()] == [[], [], []]


def test_masks_and_the_protocol_s_settings_keep_apart(tmp_path):
    data = {"fingerprint": "7c68" * 16}
    for index, masks in enumerate(("file", "parse", "parse")):
        node = f"n{index}"
        write_test(tmp_path, f"{node}.yaml", {"ssim": 0.5}, data={**data, "masks": masks}, protocol_sha256=f"{index // 2}" * 64, node=node)
    assert [(len(board.rows), board.conditions["masks"], board.conditions["protocol_settings"][-1]) for board in read(tmp_path).boards] == [
        (1, "file", "0"), (1, "parse", "0"), (1, "parse", "1"),
    ]  # fmt: skip


def test_a_metric_that_two_records_read_the_other_way_round_is_two_columns(tmp_path):
    for recipe, higher in (("a.yaml", True), ("b.yaml", False)):
        metrics = {"ssim": {"value": 0.5, "higher_is_better": higher, "ci95": None}}
        write_test(tmp_path, recipe, {}, metrics=metrics, per_sample=None)
    board, rows = only(tmp_path)
    assert [(column.key, column.higher_is_better) for column in board.columns] == [
        ("ssim (higher is better)", True), ("ssim (lower is better)", False),
    ]  # fmt: skip
    assert [list(rows[name].cells) for name in "ab"] == [["ssim (higher is better)"], ["ssim (lower is better)"]]


def test_a_row_finds_its_training_by_the_checkpoint_and_tells_its_parents_apart(tmp_path):
    def left(name):
        return {"path": f"/run/{name}/last.ckpt", "sha256": name * 64}

    write_fit(tmp_path, "cigm.yaml", checkpoint=left("a"), fit_seconds=100.0)
    write_fit(tmp_path, "geco.yaml", checkpoint=left("b"), fit_seconds=20.0, parents={"template": "/run/a/last.ckpt"})
    write_fit(tmp_path, "geco.yaml", node="other", checkpoint=left("c"), fit_seconds=7.0)
    write_test(tmp_path, "geco.yaml", {"auc": 0.7}, overlays=["guidance-2.0"], checkpoint=left("b"))
    row = only(tmp_path)[0].rows[0]
    assert [run.folder.name for run in (*row.fits, *row.parent_fits)] == ["fit--geco--seed0", "fit--cigm--seed0"]
    assert (row.fit_seconds, row.parents_fit_seconds) == (20.0, 100.0)
    (line,) = csv.DictReader(io.StringIO(csv_text(read(tmp_path))))
    assert (line["fit_seconds"], line["parents_fit_seconds"]) == ("20.0", "100.0")


def test_what_is_not_a_number_is_never_best_and_what_is_missing_is_told(tmp_path):
    write_test(tmp_path, IGR, {"ssim": None}, reason="3 of 40 predictions are not finite")
    write_test(tmp_path, "b.yaml", {"ssim": -0.2})
    for seed, values in enumerate(({"fid[x]": 1.0, "ssim": -0.3}, {"ssim": -0.3})):
        write_test(tmp_path, "c.yaml", values, seed=seed)
    _, rows = only(tmp_path)
    cell = rows["igr"].cells["ssim"]
    assert (cell.value, cell.rank, rows["b"].cells["ssim"].rank) == (None, None, "best")
    assert "not a number" in cell.note and rows["igr"].notes == ["3 of 40 predictions are not finite"]
    assert rows["c"].cells["fid[x]"].note == "1 of 2 seeds have this metric"
    for seed, value in enumerate((1.0, None)):
        write_test(tmp_path, "d.yaml", {"fid[x]": value}, seed=seed)
    assert only(tmp_path)[1]["d"].cells["fid[x]"].value is None  # no mean over the seeds that happened to work
    text = markdown(read(tmp_path))
    assert "| - † |" in text and "† c, fid\\[x\\]: 1 of 2 seeds have this metric" in text
    lines = csv.DictReader(io.StringIO(csv_text(read(tmp_path))))
    assert {line["note"] for line in lines if (line["row"], line["metric"]) == ("c", "fid[x]")} == {"1 of 2 seeds have this metric"}


def test_nodes_without_a_result_keep_their_reasons(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "nodes" / "test--torn--seed0").mkdir()
    (tmp_path / "nodes" / "test--torn--seed0" / "record.json").write_text('{"schema": 1, "met')
    found = read(tmp_path)
    status = {node.id: node.status for node in found.nodes if node.status != "ok"}
    assert status == {
        "test--method0--seed0": "failed", "test--method1--seed0": "killed", "test--method2--seed0": "timeout",
        "test--method3--seed0": "skipped", "test--late--seed0": "waiting", "test--torn--seed0": "damaged",
    }  # fmt: skip
    vtoff = next(board for board in found.boards if board.task == "vtoff")
    assert {row.name for row in vtoff.rows} == {"igr", "igr + igr-no-garmnet", "white"}
    assert [node.reason for node in vtoff.absent][-1] == "its parent fit--dci--seed0 failed"
    assert next(row for row in vtoff.rows if row.name == "igr").fit_seconds == 360.0
    text = markdown(found)
    assert "| test--method1--seed0 | killed | killed by signal 9 \\(out of memory?\\) |" in text


def test_what_has_no_record_to_read_stands_where_the_suite_plans_it(tmp_path):
    ids = {"torn": "vtoff", "late": "vtoff", "alone": "retrieval"}
    where = {"dataset": "viton_hd", "protocol": "vtoff-tiny", "kind": "test"}
    (tmp_path / "suite.json").write_text(json.dumps({"nodes": [{"id": id_, "task": task, **where} for id_, task in ids.items()]}))
    write_test(tmp_path, IGR, {"ssim": 0.5})
    (tmp_path / "nodes" / "torn").mkdir()
    (tmp_path / "nodes" / "torn" / "record.json").write_text("{")
    found = read(tmp_path)
    told = {(board.task, len(board.rows)): [(node.id, node.status) for node in board.absent] for board in found.boards}
    assert told == {("vtoff", 1): [("torn", "damaged"), ("late", "waiting")], ("retrieval", 0): [("alone", "waiting")]}
    assert "No test of it has a result." in markdown(found) and "Not here: alone, waiting" in markdown(found)


# ---- files


def test_csv_gives_every_number_back(tmp_path):
    found = read(write_folder(tmp_path))
    rows = list(csv.DictReader(io.StringIO(csv_text(found))))
    assert list(rows[0]) == CSV_COLUMNS
    cells = {(board.task, row.name, key): cell for board in found.boards for row in board.rows for key, cell in row.cells.items()}
    numbers = {(line["task"], line["row"], line["metric"]): line for line in rows if line["metric"]}
    assert set(numbers) == set(cells)
    for key, cell in cells.items():
        assert float(numbers[key]["value"]) == cell.value
        assert numbers[key]["rank"] == (cell.rank or "")
        assert [numbers[key][end] for end in ("low", "high")] == [str(end) for end in cell.interval or ("", "")]
        assert numbers[key]["p"] == (str(cell.difference.p) if cell.difference else "")
    others = {line["nodes"]: (line["status"], line["reason"]) for line in rows if not line["metric"]}
    assert others["test--method2--seed0"] == ("timeout", "took longer than 60 s") and len(others) == 5


def test_no_text_of_the_csv_is_a_formula(tmp_path):
    write_test(tmp_path, "=cmd().yaml", {"@sum": -0.5}, reason="+1", dataset="-2", node="n")
    (line,) = csv.DictReader(io.StringIO(csv_text(read(tmp_path))))
    assert [line[name] for name in ("row", "recipe", "metric", "reason", "dataset")] == ["'=cmd()", "'=cmd().yaml", "'@sum", "'+1", "'-2"]
    assert float(line["value"]) < 0


def test_markdown_marks_links_and_escapes(tmp_path):
    write_test(tmp_path / "run", "recipes/a|b<script>*x*`.yaml", {"fid[x]": 1.0}, node="one")
    write_test(tmp_path / "run", "recipes/plain.yaml", {"fid[x]": 2.0})
    write_test(tmp_path / "run", "recipes/third.yaml", {"fid[x]": 3.0})
    text = markdown(read(tmp_path / "run"), tmp_path / "page" / "board.md")
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert "a\\|b&lt;script&gt;\\*x\\*\\`" in text and "<script>" not in text
    assert "| **1.000** |" in table[2] and "| *2.000* ? |" in table[3] and "| 3.000 ? |" in table[4]
    assert "(../run/nodes/one/record.json)" in table[2]
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1


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
    assert "protocol vtoff-igr: the same protocol)" in text and "protocol vtoff-twgtm: not to be compared: another protocol" in text


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
def test_published_numbers_are_compared_only_with_the_like(tmp_path, fields, words):
    given = {"protocol": "vtoff-igr", "n_samples": 2032, **fields}
    write_test(tmp_path, IGR, {"ssim": 0.5}, **{**given, "data": {"size": "1024x768", **given.get("data", {})}})
    published = read_published(default_folder())
    (board,) = read(tmp_path, published).boards
    block = next(block for block in board.published if (block.paper, block.table, block.dataset) == ("igr", "2", "viton_hd"))
    assert board.unlike(replace(block, samples="2032", size="1024x768")) == words
    assert board.unlike(block) == [word for word in words if "samples" not in word and "size" not in word]  # the paper tells neither
    assert ("wardrobe" in board.label) == ("embedded" in " ".join(words))


def test_lost_images_neither_empty_the_gallery_nor_shift_its_truth(tmp_path):
    """The first sample's image of one method is gone, and all of another's."""
    for recipe in ("a.yaml", "b.yaml", "c.yaml"):
        folder = write_test(tmp_path, recipe, {"ssim": 0.5}, images=3) / "record.images"
        for file in sorted(folder.glob("*.png"))[: {"a.yaml": 1, "b.yaml": 0, "c.yaml": 3}[recipe]]:
            file.unlink()
    text = page(read(tmp_path), tmp_path / "board.html")
    content = json.loads(text.partition('<script type="application/json" id="data">')[2].partition("</script>")[0])
    gallery = content["boards"][0]["gallery"]
    assert (gallery["columns"], gallery["without"]) == (["input", "truth", "a", "b"], ["c"])
    assert [line["id"] for line in gallery["lines"]] == ["00001_00", "00002_00"]
    for row, line in enumerate(gallery["lines"], start=1):
        for address, shade in zip(line["images"], (10, 160), strict=False):
            with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as image:
                assert image.size == (48, 64) and image.convert("RGB").getpixel((24, 32)) == (shade, 20 * row, 255 - shade)


def test_the_protocol_is_told_in_full(tmp_path, monkeypatch):
    write_test(tmp_path / "run", str(ROOT / IGR), {"ssim": 0.5})
    # A name that leads out of recipes/tasks is not followed, even to a file that claims it.
    (tmp_path / "recipes" / "tasks").mkdir(parents=True)
    (tmp_path / "secret.yaml").write_text("evaluate: {protocol: ../../secret}")
    write_test(tmp_path / "run", str(tmp_path / "recipes" / "x.yaml"), {"ssim": 0.5}, protocol="../../secret", node="astray")
    monkeypatch.chdir(tmp_path)
    texts = {board.protocol: board.protocol_text for board in read(tmp_path / "run").boards}
    assert texts == {"vtoff-tiny": (ROOT / "recipes" / "tasks" / "vtoff-tiny.yaml").read_text(), "../../secret": None}
    text = markdown(read(tmp_path / "run"))
    assert f"```yaml\n{texts['vtoff-tiny']}```\n" in text and text.count("only the name is known") == 1
    assert "times compare on one device only" in text
    # Nothing in the text ends the code.
    (tmp_path / "recipes" / "tasks" / "evil.yaml").write_text("# ````\n# <b>\nevaluate: {protocol: evil}\n")
    write_test(tmp_path / "evil", str(tmp_path / "recipes" / "x.yaml"), {"ssim": 0.5}, protocol="evil")
    assert "`````yaml\n# ````\n# <b>\nevaluate: {protocol: evil}\n`````\n" in markdown(read(tmp_path / "evil"))


def test_the_same_records_give_the_same_bytes_in_any_order(tmp_path):
    found = [csv_text(read(write_folder(tmp_path / "one"))), csv_text(read(tmp_path / "one"))]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (2e-5, "20 µs"), (0.5, "500 ms"), (12.0, "12 s"), (600.0, "10 min"), (9000.0, "2.5 h")]
)
def test_times_are_told_in_the_unit_that_fits(value, text):
    assert seconds(value) == text


# ---- the command


def test_the_command_prints_or_writes(tmp_path, capsys):
    write_folder(tmp_path / "run")
    main(["leaderboard", str(tmp_path / "run")])
    assert "## vtoff on viton\\_hd: protocol vtoff-tiny" in capsys.readouterr().out
    files = {option: tmp_path / f"out.{option}" for option in ("html", "markdown", "csv")}
    main(["leaderboard", str(tmp_path / "run"), *(part for option, file in files.items() for part in (f"--{option}", str(file)))])
    assert [file.read_text(encoding="utf-8")[:11] for file in files.values()] == ["<!doctype h", "# Leaderboa", "task,datase"]


def test_the_script_needs_no_torch(tmp_path):
    write_folder(tmp_path)
    program = "import sys, runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__'); print('torch' in sys.modules)"
    args = [str(ROOT / "benchmarks" / "leaderboard.py"), str(tmp_path), "--html", str(tmp_path / "page.html")]
    done = subprocess.run([sys.executable, "-c", program, *args], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"wrote {tmp_path / 'page.html'}", "False"]


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda folder: None, "no such folder; `fashiongen bench run SUITE --out"),
        (lambda folder: folder.mkdir(), r"no records there \(nodes/\*/record.json\)"),
        (lambda folder: (folder.mkdir(), (folder / "suite.json").write_text("{")), "suite.json: damaged"),
    ],
)
def test_mistakes_end_with_one_line(tmp_path, prepare, words):
    prepare(tmp_path / "run")
    with pytest.raises(UserError, match=words) as error:
        from fashiongen.benchmark.leaderboard import run

        run(tmp_path / "run")
    assert "\n" not in str(error.value)


def huge(record):
    record["metrics"]["ssim"]["value"] = int("9" * 400)


def names_no_file(record):
    record |= {"log": "a\0b", "images": "x" * 300, "recipe": "a\0b/c.yaml", "protocol": "p\0q", "overlays": ["\ud800=1"]}


DAMAGE = {
    "a number of 400 digits": lambda folder: change(folder, huge),
    "memory of 400 digits": lambda folder: change(folder, lambda record: record.update(peak_memory_bytes=int("9" * 400))),
    "the largest float": lambda folder: change(folder, lambda record: record["metrics"]["ssim"].update(value=1e308)),
    "names of no file": lambda folder: change(folder, names_no_file),
    "links in a circle": lambda folder: ((folder / "log.txt").unlink(), (folder / "log.txt").symlink_to("log.txt")),
    "values per sample": lambda folder: (folder / "record.per_sample.jsonl").write_text(f'{{"id": "a", "ssim": {"9" * 400}}}\n'),
    "a damaged image": lambda folder: broken_png(folder / "record.images" / "00000_00.png"),
    "a suite's name that is no text": lambda folder: (folder.parents[1] / "suite.json").write_text('{"suite": "\\ud800"}'),
    "a folder that is no UTF-8": lambda folder: folder.rename(folder.with_name(f"{folder.name}\udcff")),
}


def change(folder, do):
    record = json.loads((folder / "record.json").read_text())
    do(record)
    (folder / "record.json").write_text(json.dumps(record))


def broken_png(file):
    """Let the data end early, before a chunk without a name."""
    content = file.read_bytes()
    first = b"IDAT" + content[41:51]
    file.write_bytes(content[:33] + struct.pack(">I", 10) + first + struct.pack(">I", zlib.crc32(first)) + bytes(40))


@pytest.mark.parametrize("damage", DAMAGE)
def test_one_damaged_node_leaves_the_others_their_leaderboard(tmp_path, damage, capsys):
    for seed in range(2):
        place = write_test(tmp_path / "run", "bad.yaml", {"ssim": 0.4}, seed=seed, images=2)
        DAMAGE[damage](place)
    write_test(tmp_path / "run", "good.yaml", {"ssim": 0.5}, images=2)
    files = {option: tmp_path / f"out.{option}" for option in ("html", "markdown", "csv")}
    main(["leaderboard", str(tmp_path / "run"), *(part for option, file in files.items() for part in (f"--{option}", str(file)))])
    main(["leaderboard", str(tmp_path / "run")])
    assert all("good" in file.read_text(encoding="utf-8") for file in files.values()) and "good" in capsys.readouterr().out


def test_published_numbers_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no \*.yaml there"):
        read_published(tmp_path)
    igr = (ROOT / "benchmarks" / "published" / "igr.yaml").read_text(encoding="utf-8")
    paper = yaml.safe_load(igr)
    for values, words in (("abc", "ValueError"), ({"ssim": 0.5}, "TypeError: .*: values must be strings, in quotes")):
        paper["tables"][0]["rows"][0]["values"]["viton_hd"] = values
        (tmp_path / "paper.yaml").write_text(json.dumps(paper))
        with pytest.raises(UserError, match=rf"paper.yaml: no file of published numbers \({words}"):
            read_published(tmp_path)
    (tmp_path / "paper.yaml").write_text(json.dumps({"schema": 1, "tables": [{"kind": "results"}]}))
    with pytest.raises(UserError, match=r"paper.yaml: no file of published numbers \(KeyError"):
        read_published(tmp_path)


def test_a_figure_that_others_are_held_against_has_no_best(tmp_path):
    """Agreement by chance is better neither high nor low."""
    entry = {"higher_is_better": None, "ci95": None}
    for name, value in (("igr", 0.2), ("white", 0.1)):
        write_test(tmp_path, f"recipes/tiny/{name}.yaml", {}, metrics={"by_chance": {"value": value, **entry}}, per_sample=None)
    board, rows = only(tmp_path)
    assert [rows[name].cells["by_chance"].rank for name in ("igr", "white")] == [None, None]
    assert "| by\\_chance |" in markdown(read(tmp_path))
    assert board.columns[0].higher_is_better is None
