import json

import pytest

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
