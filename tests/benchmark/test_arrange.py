"""Arranging records: columns, rows, and the best values."""

import csv
import io
import json

import pytest
from bench_folder import N, only, write_fit, write_folder, write_test
from scipy import stats

from fashiongen.benchmark.arrange import mark, read
from fashiongen.benchmark.boards import Cell
from fashiongen.benchmark.csv_table import csv_text
from fashiongen.benchmark.markdown import markdown

IGR = "recipes/tiny/igr.yaml"


def ranks(values, higher):
    cells = [Cell(value=value, interval=None, over="") for value in values]
    mark(cells, higher_is_better=higher)
    return [cell.rank for cell in cells]


@pytest.mark.parametrize(
    ("values", "higher", "expected"),
    [
        ([0.1, 0.3, 0.2], True, [None, "best", "second"]),
        ([0.1, 0.3, 0.2], False, ["best", None, "second"]),
        ([0.3, 0.3, 0.2], True, ["best", "best", None]),  # two best leave no second
        ([0.3, 0.2, 0.2], True, ["best", "second", "second"]),
        ([0.3, 0.1 + 0.2, 0.2], True, ["best", "best", None]),  # they differ only by rounding
        ([None, -5.0, None], True, [None, "best", None]),
        ([-1.0, -2.0], False, ["second", "best"]),
        ([], True, []),
    ],
)
def test_best_and_second_best(values, higher, expected):
    assert ranks(values, higher) == expected


def test_a_row_says_what_its_interval_is_over(tmp_path):
    for seed, value in enumerate((1.0, 2.0, 4.0)):
        write_test(tmp_path, IGR, {"fid[x]": value}, seed=seed)
    write_test(tmp_path, "white.yaml", {"fid[x]": 3.0, "ssim": 0.4})
    board, rows = only(tmp_path)
    assert [column.key for column in board.columns] == ["fid[x]", "ssim"]
    cell = rows["igr"].cells["fid[x]"]
    assert (cell.value, cell.over) == (pytest.approx(7 / 3), "3 seeds, these samples")
    assert cell.interval == pytest.approx(stats.t.interval(0.95, 2, loc=7 / 3, scale=stats.sem([1, 2, 4])))
    write_test(tmp_path, "lost.yaml", {"ssim": 0.3}, per_sample=None)
    ssim = only(tmp_path)[1]["lost"].cells["ssim"]
    assert ssim.over == f"{N} samples, as the record states, this checkpoint"
    assert ssim.interval == pytest.approx((ssim.value - 0.1, ssim.value + 0.1))
    assert rows["white"].cells["ssim"].over == f"{N} samples, this checkpoint"
    assert rows["white"].cells["fid[x]"].over == ""
    assert "ssim" not in rows["igr"].cells


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


def test_a_seed_counts_once_and_changed_code_is_noted(tmp_path):
    write_test(tmp_path, IGR, {"fid[x]": 1.0}, node="a", started="2026-01-01T00:00:00+00:00")
    write_test(tmp_path, IGR, {"fid[x]": 2.0}, node="b", started="2026-01-02T00:00:00+00:00")
    write_test(tmp_path, IGR, {"fid[x]": 4.0}, seed=1, source_sha256="99" * 32)
    _, rows = only(tmp_path)
    assert rows["igr"].cells["fid[x]"].value == 3.0
    assert rows["igr"].notes == ["2 records of seed 0: the last one counts", "its seeds were run by different versions of the code"]


def test_changed_user_code_is_noted_and_changed_libraries_are_not(tmp_path):
    for recipe, seed, versions in (("mine", 0, "source 11"), ("mine", 1, "source 22"), ("igr", 0, "2.8"), ("igr", 1, "2.9")):
        write_test(tmp_path, f"{recipe}.yaml", {"fid[x]": 1.0}, seed=seed, versions={"package": versions})
    _, rows = only(tmp_path)
    assert rows["mine"].notes == ["its seeds were run by different versions of the code"] and rows["igr"].notes == []


def test_the_conditions_that_a_record_states_decide_what_shares_a_board(tmp_path):
    """A task whose results do not depend on the size; records that state nothing are compared only at the same size."""
    stated = {"world": "wardrobe", "data": "7c687c687c68", "masks": "", "reference": "fashionvc test bottom"}
    for name, conditions, boards in (("stated", stated, 1), ("not", {}, 2)):
        for recipe, size in (("a.yaml", "64x48"), ("b.yaml", "128x128")):
            data = {"fingerprint": "7c68" * 16, "size": size}
            write_test(tmp_path / name, recipe, {"auc": 0.5}, data=data, conditions=conditions, protocol_sha256="ab" * 32)
        assert len(read(tmp_path / name).boards) == boards
    (board,) = read(tmp_path / "stated").boards
    shown = {name: value for name, value in stated.items() if value}
    assert board.conditions == {**shown, "samples": str(N), "protocol_settings": "ab" * 6} and board.label == "vtoff on viton_hd, wardrobe"
    for node, changed in (("c", {"data": "000000000000"}), ("d", {"catalogue": "1000"}), ("e", {"samples": "7"})):
        write_test(tmp_path / "stated", "c.yaml", {"auc": 0.5}, conditions=stated | changed, protocol_sha256="ab" * 32, node=node)
    write_test(tmp_path / "stated", "c.yaml", {"auc": 0.5}, conditions=stated, protocol_sha256="cd" * 32, node="f")
    assert sorted(len(board.rows) for board in read(tmp_path / "stated").boards) == [1, 1, 1, 1, 2]


def test_a_record_without_conditions_is_compared_with_one_that_states_the_same(tmp_path):
    """For folders that were started before records stated them."""
    old = {"data": {"fingerprint": "7c68" * 16, "size": "64x48", "masks": "file", "world": "wardrobe"}}
    old["reference"] = {"dataset": "viton_hd", "split": "test", "field": "garment", "size": "64x48", "fingerprint": "12" * 32}
    write_test(tmp_path, "a.yaml", {"ssim": 0.5}, **old)
    conditions = {
        "world": "wardrobe", "data": "7c687c687c68", "masks": "file", "size": "64x48", "samples": str(N),
        "reference": "viton_hd test garment 64x48", "reference_data": "121212121212",
    }  # fmt: skip
    write_test(tmp_path, "b.yaml", {"ssim": 0.4}, **old, conditions=conditions)
    board, rows = only(tmp_path)
    assert set(rows) == {"a", "b"} and board.conditions == conditions


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
        "now": [], "before": ["run with other settings, data or code than the suite plans: seed 0"],
    }  # fmt: skip
    assert rows["before"].cells["fid[x]"].rank == "best"
    assert board.notes == ["Its rows were run by different versions of the code."]
    found = read(tmp_path)
    assert [(node.id, node.status) for node in found.nodes if node.status != "ok"] == [("gone", "unplanned")]
    text = markdown(found)
    assert "| gone | unplanned | no longer in the suite; its record says ok |" in text and board.notes[0] in text
    # Without keys in the plan, or without a plan, nothing is stale.
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


def test_a_row_finds_its_training_and_parents_by_their_checkpoints(tmp_path):
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


def test_nan_is_never_best_and_missing_values_are_noted(tmp_path):
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
    assert only(tmp_path)[1]["d"].cells["fid[x]"].value is None  # no mean over only the seeds that worked
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


def test_nodes_without_a_readable_record_appear_where_the_suite_plans_them(tmp_path):
    ids = {"torn": "vtoff", "late": "vtoff", "alone": "retrieval"}
    where = {"dataset": "viton_hd", "protocol": "vtoff-tiny", "kind": "test"}
    (tmp_path / "suite.json").write_text(json.dumps({"nodes": [{"id": id_, "task": task, **where} for id_, task in ids.items()]}))
    write_test(tmp_path, IGR, {"ssim": 0.5})
    (tmp_path / "nodes" / "torn").mkdir()
    (tmp_path / "nodes" / "torn" / "record.json").write_text("{")
    found = read(tmp_path)
    told = {(board.task, len(board.rows)): [(node.id, node.status) for node in board.absent] for board in found.boards}
    assert told == {("vtoff", 1): [("torn", "damaged"), ("late", "waiting")], ("retrieval", 0): [("alone", "waiting")]}
    assert "No test has a result." in markdown(found) and "Not here: alone, waiting" in markdown(found)


def test_a_metric_without_a_direction_has_no_best(tmp_path):
    """For agreement by chance, neither high nor low is better."""
    entry = {"higher_is_better": None, "ci95": None}
    for name, value in (("igr", 0.2), ("white", 0.1)):
        write_test(tmp_path, f"recipes/tiny/{name}.yaml", {}, metrics={"by_chance": {"value": value, **entry}}, per_sample=None)
    board, rows = only(tmp_path)
    assert [rows[name].cells["by_chance"].rank for name in ("igr", "white")] == [None, None]
    assert "| by\\_chance |" in markdown(read(tmp_path))
    assert board.columns[0].higher_is_better is None
