"""Noise and batches on a GPU: the same draws, and what the loaders hand over."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from fashiongen.batches import Ragged
from fashiongen.nn import noise

pytestmark = pytest.mark.gpu

TINY = Path(__file__).parents[2] / "recipes" / "tiny"
RECIPES = [TINY / "igr.yaml", TINY / "geco.yaml"]
KEYS = noise.keys([f"sample-{index}" for index in range(64)], 3, "noise", 7)


@pytest.mark.parametrize("draw", [lambda device: noise.uniform(KEYS, device), lambda device: noise.integers(KEYS, 0, 1000, device)])
def test_noise_of_integers_and_coins_is_the_cpus_to_the_bit(draw, device):
    found = draw(device)
    assert found.device.type == device.type
    assert torch.equal(found.cpu(), draw("cpu"))
    assert torch.equal(noise.coins(KEYS, (3, 5), 0.3, device).cpu(), noise.coins(KEYS, (3, 5), 0.3))


def test_normal_noise_is_the_cpus_but_for_the_logarithm(device):
    """Uniform bits are equal; the logarithm, root, sine and cosine may round otherwise."""
    found = noise.normal(KEYS, (4, 16, 12), device)
    torch.testing.assert_close(found.cpu(), noise.normal(KEYS, (4, 16, 12)), rtol=1e-4, atol=1e-5)
    assert torch.equal(noise.normal(KEYS[5:6], (4, 16, 12), device)[0], found[5])


def tensors(value):
    """Yield the tensors of a batch, at any depth."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Ragged):
        yield from (*tensors(value.values), value.offsets)
    elif isinstance(value, dict):
        yield from (tensor for inner in value.values() for tensor in tensors(inner))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_batches_are_pinned_and_arrive_whole(recipe, worlds, device):
    """From page-locked memory, by Lightning's own transfer."""
    data = worlds(recipe, "fit")
    expected = next(iter(data.train_dataloader()))
    assert data.train_dataloader().pin_memory == (device.type == "cuda")
    if device.type == "cuda":
        pinned = [tensor for value in vars(expected).values() for tensor in tensors(value)]
        assert pinned and all(tensor.is_pinned() for tensor in pinned)
    seen = []

    class Look(LightningModule):
        def training_step(self, batch, batch_idx):
            seen.append(batch)

        def configure_optimizers(self):
            return None

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    accelerator = "gpu" if device.type == "cuda" else "cpu"
    Trainer(accelerator=accelerator, devices=1, max_steps=-1, max_epochs=1, limit_train_batches=1, limit_val_batches=0, **quiet).fit(
        Look(), train_dataloaders=data.train_dataloader()
    )
    (batch,) = seen
    assert type(batch) is type(expected) and batch.ids == expected.ids
    for name, value in vars(expected).items():
        arrived = list(tensors(getattr(batch, name)))
        for tensor, other in zip(arrived, tensors(value), strict=True):
            assert tensor.device.type == device.type and tensor.dtype == other.dtype and torch.equal(tensor.cpu(), other)
