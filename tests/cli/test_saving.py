"""A monitored checkpoint holds the weights that got its score, `last.ckpt` the last ones, also after a resumed run."""

from pathlib import Path
from string import Template

import lightning.pytorch as L
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch.nn.functional import mse_loss
from toy import Gallery, Painter

from fashiongen.batches import to_float
from fashiongen.cli import main
from fashiongen.cli.saving import check_saving
from fashiongen.errors import UserError
from fashiongen.records import Record

STEPS = {"max_epochs": -1, "max_steps": 8, "val_check_interval": 2, "check_val_every_n_epoch": None}
EPOCHS = {"max_epochs": 3}
IMAGES = 20  # an epoch of ten steps: Lightning defers a save to the validation only at its last one
BEST = {"dirpath": "logs", "save_last": True, "enable_version_counter": False, "filename": "best", "save_top_k": 1, "monitor": "val/loss"}
EMA = {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.5, "use_buffers": False}}


def fit(
    recipe: str, *, trainer: dict, arguments: list = (), checkpoint: dict | None = None, callbacks: list = (), images: int = IMAGES
) -> None:
    settings = yaml.safe_load(Path(recipe).read_text())
    arguments_of = {**BEST, **(checkpoint or {})}
    saving = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": arguments_of}
    settings["trainer"] |= {"num_sanity_val_steps": 0, "callbacks": [*callbacks, saving], **trainer}
    settings["evaluate"] = {"checkpoint": "best" if arguments_of["monitor"] else "last", "out": "fit.json"}
    settings["data"]["init_args"] = {"count": images}
    Path(recipe).write_text(yaml.safe_dump(settings))
    main(["fit", "--config", recipe, *arguments])


def read(name: str) -> dict:
    return torch.load(f"logs/{name}.ckpt", weights_only=True)


def score(checkpoint: dict) -> float:
    """Return the best score as the checkpoint's ModelCheckpoint knows it."""
    (state,) = [state for name, state in checkpoint["callbacks"].items() if name.startswith("ModelCheckpoint")]
    return float(state["best_model_score"])


def loss_of(checkpoint: dict) -> float:
    """Return the validation loss of the weights in a checkpoint."""
    L.seed_everything(0, verbose=False)
    painter = Painter()
    painter.load_state_dict(checkpoint["state_dict"])
    with torch.no_grad():
        losses = [mse_loss(painter.take_off(batch), to_float(batch.garment)) for batch in Gallery(IMAGES).val_dataloader()]
    return float(torch.stack(losses).mean())


@pytest.mark.parametrize("callbacks", [[], [EMA]], ids=["raw weights", "average"])
@pytest.mark.parametrize("trainer", [STEPS, EPOCHS], ids=["steps", "epochs"])
def test_the_best_checkpoint_holds_the_weights_that_got_its_score(recipe, trainer, callbacks):
    fit(recipe, trainer=trainer, callbacks=callbacks)
    best = read("best")
    assert loss_of(best) == pytest.approx(score(best), rel=1e-6)
    record = Record.read("fit.json")
    assert float(record.checkpoints["best"]["score"]) == score(best) and record.checkpoint == record.checkpoints["best"]
    assert record.checkpoints["last"]["path"] == str(Path("logs/last.ckpt").absolute())


def test_the_last_checkpoint_is_the_last_although_the_first_was_the_best(recipe):
    fit(recipe, trainer=STEPS, checkpoint={"mode": "max"})
    assert (read("best")["global_step"], read("last")["global_step"]) == (2, 8)
    assert loss_of(read("best")) == pytest.approx(score(read("last")), rel=1e-6)


@pytest.mark.parametrize(
    "checkpoint",
    [
        {"monitor": None, "save_top_k": 0, "every_n_train_steps": 3},
        {"monitor": None, "save_top_k": 0},
        {},
    ],
    ids=["another rhythm", "no other checkpoint", "monitored"],
)
def test_the_last_checkpoint_is_that_of_the_end_of_training(recipe, checkpoint):
    fit(recipe, trainer={**STEPS, "max_steps": 7}, checkpoint=checkpoint, callbacks=[EMA])
    last = read("last")
    assert last["global_step"] == 7
    assert not torch.equal(last["current_model_state"]["hand.bias"], last["state_dict"]["hand.bias"])  # the raw weights are not lost


@pytest.mark.parametrize(
    ("trainer", "stop", "mode"), [(STEPS, {"max_steps": 4}, "max"), (EPOCHS, {"max_epochs": 1}, "min")], ids=["steps", "epochs"]
)
def test_a_resumed_run_keeps_the_same_best(recipe, tmp_path, monkeypatch, trainer, stop, mode):
    # The toy's loader cannot resume within an epoch: its four steps end where the first run stops.
    plain = Path(recipe).read_text()
    fit(recipe, trainer=trainer, checkpoint={"mode": mode}, images=8)
    whole = {name: read(name) for name in ("best", "last")}
    (tmp_path / "again").mkdir()
    monkeypatch.chdir(tmp_path / "again")
    Path(recipe).write_text(plain)
    fit(recipe, trainer={**trainer, **stop}, checkpoint={"mode": mode}, images=8)
    fit(recipe, trainer=trainer, checkpoint={"mode": mode}, images=8, arguments=["--ckpt_path", "last"])
    for name, before in whole.items():
        after = read(name)
        assert after["global_step"] == before["global_step"] and score(after) == score(before)
        assert all(torch.equal(after["state_dict"][key], value) for key, value in before["state_dict"].items())


def test_an_epoch_without_an_end_of_training_leaves_a_last_checkpoint_to_resume_from(recipe):
    """With `save_top_k: 0` Lightning alone saves only at the end."""
    with pytest.raises(SystemExit):
        fit(
            recipe,
            trainer=EPOCHS,
            checkpoint={"monitor": None, "save_top_k": 0},
            callbacks=[{"class_path": f"{__name__}.StopsInTheSecondEpoch"}],
        )
    assert read("last")["global_step"] == IMAGES // 2


class StopsInTheSecondEpoch(L.Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == IMAGES // 2 + 2:
            raise KeyboardInterrupt


def stale(**changes) -> ModelCheckpoint:
    return ModelCheckpoint(**{**BEST, **changes})


@pytest.mark.parametrize(
    ("callback", "options", "message"),
    [
        (
            stale(every_n_train_steps=2),
            {},
            r"ModelCheckpoint with monitor: val/loss: every_n_train_steps saves before the validation.*leave",
        ),
        (stale(save_on_train_epoch_end=True), {"val_check_interval": 2}, "save_on_train_epoch_end saves before the validation"),
        (stale(save_on_train_epoch_end=True), {"check_val_every_n_epoch": 2}, "save_on_train_epoch_end saves before the validation"),
        (stale(save_on_exception=True), {}, "save_on_exception .* set it on a ModelCheckpoint without monitor"),
        (stale(save_last="link"), {}, "save_last: link makes last.ckpt the best checkpoint"),
        (stale(save_top_k=3), {}, "save_top_k: 3 files would share the filename best: set save_top_k: 1"),
        (
            EarlyStopping("val/loss", check_on_train_epoch_end=True),
            {"check_val_every_n_epoch": 2},
            "EarlyStopping .*check_on_train_epoch_end",
        ),
        (stale(), {}, None),
        (stale(save_on_train_epoch_end=True), {}, None),
        (stale(monitor="train/loss", every_n_train_steps=2), {}, None),
        (stale(monitor=None, save_top_k=0, every_n_train_steps=2), {}, None),
        (stale(save_top_k=3, filename="{step}"), {}, None),
        (EarlyStopping("val/loss", check_on_train_epoch_end=True), {}, None),
        (EarlyStopping("val/loss"), {"check_val_every_n_epoch": 2}, None),
    ],
)
def test_what_saves_or_stops_by_the_score_of_other_weights_is_refused(tmp_path, callback, options, message):
    trainer = trainer_with([callback], **options)
    if message is None:
        check_saving(trainer, "last")
        return
    with pytest.raises(UserError, match=message) as error:
        check_saving(trainer, "last")
    assert "\n" not in str(error.value)


def trainer_with(callbacks: list, **options) -> L.Trainer:
    saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    return L.Trainer(callbacks=callbacks, accelerator="cpu", logger=False, enable_checkpointing=saves, **options)


def test_a_best_checkpoint_needs_a_monitor():
    with pytest.raises(UserError, match=r"evaluate\.checkpoint: best, but no ModelCheckpoint in trainer\.callbacks has a monitor"):
        check_saving(trainer_with([stale(monitor=None)]), "best")
    check_saving(trainer_with([stale()]), "best")


def test_a_user_s_own_recipe_is_refused_before_it_trains(recipe, capsys):
    with pytest.raises(SystemExit) as stop:
        fit(recipe, trainer=STEPS, checkpoint={"every_n_train_steps": 2})
    assert stop.value.code == 2 and not Path("logs").exists()
    assert capsys.readouterr().err.startswith("fashiongen: trainer.callbacks: ModelCheckpoint with monitor: val/loss: every_n_train_steps ")


@pytest.mark.parametrize("name", ["full", "tiny"])
def test_the_recipes_of_a_new_method_save_after_validation(name):
    import fashiongen.cli.new_method as module

    text = (module.TEMPLATES / f"{name}.yaml.template").read_text()
    settings = yaml.safe_load(Template(text).substitute(name="mine", class_name="Mine", class_path="mine.Mine"))["trainer"]
    callbacks = [ModelCheckpoint(**callback["init_args"]) for callback in settings["callbacks"]]
    check_saving(trainer_with(callbacks, **{key: settings[key] for key in STEPS if key in settings}), "last")
