"""The noise schedule (`scheduler`) and its samplers."""

from __future__ import annotations

from diffusers import DDIMScheduler, DDPMScheduler

from fashiongen.nn.parts import loading


def load_noise_schedule(folder: str) -> DDPMScheduler:
    """Load the `scheduler` as the forward process (with the folder's beta schedule and parametrisation)."""
    return loading.load_part(DDPMScheduler, folder, "scheduler")


def ddim(schedule: DDPMScheduler) -> DDIMScheduler:
    """Return the DDIM sampler of a forward process; latents are never clipped (diffusers' default would clip them to [-1, 1])."""
    return DDIMScheduler.from_config(schedule.config, clip_sample=False, set_alpha_to_one=False, timestep_spacing="leading", steps_offset=1)
