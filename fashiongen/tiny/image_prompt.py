"""The stage of the tiny image prompt (IP-Adapter), which conditions a frozen denoiser on image embeddings."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.embeddings import ImageProjection
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from transformers import CLIPVisionModelWithProjection

from fashiongen.nn.attention import (
    ImagePromptAttention,
    JoinedSelfAttention,
    Memory,
    attention_layers,
    image_prompt_state,
    project,
    project_image_prompt,
)
from fashiongen.nn.guidance import guide
from fashiongen.nn.parts import ddim
from fashiongen.tiny.images import SIZE, RenderedImages
from fashiongen.tiny.stages import garment_crops, mix
from fashiongen.tiny.training import pick, train


class ImagePrompted(nn.Module):
    """A frozen denoiser with an IP-Adapter; only the image prompt's projections are trained."""

    def __init__(self, unet: UNet2DConditionModel, image_dim: int) -> None:
        """Add a newly initialised image prompt of four tokens to `unet`."""
        super().__init__()
        self.unet = unet.requires_grad_(False)
        self.projection = ImageProjection(image_dim, unet.config.cross_attention_dim, 4)
        self.layers = attention_layers(unet, "attn2")
        for name, attn in attention_layers(unet, "attn1").items():
            attn.set_processor(JoinedSelfAttention(name))  # plain self-attention, which takes `memory` without a warning
        for name, attn in self.layers.items():
            attn.set_processor(ImagePromptAttention(name, attn))

    def forward(self, noisy: Tensor, timestep: Tensor, text: Tensor, image: Tensor) -> Tensor:
        """Predict the noise of (B, 4, h, w) latents, given text (B, L, C) and image embeddings (B, D)."""
        tokens = self.projection(image)
        memory = {name: Memory(project(attn, text), project_image_prompt(attn, tokens)) for name, attn in self.layers.items()}
        return self.unet(noisy, timestep, text, cross_attention_kwargs={"memory": memory}).sample  # type: ignore[no-any-return]

    def public_state(self) -> dict[str, Tensor]:
        """Return the image prompt's weights under the names of IP-Adapter's files."""
        return image_prompt_state(self.projection, self.unet)


@torch.no_grad()
def image_embeddings(encoder: CLIPVisionModelWithProjection, rendered: RenderedImages, batch: int = 256) -> Tensor:
    """Return the embeddings of the masked regions, (N, D)."""
    return torch.cat([encoder(garment_crops(rendered, chosen)).image_embeds for chosen in torch.arange(len(rendered)).split(batch)])


def train_image_prompt(
    network: ImagePrompted,
    schedule: DDPMScheduler,
    full: Tensor,
    short: Tensor,
    empty: Tensor,
    images: Tensor,
    latents: Tensor,
    steps: int,
    batch: int,
    state: Path,
    seed: int,
) -> ImagePrompted:
    """Train the image prompt to reconstruct a shop image from its own embedding; a tenth of the embeddings are dropped.

    Of ten captions, three are complete, four name only the kind of item, and three are empty: the image prompt does not learn what the
    caption already says.

    Args:
        network: with a frozen denoiser.
        schedule: the forward process.
        full: the captions' hidden states, (N, L, C).
        short: those of the short captions, (N, L, C).
        empty: those of the empty prompt, (1, L, C).
        images: the images' embeddings, (N, D).
        latents: the images' scaled latents, (N, 4, h, w).
        steps: optimizer steps.
        batch: images per step.
        state: folder for the state that a killed build resumes from.
        seed: seed of the build.
    """

    def loss(generator: torch.Generator) -> Tensor:
        chosen = pick(len(latents), batch, generator)
        told = mix(generator, (empty, 0.3), (short[chosen], 0.4), otherwise=full[chosen])
        shown = images[chosen] * (torch.rand(batch, 1, generator=generator) >= 0.1)
        epsilon = torch.randn(latents[chosen].shape, generator=generator)
        timestep = torch.randint(schedule.config.num_train_timesteps, (batch,), generator=generator)
        return mse_loss(network(schedule.add_noise(latents[chosen], epsilon, timestep), timestep, told, shown), epsilon)

    return train("ip_adapter", network, loss, steps=steps, learning_rate=3e-3, state=state, seed=seed)


@torch.no_grad()
def draw_image_prompts(
    network: ImagePrompted, schedule: DDPMScheduler, text: Tensor, empty: Tensor, images: Tensor, seed: int, scale: float = 2.0
) -> Tensor:
    """Sample latents (N, 4, h, w) from text (N, L, C) and image embeddings (N, D), by DDIM in 25 steps with guidance."""
    latents = torch.randn(len(images), 4, SIZE[0] // 4, SIZE[1] // 4, generator=torch.Generator().manual_seed(seed))
    told, shown = torch.cat([empty.expand_as(text), text]), torch.cat([torch.zeros_like(images), images])
    sampler = ddim(schedule)
    sampler.set_timesteps(25)
    for timestep in sampler.timesteps:
        unconditional, conditional = network(torch.cat([latents, latents]), timestep, told, shown).chunk(2)
        latents = sampler.step(guide(unconditional, conditional, scale), timestep, latents, eta=0.0).prev_sample
    return latents
