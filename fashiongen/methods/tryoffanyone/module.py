"""TryOffAnyone (arXiv 2412.08573): tiled cloth generation from a dressed person.

Deviations are explained in the folder's README. The loop is `fashiongen.methods.concatenation`'s.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from fashiongen.batches import TryOffBatch, to_float
from fashiongen.methods.concatenation import ConcatenationMethod
from fashiongen.methods.tryoffanyone.published import load_transformers
from fashiongen.nn.encodings import Encoding


class TryOffAnyone(ConcatenationMethod):
    """Restores a garment's shop image from a photo of a person wearing it."""

    name: ClassVar[str] = "tryoffanyone"
    generated: ClassVar[str] = "garment"
    first: ClassVar[str] = "agnostic"
    reference: ClassVar[str] = "person"

    def load_published(self, unet: UNet2DConditionModel, file: Path) -> None:
        """Load the authors' transformer blocks, `model.safetensors`."""
        load_transformers(unet, file)

    def encodings(self) -> dict[str, Encoding]:
        """Return the latents' moments of the garment, of the person with 0 where the mask is True, and of the whole person."""

        def masked(person: Tensor, mask: Tensor) -> Tensor:
            return self.codec.moments(torch.where(mask, 0.0, to_float(person)))

        hidden = "moments of RGB in [-1, 1], 0 where the mask is True"
        agnostic = Encoding(reads=("person", "mask"), compute=masked, encoder=self.codec.vae, preprocessing=hidden)
        return {"garment": self.encoding_of("garment"), "agnostic": agnostic, "person": self.encoding_of("person")}

    def take_off(self, batch: TryOffBatch) -> Tensor:
        """Restore the garments, (B, 3, H, W) in [-1, 1]."""
        return self.generate(batch)
