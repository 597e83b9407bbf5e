import os
import sqlite3

import numpy as np
import pytest
import torch
from torch import nn

from fashiongen.errors import UserError
from fashiongen.retrieval.embeddings import Store, identity


@pytest.fixture
def images(tmp_path):
    """Three files; for a store any content will do."""
    files = [tmp_path / f"{name}.png" for name in "abc"]
    for file in files:
        file.write_text(f"image {file.stem}")
    return files


def test_what_is_added_is_there_the_next_time(tmp_path, images):
    values = torch.randn(3, 4)
    with Store(tmp_path / "store") as store:
        keys = [store.key(path) for path in images]
        assert store.rows(keys).tolist() == [-1, -1, -1]
        store.add(keys[:2], values[:2])
        store.add(keys[2:], values[2:].bfloat16())
    with Store(tmp_path / "store") as store:
        assert [store.key(path) for path in images] == keys
        assert store.rows([keys[2], "unknown", keys[0]]).tolist() == [2, -1, 0]
        ((start, block),) = store.embeddings(np.array([2, 1])).blocks()
    assert start == 0 and block.dtype == torch.float32
    assert torch.equal(block, torch.stack([values[2].bfloat16().float(), values[1]]))


def test_a_key_is_the_content_with_the_name_and_an_untouched_file_is_not_read_again(tmp_path, images, monkeypatch):
    first, second, _ = images
    with Store(tmp_path / "store") as store:
        key = store.key(first)
        moved = tmp_path / "folder" / "a.png"
        moved.parent.mkdir()
        moved.write_bytes(first.read_bytes())
        assert store.key(moved) == key
        second.write_bytes(first.read_bytes())
        assert store.key(second) != key  # methods may go by names
        times = first.stat()
        first.write_text("image b")  # of the same length
        os.utime(first, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert store.key(first) != key
        with monkeypatch.context() as patch:
            patch.setattr("hashlib.file_digest", None)
            assert store.key(moved) == key


def test_a_killed_writer_leaves_no_row_without_an_image(tmp_path, images):
    folder = tmp_path / "store"
    with Store(folder) as store:
        keys = [store.key(path) for path in images]
        store.add(keys[:1], torch.ones(1, 4))
    with (folder / "rows.f32").open("ab") as file:
        file.write(b"\0" * 22)  # more than a row that the index does not know
    with Store(folder) as store:
        store.add(keys[1:], torch.full((2, 4), 2.0))
        ((_, block),) = store.embeddings(store.rows(keys)).blocks()
    assert block[:, 0].tolist() == [1.0, 2.0, 2.0]


def test_damage_is_reported(tmp_path, images):
    folder = tmp_path / "store"
    with Store(folder) as store:
        with pytest.raises(UserError, match="numbers that are not finite"):
            store.add(["key"], torch.tensor([[1.0, torch.nan]]))
        store.add(["key"], torch.ones(1, 4))
    os.truncate(folder / "rows.f32", 8)
    with pytest.raises(UserError, match=r"rows\.f32 is shorter than 16 bytes: delete the folder"), Store(folder):
        pass
    (folder / "rows.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(UserError, match=r"is damaged .*: delete the folder"), Store(folder):
        pass


def test_what_was_embedded_before_an_error_is_kept(tmp_path):
    with pytest.raises(RuntimeError), Store(tmp_path / "store") as store:
        store.add(["key"], torch.ones(1, 4))
        raise RuntimeError("stopped")
    with sqlite3.connect(tmp_path / "store" / "rows.sqlite") as known:
        assert known.execute("SELECT key, row FROM images").fetchall() == [("key", 0)]


def test_the_identity_changes_with_every_weight_and_setting():
    method = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    method.register_buffer("mean", torch.zeros(2), persistent=False)
    found = {identity(method), identity(method, {"alpha": 1}), identity(method, {"alpha": 2})}
    for tensor in (method[0].weight, method[1].running_mean, method.mean):
        with torch.no_grad():
            tensor[0] += 1
        found.add(identity(method))
    assert len(found) == 6
    assert identity(method) in found
