"""A user's mistake gives one line that names the problem, the place and the fix, without a traceback, and exit status 2."""

import os
import pickle
import re
import signal
from pathlib import Path

import pytest
import torch
import yaml

from fashiongen.cli import main

ROOT = Path(__file__).parents[2]


def complaint(capsys, *args) -> str:
    """Run a command that must fail with a user error, and return its last line on standard error."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(arg) for arg in args])
    assert stop.value.code == 2
    text = capsys.readouterr().err
    assert "Traceback" not in text
    assert text.count("fashiongen: ") == 1 and text.count("\n") == 1
    return text.removeprefix("fashiongen: ").removesuffix("\n")


def overlay(**settings) -> str:
    Path("overlay.yaml").write_text(yaml.safe_dump(settings))
    return "overlay.yaml"


CHECKPOINT = "lightning.pytorch.callbacks.ModelCheckpoint"
MISSPELT = {
    "model": ({"model": {"init_args": {"widht": 3}}}, ["'widht'", "toy.Painter", "--model.help"]),
    "optimizer": ({"model": {"init_args": {"optimizer": {"init_args": {"lrr": 3}}}}}, ["'lrr'", "model.optimizer"]),
    "data": ({"data": {"init_args": {"cuont": 3}}}, ["'cuont'", "toy.Gallery", "--data.help"]),
    "trainer": ({"trainer": {"max_epoch": 3}}, ["'trainer.max_epoch'", "--help"]),
    "callback": ({"trainer": {"callbacks": [{"class_path": CHECKPOINT, "init_args": {"montior": "x"}}]}}, ["'montior'", CHECKPOINT]),
    "evaluate": ({"evaluate": {"tusk": "vtoff"}}, ["'evaluate.tusk'"]),
    "top level": ({"trianer": {"max_steps": 3}}, ["'trianer.max_steps'"]),
    "class": ({"model": {"class_path": "toy.Paintre"}}, ["toy", "'Paintre'", 'key "model"']),
    "module": ({"data": {"class_path": "toys.Gallery"}}, ["'toys'", 'key "data"']),
    "type": ({"model": {"init_args": {"width": "wide"}}}, ['key "width"', "int", "wide"]),
    "trainer type": ({"trainer": {"max_epochs": "many"}}, ['key "trainer.max_epochs"', "int", "many"]),
}


@pytest.mark.parametrize("mistake", MISSPELT)
def test_a_misspelt_recipe_fails_with_its_name_and_file(mistake, recipe, capsys):
    settings, names = MISSPELT[mistake]
    line = complaint(capsys, "fit", "--config", recipe, "--config", overlay(**settings))
    assert [name for name in names if name not in line] == [], line
    assert re.search(r"\boverlay\.yaml: ", line), line
    assert "NoneType" not in line


@pytest.mark.parametrize(
    "option",
    [
        "--model.init_args.widht=3",
        "--model.widht=3",
        "--data.init_args.cuont=3",
        "--trainer.max_epoch=3",
        "--trianer=3",
        "--evaluate.tusk=vtoff",
    ],
)
def test_a_misspelt_option_fails_with_its_name(option, recipe, capsys):
    line = complaint(capsys, "fit", "--config", recipe, option)
    assert option.partition("=")[0].split(".")[-1].removeprefix("--") in line
    assert "help" in line


def test_recipes_that_are_missing_or_broken(recipe, capsys):
    assert complaint(capsys, "fit", "--config", "recipes/igrr.yaml").endswith("recipes/igrr.yaml: no such file")
    assert complaint(capsys, "fit") == "fit needs a recipe: `fashiongen fit --config NAME`; `fashiongen recipes` lists them"
    Path("broken.yaml").write_text("model: [a\nb: c: d\n")
    assert complaint(capsys, "fit", "--config", recipe, "--config", "broken.yaml").startswith("broken.yaml is not valid YAML: ")
    assert "comes after the command" in complaint(capsys, "--config", recipe, "fit")


def test_unknown_commands_and_options(capsys):
    assert "invalid choice: 'fut'" in complaint(capsys, "fut")
    assert "COMMAND" in complaint(capsys)
    assert "'3' is not HEIGHTxWIDTH" in complaint(capsys, "wardrobe", "render", "viton_hd", "x", "--size", "3")
    assert "--out" in complaint(capsys, "tiny", "build")
    assert "viton_hd" in complaint(capsys, "wardrobe", "render", "viton_h", "x")


def test_parents_are_asked_for(recipe, capsys):
    child = overlay(parents={"coarse": "igr"})
    assert complaint(capsys, "fit", "--config", recipe, "--config", child) == (
        "toy.yaml needs the checkpoint of its parent igr: add --parents.coarse PATH (train it with `fashiongen fit --config igr.yaml`)"
    )
    assert "(train it with `fashiongen fit --config tiny/geco-cigm`)" in complaint(capsys, "fit", "--config", "tiny/geco")
    line = complaint(capsys, "fit", "--config", recipe, "--config", child, "--parents.coarse", "logs/igr/lost.ckpt")
    assert line == "--parents.coarse logs/igr/lost.ckpt: no such checkpoint file"


def test_checkpoints_that_are_missing_damaged_or_sharded(recipe, capsys):
    assert "lost.ckpt: no such file" in complaint(capsys, "test", "--config", recipe, "--ckpt_path", "lost.ckpt")
    assert "not a checkpoint" in complaint(capsys, "test", "--config", recipe, "--ckpt_path", recipe)
    Path("sharded").mkdir()
    assert "add --trust" in complaint(capsys, "fit", "--config", recipe, "--ckpt_path", "sharded")


class Bomb:
    """An attacker's payload in a pickle."""

    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


def test_a_checkpoint_cannot_run_code(recipe, capsys):
    torch.save({"state_dict": {}, "bomb": Bomb()}, "bomb.ckpt")
    for command in (["fit"], ["validate"], ["test"], ["predict", "--out", "images"]):
        line = complaint(capsys, *command, "--config", recipe, "--ckpt_path", "bomb.ckpt")
        assert "pickled objects that could run code" in line
    assert not Path("exploded").exists()
    pickle.loads(pickle.dumps(Bomb()))
    assert Path("exploded").exists()  # the bomb was live


def test_consolidating_asks_for_trust(tmp_path, capsys):
    folder = tmp_path / "zero2.ckpt"
    assert "not a DeepSpeed checkpoint" in complaint(capsys, "consolidate", folder, tmp_path / "out.ckpt", "--trust")
    folder.mkdir()
    (folder / "latest").write_text("checkpoint")
    line = complaint(capsys, "consolidate", folder, tmp_path / "out.ckpt")
    assert "pickles" in line and "run code" in line and "--trust" in line
    (tmp_path / "out.ckpt").write_text("precious")
    assert "exists" in complaint(capsys, "consolidate", folder, tmp_path / "out.ckpt", "--trust")
    assert (tmp_path / "out.ckpt").read_text() == "precious"


def test_predict_wants_a_folder(recipe, capsys):
    assert complaint(capsys, "predict", "--config", recipe) == "predict needs a folder for the images: add --out DIR"


def test_mistakes_found_in_training_and_in_workers(recipe, capsys):
    assert complaint(capsys, "fit", "--config", recipe, "--model.init_args.refuse", "user") == "the paint is dry: buy paint"
    for workers in (0, 1):
        line = complaint(capsys, "fit", "--config", recipe, "--data.init_args.broken", "3", "--data.init_args.num_workers", workers)
        assert line == "image 3 cannot be read: replace it"


def test_devices_that_are_not_there(recipe, capsys):
    overlays = ROOT / "recipes" / "overlays"
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert "no GPU" in complaint(capsys, "fit", "--config", recipe, "--trainer.accelerator", "gpu")
    assert "DeepSpeed" in complaint(capsys, "fit", "--config", recipe, "--config", overlays / "zero2.yaml")


def test_files_that_cannot_be_written(recipe, capsys):
    Path("taken").write_text("")
    line = complaint(capsys, "fit", "--config", recipe, "--trainer.logger.init_args.save_dir", "taken/logs")
    assert line.startswith(f"{Path('taken/logs').absolute()}") or line.startswith("taken/logs"), line


def test_debug_shows_the_traceback(recipe, capsys):
    for args in (["--debug", "fit", "--config", "lost.yaml"], ["fit", "--config", recipe, "--model.init_args.refuse", "user", "--debug"]):
        with pytest.raises(SystemExit) as stop:
            main(args)
        assert stop.value.code == 2
        text = capsys.readouterr().err
        assert "Traceback (most recent call last)" in text
        assert text.splitlines()[-1].startswith("fashiongen: ")


def test_a_mistake_of_ours_keeps_its_traceback(recipe, monkeypatch):
    import toy

    monkeypatch.setattr(toy.Painter, "training_step", lambda self, batch, batch_idx: {}["absent"])
    with pytest.raises(KeyError, match="absent"):
        main(["fit", "--config", recipe])


def test_interruption(recipe, capsys):
    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as stop:
            main(["fit", "--config", recipe, "--model.init_args.refuse", "interrupt"])
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning ignores a second Ctrl-C
    assert stop.value.code == 130
    assert capsys.readouterr().err == "fashiongen: interrupted\n"


@pytest.fixture
def process_group():
    """Clean up after a failed distributed run."""
    before = dict(os.environ)
    yield
    torch.distributed.destroy_process_group()
    for name in set(os.environ) - set(before):
        del os.environ[name]


def test_two_optimizers_cannot_use_zero2(recipe, capsys, process_group):
    """With the CPU strategy, since the real one refuses a machine without a GPU before it checks the optimizers."""
    strategy = {"class_path": "cpu_deepspeed.CPUDeepSpeedStrategy", "init_args": {"stage": 2, "process_group_backend": "gloo"}}
    settings = {"model": {"class_path": "toy.TwoPainters"}, "trainer": {"strategy": strategy, "devices": 1}}
    line = complaint(capsys, "fit", "--config", recipe, "--config", overlay(**settings))
    assert "one optimizer" in line and "zero2" in line
