"""Reads the authors' weights (`rizavelioglu/tryoffdiff` on the hub), and samples from those of version 2 as the authors do.

v1       unet.* (686 keys), transformer.* (12), proj.{weight [77, 1024], bias}, norm.{weight, bias}
v2       unet.* (686; `multi` has unet.class_embedding.weight [3, 1280] too), proj.*, norm.*; each key begins with `_orig_mod.`, or has
         it further inside, since the authors compile the model
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import DDPMScheduler, EulerDiscreteScheduler
from torch import Tensor

from fashiongen.checkpoints import load_state, read_state
from fashiongen.errors import UserError
from fashiongen.methods.tryoffdiff.network import TryOffDiffNetwork, Version
from fashiongen.nn.sampling import Sampling

COMPILED = "_orig_mod."
"""What torch.compile puts before the names of a module's parts."""


def load_published(network: TryOffDiffNetwork, file: Path) -> None:
    """Load the authors' file into `network`, and note in `network.unscaled` how its denoiser was trained.

    Raises:
        UserError: one line, if the file cannot be read safely, is of another version, or a key is missing, left over or misshapen.
    """
    state: dict[str, Tensor] = {}
    for key, value in read_state(file).items():
        plain = key.replace(COMPILED, "")
        if plain in state:
            raise UserError(f"published: {file}: {plain} is there twice, with and without {COMPILED}")
        state[plain] = value
    version, reason = recognise(state, file)
    if version != network.version:
        found = f"holds TryOffDiff {version} ({reason}), but model.init_args.version is {network.version}"
        raise UserError(f"published: {file}: {found}: set --model.init_args.version {version}")
    load_state(network, state, source=f"published: {file}", may_miss={"unscaled"})
    network.unscaled.fill_(version != "v1")


def recognise(state: dict[str, Tensor], file: Path) -> tuple[Version, str]:
    """Return the version of a state dict, and the keys that tell it.

    Raises:
        UserError: if it has no denoiser.
    """
    parts = {key.partition(".")[0] for key in state}
    if "unet" not in parts:
        raise UserError(f"published: {file}: holds no TryOffDiff: no key begins with unet.")
    if "transformer" in parts:
        return "v1", "it has transformer.*"
    if any(key.startswith("unet.class_embedding.") for key in state):
        return "v2-multi", "it has unet.class_embedding.*"
    return "v2-single", "it has neither transformer.* nor unet.class_embedding.*"


class UnscaledEuler(EulerDiscreteScheduler):  # type: ignore[misc]
    """Euler's method as the authors sample from their v2 weights.

    The noise has unit variance at the start, not the schedule's largest sigma, and the denoiser sees the latents as they are, not divided
    by sqrt(sigma^2 + 1). The authors decode the last step's `pred_original_sample`; the step, to sigma 0, returns the same.
    """

    @property
    def init_noise_sigma(self) -> float:
        """The standard deviation of the initial noise."""
        return 1.0

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """Return the latents as they are; the flag is the authors', who set it so that `step` does not warn."""
        self.is_scale_input_called = True
        return sample


def unscaled_euler(schedule: DDPMScheduler, sampling: Sampling) -> Any:  # noqa: ANN401  as in `build_sampler`
    """Return the sampler of the authors' v2 weights."""
    return UnscaledEuler.from_config(schedule.config, timestep_spacing="linspace", use_karras_sigmas=sampling.karras)
