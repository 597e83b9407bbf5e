"""What every method must keep: it never sees its target. Methods are found by their recipes, not by a list."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml

from fashiongen import tasks
from fashiongen.batches import Batch, TryOffBatch

TINY = sorted((Path(__file__).parents[2] / "recipes" / "tiny").glob("*.yaml"))
RECIPES = [recipe for recipe in TINY if yaml.safe_load(recipe.read_text())["evaluate"]["task"] == "vtoff"]


def build(recipe: Path, world):
    """Build the recipe's method as it stands after `fit`, on a few samples."""
    model = yaml.safe_load(recipe.read_text())["model"]
    module, _, name = model["class_path"].rpartition(".")
    settings = {key: value for key, value in model.get("init_args", {}).items() if key not in ("optimizer", "lr_scheduler")}
    torch.manual_seed(0)
    method = getattr(import_module(module), name)(**settings).eval()
    if "training_step" in vars(type(method)) and not any(
        parameter.requires_grad for parameter in method.parameters()
    ):  # it gathers what it returns
        for batch in world.train_dataloader():
            method.training_step(batch, 0)
        method.on_train_epoch_end()
    return method


def with_nan_targets(batch: Batch) -> Batch:
    filled = {name: torch.full_like(getattr(batch, name), torch.nan, dtype=torch.float32) for name in batch.TARGETS}
    return replace(batch, **filled)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_the_target_is_hidden(recipe, world, people):
    """Filling every target with NaN changes nothing of what the method returns."""
    method = build(recipe, world)
    assert "vtoff" in tasks.supported(method)
    assert isinstance(people, TryOffBatch) and people.garment is not None
    with torch.no_grad():
        expected = tasks.run(method, people)
        found = tasks.run(method, with_nan_targets(people))
    assert expected.shape == people.person.shape
    assert torch.isfinite(expected).all()
    assert expected.min() >= -1 and expected.max() <= 1
    assert torch.equal(found, expected)
