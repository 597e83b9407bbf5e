"""Methods on a GPU: the CPU's results, the CPU's gradients, caches, and bfloat16."""

import copy
import inspect
from pathlib import Path

import pytest
import torch
import yaml
from contract import class_of, trained
from lightning.pytorch import Trainer

from fashiongen import tasks
from fashiongen.methods.base import Method
from fashiongen.methods.multi_loss import MultiLossMethod

pytestmark = pytest.mark.gpu


def one_a_class(recipes):
    """Return the first recipe of each class of methods."""
    found = {}
    for path in recipes:
        found.setdefault(yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["class_path"], path)
    return list(found.values())


TINY = one_a_class(sorted((Path(__file__).parents[2] / "recipes" / "tiny").glob("*.yaml"), key=lambda path: (len(path.stem), path.stem)))
LEARNING = [path for path in TINY if "optimizer:" in path.read_text(encoding="utf-8")]


def fresh(recipe) -> Method:
    """Build the method of a recipe with its initial weights."""
    model = yaml.safe_load(recipe.read_text(encoding="utf-8"))["model"]
    settings = {name: value for name, value in model["init_args"].items() if name not in ("optimizer", "lr_scheduler")}
    torch.manual_seed(0)
    return class_of(model["class_path"])(**settings)


def outputs(method, data, move):
    """Return what the method gives for a test batch: images, or scores of all candidates."""
    batch = move(next(iter(data.test_dataloader())).without_target())
    result = tasks.run(method, batch)
    if hasattr(method, "embed_candidate"):
        return method.score(result, method.embed_candidate(move(next(iter(data.catalogue_dataloader())))))
    return result


def off(found, expected):
    """Return the largest difference, relative to the expected values' scale."""
    found, expected = found.detach().cpu().float(), expected.detach().cpu().float()
    assert found.shape == expected.shape and found.isfinite().all()
    return float((found - expected).abs().max() / expected.square().mean().sqrt().clamp(min=1e-6))


@pytest.mark.parametrize("recipe", TINY, ids=lambda path: path.stem)
@torch.no_grad()
def test_a_method_gives_what_it_gives_on_the_cpu(recipe, worlds, device, to_device, tolerance):
    data = worlds(recipe)
    method = trained(recipe, data)
    expected = outputs(method, data, lambda batch: batch)
    found = outputs(method.to(device), data, to_device)
    assert found.device.type == device.type
    assert off(found, expected) <= 10 * tolerance  # a sampler's steps amplify


@pytest.mark.parametrize("recipe", LEARNING, ids=lambda path: path.stem)
def test_a_step_of_training_changes_weights_as_on_the_cpu(recipe, worlds, device, tolerance):
    """One step of the real loop; plain SGD, since Adam's first step is the sign of a gradient, however small."""
    data = worlds(recipe, "fit")
    changed = []
    for accelerator in ("cpu", "gpu" if device.type == "cuda" else "cpu"):
        method = fresh(recipe)
        if recipe.stem == "geco":
            method._generates = True  # its generator is untrained, and any serves here
        method.optimizer, before = (lambda parameters: torch.optim.SGD(parameters, lr=1e-3)), copy.deepcopy(method.state_dict())
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = Trainer(accelerator=accelerator, devices=1, max_steps=1, limit_val_batches=0, **quiet)
        trainer.fit(method, data)
        losses = {key: value.cpu() for key, value in trainer.callback_metrics.items() if key.startswith("train/")}
        weights = {key: value.detach().cpu() - before[key].cpu() for key, value in method.named_parameters() if value.requires_grad}
        changed.append((losses, weights))
    (expected_losses, expected), (losses, found) = changed
    assert losses.keys() == expected_losses.keys() and losses
    for key, value in losses.items():
        torch.testing.assert_close(value, expected_losses[key], rtol=10 * tolerance, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")
    whole = torch.cat([value.flatten() for value in expected.values()])
    error = torch.cat([found[key].flatten() - value.flatten() for key, value in expected.items()])
    assert whole.norm() > 0
    assert error.norm() <= 30 * tolerance * whole.norm()


@pytest.mark.parametrize("recipe", [path for path in LEARNING if path.stem in ("igr", "bpr_dae", "geco")], ids=lambda path: path.stem)
def test_bfloat16_autocast_gives_finite_losses_near_those_of_float32(recipe, worlds, device, to_device):
    data = worlds(recipe, "fit")
    method = fresh(recipe).to(device).train()
    assert not isinstance(method, MultiLossMethod)
    method.log = lambda *args, **kwargs: None
    batch = to_device(next(iter(data.train_dataloader())))
    losses = []
    for enabled in (False, True):
        method.zero_grad()
        torch.manual_seed(0)
        with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
            loss = method.training_step(batch, 0)
        loss.backward()
        gradients = [parameter.grad for parameter in method.parameters() if parameter.grad is not None]
        assert gradients and all(gradient.dtype == torch.float32 and gradient.isfinite().all() for gradient in gradients)
        losses.append(loss.detach().float().cpu())
    torch.testing.assert_close(losses[1], losses[0], rtol=0.05, atol=1e-3)


def test_the_encoding_cache_keeps_on_the_gpu_what_the_encoders_give(worlds, device, to_device):
    recipe = next(path for path in TINY if path.stem == "igr")
    data = worlds(recipe, "fit")
    method = fresh(recipe).to(device).train()
    batch = to_device(next(iter(data.train_dataloader())))
    for kind, encoding in method.encodings().items():
        first, again = method.encoded(kind, batch), method.encoded(kind, batch)
        assert first.device.type == device.type and first.dtype == torch.float32
        assert torch.equal(first, again)
        torch.testing.assert_close(first, encoding(batch), rtol=1e-4, atol=1e-4)
        swapped = method.encoded(kind, batch.select([1, 0]))
        assert torch.equal(swapped, first[[1, 0]])
    kept = method.encoding_cache._values
    assert len(kept) == len(method.encodings()) * len(batch) and {value.device.type for value in kept.values()} == {device.type}


def test_all_learning_recipes_take_an_optimizer():
    """Otherwise the step above would train with another."""
    assert LEARNING
    for recipe in LEARNING:
        cls = class_of(yaml.safe_load(recipe.read_text(encoding="utf-8"))["model"]["class_path"])
        assert "optimizer" in inspect.signature(cls).parameters
