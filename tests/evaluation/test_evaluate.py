"""Evaluate with a toy method: what is evaluated, what the record contains, what is refused."""

import errno
import json
import math
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from judged import Broken, Copier, Distance, Gallery, N, Restless, judge, metrics, sample, trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from scipy import stats

from fashiongen.batches import to_float, to_uint8
from fashiongen.data.base import FashionData
from fashiongen.errors import UserError
from fashiongen.evaluation import Evaluate, WritePredictions
from fashiongen.evaluation.kept import restore
from fashiongen.evaluation.provenance import code_of, weights_sha256
from fashiongen.intervals import interval
from fashiongen.metrics import FID, KID
from fashiongen.nn.classifier import AttributeClassifier
from fashiongen.tasks.try_off import TryOff


def test_the_record_states_what_was_measured_and_how(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["fashiongen", "test", "--evaluate.out", "a b.json"])
    evaluate, method = judge(tmp_path)
    record = json.loads((tmp_path / "out.json").read_text())
    truth = [sample(index) for index in range(N)]
    values = {}
    for one in truth:
        written = to_uint8(to_float(one.person) * 0.9).float() / 255
        values[one.ids[0]] = float((written - one.garment.float() / 255).abs().mean())
    assert record["metrics"]["distance"]["value"] == pytest.approx(np.mean(list(values.values())), abs=1e-6)
    assert set(record["metrics"]) == {"distance", "inside[tiny]", "gap"}
    scores = list(values.values())
    expected = stats.t.interval(0.95, N - 1, loc=np.mean(scores), scale=stats.sem(scores))
    assert record["metrics"]["distance"]["ci95"] == pytest.approx(expected, abs=1e-6)
    assert record["metrics"]["gap"]["ci95"] is None and record["metrics"]["gap"]["value"] > 0
    assert record["metrics"]["gap"]["higher_is_better"] is False
    rows = [json.loads(line) for line in (tmp_path / record["per_sample"]).read_text().splitlines()]
    assert [row["id"] for row in rows] == sorted(values)
    assert [row["distance"] for row in rows] == pytest.approx([values[row["id"]] for row in rows], abs=1e-6)
    assert (record["method"], record["task"], record["protocol"], record["status"]) == ("copier", "vtoff", "toy", "ok")
    assert (record["dataset"], record["split"], record["n_samples"], record["seed"]) == ("gallery", "test", N, 0)
    assert record["parameters"] == {"trainable": 1, "total": 6}
    assert record["command"] == "fashiongen test --evaluate.out 'a b.json'"
    assert 0 < record["seconds_per_sample"] < 1 and record["peak_memory_bytes"] > 1e6
    assert record["data"] == {"fingerprint": "f" * 64} and record["checkpoint"] is None
    used = code_of(method, Gallery(), TryOff(), *metrics().values())
    assert (
        record["source_sha256"] == used.sha256
        and "fashiongen.cli.lightning" in used.sources
        and "fashiongen.benchmark.leaderboard" not in used.sources
    )
    assert set(record["versions"]) == {"fashiongen", "torch", "lightning", "diffusers"}
    assert not method.saw_target
    assert evaluate.results == record["metrics"]


def test_data_that_do_not_say_their_task_are_refused(tmp_path):
    class Nameless(FashionData):
        split = "test"

        def test_dataloader(self):
            return Gallery().test_dataloader()

    with pytest.raises(UserError, match="Nameless does not set name, task"):
        judge(tmp_path, data=Nameless())


def test_the_record_distinguishes_the_embedded_world_from_the_real_dataset(tmp_path):
    data = Gallery()
    data.embedded = True
    judge(tmp_path, data=data)
    assert json.loads((tmp_path / "out.json").read_text())["data"]["world"] == "wardrobe"


def test_metrics_of_one_extractor_see_a_batch_once(tmp_path, monkeypatch):
    seen, real = [], AttributeClassifier.features
    monkeypatch.setattr(AttributeClassifier, "features", lambda self, x: (seen.append(len(x)), real(self, x))[1])
    judged = {"fid": FID(), "kid": KID(subset_size=4)}
    evaluate, _ = judge(tmp_path, metrics=judged)
    assert seen == [3, 3, 3, 3, 1, 1], "predictions and truths of batches of 3, 3 and 1"
    for name, metric in judged.items():
        alone = judge(tmp_path, metrics={name: metric})[0]
        assert alone.results[f"{name}[tiny-classifier]"] == evaluate.results[f"{name}[tiny-classifier]"]


def make_folder(path):
    path.mkdir(parents=True)


UNWRITABLE = {
    "a folder": ("out.json", "out.json", make_folder, "out.json is a folder"),
    "in a file": ("file/out.json", "file", Path.touch, "File exists|Not a directory"),
    "a folder in the place of the values": ("out.json", "out.per_sample.jsonl", make_folder, "out.per_sample.jsonl is a folder"),
    "a folder in the place of the grid": ("out.json", "out.grid.png", make_folder, "out.grid.png is a folder"),
    "a file in the place of the images": ("out.json", "out.images", Path.touch, "out.images is not a folder"),
}


@pytest.mark.parametrize("case", UNWRITABLE)
def test_an_unwritable_record_is_an_error_before_any_sampling(tmp_path, case):
    out, place, make, words = UNWRITABLE[case]
    make(tmp_path / place)
    method = Copier()
    with pytest.raises(UserError, match=rf"evaluate.out: cannot write {tmp_path / out}: .*({words}).*; choose another --evaluate.out"):
        judge(tmp_path, method, out=str(tmp_path / out))
    assert not method.sampled
    assert [path.name for path in tmp_path.iterdir()] == [place]


def test_a_read_only_folder_is_an_error_before_any_sampling(tmp_path, monkeypatch):
    def denied(*args, **options):  # root, who may run the tests, is denied nothing
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("tempfile.TemporaryFile", denied)
    with pytest.raises(UserError, match=r"cannot write .*out.json: Permission denied; choose another --evaluate.out"):
        judge(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_checking_the_place_of_the_record_leaves_nothing_behind(tmp_path):
    data = Gallery(offers=("mask",))
    with pytest.raises(UserError, match="evaluated against the true garment"):
        judge(tmp_path, data=data, out=str(tmp_path / "new" / "out.json"))
    assert list((tmp_path / "new").iterdir()) == []


def test_numbers_do_not_depend_on_the_batch_size(tmp_path):
    results = [judge(tmp_path, data=Gallery(batch_size))[0].results for batch_size in (1, 3, N)]
    for other in results[1:]:
        for name, result in results[0].items():
            assert other[name]["value"] == pytest.approx(result["value"], abs=1e-6)
            assert other[name]["ci95"] == (None if result["ci95"] is None else pytest.approx(result["ci95"], abs=1e-6))


def test_two_processes_give_the_numbers_and_files_of_one(tmp_path):
    judge(tmp_path / "one", images=3)
    evaluate = Evaluate(protocol="toy", metrics=metrics(), out=str(tmp_path / "two" / "out.json"), images=3)
    two = {"devices": 2, "strategy": "ddp_fork"}
    trainer(tmp_path, evaluate, **two).test(Copier(), datamodule=Gallery(2), verbose=False)
    one, both = (json.loads((tmp_path / folder / "out.json").read_text()) for folder in ("one", "two"))
    assert both["n_samples"] == N and both["device"].startswith("2 x cpu")
    for name, result in one["metrics"].items():
        assert both["metrics"][name]["value"] == pytest.approx(result["value"], abs=1e-6)
        assert both["metrics"][name]["ci95"] == (result["ci95"] and pytest.approx(result["ci95"], abs=1e-6))
    for name in ["out.per_sample.jsonl", "out.grid.png", *(f"out.images/id{index}.png" for index in range(3))]:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()

    trainer(tmp_path, WritePredictions(str(tmp_path / "all")), **two).predict(Copier(), datamodule=Gallery(2), return_predictions=False)
    assert len(list((tmp_path / "all").iterdir())) == N


def test_a_second_test_starts_fresh_and_replaces_the_record(tmp_path):
    fresh, _ = judge(tmp_path, data=Gallery(count=3))
    evaluate = Evaluate(metrics=metrics(), out=str(tmp_path / "out.json"))
    for count in (N, 3):
        trainer(tmp_path, evaluate).test(Copier(), datamodule=Gallery(count=count), verbose=False)
        record = json.loads((tmp_path / "out.json").read_text())
        assert record["n_samples"] == count == len((tmp_path / "out.per_sample.jsonl").read_text().splitlines())
        assert len(list((tmp_path / "out.images").iterdir())) == count
    assert record["metrics"] == fresh.results


def test_metrics_are_not_part_of_the_method(tmp_path):
    evaluate = Evaluate(metrics=metrics())
    keeper = ModelCheckpoint(tmp_path, filename="kept")
    method = Copier()
    trainer(tmp_path, evaluate, keeper, max_epochs=1, num_sanity_val_steps=0).fit(method, datamodule=Gallery())
    trainer(tmp_path, evaluate).test(method, datamodule=Gallery(), ckpt_path=tmp_path / "kept.ckpt", verbose=False)
    assert evaluate.metrics["inside"].prepared
    assert {name for name, _ in method.named_parameters()} == {"shade", "frozen_part"}
    checkpoint = torch.load(tmp_path / "kept.ckpt", weights_only=True)
    assert set(checkpoint["state_dict"]) == {"shade", "frozen_part"}
    assert not any("Evaluate" in key for key in checkpoint["callbacks"])


def test_the_checkpoint_is_named_with_its_hash(tmp_path):
    import hashlib

    method = Copier()
    trainer(tmp_path, ModelCheckpoint(tmp_path, filename="kept"), max_epochs=1, limit_val_batches=0).fit(method, datamodule=Gallery())
    path = tmp_path / "kept.ckpt"
    evaluate = Evaluate(out=str(tmp_path / "out.json"))
    trainer(tmp_path, evaluate).test(Copier(), datamodule=Gallery(), ckpt_path=path, verbose=False)
    record = json.loads((tmp_path / "out.json").read_text())
    weights = weights_sha256(torch.load(path, weights_only=True)["state_dict"])
    assert record["checkpoint"] == {
        "path": str(path),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "weights_sha256": weights,
    }


def test_a_checkpoint_that_is_replaced_during_its_test_is_not_named(tmp_path):
    """As by a training that goes on: the record names the weights that were tested, and no hash of the new file."""
    method = Copier()
    trainer(tmp_path, ModelCheckpoint(tmp_path, filename="last"), max_epochs=1, limit_val_batches=0).fit(method, datamodule=Gallery())
    path, tested = tmp_path / "last.ckpt", weights_sha256(method.state_dict())

    class Training(Callback):
        def on_test_batch_end(self, *_):
            content = torch.load(path, weights_only=True)
            content["state_dict"]["shade"] += 1
            torch.save(content, tmp_path / "next.ckpt")
            os.replace(tmp_path / "next.ckpt", path)

    evaluate = Evaluate(out=str(tmp_path / "out.json"))
    trainer(tmp_path, evaluate, Training()).test(Copier(), datamodule=Gallery(), ckpt_path=path, verbose=False)
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["checkpoint"] == {"path": str(path), "sha256": "changed since it was read", "weights_sha256": tested}


def test_a_checkpoint_without_weights_of_its_own_gets_no_hash_of_none(tmp_path):
    """As DeepSpeed's, whose weights are in other files."""
    evaluate, path = Evaluate(), tmp_path / "last.ckpt"
    path.touch()
    running = SimpleNamespace(testing=True, is_global_zero=True, ckpt_path=path)
    for checkpoint in ({}, {"state_dict": {}}):
        evaluate.on_load_checkpoint(running, Copier(), checkpoint)
        assert evaluate.tested is not None and evaluate.tested.loaded is None


def test_the_code_is_that_of_the_start_and_what_own_modules_import(tmp_path, monkeypatch):
    own = tmp_path / "own_method.py"
    own.write_text("from judged import Copier\nfrom fashiongen.nn import guidance\nclass Own(Copier):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    from own_method import Own

    read = []
    monkeypatch.setattr("fashiongen.evaluation.evaluate.code_sha256", lambda *_: read.append(1) or {"source_sha256": "s" * len(read)})
    judge(tmp_path, Own())
    assert len(read) == 1 and json.loads((tmp_path / "out.json").read_text())["source_sha256"] == "s"
    assert "fashiongen.nn.guidance" in code_of(Own()).sources and "fashiongen.nn.guidance" not in code_of(Gallery()).sources


def test_two_tests_cannot_keep_in_one_folder_at_once(tmp_path):
    first, second = (Evaluate(keep=str(tmp_path / "kept")).keep for _ in range(2))
    running = SimpleNamespace(is_global_zero=True, strategy=SimpleNamespace(barrier=lambda _: None), lightning_module=Copier())
    first.start(running)
    with pytest.raises(UserError, match=r"evaluate.keep: another test is writing to .*kept: wait, or choose"):
        second.start(running)
    second.discard()
    assert first.part.is_dir()  # not removed by the one that was refused
    (tmp_path / ".kept.replaced").mkdir()  # as between the two renames of `finish`
    restore(tmp_path / "kept")
    assert not (tmp_path / "kept").exists()  # it would stand where the first one's will be put
    first.discard()
    restore(tmp_path / "kept")
    (tmp_path / "kept").rmdir()  # the first one is gone: the earlier predictions are put back
    second.start(running)
    second.discard()
    assert not list(tmp_path.glob(".kept*"))


@pytest.mark.parametrize(
    ("options", "method", "data", "words"),
    [
        ({"task": "vtof"}, Copier, {}, "evaluate.task=vtof: unknown task; choose one of .*retrieval, vtoff"),
        ({}, Restless, {}, "Restless does not support this task; it supports: no task"),
        ({}, Copier, {"offers": ("garment", "parse")}, "Copier needs mask, which gallery does not offer here .it offers garment, parse"),
        ({}, Copier, {"offers": ("mask",)}, "vtoff is evaluated against the true garment, which gallery does not offer here"),
    ],
)
def test_what_cannot_end_well_is_refused_before_any_work(tmp_path, options, method, data, words):
    method = method()
    with pytest.raises(UserError, match=words) as error:
        judge(tmp_path, method, Gallery(**data), **options)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out.json").exists()


def test_a_metric_without_weights_says_so_before_sampling(tmp_path):
    class Weightless(Distance):
        def prepare(self):
            raise UserError("the weights of x are missing at /y: download them")

    class Unwilling(Copier):
        def take_off(self, batch):
            raise AssertionError("sampled before the metric was asked")

    with pytest.raises(UserError, match="weights of x"):
        judge(tmp_path, Unwilling(), metrics={"x": Weightless()})


def test_predictions_that_are_not_finite_are_counted_and_never_averaged_away(tmp_path):
    evaluate, _ = judge(tmp_path, Broken())
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["reason"] == "2 of 7 predictions are not finite; 3 of 3 metrics are not finite"
    assert record["metrics"]["distance"] == {"value": None, "higher_is_better": False, "ci95": None}
    assert math.isnan(evaluate.results["gap"]["value"])


def test_duplicate_samples_are_reported(tmp_path):
    data = Gallery()
    data.samples.append(data.samples[0])
    judge(tmp_path, data=data)
    assert json.loads((tmp_path / "out.json").read_text())["reason"] == "1 of 8 samples were evaluated more than once"


def test_samples_without_a_value_are_left_out_of_the_interval(tmp_path):
    data = Gallery()
    data.samples[2].garment_mask = torch.zeros_like(data.samples[2].mask)
    evaluate, _ = judge(tmp_path, data=data)
    low, high = evaluate.results["inside[tiny]"]["ci95"]
    assert low < evaluate.results["inside[tiny]"]["value"] < high
    rows = [json.loads(line) for line in (tmp_path / "out.per_sample.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows if row["inside[tiny]"] is None] == data.samples[2].ids


def test_an_image_of_another_size_is_refused(tmp_path):
    class Small(Copier):
        def take_off(self, batch):
            return super().take_off(batch)[..., 1:, :]

    with pytest.raises(TypeError, match=r"Small must return images \(3, 3, 12, 8\), it returned \(3, 3, 11, 8\)"):
        judge(tmp_path, Small())


def test_the_table_is_printed(tmp_path, capsys):
    judge(tmp_path)
    printed = capsys.readouterr().out
    assert "inside[tiny]" in printed and "7 samples" in printed and "lower" in printed


def test_samples_with_the_same_truth_are_one_cluster(tmp_path):
    """Datasets repeat garments: their people are not independent."""
    judge(tmp_path / "each")
    data = Gallery()
    for place in (1, 2):
        data.samples[place].garment = data.samples[0].garment.clone()
    judge(tmp_path / "shared", data=data)
    each, shared = (
        [json.loads(line) for line in (tmp_path / name / "out.per_sample.jsonl").read_text().splitlines()] for name in ("each", "shared")
    )
    assert len({row["cluster"] for row in each}) == N and len({row["cluster"] for row in shared}) == N - 2
    assert len({row["cluster"] for row in shared if row["id"] in [data.samples[place].ids[0] for place in range(3)]}) == 1
    record = json.loads((tmp_path / "shared" / "out.json").read_text())
    expected = interval([[row["distance"] for row in shared]] * np.ones((1, N)), [row["cluster"] for row in shared])
    assert record["clusters"] == "garment" and record["metrics"]["distance"]["ci95"] == pytest.approx(
        [expected.low, expected.high], abs=1e-6
    )


def test_images_that_cannot_be_shown_lose_no_numbers(tmp_path, monkeypatch):
    def broken(*args):
        raise KeyError("truth")

    monkeypatch.setattr("fashiongen.evaluation.report.Report.write_images", broken)
    with pytest.raises(KeyError):
        judge(tmp_path)
    assert json.loads((tmp_path / "out.json").read_text())["metrics"]["distance"]["value"] > 0


class Versatile(Copier):
    """Also ranks bottoms."""

    def embed_query(self, batch): ...

    def embed_candidate(self, batch): ...

    def score(self, query, candidate): ...


def test_data_for_another_task_are_refused_though_the_method_supports_it(tmp_path):
    with pytest.raises(UserError, match=r"evaluate\.task=retrieval, but the data are for vtoff: set data\.init_args\.task to retrieval"):
        judge(tmp_path, Versatile(), task="retrieval")
