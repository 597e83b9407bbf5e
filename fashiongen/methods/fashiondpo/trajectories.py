"""Sampled trajectories and their probabilities, in pure torch.

Shapes: N latents (N, C, h, w) at S + 1 times, from noise to the result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from diffusers import DDPMScheduler
from torch import Tensor
from torch.nn.functional import logsigmoid

from fashiongen.nn import noise
from fashiongen.nn.parts import ddim
from fashiongen.nn.sampling import Predict


def timesteps_of(schedule: DDPMScheduler, steps: int) -> Tensor:
    """Return DDIM's timesteps, (S,) int64, descending."""
    sampler = ddim(schedule)
    sampler.set_timesteps(steps)
    return sampler.timesteps  # type: ignore[no-any-return]  # diffusers leaves it untyped


def step_distribution(schedule: DDPMScheduler, epsilon: Tensor, latents: Tensor, timestep: int, previous: int) -> tuple[Tensor, float]:
    """Return mean, (N, C, h, w), and standard deviation of x_{t-1} given x_t, for DDIM with eta = 1 (Song et al. 2021, eq. 12 and 16).

    Args:
        schedule: the forward process.
        epsilon: the predicted noise.
        latents: x_t.
        timestep: t.
        previous: the timestep of x_{t-1}; below 0 for the result, whose variance is taken at timestep 0.
    """
    alphas = schedule.alphas_cumprod
    now, then = float(alphas[timestep]), float(alphas[max(previous, 0)])
    deviation = math.sqrt((1 - then) / (1 - now) * (1 - now / then))
    clean = (latents - math.sqrt(1 - now) * epsilon) / math.sqrt(now)
    mean = math.sqrt(then) * clean + math.sqrt(max(0.0, 1 - then - deviation**2)) * epsilon
    return mean, deviation


def log_probability(mean: Tensor, deviation: float, sampled: Tensor) -> Tensor:
    """Return the log density of `sampled` (N, C, h, w) under N(mean, deviation^2), averaged over its elements: (N,)."""
    density = -((sampled.detach() - mean) ** 2) / (2 * deviation**2) - math.log(deviation) - math.log(math.sqrt(2 * math.pi))
    return density.flatten(1).mean(dim=1)


@torch.no_grad()
def roll_out(schedule: DDPMScheduler, predict: Predict, latents: Tensor, steps: int, ids: Sequence[str], *names: str | int) -> Tensor:
    """Sample by DDIM with eta = 1 and keep every x_t: (S + 1, N, C, h, w).

    Args:
        schedule: the forward process.
        predict: the guided denoiser.
        latents: the noise to start from, (N, C, h, w).
        steps: S.
        ids: of the latents; with `names` they key each step's noise.
        names: further parts of the keys.
    """
    times = timesteps_of(schedule, steps).tolist()
    path = [latents]
    for step, (timestep, previous) in enumerate(zip(times, [*times[1:], -1], strict=True)):
        epsilon = predict(path[-1], torch.tensor(timestep, device=latents.device), False)
        mean, deviation = step_distribution(schedule, epsilon, path[-1], timestep, previous)
        fresh = noise.normal(noise.keys(ids, *names, "step", step), latents.shape[1:], latents.device)
        path.append(mean + deviation * fresh)
    return torch.stack(path)


class Labels(NamedTuple):
    """Which results are preferred, and which are not, (D, N) bool; a result without any score is neither."""

    preferred: Tensor
    other: Tensor


def labels_of(scores: Tensor) -> Labels:
    """Return which results are preferred, from their scores by each expert, (E, D, N); NaN where an expert has none.

    Each expert's scores are scaled to [0, 1] over all results; a result is preferred if its mean over the experts is at least the median.
    """
    known = ~scores.isnan()
    low = scores.where(known, torch.inf).amin(dim=(1, 2), keepdim=True)
    high = scores.where(known, -torch.inf).amax(dim=(1, 2), keepdim=True)
    scaled = ((scores - low) / (high - low).clamp(min=1e-12)).where(known, 0.0)
    scored = known.any(dim=0)
    mean = scaled.sum(dim=0) / known.sum(dim=0).clamp(min=1)
    if not scored.any():
        return Labels(scored, scored)
    preferred = scored & (mean >= mean[scored].quantile(0.5))
    return Labels(preferred, scored & ~preferred)


def preference_loss(ratios: Tensor, labels: Labels, beta: float, clip: float) -> Tensor:
    """Return the mean of -log sigmoid(beta log r_w - beta log r_l) over all pairs of a preferred and another result of the same blank.

    Args:
        ratios: log p(x_{t-1} | x_t) less that of the reference, (D, N).
        labels: of the results.
        beta: the weight of staying near the reference.
        clip: r is held in [1 - clip, 1 + clip], beyond which there is no gradient.

    Returns:
        A scalar; 0 if there is no such pair.
    """
    held = ratios.clamp(math.log(1 - clip), math.log(1 + clip))
    losses = -logsigmoid(beta * (held[:, None] - held[None]))
    pairs = labels.preferred[:, None] & labels.other[None]
    return (losses * pairs).sum() / pairs.sum().clamp(min=1)
