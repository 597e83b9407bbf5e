"""Kept predictions that are few, not finite, damaged, or lie beside other files."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from judged import Broken, Copier, Gallery, N, judge, metrics, trainer

from fashiongen.data import FashionVC
from fashiongen.errors import UserError
from fashiongen.evaluation import Evaluate, FromFiles
from fashiongen.evaluation.judge import Request
from fashiongen.evaluation.kept import KeptPredictions, Manifest, Tables
from fashiongen.methods.base import Method
from fashiongen.metrics import MRR
from fashiongen.records import Record


def judged(tmp_path, data=None, **options):
    """Judge the folder `kept`, and return the record."""
    method = FromFiles()
    method.request = Request(folder=tmp_path / "kept")
    evaluate = Evaluate(**{"protocol": "toy", "metrics": metrics(), "out": str(tmp_path / "judged.json"), **options})
    trainer(tmp_path, evaluate).test(method, datamodule=data or Gallery(), verbose=False)
    return Record.read(tmp_path / "judged.json")


def test_a_diverged_method_is_judged_and_told_again(tmp_path):
    """It leaves no image."""
    method = Copier()
    method.shade.data.fill_(torch.nan)
    judge(tmp_path, method, keep=str(tmp_path / "kept"))
    own, again = Record.read(tmp_path / "out.json"), judged(tmp_path)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["manifest.json"]
    assert again.metrics == own.metrics and again.source["kind"] == "kept predictions"
    for record in (own, again):
        assert "1 of 2 weight tensors are not finite, first shade, so the training has diverged" in record.reason


@pytest.mark.parametrize("method", [Copier, Broken])
def test_a_part_of_the_kept_images_keeps_its_origin(tmp_path, method):
    judge(tmp_path, method(), keep=str(tmp_path / "kept"))
    record = judged(tmp_path, Gallery(count=2))
    assert (record.method, record.seed, record.source["kind"]) == (method.__name__.lower(), 0, "kept predictions")
    assert "5 predictions are of samples that this test does not have, first id1" in record.reason
    assert "manifest:" not in record.reason and record.n_samples == 2


class Ranker(Method):
    inner_product = True

    def embed_query(self, batch):
        return torch.ones(len(batch), 1)

    def embed_candidate(self, batch):
        return torch.tensor([[float(name[1:])] for name in batch.ids])

    def score(self, query, candidate):
        return query @ candidate.T


def lists(folder, rows):
    (folder / "files").mkdir(parents=True)
    text = "tshirt,positive_pant,neg_1\n" + "".join(",".join(row) + "\n" for row in rows)
    for name in ("traindata_unique.csv", "devdata_tops.csv", "testdata_tops.csv"):
        (folder / "files" / name).write_text(text)
    return FashionVC(root=str(folder), images=False, batch_size=3, num_workers=0)


ROWS = [("t0", "p0", "p1"), ("t1", "p1", "p2"), ("t2", "p2", "p0")]


@pytest.fixture
def rankings(tmp_path):
    judge(tmp_path, Ranker(), lists(tmp_path / "data", ROWS), metrics={"mrr": MRR()}, keep=str(tmp_path / "kept"))
    return tmp_path / "kept" / "predictions.npz"


def test_a_part_of_the_kept_rankings_keeps_its_origin(rankings, tmp_path):
    record = judged(tmp_path, lists(tmp_path / "fewer", ROWS[1:]), metrics={"mrr": MRR()})
    assert (record.method, record.source["kind"], record.source["extra"]) == ("ranker", "kept predictions", 1)
    assert "1 predictions are of samples that this test does not have, first " in record.reason


def test_rankings_without_a_rank_of_each_bottom_are_refused(rankings, tmp_path):
    with np.load(rankings) as content:
        tables = dict(content)
    np.savez(rankings, **{**tables, "ranks": tables["ranks"][:, :-1]})
    with pytest.raises(UserError, match="the kept rankings are damaged: 2 ranks in a row for 3 bottoms"):
        judged(tmp_path, lists(tmp_path / "same", ROWS), metrics={"mrr": MRR()})


def bare_array(file):
    with file.open("wb") as content:
        np.save(content, np.zeros(3))


def unknown_compression(file):
    content = bytearray(file.read_bytes())
    for mark, place in ((b"PK\x01\x02", 10), (b"PK\x03\x04", 8)):
        content[content.find(mark) + place : content.find(mark) + place + 2] = (99).to_bytes(2, "little")
    file.write_bytes(content)


def huge_array(file):
    with zipfile.ZipFile(file, "w") as content, content.open("ids.npy", "w") as array:
        np.lib.format.write_array_header_1_0(array, {"descr": "<i8", "fortran_order": False, "shape": (10**13,)})


def no_array(file):
    with zipfile.ZipFile(file, "w") as content:
        content.writestr("ids.npy", "hello")


@pytest.mark.parametrize("spoil", [bare_array, unknown_compression, huge_array, no_array])
def test_a_damaged_file_is_told_in_one_line(tmp_path, spoil):
    file = tmp_path / "predictions.npz"
    np.savez(file, ids=np.array(["a"]), ranks=np.zeros((1, 2), np.int16))
    spoil(file)
    with pytest.raises(UserError, match=r"predictions\.npz: (damaged, or not written|holds no ids)"):
        Tables(file)


def test_ranks_of_another_machine_are_read(tmp_path):
    np.savez(tmp_path / "predictions.npz", ids=np.array(["a"]), ranks=np.array([[1, 2]], ">i4"))
    assert torch.from_numpy(Tables(tmp_path / "predictions.npz").rows("ranks", ["a"])).tolist() == [[1, 2]]


def test_a_lost_image_is_missing_whatever_the_manifest_says(tmp_path):
    judge(tmp_path, keep=str(tmp_path / "kept"))
    manifest = json.loads((tmp_path / "kept" / "manifest.json").read_text())
    manifest["kept"]["not_finite"] = ["id0"]
    (tmp_path / "kept" / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "kept" / "id0.png").unlink()
    with pytest.raises(UserError, match="1 samples of the test have no prediction, first id0"):
        judged(tmp_path)


def test_what_other_programs_leave_in_a_folder_changes_nothing(tmp_path):
    judge(tmp_path, keep=str(tmp_path / "kept"))
    (tmp_path / "kept" / "@eaDir").mkdir()
    (tmp_path / "kept" / ".DS_Store").touch()
    assert Manifest.read(tmp_path / "kept").intact(tmp_path / "kept") and judged(tmp_path).source["kind"] == "kept predictions"
    (tmp_path / "kept" / "other.png").touch()
    assert not Manifest.read(tmp_path / "kept").intact(tmp_path / "kept")


@pytest.mark.parametrize("use", [judged, lambda folder: KeptPredictions(folder / "kept").check_writable()])
def test_a_kill_while_predictions_are_replaced_loses_none(tmp_path, use):
    """It happens after the earlier ones were moved aside and before the new ones are in their place."""
    judge(tmp_path, keep=str(tmp_path / "kept"))
    (tmp_path / "kept").rename(tmp_path / ".kept.replaced")
    use(tmp_path)
    assert len(list(Path(tmp_path, "kept").glob("*.png"))) == N and not (tmp_path / ".kept.replaced").exists()
