"""What every method must keep: it never sees its target. Methods are found by their recipes, not by a list."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml

from fashiongen import tasks
from fashiongen.batches import Batch, TryOffBatch
from fashiongen.data import FashionVC

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


RANKING = [recipe for recipe in TINY if yaml.safe_load(recipe.read_text())["evaluate"]["task"] == "retrieval"]


@pytest.fixture(scope="module")
def couples(tmp_path_factory):
    """A few tops with their bottoms, and the catalogue that they come from."""
    data = FashionVC(root="wardrobe", people=240, size=(64, 64), batch_size=8, num_workers=0, in_memory=True)
    data.prepare_data()
    data.setup()
    return data, next(iter(data.test_dataloader())), next(iter(data.catalogue_dataloader()))


@pytest.mark.parametrize("recipe", RANKING, ids=lambda path: path.stem)
@torch.no_grad()
def test_a_ranking_sees_no_target_and_depends_on_no_neighbour(recipe, couples):
    """Other targets change nothing of what a query is embedded to; an item is embedded alone as in a batch; scores are one a pair."""
    data, queries, candidates = couples
    method = build(recipe, data)
    assert tasks.supported(method) == ["retrieval"] and isinstance(method.inner_product, bool)
    query = tasks.run(method, queries)
    assert query.shape[0] == len(queries) and query.ndim == 2
    others = {"positive": ["0"] * len(queries), "negatives": [("0",)] * len(queries), "others": [("0",)] * len(queries)}
    assert torch.equal(tasks.run(method, replace(queries, **others)), query)
    candidate = method.embed_candidate(candidates)
    scores = method.score(query, candidate)
    assert scores.shape == (len(queries), len(candidates)) and scores.isfinite().all()
    alone = method.score(tasks.run(method, queries.select([3])), method.embed_candidate(candidates.select([5])))
    torch.testing.assert_close(alone[0, 0], scores[3, 5], atol=1e-4, rtol=1e-4)
    if method.inner_product:
        torch.testing.assert_close(scores, (query @ candidate.T).to(scores.dtype), atol=1e-4, rtol=1e-4)
