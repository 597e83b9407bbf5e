"""The stages of the tiny denoisers: text to shop image, and inpainting of shop images and people."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

from fashiongen.batches import to_float
from fashiongen.nn.classifier import AttributeClassifier
from fashiongen.nn.guidance import guide
from fashiongen.nn.parts import LatentCodec, ddim
from fashiongen.tiny.captions import CaptionForms
from fashiongen.tiny.images import SIZE, RenderedImages
from fashiongen.tiny.training import Draws, Run, train

LATENT_SIZE = (SIZE[0] // 4, SIZE[1] // 4)
BLANK_SHARE = 0.02  # of the training images are blank
SNR_GAMMA = 5.0
DRAWING = {"num_inference_steps": 25, "guidance_scale": 3.0, "height": SIZE[0], "width": SIZE[1], "output_type": "pt"}


def build_unet(text_width: int, channels_in: int = 4) -> UNet2DConditionModel:
    """Build a denoiser: two levels with attention on both, sized for minutes on two cores."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=channels_in,
        out_channels=4,
        block_out_channels=(48, 96),
        down_block_types=["CrossAttnDownBlock2D"] * 2,
        up_block_types=["CrossAttnUpBlock2D"] * 2,
        layers_per_block=1,
        cross_attention_dim=text_width,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def noise_loss(schedule: DDPMScheduler, predicted: Tensor, epsilon: Tensor, timestep: Tensor) -> Tensor:
    """Return the squared error of the predicted noise with min-SNR weights (Hang et al. 2023, for noise prediction)."""
    alphas = schedule.alphas_cumprod.to(timestep.device)[timestep]
    snr = alphas / (1 - alphas)
    loss: Tensor = ((snr.clamp(max=SNR_GAMMA) / snr) * (predicted.float() - epsilon).square().mean(dim=(1, 2, 3))).mean()
    return loss


def train_unet(
    run: Run, schedule: DDPMScheduler, captions: CaptionForms, latents: Tensor, blank: Tensor, steps: int, batch: int
) -> UNet2DConditionModel:
    """Train the denoiser to generate shop images from captions in every form; one caption in ten is empty.

    Args:
        run: state folder, seed, device and precision.
        schedule: the forward process.
        captions: hidden states of the captions, (M, L, C) in the table.
        latents: the images' scaled latents, (N, 4, h, w).
        blank: those of a white image, (1, 4, h, w).
        steps: optimizer steps.
        batch: images per step.
    """
    network = build_unet(captions.table.shape[-1])

    def loss(draws: Draws) -> Tensor:
        chosen = draws.integers(len(latents), batch)
        text = captions.drawn(draws, chosen, structured=0.15, prompt=0.05, short=0.05, empty=0.1)
        empty_slot = draws.uniform(batch, 1, 1, 1) < BLANK_SHARE
        clean = torch.where(empty_slot, blank, latents[chosen])
        text = torch.where(empty_slot[:, 0], captions.table[captions.blank], text)
        epsilon, timestep = draws.normal(*clean.shape), draws.integers(schedule.config.num_train_timesteps, batch)
        predicted = network(schedule.add_noise(clean, epsilon, timestep), timestep, text).sample
        return noise_loss(schedule, predicted, epsilon, timestep)

    return train(run, "sd", network, loss, steps=steps, learning_rate=1.5e-3)


def random_masks(rendered: RenderedImages, draws: Draws) -> Tensor:
    """Draw one mask for each image, (N, 1, H, W) bool, True where inpainting repaints.

    Half are the item or the agnostic region, grown by up to 4 pixels; three in ten are boxes; one in ten leaves only a box; the rest
    repaint everything.
    """
    count, (height, width) = len(rendered), SIZE
    grown = torch.cat([max_pool2d(part.float(), 9, stride=1, padding=4) > 0 for part in rendered.masks.split(1000)])
    region = torch.where(draws.uniform(count, 1, 1, 1) < 0.5, grown, rendered.masks)
    sides = 0.2 + 0.6 * draws.uniform(count, 2)
    start = draws.uniform(count, 2) * (1 - sides)
    rows, columns = (torch.arange(side, device=start.device) / side for side in (height, width))
    inside = (rows >= start[:, :1]) & (rows < (start + sides)[:, :1])
    across = (columns >= start[:, 1:]) & (columns < (start + sides)[:, 1:])
    box = (inside[:, :, None] & across[:, None, :])[:, None]
    return draws.mix((region, 0.5), (box, 0.3), (~box, 0.1), otherwise=torch.ones_like(box))


@torch.no_grad()
def masked_latents(vae: AutoencoderKL, rendered: RenderedImages, masks: Tensor, batch: int = 256) -> Tensor:
    """Return the scaled latents of the images with grey inside the masks, (N, 4, h, w)."""
    pairs = zip(rendered.images.split(batch), masks.split(batch), strict=True)
    modes = [vae.encode(to_float(images).masked_fill(mask, 0.0)).latent_dist.mode() for images, mask in pairs]
    scaling: float = vae.config.scaling_factor
    return torch.cat(modes) * scaling


def widened(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Return an inpainting denoiser with nine input channels (noisy 4, mask 1, masked image 4) that starts as `unet`."""
    network = build_unet(unet.config.cross_attention_dim, channels_in=9)
    state = unet.state_dict()
    start = torch.zeros_like(network.conv_in.weight)
    start[:, :4] = state["conv_in.weight"]
    network.load_state_dict(state | {"conv_in.weight": start})
    return network


def train_inpainting(
    run: Run,
    schedule: DDPMScheduler,
    network: UNet2DConditionModel,
    captions: CaptionForms,
    latents: Tensor,
    masks: Tensor,
    masked: Tensor,
    steps: int,
    batch: int,
) -> UNet2DConditionModel:
    """Train the inpainting denoiser on people and shop images, each with one random mask; three captions in ten are empty.

    Args:
        run: state folder, seed, device and precision.
        schedule: the forward process.
        network: the denoiser to start from, with nine input channels.
        captions: hidden states of the captions, (M, L, C) in the table.
        latents: the images' scaled latents, (N, 4, h, w).
        masks: where to repaint, (N, 1, H, W) bool.
        masked: scaled latents of the images with grey inside the masks, (N, 4, h, w).
        steps: optimizer steps.
        batch: images per step.
    """
    small = torch.cat([interpolate(part.float(), size=LATENT_SIZE) for part in masks.split(1000)])  # nearest, as diffusers' pipeline does

    def loss(draws: Draws) -> Tensor:
        chosen = draws.integers(len(latents), batch)
        text = captions.drawn(draws, chosen, structured=0.1, prompt=0.05, short=0.15, empty=0.3)
        epsilon, timestep = draws.normal(*latents[chosen].shape), draws.integers(schedule.config.num_train_timesteps, batch)
        noisy = schedule.add_noise(latents[chosen], epsilon, timestep)
        predicted = network(torch.cat([noisy, small[chosen], masked[chosen]], dim=1), timestep, text).sample
        return noise_loss(schedule, predicted, epsilon, timestep)

    return train(run, "inpainting", network, loss, steps=steps, learning_rate=1e-3)


@torch.no_grad()
def judge_drawing(
    pipeline: StableDiffusionPipeline, rendered: RenderedImages, captions: list[str], judge: AttributeClassifier, run: Run
) -> dict[str, float]:
    """Sample one image for each caption, and return how often each attribute of the first images is read from it."""
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(run.seed)
    drawn = [pipeline(captions[start : start + 100], generator=generator, **DRAWING).images for start in range(0, len(captions), 100)]
    return rendered.share_read(judge.read(torch.cat(drawn).to(run.device)))


@torch.no_grad()
def sample(
    schedule: DDPMScheduler, predict: Callable[[Tensor, Tensor], Tensor], count: int, run: Run, scale: float, steps: int = 25
) -> Tensor:
    """Sample latents (N, 4, h, w) by DDIM with guidance.

    Args:
        schedule: the forward process.
        predict: takes latents (2N, 4, h, w) and a timestep, and predicts their noise: unconditional, then conditional.
        count: N.
        run: seed and device.
        scale: of the guidance.
        steps: sampling steps.
    """
    latents = torch.randn(count, 4, *LATENT_SIZE, generator=torch.Generator().manual_seed(run.seed)).to(run.device)
    sampler = ddim(schedule)
    sampler.set_timesteps(steps)
    for timestep in sampler.timesteps:
        unconditional, conditional = predict(torch.cat([latents, latents]), timestep).chunk(2)
        latents = sampler.step(guide(unconditional, conditional, scale), timestep, latents, eta=0.0).prev_sample
    return latents


@torch.no_grad()
def repaint(
    run: Run,
    network: UNet2DConditionModel,
    schedule: DDPMScheduler,
    codec: LatentCodec,
    people: RenderedImages,
    text: Tensor,
    empty: Tensor,
) -> Tensor:
    """Repaint the agnostic region of people from texts (N, L, C), with guidance 3, and return photos (N, 3, H, W) in [0, 1]."""
    photos = to_float(people.images)
    small = interpolate(people.masks.float(), size=LATENT_SIZE)
    given = torch.cat([small, codec.encode(photos.masked_fill(people.masks, 0.0))], dim=1)
    given, texts = torch.cat([given, given]), torch.cat([empty.expand_as(text), text])

    def predict(latents: Tensor, timestep: Tensor) -> Tensor:
        noise: Tensor = network(torch.cat([latents, given], dim=1), timestep, texts).sample
        return noise

    painted = codec.decode(sample(schedule, predict, len(people), run, scale=3.0))
    return (torch.where(people.masks, painted, photos) + 1) / 2
