"""Every method fulfils the contract. Methods are found by their recipes, not by a list."""

from pathlib import Path

import pytest
import torch
import yaml
from contract import check_contract, small_data, trained
from jsonargparse import ArgumentParser
from lightning import LightningModule
from torchmetrics import Metric

from fashiongen import tasks

TINY = sorted((Path(__file__).parents[2] / "recipes" / "tiny").glob("*.yaml"))
TASKS = {recipe: yaml.safe_load(recipe.read_text(encoding="utf-8"))["evaluate"]["task"] for recipe in TINY}
RANKING = [recipe for recipe, task in TASKS.items() if task == "retrieval"]
OUTFITS = [recipe for recipe, task in TASKS.items() if task == "pfitb"]
_worlds = {}


def world_of(recipe: Path):
    """Build the small world of a recipe's data, shared by all recipes that read it in the same way."""
    data = yaml.safe_load(recipe.read_text(encoding="utf-8"))["data"]
    key = (data["class_path"], *(str(data["init_args"].get(name)) for name in ("root", "size", "images", "task", "history")))
    if key not in _worlds:
        _worlds[key] = small_data(recipe)
    return _worlds[key]


@pytest.mark.parametrize("recipe", TINY, ids=lambda path: path.stem)
def test_the_method_keeps_the_contract(recipe, cache):
    check_contract(recipe, world_of(recipe))


@pytest.mark.parametrize("recipe", OUTFITS, ids=lambda path: path.stem)
def test_the_data_of_a_recipe_offer_what_its_protocol_reads(recipe, cache):
    """Else a test would be refused, after the training."""
    settings = yaml.safe_load(recipe.read_text(encoding="utf-8"))["evaluate"]
    stated = yaml.safe_load((recipe.parents[1] / "tasks" / f"{settings['protocol']}.yaml").read_text(encoding="utf-8"))["evaluate"]
    parser = ArgumentParser()
    parser.add_argument("--metrics", type=dict[str, Metric])
    metrics = parser.instantiate(parser.parse_object({"metrics": stated["metrics"]})).metrics
    data = world_of(recipe)
    assert data.task == settings["task"] == stated["task"] and any(getattr(metric, "reads", None) for metric in metrics.values())
    tasks.find(settings["task"])().check_data(data, tasks.Protocol(name=stated["protocol"], metrics=metrics, draws=stated["draws"]))


@pytest.mark.parametrize("recipe", RANKING, ids=lambda path: path.stem)
@torch.no_grad()
def test_a_ranking_scores_pairs_one_by_one(recipe, cache):
    """A bottom is embedded alone as in a batch; scores are one a pair; an inner product is one."""
    data = world_of(recipe)
    method = trained(recipe, data)
    assert tasks.supported(method) == ["retrieval"] and isinstance(method.inner_product, bool)
    queries, candidates = next(iter(data.test_dataloader())), next(iter(data.catalogue_dataloader()))
    query, candidate = tasks.run(method, queries), method.embed_candidate(candidates)
    scores = method.score(query, candidate)
    assert scores.shape == (len(queries), len(candidates)) and scores.isfinite().all()
    alone = method.score(tasks.run(method, queries.select([1])), method.embed_candidate(candidates.select([2])))
    torch.testing.assert_close(alone[0, 0], scores[1, 2], atol=1e-4, rtol=1e-4)
    if method.inner_product:
        torch.testing.assert_close(scores, (query @ candidate.T).to(scores.dtype), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("recipe", TINY, ids=lambda path: path.stem)
@torch.no_grad()
def test_what_validation_logs_is_the_mean_over_processes(recipe, cache):
    """A checkpoint chosen by one process's share of the validation samples would depend on the number of processes."""
    data = world_of(recipe)
    method = trained(recipe, data)
    logged = {}
    method.log = lambda name, value, **settings: logged.update({name: settings})
    method.log_dict = lambda values, **settings: logged.update(dict.fromkeys(values, settings))
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    method.validation_step(batch, 1)  # in batch 0 some log an image too, which needs a trainer
    data.setup("test")
    assert bool(logged) == (type(method).validation_step is not LightningModule.validation_step)  # baselines validate nothing
    for name, settings in logged.items():
        assert name.startswith("val/") and settings["sync_dist"] and settings["batch_size"] == len(batch), name
