"""The leaderboard's files and its command."""

import csv
import io
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from bench_folder import write_folder, write_test

from fashiongen.benchmark.arrange import read
from fashiongen.benchmark.csv_table import CSV_COLUMNS, csv_text
from fashiongen.benchmark.formats import seconds
from fashiongen.benchmark.markdown import markdown
from fashiongen.cli import main
from fashiongen.errors import UserError

ROOT = Path(__file__).parents[2]

IGR = "recipes/tiny/igr.yaml"


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


def test_no_text_in_the_csv_is_a_formula(tmp_path):
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


def test_the_same_records_give_the_same_bytes_in_any_order(tmp_path):
    found = [csv_text(read(write_folder(tmp_path / "one"))), csv_text(read(tmp_path / "one"))]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (2e-5, "20 µs"), (0.5, "500 ms"), (12.0, "12 s"), (600.0, "10 min"), (9000.0, "2.5 h")]
)
def test_times_are_shown_in_the_unit_that_fits(value, text):
    assert seconds(value) == text


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
        (lambda folder: folder.mkdir(), r"no records \(nodes/\*/record.json\) in this folder"),
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
    """Truncate the data, before a chunk without a name."""
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
