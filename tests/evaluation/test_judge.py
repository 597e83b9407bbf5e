"""Kept predictions are judged as the test that kept them judged them; what is doubtful about other images is told."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from judged import Broken, Copier, Gallery, N, judge, metrics, sample, trainer
from PIL import Image

from fashiongen.batches import TryOffBatch, to_uint8
from fashiongen.data import FashionVC
from fashiongen.errors import UserError
from fashiongen.evaluation import Evaluate, FromFiles, Reference
from fashiongen.evaluation.judge import Request
from fashiongen.evaluation.kept import Manifest, Tables
from fashiongen.methods.base import Method
from fashiongen.metrics import AUC, KID, MRR, NDCG, Recall
from fashiongen.records import Record
from fashiongen.tasks import Protocol, find


def judged(tmp_path, folder, data=None, *, name="judged", allow_missing=False, **options):
    """Judge a folder, and return the record."""
    method = FromFiles()
    method.request = Request(folder=folder, allow_missing=allow_missing)
    out = tmp_path / f"{name}.json"
    evaluate = Evaluate(**{"protocol": "toy", "metrics": metrics(), "out": str(out), **options})
    trainer(tmp_path, evaluate).test(method, datamodule=data or Gallery(), verbose=False)
    return Record.read(out)


def lines(tmp_path, name):
    return (tmp_path / f"{name}.per_sample.jsonl").read_text()


@pytest.mark.parametrize("method", [Copier, Broken])
def test_kept_images_give_the_very_same_numbers(tmp_path, method):
    judge(tmp_path, method(), keep=str(tmp_path / "kept"))
    own, again = Record.read(tmp_path / "out.json"), judged(tmp_path, tmp_path / "kept")
    assert again.metrics == own.metrics and lines(tmp_path, "judged") == lines(tmp_path, "out")
    assert again.conditions == own.conditions and again.n_samples == N
    for name in ("method", "seed", "recipe", "parameters", "checkpoint", "seconds_per_sample", "peak_memory_bytes", "data", "reference"):
        assert getattr(again, name) == getattr(own, name), name
    assert (again.source["kind"], again.source["sha256"]) == ("kept predictions", own.predictions["sha256"])
    assert "kept predictions of an earlier test" in again.reason and own.source == {}


def test_kept_images_are_named_after_the_samples_and_have_a_manifest(tmp_path):
    judge(tmp_path, Broken(), keep=str(tmp_path / "deep" / "kept"))
    manifest = Manifest.read(tmp_path / "deep" / "kept")
    assert manifest.ids == [f"id{index}" for index in range(N)] and manifest.size == "12x8"
    assert manifest.not_finite and {file.stem for file in (tmp_path / "deep" / "kept").glob("*.png")} == {*manifest.ids} - {
        *manifest.not_finite
    }
    assert manifest.record.method == "broken" and manifest.record.data["fingerprint"] == "f" * 64
    assert not list(tmp_path.rglob(".*"))


def test_predictions_appear_once_they_are_complete_and_replace_older_ones(tmp_path):
    class Fails(Copier):
        def take_off(self, batch):
            if len(batch) == 1:  # the last one
                raise UserError("out of paint")
            return super().take_off(batch)

    keep = str(tmp_path / "kept")
    with pytest.raises(UserError, match="out of paint"):
        judge(tmp_path, Fails(), keep=keep)
    assert not (tmp_path / "kept").exists() and not list(tmp_path.glob(".*"))
    judge(tmp_path, keep=keep)
    before = {file.name: file.read_bytes() for file in Path(keep).iterdir()}
    with pytest.raises(UserError, match="out of paint"):
        judge(tmp_path, Fails(), keep=keep)
    assert before == {file.name: file.read_bytes() for file in Path(keep).iterdir()}
    judge(tmp_path, data=Gallery(count=3), keep=keep)
    assert len(list(Path(keep).glob("*.png"))) == 3 and not list(tmp_path.glob(".*"))


def test_predictions_that_cannot_be_written_cost_no_numbers(tmp_path, monkeypatch):
    def full(path, image):
        raise UserError(f"cannot write {path.name}: No space left on device")

    monkeypatch.setattr("fashiongen.evaluation.predictions.write_png", full)
    with pytest.raises(UserError, match=r"cannot write id.*: No space left on device"):
        judge(tmp_path, keep=str(tmp_path / "kept"))
    assert Record.read(tmp_path / "out.json").metrics and not (tmp_path / "kept").exists() and not list(tmp_path.glob(".*"))


def test_a_folder_with_other_files_is_not_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.png").write_text("")
    method = Copier()
    with pytest.raises(UserError, match=r"evaluate\.keep: .*mine holds other files: choose a new folder"):
        judge(tmp_path, method, keep=str(tmp_path / "mine"))
    assert not method.sampled and (tmp_path / "mine" / "photo.png").exists()


class Ties(Method):
    """Scores with ties, negative values and, for one query, NaN."""

    name = "ties"
    inner_product = False

    def embed_query(self, batch):
        return torch.tensor([[float(name[1:])] for name in batch.top_ids])

    def embed_candidate(self, batch):
        return torch.tensor([[float(name[1:])] for name in batch.ids])

    def score(self, query, candidate):
        scores = ((query * candidate.T) % 4).round() / 3 - 0.7
        return torch.where((query == 5) & (candidate.T == 3), torch.nan, scores)


RANKING = {
    "auc": lambda: AUC(candidates="negatives:1", leave_out_others=False),
    "mrr": lambda: MRR(candidates="positives"),
    "recall": lambda: Recall(k=3, candidates="catalogue"),
    "ndcg": lambda: NDCG(candidates="catalogue"),
}


def lists(folder, rows):
    (folder / "files").mkdir(parents=True)
    text = "tshirt,positive_pant,neg_1,neg_2\n" + "".join(",".join(row) + "\n" for row in rows)
    for name in ("traindata_unique.csv", "devdata_tops.csv", "testdata_tops.csv"):
        (folder / "files" / name).write_text(text)
    return FashionVC(root=str(folder), images=False, batch_size=3, num_workers=0)


ROWS = [(f"t{index}", f"p{index}", f"n{(3 * index) % 7}", f"p{(index + 3) % 8}") for index in range(8)]


@pytest.mark.parametrize("chosen", [list(RANKING), ["mrr", "ndcg"]])
def test_kept_rankings_give_the_very_same_numbers_by_any_protocol(tmp_path, chosen):
    """The file holds ranks, which decide every ranking metric, ties included."""
    data = lists(tmp_path / "data", ROWS)
    judge(tmp_path, Ties(), data, metrics={name: RANKING[name]() for name in chosen}, keep=str(tmp_path / "kept"))
    same, reordered = lists(tmp_path / "same", ROWS), lists(tmp_path / "reordered", ROWS[::-1])
    every = {name: make() for name, make in RANKING.items()}
    again = judged(tmp_path, tmp_path / "kept", same, metrics={name: every[name] for name in chosen})
    own = Record.read(tmp_path / "out.json")
    assert again.metrics == own.metrics and lines(tmp_path, "judged") == lines(tmp_path, "out")
    assert again.conditions == own.conditions and again.source["kind"] == "kept predictions"
    judged(tmp_path, tmp_path / "kept", reordered, name="further", metrics=every)
    judge(tmp_path, Ties(), data, metrics={name: make() for name, make in RANKING.items()})
    assert lines(tmp_path, "further") == lines(tmp_path, "out") and "null" in lines(tmp_path, "out")


def test_rankings_of_another_catalogue_are_refused(tmp_path):
    judge(tmp_path, Ties(), lists(tmp_path / "data", ROWS), metrics={"mrr": MRR()}, keep=str(tmp_path / "kept"))
    other = lists(tmp_path / "other", [(top, bottom, "n9", last) for top, bottom, _, last in ROWS])
    with pytest.raises(UserError, match="of another catalogue than fashionvc's: they lack 1 of its bottoms, first n9"):
        judged(tmp_path, tmp_path / "kept", other, metrics={"mrr": MRR()})


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda file: file.write_bytes(b"hello"), "damaged, or not written"),
        (lambda file: file.write_bytes(file.read_bytes()[:200]), "damaged, or not written"),
        (lambda file: np.savez(file, ids=np.array(["a", None], dtype=object)), "damaged, or not written"),
        (lambda file: np.savez(file, ids=np.array(["a"])), "holds no ranks"),
        (lambda file: file.unlink(), "is missing, which holds the kept predictions"),
    ],
)
def test_damaged_rankings_are_told_in_one_line(tmp_path, spoil, says):
    file = tmp_path / "predictions.npz"
    np.savez_compressed(file, ids=np.array(["a"]), ranks=np.zeros((1, 2), np.int16))
    assert Tables(file).rows("ranks", ["a"]).shape == (1, 2)
    spoil(file)
    with pytest.raises(UserError, match=says):
        Tables(file).rows("ranks", ["a"])


def folder(tmp_path, change=lambda image: image, ending=".png", count=N, shade=0.5, **options):
    """Images by other code: the person, darker."""
    (tmp_path / "made").mkdir()
    for index in range(count):
        one = sample(index)
        image = Image.fromarray((one.person[0].float() * shade).round().byte().permute(1, 2, 0).numpy())
        change(image).save(tmp_path / "made" / f"{one.ids[0]}{ending}", **options)
    return tmp_path / "made"


def test_a_folder_by_other_code_gets_an_ordinary_record_marked_with_its_source(tmp_path, capsys):
    record = judged(tmp_path, folder(tmp_path, ending=".JPG", quality=95))
    assert (record.method, record.seed, record.recipe, record.checkpoint, record.parameters) == ("made", None, None, None, {})
    assert record.status == "ok" and record.n_samples == N and record.metrics["distance"]["value"] > 0
    assert record.source == {
        "kind": "judged folder", "path": str(tmp_path / "made"), "sha256": record.source["sha256"],
        "missing": 0, "files": N, "named_by": "id", "lossy": N, "extra": 0,
    }  # fmt: skip
    assert re.search("judged folder; 7 of 7 predictions are JPEG", record.reason)
    assert "fashiongen: warning: 7 of 7 predictions are JPEG: its artefacts change" in capsys.readouterr().err
    assert (tmp_path / "judged.images").is_dir()


def test_files_that_differ_from_their_manifest_are_of_unknown_origin(tmp_path):
    judge(tmp_path, keep=str(tmp_path / "kept"))
    Image.new("RGB", (8, 12)).save(tmp_path / "kept" / "id0.png")
    record = judged(tmp_path, tmp_path / "kept")
    assert record.source["kind"] == "judged folder" and "manifest" not in record.source and record.checkpoint is None
    assert "the files differ from their manifest" in record.reason


def test_data_other_than_those_of_the_predictions_are_told(tmp_path):
    judge(tmp_path, keep=str(tmp_path / "kept"))
    data = Gallery()
    data.fingerprint = lambda: "e" * 64
    assert "the data differ from those that the predictions were made for" in judged(tmp_path, tmp_path / "kept", data).reason


@pytest.mark.parametrize("lost", [("id3",), ("id0", "id1", "id2", "id3", "id4", "id5")])
def test_missing_predictions_are_refused_or_recorded(tmp_path, lost):
    made = folder(tmp_path)
    whole = judged(tmp_path, made, name="whole")
    for id_ in lost:
        (made / f"{id_}.png").unlink()
    with pytest.raises(UserError, match=rf"made: {len(lost)} samples of the test have no prediction, first .* add --allow-missing"):
        judged(tmp_path, made)
    record = judged(tmp_path, made, allow_missing=True)
    assert record.n_samples == N - len(lost) and record.conditions["missing"].startswith(f"{len(lost)} (")
    assert record.conditions["missing"] != whole.conditions.get("missing") and record.source["missing"] == len(lost)
    values = [json.loads(line) for line in lines(tmp_path, "whole").splitlines()]
    assert [json.loads(line) for line in lines(tmp_path, "judged").splitlines()] == [row for row in values if row["id"] not in lost]


def test_images_of_another_size_are_refused_or_resized_as_the_protocol_states(tmp_path):
    made = folder(tmp_path, lambda image: image.resize((16, 24)))
    with pytest.raises(
        UserError, match=r"made: 7 of 7 images are not 12x8 .* but 24x16, first .*; toy states no resizing: make them at 12x8"
    ):
        judged(tmp_path, made, size=(12, 8), data=sized())
    record = judged(tmp_path, made, size=(12, 8), resize="stretch", data=sized())
    assert record.source["resized"] == N and "resized as the protocol states (stretch)" in record.reason
    by_hand = [to_uint8_image(made / f"{sample(index).ids[0]}.png") for index in range(N)]
    truth = [sample(index).garment.float() / 255 for index in range(N)]
    expected = np.mean([float((one / 255 - true).abs().mean()) for one, true in zip(by_hand, truth, strict=True)])
    assert record.metrics["distance"]["value"] == pytest.approx(expected, abs=1e-6)


def sized():
    data = Gallery()
    data.size = (12, 8)
    return data


def to_uint8_image(path):
    image = Image.open(path).resize((8, 12), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float()


def test_swapped_sizes_are_told(tmp_path):
    made = folder(tmp_path, lambda image: image.transpose(Image.Transpose.ROTATE_90))
    with pytest.raises(UserError, match=r"but 8x12 \(height and width are swapped\)"):
        judged(tmp_path, made, size=(12, 8), data=sized())
    assert "(height and width are swapped)" in judged(tmp_path, made, size=(12, 8), resize="stretch", data=sized()).reason


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_copies_of_the_truth_and_of_the_input_are_told(tmp_path, ending):
    (tmp_path / "made").mkdir()
    smooth = Gallery()
    for index, one in enumerate(smooth.samples):
        one.garment = torch.full_like(one.garment, 30 * index)
        one.person = torch.full_like(one.person, 200 - 20 * index)
        shown = one.garment if index < 2 else one.person if index == 2 else torch.full_like(one.person, 9 * index)
        Image.fromarray(shown[0].permute(1, 2, 0).numpy()).save(tmp_path / "made" / f"{one.ids[0]}{ending}")
    reason = judged(tmp_path, tmp_path / "made", smooth).reason
    assert "2 of 7 predictions equal the true image" in reason and "1 of 7 predictions equal the input image" in reason


def test_predictions_pasted_into_the_input_are_told():
    """Which only a task can tell whose predictions show the input's scene."""

    class Dressed(find("vtoff")):
        name = ""
        pasted_into = "person"

    batch = TryOffBatch.collate([sample(0), sample(1)])
    painted = torch.where(batch.mask, 7, batch.person)
    prediction = painted.float() / 127.5 - 1
    prediction[1] += 0.1
    distance = Dressed().distances_to_inputs(prediction, batch)["the input outside of the mask (repaint)"]
    assert distance[0] == 0 and distance[1] > 1
    assert torch.equal(to_uint8(prediction[:1]), painted[:1])
    everywhere = TryOffBatch(**{**vars(batch), "mask": torch.ones_like(batch.mask)})
    assert Dressed().distances_to_inputs(prediction, everywhere)["the input outside of the mask (repaint)"].isinf().all()


def test_the_same_image_for_several_samples_is_told(tmp_path):
    made = folder(tmp_path)
    shutil.copy(made / "id0.png", made / "id1.png")
    shutil.copy(made / "id0.png", made / "other.png")
    reason = judged(tmp_path, made).reason
    assert "1 of 7 predictions are copies of other samples' predictions" in reason
    assert "1 images belong to no sample of the test, first other.png" in reason


def test_unpaired_predictions_judged_as_paired_are_told(tmp_path):
    made = folder(tmp_path)
    data = Gallery()
    data.sample_names = lambda: {f"id{index}": {"own": f"id{index}", "other": f"id{(index + 2) % N}"} for index in range(N)}
    for file in sorted(made.iterdir()):
        file.rename(made / f"{file.stem}_id{(int(file.stem[2:]) + 2) % N}.png")
    record = judged(tmp_path, made, data)
    assert record.source["named_by"] == "person_garment"
    assert "7 of 7 files are named after another garment: unpaired predictions, judged as paired" in record.reason


@pytest.mark.parametrize(
    ("pairing", "named", "own_reference", "told"),
    [
        ("unpaired", "other", False, "7 of 7 files are named after the person's own garment: paired predictions, judged as unpaired"),
        ("unpaired", "own", True, None),
        ("paired", "own", True, None),
        ("paired", "other", True, "7 of 7 files are named after another garment: unpaired predictions, judged as paired"),
    ],
)
def test_the_pairing_of_the_data_says_which_garment_is_the_right_one(tmp_path, pairing, named, own_reference, told):
    """Of an unpaired test `own` is the garment that it puts on; photos of the tested people as the reference do not change that."""
    made, data = folder(tmp_path), Gallery()
    names = {f"id{index}": {"own": f"g{index}", "other": f"h{index}"} for index in range(N)}
    data.sample_names, data.pairing = lambda: names, pairing
    data.images_of = lambda split, field: [one.person[0] for one in data.samples]
    for file in sorted(made.iterdir()):
        file.rename(made / f"{file.stem}_{names[file.stem][named]}.png")
    method = FromFiles()
    method.request = Request(folder=made)
    reference = Reference(field="person") if own_reference else None
    if reference is not None:
        reference.setup(data)
    method.open(find("vtoff")(), Protocol(name="toy", metrics={}, reference=reference), data)
    assert [note for note in method.notes if "named after" in note] == ([told] if told else [])


def test_the_scale_of_kid_is_told(tmp_path):
    class Mean(torch.nn.Module):
        def features(self, images):
            return images.mean(dim=(2, 3))

    record = judged(tmp_path, folder(tmp_path), metrics={"kid_x1e3": KID(network=Mean(), scale=1000, subsets=2, subset_size=3)})
    assert "kid_x1e3 is KID times 1000: published tables print it times 1, 100 or 1000" in record.reason


def test_references_that_show_something_else_are_told():
    reference = Reference(data=Gallery(), field="person")
    protocol = Protocol(name="toy", metrics={}, reference=reference)
    assert find("vtoff")().doubts(protocol) == ["the reference images show each sample's person, the predictions its garment"]
    reference.field = "garment"
    assert find("vtoff")().doubts(protocol) == []


def test_only_judge_uses_the_stand_in(tmp_path):
    evaluate = Evaluate(metrics=metrics())
    with pytest.raises(UserError, match="FromFiles reads predictions for `fashiongen judge`"):
        trainer(tmp_path, evaluate).test(FromFiles(), datamodule=Gallery(), verbose=False)
