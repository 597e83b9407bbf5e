"""Compare where samplers evaluate the score, on a mixture of Gaussians whose score is known exactly; prints a table as Markdown.

    python benchmarks/studies/noise_levels.py

256 samples of ten Gaussians in 32 dimensions, from 0.05 to 0.63 wide, on Stable Diffusion's schedule. Guidance 2.5 goes from the whole
mixture to two of its Gaussians. The number is the root mean square distance to the end of 1,000 Euler steps from the same noise.
"""

from typing import Any

import torch
from diffusers import DDPMScheduler
from study import row
from torch import Tensor

from fashiongen.nn.sampling import Sampling, build_sampler, sample

SCHEDULE = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1)
DIMENSIONS, GAUSSIANS, CHOSEN, SAMPLES = 32, 10, 2, 256
STEPS = (4, 8, 12, 25, 50)
GUIDANCE = 2.5
LEADING = {"timestep_spacing": "leading", "steps_offset": 1}
ROWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "`ddim`": ({"sampler": "ddim"}, {}),
    "`dpm++`, even": ({"sampler": "dpm++"}, {}),
    "`dpm++`, leading with offset 1": ({"sampler": "dpm++"}, LEADING),
    "`dpm++`, trailing": ({"sampler": "dpm++"}, {"timestep_spacing": "trailing"}),
    "`dpm++`, Karras": ({"sampler": "dpm++", "karras": True}, {}),
    "`unipc`, even": ({"sampler": "unipc"}, {}),
    "`unipc`, Karras": ({"sampler": "unipc", "karras": True}, {}),
    "`euler`, even": ({"sampler": "euler"}, {}),
    "`euler`, Karras": ({"sampler": "euler", "karras": True}, {}),
}
"""By name: settings of `Sampling`, and what is changed in diffusers' own configuration of its sampler."""


class Mixture:
    """Ten Gaussians with the same diagonal covariance."""

    def __init__(self, generator: torch.Generator) -> None:
        """Draw the means, (GAUSSIANS, DIMENSIONS)."""
        self.means = 0.9 * torch.randn(GAUSSIANS, DIMENSIONS, generator=generator)
        self.variance = torch.logspace(-1.3, -0.2, DIMENSIONS) ** 2

    def noise(self, latents: Tensor, timestep: Tensor, means: Tensor) -> Tensor:
        """Return E[noise | z_t], (B, D), of latents (B, D); between two timesteps alpha is linear."""
        low, share = int(timestep), float(timestep) % 1.0
        alpha = torch.lerp(SCHEDULE.alphas_cumprod[low], SCHEDULE.alphas_cumprod[min(low + 1, 999)], share)
        variance = alpha * self.variance + 1 - alpha
        distance = latents[:, None] - alpha.sqrt() * means
        weights = (-(distance**2 / variance).sum(dim=-1) / 2).softmax(dim=1)
        return (1 - alpha).sqrt() * (distance / variance * weights[..., None]).sum(dim=1)

    def predict(self, latents: Tensor, timestep: Tensor, doubled: bool) -> Tensor:
        """Return the denoiser's prediction for latents (2 B, D, 1, 1): first the whole mixture's, then that of the chosen Gaussians."""
        assert doubled, "guidance applies at every timestep"
        whole, chosen = latents[..., 0, 0].chunk(2)
        return torch.cat([self.noise(whole, timestep, self.means), self.noise(chosen, timestep, self.means[:CHOSEN])])[..., None, None]


def main() -> None:
    """Print the table."""
    generator = torch.Generator().manual_seed(0)
    mixture = Mixture(generator)
    start = torch.randn(SAMPLES, DIMENSIONS, generator=generator)[..., None, None]
    ids = [str(index) for index in range(SAMPLES)]

    def ends(settings: dict[str, Any], changed: dict[str, Any], steps: int) -> Tensor:
        def build(schedule: DDPMScheduler, sampling: Sampling) -> Any:  # noqa: ANN401  as in `build_sampler`
            sampler = build_sampler(schedule, sampling)
            return type(sampler).from_config(sampler.config, **changed)

        return sample(Sampling(steps=steps, scale=GUIDANCE, **settings), SCHEDULE, mixture.predict, start, ids, build=build)

    exact = ends({"sampler": "euler"}, {}, 1000)
    heading = ["sampler, timesteps", *(f"{steps} steps" for steps in STEPS)]
    print(row(heading), row(["---", *["---:"] * len(STEPS)]), sep="\n")
    for name, (settings, changed) in ROWS.items():
        distances = [(ends(settings, changed, steps) - exact).square().mean().sqrt() for steps in STEPS]
        print(row([name, *(f"{distance:.3f}" for distance in distances)]))


if __name__ == "__main__":
    main()
