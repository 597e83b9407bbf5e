"""Sampling of latents, shared by all latent-diffusion methods: which sampler, how many steps, and where guidance applies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, PNDMScheduler, UniPCMultistepScheduler
from torch import Tensor

from fashiongen.errors import UserError
from fashiongen.nn import noise
from fashiongen.nn.guidance import guide
from fashiongen.nn.parts.schedule import ddim

SamplerName = Literal["ddim", "dpm++", "unipc", "euler", "pndm"]
KARRAS_SAMPLERS = ("dpm++", "unipc", "euler")
Predict = Callable[[Tensor, Tensor, bool], Tensor]
"""Takes latents, a timestep and whether the batch is doubled for guidance (unconditional first), and predicts the noise."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How latents are sampled.

    Attributes:
        sampler: `ddim` (Song et al. 2021), `dpm++` (DPM-Solver++, second order, Lu et al. 2022), `unipc` (Zhao et al. 2023), `euler`, or
            `pndm` (Liu et al. 2022, linear multistep alone, as Stable Diffusion samples).
        steps: number of steps, each with one prediction (two with guidance, in one batch); `pndm` predicts twice in one of its steps.
        scale: of the guidance; at 1 the unconditional half is never computed.
        interval: the share of the training timesteps in which guidance applies, from 0 (no noise) to 1 (noise alone); outside of it only
            the conditional half is computed (Kynkäänniemi et al. 2024). By default everywhere.
        eta: of `ddim`: 0 is deterministic, 1 adds as much noise in each step as DDPM does (CatVTON).
        karras: of `dpm++`, `unipc` and `euler`: noise levels as in Karras et al. 2022, equation 5, instead of evenly spaced timesteps. They
            solve the sampler's equation much better from about 8 steps on, and worse with 4. That need not give better images.
    """

    sampler: SamplerName = "ddim"
    steps: int = 25
    scale: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    eta: float = 0.0
    karras: bool = False

    def check(self, schedule: DDPMScheduler, owner: str) -> None:
        """Check the settings against a schedule.

        Raises:
            UserError: naming the setting that is out of range.
        """
        timesteps = schedule.config.num_train_timesteps
        if self.sampler not in get_args(SamplerName):
            raise UserError(f"{owner}: sampler: {self.sampler}: choose one of {', '.join(get_args(SamplerName))}")
        if not 1 <= self.steps <= timesteps:
            raise UserError(f"{owner}: steps: {self.steps}: must lie in 1 to {timesteps}")
        low, high = self.interval
        if not 0.0 <= low <= high <= 1.0:
            raise UserError(f"{owner}: guidance_interval: {low} to {high}: must be two ascending numbers in [0, 1]")
        if not 0.0 <= self.eta <= 1.0 or (self.eta and self.sampler != "ddim"):
            raise UserError(f"{owner}: eta: {self.eta}: must lie in [0, 1], and be 0 for other samplers than ddim")
        if self.karras and self.sampler not in KARRAS_SAMPLERS:
            raise UserError(f"{owner}: karras: must be false for {self.sampler}; it is for {', '.join(KARRAS_SAMPLERS)}")

    def guided(self, timestep: Tensor, timesteps: int) -> bool:
        """Return whether guidance applies at a timestep of `timesteps`."""
        low, high = self.interval
        return self.scale != 1.0 and low <= float(timestep) / timesteps <= high


def build_sampler(schedule: DDPMScheduler, sampling: Sampling) -> Any:  # noqa: ANN401  diffusers' samplers share no type
    """Return diffusers' sampler on the published schedule; latents are never clipped or rescaled."""
    spacing = {"timestep_spacing": "linspace", "use_karras_sigmas": sampling.karras}
    second_order = {**spacing, "solver_order": 2, "final_sigmas_type": "zero", "lower_order_final": True, "thresholding": False}
    builders: dict[str, Callable[[], Any]] = {
        "ddim": lambda: ddim(schedule),
        "dpm++": lambda: DPMSolverMultistepScheduler.from_config(schedule.config, algorithm_type="dpmsolver++", **second_order),
        "unipc": lambda: UniPCMultistepScheduler.from_config(schedule.config, **second_order),
        "euler": lambda: EulerDiscreteScheduler.from_config(schedule.config, **spacing),
        "pndm": lambda: PNDMScheduler.from_config(
            schedule.config, skip_prk_steps=True, set_alpha_to_one=False, timestep_spacing="leading", steps_offset=1
        ),
    }
    return builders[sampling.sampler]()


@torch.no_grad()
def sample(
    sampling: Sampling,
    schedule: DDPMScheduler,
    predict: Predict,
    latents: Tensor,
    ids: Sequence[str],
    *names: str | int,
    build: Callable[[DDPMScheduler, Sampling], Any] = build_sampler,
) -> Tensor:
    """Denoise latents (B, C, h, w) of unit variance, and return the sampled ones.

    Args:
        sampling: how.
        schedule: the forward process.
        predict: the denoiser.
        latents: pure noise.
        ids: the samples; with `names` they key the noise that a stochastic sampler adds, so that a sample does not depend on its batch.
        names: further parts of these keys, such as the seed.
        build: returns the sampler, for published weights whose authors sample in another way.
    """
    sampler = build(schedule, sampling)
    sampler.set_timesteps(sampling.steps, device=latents.device)
    latents = latents * sampler.init_noise_sigma
    for step, timestep in enumerate(sampler.timesteps):
        scaled = sampler.scale_model_input(latents, timestep)
        if sampling.guided(timestep, schedule.config.num_train_timesteps):
            unconditional, conditional = predict(torch.cat([scaled, scaled]), timestep, True).chunk(2)
            epsilon = guide(unconditional, conditional, sampling.scale)
        else:
            epsilon = predict(scaled, timestep, False)
        options: dict[str, Any] = {}
        if sampling.sampler == "ddim":
            options["eta"] = sampling.eta
            if sampling.eta:
                key = noise.keys(list(ids), *names, "step", step)
                options["variance_noise"] = noise.normal(key, latents.shape[1:], latents.device)
        latents = sampler.step(epsilon, timestep, latents, **options).prev_sample
    return latents
