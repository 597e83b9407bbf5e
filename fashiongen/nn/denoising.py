"""The training of latent-diffusion methods: noising latents, and the loss of the predicted noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from torch import Tensor
from torch.nn.functional import mse_loss

from fashiongen.nn import noise


class Noised(NamedTuple):
    """Latents of the forward process: z_t and its noise, both (B, C, h, w), and t, (B,) int64."""

    latents: Tensor
    epsilon: Tensor
    timestep: Tensor


def add_noise(schedule: DDPMScheduler, latents: Tensor, ids: Sequence[str], *names: str | int) -> Noised:
    """Draw a timestep and noise for each of B samples, and return z_t = sqrt(a_t) z_0 + sqrt(1 - a_t) eps.

    Args:
        schedule: the forward process.
        latents: z_0, (B, C, h, w).
        ids: the samples'; with `names`, such as the seed and the step, they key all draws.
        names: further parts of the keys.
    """
    epsilon = noise.normal(noise.keys(ids, *names, "noise"), latents.shape[1:], latents.device)
    timestep = noise.integers(noise.keys(ids, *names, "timestep"), 0, schedule.config.num_train_timesteps, latents.device)
    return Noised(schedule.add_noise(latents, epsilon, timestep), epsilon, timestep)


def denoising_loss(predicted: Tensor, noised: Noised, schedule: DDPMScheduler, snr_gamma: float | None = None) -> Tensor:
    """Return the mean of (eps - predicted)^2 over all elements.

    With `snr_gamma` each sample's mean is weighted by min(SNR, snr_gamma) / SNR (min-SNR, arXiv 2303.09556).
    """
    if snr_gamma is None:
        return mse_loss(predicted, noised.epsilon)
    snr: Tensor = compute_snr(schedule, noised.timestep)
    errors = (predicted - noised.epsilon).square().mean(dim=(1, 2, 3))
    return (errors * snr.clamp(max=snr_gamma) / snr).mean()
