"""A training that diverged is told at its end and in its test, in one line on standard error and in the records."""

import json
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as L
import pytest
import torch
from pair_batches import PairData, pairs
from toy import Painter

from fashiongen.cli import main
from fashiongen.evaluation import TellDivergence
from fashiongen.methods.mgcm import MGCM
from fashiongen.records import Record

METRICS = ["--evaluate.metrics", json.dumps({"ssim": {"class_path": "fashiongen.metrics.SSIM"}})]


def lines(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("fashiongen: ")]


def test_a_loss_that_became_nan_is_told_by_fit_and_test(recipe, capsys):
    main(["fit", "--config", recipe, "--model.init_args.optimizer.init_args.lr", "1e37", "--evaluate.out", "fit.json"])
    (told,) = lines(capsys)
    assert told.startswith("fashiongen: the training diverged: the loss is not finite in 2 of 4 batches, first in step 3 and ")
    assert "2 of 2 weight tensors are not finite, first hand.weight; lower the learning rate" in told
    fit = Record.read(Path("fit.json"))
    assert (fit.status, fit.reason) == ("ok", "2 of 2 weight tensors are not finite, first hand.weight")

    main(["test", "--config", recipe, "--ckpt_path", "logs/toy/last.ckpt", "--evaluate.out", "test.json", *METRICS])
    (told,) = lines(capsys)
    expected = "1 of 1 metrics are not finite: 2 of 2 weight tensors are not finite, first hand.weight, so the training has diverged"
    assert told == f"fashiongen: {expected}"
    test = Record.read(Path("test.json"))
    assert test.metrics["ssim"]["value"] is None and expected in test.reason


def test_a_training_that_goes_well_is_not_spoken_of(recipe, capsys):
    main(["fit", "--config", recipe, "--evaluate.out", "fit.json"])
    main(["test", "--config", recipe, "--ckpt_path", "logs/toy/last.ckpt", "--evaluate.out", "test.json", *METRICS])
    assert lines(capsys) == [] and [Record.read(Path(name)).reason for name in ("fit.json", "test.json")] == [None, None]


class Spiky(Painter):
    """Has one loss that is not finite, which reaches no weight."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss * 0 + torch.inf if batch_idx == 1 else loss


def test_a_single_step_is_told_too(recipe, capsys, monkeypatch):
    import toy

    monkeypatch.setattr(toy, "Painter", Spiky)
    monkeypatch.setattr(Spiky, "__module__", "toy")
    main(["fit", "--config", recipe, "--trainer.gradient_clip_val", "1"])
    (told,) = lines(capsys)
    assert "the loss is not finite in 1 of 4 batches, first in step 2" in told


@pytest.mark.parametrize(("saved", "step"), [(2, 7), (0, 3)])
def test_the_step_counts_from_the_beginning_of_the_training(saved, step):
    """Also in a resumed one; with two batches to a step."""
    tell = TellDivergence()
    trainer = SimpleNamespace(global_step=2 * saved, callback_metrics={})
    tell.on_train_start(trainer, None)
    for batch in range(6):
        tell.on_train_batch_start(trainer, None, None, batch)
        trainer.global_step += batch % 2
        tell.on_train_batch_end(trainer, None, torch.tensor(torch.nan if batch > 3 else 0.0), None, batch)
    assert tell._losses(trainer) == f"the loss is not finite in 2 of 6 batches, first in step {step}"


def test_a_method_with_several_losses_is_judged_by_its_logs(tmp_path, capsys):
    method = MGCM(width=4, dimensions=8, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e30))
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, max_steps=3,
        limit_val_batches=0, callbacks=[TellDivergence()],
    )  # fmt: skip
    trainer.fit(method, PairData(pairs([f"b{index}" for index in range(12)])))
    (told,) = lines(capsys)
    assert "train/" in told and "is not finite in the last step" in told and "weight tensors are not finite" in told
