"""The stage of the tiny image prompt (IP-Adapter), which conditions a frozen denoiser on image embeddings."""

from __future__ import annotations

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.embeddings import ImageProjection
from torch import Tensor, nn
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
from fashiongen.tiny.captions import CaptionForms
from fashiongen.tiny.clip import garment_crops
from fashiongen.tiny.denoiser import noise_loss, sample
from fashiongen.tiny.images import RenderedImages
from fashiongen.tiny.training import Draws, Run, train


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
    everything = torch.arange(len(rendered), device=rendered.images.device)
    return torch.cat([encoder(garment_crops(rendered, chosen)).image_embeds for chosen in everything.split(batch)])


def train_image_prompt(
    run: Run,
    network: ImagePrompted,
    schedule: DDPMScheduler,
    captions: CaptionForms,
    images: Tensor,
    latents: Tensor,
    steps: int,
    batch: int,
) -> ImagePrompted:
    """Train the image prompt to reconstruct a shop image from its own embedding; a tenth of the embeddings are dropped.

    Of ten captions, three are complete, four name only the kind of item, and three are empty: the image prompt does not learn what the
    caption already says.

    Args:
        run: state folder, seed, device and precision.
        network: with a frozen denoiser.
        schedule: the forward process.
        captions: hidden states of the captions, (M, L, C) in the table.
        images: the images' embeddings, (N, D).
        latents: the images' scaled latents, (N, 4, h, w).
        steps: optimizer steps.
        batch: images per step.
    """

    def loss(draws: Draws) -> Tensor:
        chosen = draws.integers(len(latents), batch)
        told = captions.drawn(draws, chosen, structured=0.1, prompt=0.05, short=0.35, empty=0.3)
        shown = images[chosen] * (draws.uniform(batch, 1) >= 0.1)
        epsilon, timestep = draws.normal(*latents[chosen].shape), draws.integers(schedule.config.num_train_timesteps, batch)
        predicted = network(schedule.add_noise(latents[chosen], epsilon, timestep), timestep, told, shown)
        return noise_loss(schedule, predicted, epsilon, timestep)

    return train(run, "ip_adapter", network, loss, steps=steps, learning_rate=3e-3)


@torch.no_grad()
def draw_image_prompts(run: Run, network: ImagePrompted, schedule: DDPMScheduler, text: Tensor, empty: Tensor, images: Tensor) -> Tensor:
    """Sample latents (N, 4, h, w) from text (N, L, C) and image embeddings (N, D), with guidance 2."""
    told, shown = torch.cat([empty.expand_as(text), text]), torch.cat([torch.zeros_like(images), images])
    return sample(schedule, lambda latents, timestep: network(latents, timestep, told, shown), len(images), run, scale=2.0)
