"""Records with groups of samples, such as categories: a board for all samples, and one for each group."""

import csv
import io
import json

import pytest
from bench_folder import N, write_test

from fashiongen.benchmark.arrange import read
from fashiongen.benchmark.csv_table import csv_text
from fashiongen.benchmark.markdown import markdown
from fashiongen.benchmark.webpage import page
from fashiongen.records import Record

COUNTS = {"full": 10, "upper": 30}
CONDITIONS = {"data": "7c687c687c68", "samples": str(N)}


def write_grouped(folder, recipe, value, shift=0.0, **options):
    """A record whose samples of one group have other values than those of the other."""
    place = write_test(folder, recipe, {"ssim": value, "fid": 20 * value}, conditions=CONDITIONS, images=2, cluster_of=str, **options)
    lines = [json.loads(line) for line in (place / "record.per_sample.jsonl").read_text().splitlines()]
    for index, line in enumerate(lines):
        line["group"] = "upper" if index < COUNTS["upper"] else "full"
        line["ssim"] += shift if line["group"] == "full" else 0.0
    (place / "record.per_sample.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    record = Record.read(place / "record.json")
    record.by = "category"
    for group, count in COUNTS.items():
        mean = sum(line["ssim"] for line in lines if line["group"] == group) / count
        entries = {"ssim": {**record.metrics["ssim"], "value": mean}, "fid": {**record.metrics["fid"], "value": 30 * value}}
        record.groups[group] = {"n_samples": count, "metrics": entries}
    record.write(place / "record.json")
    return record


@pytest.fixture
def folder(tmp_path):
    """`a` is better over all and in upper, `b` in full; `old` is from before there were groups."""
    records = {
        "a": write_grouped(tmp_path, "a.yaml", 0.8, shift=-0.5),
        "b": write_grouped(tmp_path, "b.yaml", 0.5),
    }
    write_test(tmp_path, "old.yaml", {"ssim": 0.4, "fid": 9.0}, conditions=CONDITIONS)
    write_test(tmp_path, "lost.yaml", {}, status="failed", reason="out of memory")
    return tmp_path, records


def test_each_group_has_a_board_of_its_own_after_that_of_all(folder):
    place, records = folder
    boards = read(place).boards
    assert [board.label for board in boards] == [f"vtoff on viton_hd{name}" for name in ("", ", category full", ", category upper")]
    assert [board.conditions["samples"] for board in boards] == [str(N), "10", "30"]
    assert [{row.name for row in board.rows} for board in boards] == [{"a", "b", "old"}, {"a", "b"}, {"a", "b"}]
    for board, group in zip(boards[1:], COUNTS, strict=True):
        assert board.conditions["category"] == group
        for row in board.rows:
            for name in ("ssim", "fid"):
                assert row.cells[name].value == pytest.approx(records[row.name].groups[group]["metrics"][name]["value"])
            assert row.cells["ssim"].over == f"{COUNTS[group]} clusters, this checkpoint"
            low, high = row.cells["ssim"].interval
            assert low < row.cells["ssim"].value < high
    best = [next(row.name for row in board.rows if row.cells["ssim"].rank == "best") for board in boards]
    assert best == ["a", "b", "a"]
    # Each row is compared with the best over the samples of the group.
    assert {row.cells["ssim"].difference.samples for row in boards[1].rows if row.cells["ssim"].difference} == {10}


def test_what_is_of_the_whole_test_is_told_once(folder):
    place, _ = folder
    whole, *parts = read(place).boards
    assert len(whole.absent) == 1 and not any(board.absent for board in parts)
    assert whole.rows[0].runs[0].record.images and not any(run.record.images for board in parts for row in board.rows for run in row.runs)


def test_every_form_of_the_leaderboard_has_the_groups(folder):
    place, _ = folder
    found = read(place)
    text = markdown(found)
    assert "## vtoff on viton\\_hd, category upper: protocol vtoff\\-tiny" in text.replace("vtoff-tiny", "vtoff\\-tiny")
    assert "samples 30" in text and "category full" in text
    lines = list(csv.DictReader(io.StringIO(csv_text(found))))
    assert {(line["board"], line["n_samples"]) for line in lines if line["row"] == "a"} == {
        ("vtoff on viton_hd", "40"),
        ("vtoff on viton_hd, category full", "10"),
        ("vtoff on viton_hd, category upper", "30"),
    }
    assert "vtoff on viton_hd, category upper" in page(found, place / "page.html")


def test_a_record_with_other_groups_stands_apart(tmp_path):
    """Numbers of a category are compared where the tests are of the same samples."""
    write_grouped(tmp_path, "a.yaml", 0.8)
    record = write_grouped(tmp_path, "b.yaml", 0.5)
    place = next(path for path in (tmp_path / "nodes").iterdir() if "--b--" in path.name)
    record.groups["upper"]["n_samples"] = 29
    record.write(place / "record.json")
    boards = {board.label: [row.name for row in board.rows] for board in read(tmp_path).boards}
    assert boards == {
        "vtoff on viton_hd": ["a", "b"],
        "vtoff on viton_hd, category full": ["a", "b"],
        "vtoff on viton_hd, category upper (1)": ["b"],
        "vtoff on viton_hd, category upper (2)": ["a"],
    }
