"""Every recipe and overlay parses, and every tiny recipe runs, by the true command line."""

from pathlib import Path

import pytest
import yaml

from fashiongen.cli import main

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


@pytest.mark.parametrize("overlay", OVERLAYS + TASKS, ids=name)
@pytest.mark.parametrize("base", [RECIPES / "igr.yaml", RECIPES / "tiny" / "igr.yaml"], ids=name)
def test_overlay_parses_and_changes_something(base, overlay, capsys):
    command = "test" if overlay in TASKS else "fit"
    assert parsed(capsys, base, overlay, command=command) != parsed(capsys, base, command=command)


@pytest.mark.parametrize("recipe", TINY, ids=name)
def test_tiny_recipe_runs(recipe, tmp_path, monkeypatch, capsys):
    """A few steps of training and one batch of the test, in a folder of its own."""
    settings = parsed(capsys, recipe)
    monkeypatch.chdir(tmp_path)
    common = ["--config", str(recipe), "--config", str(SMOKE), "--trainer.accelerator", "cpu", "--trainer.devices", "1"]
    trained = []
    if learns(settings["model"]["class_path"]):
        assert main(["fit", *common]) is None
        trained = ["--ckpt_path", f"logs/{recipe.stem}/last.ckpt"]
    assert main(["test", *common, *trained, "--evaluate.out", "test.json"]) is None
    record = yaml.safe_load(Path("test.json").read_text(encoding="utf-8"))  # JSON is YAML
    assert record["status"] == "ok"
    assert record["n_samples"] > 0
    assert record["metrics"]
    assert [key for key, metric in record["metrics"].items() if not isinstance(metric["value"], int | float)] == []


def learns(class_path: str) -> bool:
    """Tell whether a method has a training step; the baselines without learning have none."""
    from lightning.pytorch.utilities.model_helpers import is_overridden

    from fashiongen.methods.base import Method

    module, _, method = class_path.rpartition(".")
    return is_overridden("training_step", getattr(__import__(module, fromlist=[method]), method), Method)
