"""DiFashion (Xu et al., SIGIR 2024): generative outfit recommendation by diffusion, with mutual influence and the user's history."""

from __future__ import annotations

from typing import ClassVar

from fashiongen.methods.mutual_diffusion import MutualDiffusion


class DiFashion(MutualDiffusion):
    """Denoises all items of an outfit together, each beside its history and mixed with a condition from the others."""

    name: ClassVar[str] = "difashion"
