"""IGR at Stable Diffusion 1.5's size: the numbers of parameters, and one step of training."""

import os
from pathlib import Path

import pytest
import torch
import yaml
from published_sd15 import FULL, IMAGE, SCHEDULER, UNET, empty_part, image_prompt, write

from fashiongen.checkpoints import tiny_weights
from fashiongen.methods.igr import IGR
from fashiongen.methods.igr import module as igr_module
from fashiongen.nn.parts import loading
from fashiongen.wardrobe import write_viton_hd

RECIPE = Path(__file__).parents[2] / "recipes" / "igr.yaml"


def test_the_recipes_networks_have_the_published_numbers_of_parameters(monkeypatch, tmp_path):
    """The recipe's own settings, built from the published configs on the meta device."""
    settings = yaml.safe_load(RECIPE.read_text())["model"]["init_args"]
    del settings["optimizer"]

    def load(kind, folder, subfolder=None, **options):
        assert folder in (settings["pretrained"], settings["image_encoder"])
        names = {"unet": "unet", "vae": "vae", "text_encoder": "text_encoder", "models/image_encoder": "image_encoder"}
        if subfolder in names:
            return empty_part(names[subfolder], FULL[names[subfolder]])
        return kind.from_config(SCHEDULER) if subfolder == "scheduler" else kind.from_pretrained(tiny_weights() / "sd" / "tokenizer")

    shapes = image_prompt(UNET, IMAGE["projection_dim"])
    flat = {f"{part}.{key}": torch.empty(shape, device="meta") for part, entries in shapes.items() for key, shape in entries.items()}
    monkeypatch.setattr(loading, "load_part", load)
    monkeypatch.setattr(igr_module, "locate_file", lambda value, tiny: value)
    monkeypatch.setattr(igr_module, "read_state", lambda path: flat)
    with torch.device("meta"):
        network = IGR(**settings).network
    counts = {name: sum(p.numel() for p in child.parameters()) for name, child in network.named_children()}
    own = sum(p.numel() for name, p in network.denoiser.named_parameters() if "processor" not in name)
    assert own == 859_520_964
    assert counts["garmnet"] == own + 320 * 3 * 3
    assert network.garmnet.config.in_channels == network.denoiser.config.in_channels + 1 == 5
    # IP-Adapter's two projections a cross-attention layer, and the one from the image's embedding to four tokens with its norm.
    widths = [320] * 2 + [640] * 2 + [1280] * 2 + [1280] * 3 + [640] * 3 + [320] * 3 + [1280]
    assert counts["denoiser"] - own == 2 * 768 * sum(widths) == 19_169_280
    assert counts["image_projection"] == 1024 * 3072 + 3072 + 2 * 768 == 3_150_336


GIGABYTES_NEEDED = 16


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_one_step_of_training_at_full_size(tmp_path, monkeypatch):
    """Stable Diffusion 1.5's shapes with random weights, the recipe's data path, 64 x 64 pixels.

    Weights in bfloat16 and SGD instead of AdamW: AdamW in float32 would take 16 bytes for each of 1.74e9 trained weights, 28 GB, to which
    the frozen parts add 3.4 GB. So it took 10.8 GB while loading (float32), 13.6 GB in the step, and four minutes of one core.
    """
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    if available < GIGABYTES_NEEDED:
        pytest.skip(f"needs {GIGABYTES_NEEDED} GB of free memory, there are {available:.0f}")
    from fashiongen.cli.lightning import FashionCLI
    from fashiongen.cli.protocols import CommandLine

    monkeypatch.chdir(tmp_path)
    write(tmp_path / "published", FULL)
    write_viton_hd(tmp_path / "viton", people=4, size=(64, 64), seed=0, test_fraction=0.5, workers=1)
    arguments = {
        "model.init_args.pretrained": "published/sd",
        "model.init_args.image_encoder": "published/ip",
        "model.init_args.ip_adapter": "published/ip/models/ip-adapter_sd15.bin",
        "model.init_args.optimizer": "torch.optim.SGD",
        "data.init_args.root": "viton",
        "data.init_args.size": "[64, 64]",
        "data.init_args.batch_size": "1",
        "data.init_args.validation": "1",
        "data.init_args.num_workers": "0",
        "trainer.accelerator": "cpu",
        "trainer.precision": "bf16-true",
        "trainer.max_steps": "1",
        "trainer.limit_val_batches": "0",
    }
    options = [f"--{key}={value}" for key, value in arguments.items()]
    cli = FashionCLI(CommandLine.read(["fit", "--config", str(RECIPE), *options]))
    assert cli.trainer.global_step == 1
    assert torch.isfinite(cli.trainer.callback_metrics["train/loss"])
    for name, child in cli.model.network.named_children():
        gradients = [p.grad for p in child.parameters() if p.requires_grad]
        assert sum(gradient is not None and bool(gradient.any()) for gradient in gradients) > 0.9 * len(gradients), name
        assert all(bool(gradient.isfinite().all()) for gradient in gradients if gradient is not None), name
    assert sum(p.numel() for p in cli.model.network.denoiser.parameters()) == 859_520_964 + 19_169_280
