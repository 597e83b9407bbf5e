"""TryOffDiff: Stable Diffusion's denoiser conditioned on SigLIP's tokens of the person, versions 1 and 2."""

from fashiongen.methods.tryoffdiff.module import TryOffDiff

__all__ = ["TryOffDiff"]
