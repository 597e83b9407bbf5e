import json
import subprocess
import sys
from dataclasses import asdict

import pytest

from fashiongen.errors import UserError
from fashiongen.records import Record, write_atomically


def test_a_record_is_plain_json_without_nan(tmp_path):
    record = Record(node="n", method="igr", task="vtoff", dataset="viton_hd", split="test", protocol="vtoff-tiny")
    record.metrics = {"fid": {"value": float("nan"), "higher_is_better": False, "ci95": None}}
    record.write(tmp_path / "deep" / "r.json")
    content = json.loads((tmp_path / "deep" / "r.json").read_text())
    assert content["schema"] == 1
    assert content["metrics"]["fid"]["value"] is None


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "r.json"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \ud800")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["r.json"]


def test_what_is_written_is_read(tmp_path):
    record = Record(node="n", method="igr", task="vtoff", dataset="viton_hd", split="test", protocol="vtoff-tiny", seed=1, exit_status=0)
    record.metrics = {"ssim": {"value": 0.5, "higher_is_better": True, "ci95": [0.4, 0.6]}}
    record.checkpoint = {"path": "logs/last.ckpt", "sha256": "0" * 64}
    record.write(tmp_path / "r.json")
    assert Record.read(tmp_path / "r.json") == record


def test_an_unknown_key_is_ignored_and_a_newer_schema_is_refused(tmp_path):
    record = Record(node="n", method="igr", task="", dataset="", split="", protocol="", kind="fit")
    path = tmp_path / "r.json"
    path.write_text(json.dumps({**asdict(record), "mood": "good"}))
    assert Record.read(path) == record
    path.write_text(json.dumps({**asdict(record), "schema": 2}))
    with pytest.raises(UserError, match=r"r\.json: a record with schema 2, but this fashiongen reads only up to 1"):
        Record.read(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": "fine"}, r'status: "fine" is not of type Literal'),
        ({"n_samples": "12"}, 'n_samples: "12" is not of type int'),
        ({"n_samples": True}, "n_samples: true is not of type int"),
        ({"seconds": "long"}, r'seconds: "long" is not of type float \| None'),
        ({"overlays": ["a", 1]}, "overlays: "),
        ({"parameters": {"total": 0.5}}, "parameters: "),
        ({"metrics": {"ssim": {"value": "high", "higher_is_better": True, "ci95": None}}}, "metrics: "),
        ({"metrics": {"ssim": {"value": 1.0}}}, "metrics: "),
        ({"metrics": {"ssim": {"value": 1.0, "higher_is_better": 1, "ci95": None}}}, "metrics: "),
        ({"node": None}, "node: null is not of type str"),
        ({"seconds": 1e308}, r"seconds: 1e\+308 is not of type float"),
        ({"peak_memory_bytes": 10**400}, "peak_memory_bytes: 1000"),
    ],
)
def test_a_damaged_record_is_named_with_its_place(change, message, tmp_path):
    record = Record(node="n", method="igr", task="vtoff", dataset="viton_hd", split="test", protocol="vtoff-tiny")
    (tmp_path / "r.json").write_text(json.dumps({**asdict(record), **change}))
    with pytest.raises(UserError, match=rf"r\.json: {message}"):
        Record.read(tmp_path / "r.json")


@pytest.mark.parametrize("content", [b"", b"[]", b'{"schema": "1"}', b'{"schema": 1}', b"\xff", b"[" * 100_000], ids=range(6))
def test_what_is_no_record_ends_in_one_line(content, tmp_path):
    (tmp_path / "r.json").write_bytes(content)
    with pytest.raises(UserError) as error:
        Record.read(tmp_path / "r.json")
    assert "r.json" in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match="No such file"):
        Record.read(tmp_path / "absent.json")


def test_reading_records_imports_nothing_heavy():
    code = "import sys; import fashiongen.records; print(sorted({'torch', 'lightning', 'numpy', 'yaml'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
