"""When tests share predictions (`evaluate.reuse`), when they do not, and how they wait for each other."""

import fcntl
import threading
from pathlib import Path

import pytest
import yaml

from fashiongen.cli import main
from fashiongen.cli.reuse import SharedPredictions
from fashiongen.methods.baselines import MaskedCrop
from fashiongen.records import Record

METRICS = {"p": {"ssim": {"class_path": "fashiongen.metrics.SSIM"}}, "q": {"colour": {"class_path": "fashiongen.metrics.ColourError"}}}


@pytest.fixture
def test(world):
    """A function that tests a recipe by a protocol, sharing predictions, and returns the record."""

    def run(recipe, name, *args):
        main(["test", "--config", recipe, "--config", f"{name}.yaml", "--evaluate.reuse", "shared", "--evaluate.out", "out.json", *args])
        return Record.read("out.json")

    for name, metrics in METRICS.items():
        settings = {"task": "vtoff", "protocol": name, "size": [64, 48], "resize": None, "reference": None, "metrics": metrics}
        Path(f"{name}.yaml").write_text(yaml.safe_dump({"evaluate": settings}))
    return run


@pytest.mark.parametrize("limit", [["--trainer.limit_test_batches", "1"], ["--trainer.fast_dev_run", "true"]])
def test_a_part_of_a_test_is_not_shared(test, limit):
    """Its predictions are too few for any other test."""
    records = [test("crop.yaml", name, *limit, "--data.init_args.eval_batch_size", "1") for name in "pq"]
    assert [(record.n_samples, record.source) for record in records] == [(1, {})] * 2 and not Path("shared").exists()


def test_a_checkpoint_that_lightning_looks_for_is_not_shared(test):
    main(["fit", "--config", "mean.yaml"])
    records = [test("mean.yaml", name, "--ckpt_path", "last") for name in "pq"]
    assert [Path(record.checkpoint["path"]).name for record in records] == ["last.ckpt"] * 2 and not Path("shared").exists()


def test_a_test_that_fails_frees_the_predictions(test, monkeypatch):
    """Also while its error is held, as in a notebook."""
    monkeypatch.setattr(MaskedCrop, "take_off", lambda self, batch: 1 / 0)
    with pytest.raises(ZeroDivisionError) as held:
        test("crop.yaml", "p")
    (lock,) = Path("shared").glob("*.lock")
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert held.value


def test_waiting_for_another_test_is_told(tmp_path, capsys):
    SharedPredictions(tmp_path, "key").release()
    assert capsys.readouterr().out == ""
    first = SharedPredictions(tmp_path, "key")
    threading.Timer(0.2, first.release).start()
    SharedPredictions(tmp_path, "key").release()
    assert capsys.readouterr().out == f"evaluate.reuse: waiting for another test that makes these predictions ({tmp_path / 'key.lock'})\n"
