"""Every recipe and overlay parses, and every tiny recipe runs, by the true command line."""

import contextlib
import importlib
import json
from pathlib import Path

import pytest
import yaml
from lightning.pytorch.utilities.model_helpers import is_overridden

from fashiongen.cli import main
from fashiongen.methods.base import Method

RECIPES = Path(__file__).parents[1] / "recipes"
FULL = sorted(RECIPES.glob("*.yaml"))
TINY = sorted((RECIPES / "tiny").glob("*.yaml"))
OVERLAYS = sorted((RECIPES / "overlays").glob("*.yaml"))
TASKS = sorted((RECIPES / "tasks").glob("*.yaml"))
SMOKE = RECIPES / "overlays" / "smoke.yaml"


def name(path: Path) -> str:
    return str(path.relative_to(RECIPES).with_suffix(""))


def parsed(capsys, *configs: Path, command: str = "fit") -> dict:
    """Return the settings of some files on top of each other; nothing is built, so nothing can be downloaded."""
    with pytest.raises(SystemExit) as stop:
        main([command, *(arg for config in configs for arg in ("--config", str(config))), "--print_config"])
    output = capsys.readouterr()
    assert stop.value.code == 0, output.err
    return yaml.safe_load(output.out)


def test_there_are_recipes():
    """Else the tests below would pass for want of anything to test."""
    assert len(FULL) >= 1 and len(TINY) >= 1 and len(TASKS) >= 1
    assert {path.name for path in OVERLAYS} >= {"zero2.yaml", "zero2-offload.yaml", "ddp.yaml", "bf16.yaml", "smoke.yaml"}
    assert {path.parent for path in RECIPES.rglob("*.yaml")} == {RECIPES, RECIPES / "tiny", RECIPES / "overlays", RECIPES / "tasks"}


@pytest.mark.parametrize("recipe", FULL + TINY, ids=name)
def test_recipe_parses(recipe, capsys):
    settings = parsed(capsys, recipe)
    assert settings["model"]["class_path"].startswith("fashiongen.methods.")
    assert settings["data"]["class_path"].startswith("fashiongen.data.")


def recipe_of(overlay: Path) -> str:
    """Return the recipe that an overlay is for.

    That of one method is for the longest whose name its own begins with, that of one data set for a task that it serves; any serves for
    the others.
    """
    any_other = "geco" if "fashiongen.data." in overlay.read_text(encoding="utf-8") else "igr"
    return max((recipe.stem for recipe in FULL if overlay.stem.startswith(f"{recipe.stem}-")), key=len, default=any_other)


@pytest.mark.parametrize("overlay", OVERLAYS + TASKS, ids=name)
@pytest.mark.parametrize("folder", [RECIPES, RECIPES / "tiny"], ids=lambda folder: folder.name)
def test_overlay_parses_and_wins(folder, overlay, capsys):
    base = folder / f"{recipe_of(overlay)}.yaml"
    settings = parsed(capsys, base, overlay, command="test" if overlay in TASKS else "fit")
    wanted = leaves(yaml.safe_load(overlay.read_text(encoding="utf-8")))
    assert wanted
    found = leaves(settings)
    assert {key: value for key, value in wanted.items() if key not in found or found[key] != value} == {}


@pytest.mark.parametrize("given", ["--evaluate.protocol=geco-all", f"--config={RECIPES / 'tasks' / 'geco-all.yaml'}"], ids=["key", "file"])
def test_of_two_protocols_the_metrics_are_not_mixed(given, capsys):
    with pytest.raises(SystemExit):
        main(["test", "--config", str(RECIPES / "tiny" / "random.yaml"), given, "--print_config"])
    evaluate = yaml.safe_load(capsys.readouterr().out)["evaluate"]
    assert evaluate["protocol"] == "geco-all"
    assert set(evaluate["metrics"]) == {"auc", "mrr"}
    assert evaluate["metrics"]["auc"]["init_args"] == {"candidates": "negatives:1", "leave_out_others": False}


def leaves(settings: object, key: str = "") -> dict[str, object]:
    """Flatten settings; of a class path only the name counts, since a class may be imported from two places."""
    if isinstance(settings, dict) and settings:
        return {name: value for entry, inner in settings.items() for name, value in leaves(inner, f"{key}.{entry}").items()}
    return {key: str(settings).rpartition(".")[2] if key.endswith(".class_path") else settings}


@pytest.fixture(scope="module")
def smoke_run(tmp_path_factory):
    """Train a tiny recipe for a few steps on a few samples, its parents first, test it and return the record."""
    checkpoints = {}

    def options(recipe: Path, folder: Path) -> list[str]:
        # At the epoch's end alone. All is said, since an entry of a list inherits from the recipe's entry of the same class and place.
        when = {"every_n_train_steps": None, "every_n_epochs": 1, "save_on_train_epoch_end": True, "save_last": True, "save_top_k": 0}
        checkpoint = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"dirpath": str(folder), **when}}
        settings = yaml.safe_load(recipe.read_text(encoding="utf-8"))
        others = [
            callback for callback in settings["trainer"].get("callbacks", []) if not callback["class_path"].endswith("ModelCheckpoint")
        ]
        people = 240 if settings["evaluate"]["task"] == "retrieval" else 120  # pairs need nine negatives in each split
        few = {key: value for key, value in {"people": people, "validation": 8}.items() if key in settings["data"]["init_args"]}
        extra = {"trainer": {"callbacks": [*others, checkpoint], "accelerator": "cpu", "devices": 1}, "data": {"init_args": few}}
        (folder / "smoke.yaml").write_text(yaml.safe_dump(extra), encoding="utf-8")
        return [arg for path in (recipe, SMOKE, folder / "smoke.yaml") for arg in ("--config", str(path))]

    def fit(recipe: Path) -> Path:
        if recipe not in checkpoints:
            folder = tmp_path_factory.mktemp(recipe.stem)
            parents = yaml.safe_load(recipe.read_text(encoding="utf-8")).get("parents", {})
            given = [f"--parents.{role}={fit(recipe.with_name(f'{parent}.yaml'))}" for role, parent in parents.items()]
            with contextlib.chdir(folder):
                assert main(["fit", *options(recipe, folder), *given]) is None
            checkpoints[recipe] = folder / "last.ckpt"
        return checkpoints[recipe]

    def test(recipe: Path) -> dict:
        folder = tmp_path_factory.mktemp(recipe.stem)
        trained = ["--ckpt_path", str(fit(recipe))] if learns(recipe) else []
        with contextlib.chdir(folder):
            assert main(["test", *options(recipe, folder), *trained, "--evaluate.out", "test.json"]) is None
        return json.loads((folder / "test.json").read_text(encoding="utf-8"))

    return test


@pytest.mark.parametrize("recipe", TINY, ids=name)
def test_tiny_recipe_runs(recipe, smoke_run):
    record = smoke_run(recipe)
    assert record["status"] == "ok"
    assert record["n_samples"] > 0
    assert record["checkpoint"] is not None or not learns(recipe)
    assert [
        metric for metric in record["metrics"].values() if isinstance(metric["value"], float)
    ]  # some need more samples than a smoke run has


def learns(recipe: Path) -> bool:
    """Tell whether a recipe's method has a training step; the baselines without learning have none."""
    class_path = yaml.safe_load(recipe.read_text(encoding="utf-8"))["model"]["class_path"]
    module, _, method = class_path.rpartition(".")
    return is_overridden("training_step", getattr(importlib.import_module(module), method), Method)


def test_a_recipe_brings_its_own_protocol_and_another_one_wins(tmp_path, capsys):
    """The recipe names the protocol; its file comes first, so that what the user adds still wins."""
    from fashiongen.training import with_protocol

    recipe = str(RECIPES / "tiny" / "igr.yaml")
    assert with_protocol(["fit", "--config", recipe]) == ["fit", "--config", recipe]
    args = with_protocol(["test", "--config", recipe, "--evaluate.out", "x.json"])
    assert args == ["test", "--config", str(RECIPES / "tasks" / "vtoff-tiny.yaml"), "--config", recipe, "--evaluate.out", "x.json"]
    street = str(RECIPES / "tasks" / "vtoff-igr-street.yaml")
    assert with_protocol(["test", "--config", recipe, "--config", street])[:3] == ["test", "--config", street]
    named = with_protocol(["test", "--config", recipe, "--evaluate.protocol", "vtoff-igr"])
    assert named[:3] == with_protocol(["test", "--config", recipe, "--evaluate.protocol=vtoff-igr"])[:3]
    assert named[:3] == ["test", "--config", str(RECIPES / "tasks" / "vtoff-igr.yaml")]
    lost = tmp_path / "lost.yaml"
    lost.write_text("evaluate: {protocol: absent}")
    with pytest.raises(SystemExit) as stop:
        main(["test", "--config", str(lost)])
    assert stop.value.code == 2
    assert "evaluate.protocol: absent" in capsys.readouterr().err
