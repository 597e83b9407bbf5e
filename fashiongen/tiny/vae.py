"""The stage of the tiny autoencoder: images to latents and back."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn.functional import l1_loss, normalize

from fashiongen.batches import to_float
from fashiongen.metrics import SSIM, ColourError
from fashiongen.metrics.colour import srgb_to_lab
from fashiongen.nn.classifier import AttributeClassifier
from fashiongen.tiny.images import SIZE, RenderedImages
from fashiongen.tiny.training import Draws, Run, train

LATENT_SCALE_SAMPLES = 512
FOREGROUND = 3.0  # weight of the item's pixels, in addition to 1
PERCEPTUAL, COLOUR, KL = 0.2, 0.04, 1e-6
MASKED = 0.2  # share of people whose agnostic region is grey, as inpainting shows them


def build_vae() -> AutoencoderKL:
    """Build the autoencoder: downsampling factor 4, four latent channels.

    Channels at full resolution cost most of the time; below, they cost little and carry the texture.
    """
    return AutoencoderKL(
        block_out_channels=(16, 48, 96),
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=SIZE[0],
    )


def perceptual_distance(eyes: AttributeClassifier, restored: Tensor, images: Tensor) -> Tensor:
    """Return the mean squared distance of channel-normalised feature maps, summed over the classifier's stages, for images in [-1, 1]."""
    with torch.no_grad():
        truth = eyes.stages((images + 1) / 2)
    maps = eyes.stages((restored + 1) / 2)
    distances = [
        (normalize(a.float(), dim=1) - normalize(b.float(), dim=1)).square().sum(dim=1).mean() for a, b in zip(maps, truth, strict=True)
    ]
    return torch.stack(distances).sum()


def train_vae(run: Run, shop: RenderedImages, people: RenderedImages, eyes: AttributeClassifier, steps: int, batch: int) -> AutoencoderKL:
    """Train the autoencoder on shop images and people, five to three.

    The loss is L1 (items and agnostic regions count fourfold) and L1 of edges, the distance in CIELAB (foreground fourfold), for shop
    images the perceptual distance in the features of `eyes` (never the metrics' own classifier), and a small KL term. A fifth of the people
    are masked, as inpainting shows them.
    """
    network = build_vae()
    eyes = eyes.to(run.device).requires_grad_(False).eval()
    of_shop = batch * 5 // 8

    def loss(draws: Draws) -> Tensor:
        chosen, worn = draws.integers(len(shop), of_shop), draws.integers(len(people), batch - of_shop)
        masked = people.masks[worn] & (draws.uniform(batch - of_shop, 1, 1, 1) < MASKED)
        images = torch.cat([to_float(shop.images[chosen]), to_float(people.images[worn]).masked_fill(masked, 0.0)])
        foreground = torch.cat([shop.masks[chosen], people.masks[worn]]).float()
        latents = network.encode(images).latent_dist
        mean, std = latents.mean.float(), latents.std.float()
        restored = network.decode(mean + std * draws.normal(*mean.shape)).sample.float()
        pixels = ((1 + FOREGROUND * foreground) * (restored - images).abs()).mean()
        edges = l1_loss(restored.diff(dim=2), images.diff(dim=2)) + l1_loss(restored.diff(dim=3), images.diff(dim=3))
        difference = srgb_to_lab((restored + 1) / 2) - srgb_to_lab((images + 1) / 2)
        away = (difference.square().sum(dim=1, keepdim=True) + 1).sqrt() - 1
        colour = ((1 + FOREGROUND * foreground) / (1 + FOREGROUND) * away).mean()
        seen = perceptual_distance(eyes, restored[:of_shop], images[:of_shop])
        value: Tensor = pixels + edges + COLOUR * colour + PERCEPTUAL * seen + KL * latents.kl().float().mean()
        return value

    trained = train(run, "sd/vae", network, loss, steps=steps, learning_rate=2e-3, average=0.99)
    trained.register_to_config(scaling_factor=round(1.0 / latents_of(trained, shop, LATENT_SCALE_SAMPLES).std().item(), 4))
    return trained


@torch.no_grad()
def latents_of(vae: AutoencoderKL, rendered: RenderedImages, count: int | None = None, batch: int = 256) -> Tensor:
    """Return the modes of the images' latents, (N, 4, h, w), not scaled."""
    return torch.cat([vae.encode(to_float(part)).latent_dist.mode() for part in rendered.images[:count].split(batch)])


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, rendered: RenderedImages, batch: int = 256) -> Tensor:
    """Return the images after encoding and decoding, (N, 3, H, W) in [0, 1]."""
    parts = [vae.decode(vae.encode(to_float(part)).latent_dist.mode()).sample for part in rendered.images.split(batch)]
    return (torch.cat(parts).clamp(-1, 1) + 1) / 2


def judge_vae(vae: AutoencoderKL, held_out: dict[str, RenderedImages], judge: AttributeClassifier) -> dict[str, Any]:
    """Return SSIM and median foreground colour error (CIEDE2000) of each kind, and the attributes read from restored shop images."""
    facts: dict[str, Any] = {}
    for kind, rendered in held_out.items():
        restored, truth = reconstruct(vae, rendered), rendered.images.float() / 255
        metrics = {"ssim": SSIM(), "foreground_colour_error": ColourError(region="foreground")}
        for name, metric in metrics.items():
            metric.to(restored.device).update(restored, truth, rendered.masks)
            facts[f"held_out_{kind}_{name}"] = round(metric.compute().item(), 4)
        if kind == "shop":
            facts["held_out_shop_attributes_read"] = rendered.share_read(judge.read(restored))
    return facts
