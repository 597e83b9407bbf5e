import json

import pytest
from PIL import Image

from fashiongen.cli import main
from fashiongen.data.check import check

HEADING = "tshirt,positive_pant,neg_1,neg_2\n"


@pytest.fixture
def folder(tmp_path):
    """A sound folder: tops 1 and 2, bottoms 5 to 8."""
    (tmp_path / "files").mkdir()
    (tmp_path / "img").mkdir()
    for name in ("traindata_unique.csv", "devdata_tops.csv", "testdata_tops.csv"):
        (tmp_path / "files" / name).write_text(HEADING + "1,5,7,8\n2,6,7,8\n")
    for name in "125678":
        Image.new("RGB", (8, 8)).save(tmp_path / "img" / f"{name}.jpg")
    return tmp_path


def kinds(report):
    return sorted({finding.kind for finding in report.findings})


def test_a_sound_folder_is_usable(folder, capsys):
    report = check("fashionvc", folder)
    assert (report.usable, kinds(report)) == (True, [])
    assert (report.splits["test"].tops_of_training, report.splits["test"].bottoms_of_training) == (2, 2)
    main(["data", "check", "fashionvc", str(folder), "--strict"])
    assert "findings: none" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("row", "kind", "counted"),
    [
        ("1,5,7,7\n2,6,7,8\n", "duplicate negative", "repeated_negatives"),
        ("1,5,7,8\n1,6,5,8\n", "false negative", "false_negatives"),
        ("1,5,7,8\n1,5,7,8\n", "duplicate", "repeated"),
    ],
)
def test_doubtful_rows_are_named_and_fail_only_a_strict_check(folder, row, kind, counted):
    (folder / "files" / "testdata_tops.csv").write_text(HEADING + row)
    report = check("fashionvc", folder)
    assert (report.usable, kinds(report), getattr(report.splits["test"], counted)) == (True, [kind], 1)
    with pytest.raises(SystemExit) as stopped:
        main(["data", "check", "fashionvc", str(folder), "--strict"])
    assert stopped.value.code == 1


def test_missing_and_damaged_images_and_lists_leave_it_usable_in_part(folder, tmp_path, capsys):
    (folder / "img" / "7.jpg").unlink()
    (folder / "img" / "5.jpg").write_text("no image")
    (folder / "files" / "devdata_tops.csv").unlink()
    main(["data", "check", "fashionvc", str(folder), "--json", str(tmp_path / "check.json")])
    assert capsys.readouterr().out.endswith(": usable in part\n")
    report = json.loads((tmp_path / "check.json").read_text())
    assert {finding["kind"] for finding in report["findings"]} == {"missing", "unreadable", "list"}
    assert report["splits"]["train"]["readable"] == 1 and not report["usable"]
    for name in "12568":
        (folder / "img" / f"{name}.jpg").write_text("no image")
    with pytest.raises(SystemExit) as stopped:
        main(["data", "check", "fashionvc", str(folder)])
    assert stopped.value.code == 1


def test_the_public_lists(shared_data):
    report = check("fashionvc", shared_data / "fashionvc")
    assert kinds(report) == ["absent"]
    assert report.usable and "need no images" in report.lines()[-1]
    test = report.splits["test"]
    assert (test.rows, test.tops, test.bottoms, test.tops_of_training, test.bottoms_of_training) == (1000, 1000, 977, 60, 327)
    assert test.false_negatives == 0
