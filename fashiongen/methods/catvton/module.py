"""CatVTON (arXiv 2407.15886, ICLR 2025): concatenation is all that a diffusion model needs for virtual try-on.

Equation numbers are the paper's; deviations are explained in the folder's README. The loop is `fashiongen.methods.concatenation`'s.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from fashiongen.batches import TryOnBatch, to_float
from fashiongen.methods.catvton.published import load_self_attention
from fashiongen.methods.concatenation import ConcatenationMethod
from fashiongen.nn.encodings import Encoding


class CatVTON(ConcatenationMethod):
    """Dresses a person in the garment of a shop image."""

    name: ClassVar[str] = "catvton"
    generated: ClassVar[str] = "person"
    first: ClassVar[str] = "agnostic"
    reference: ClassVar[str] = "garment"

    def load_published(self, unet: UNet2DConditionModel, file: Path) -> None:
        """Load the authors' self-attention layers, such as `vitonhd-16k-512/attention/model.safetensors`."""
        load_self_attention(unet, file)

    def encodings(self) -> dict[str, Encoding]:
        """Return the latents' moments of the person, of I_i (eq. 1: the person where the mask is False, else 0) and of the garment."""

        def masked(agnostic: Tensor, mask: Tensor) -> Tensor:
            return self.codec.moments(torch.where(mask, 0.0, to_float(agnostic)))  # the photo's grey is 128 / 127.5 - 1, not quite 0

        hidden = "moments of RGB in [-1, 1], 0 where the mask is True"
        agnostic = Encoding(reads=("agnostic", "mask"), compute=masked, encoder=self.codec.vae, preprocessing=hidden)
        return {"person": self.encoding_of("person"), "agnostic": agnostic, "garment": self.encoding_of("garment")}

    def try_on(self, batch: TryOnBatch) -> Tensor:
        """Dress the people, (B, 3, H, W) in [-1, 1]; eqs. 2 to 5."""
        return self.generate(batch)


class CatVTONMaskFree(CatVTON):
    """Dresses a person who wears something else, without a mask: CatVTON on InstructPix2Pix's UNet, [noise 4 | image latents 4].

    It sees the whole photo, so it needs an unpaired test. In their code the two images stand side by side. The authors trained on people
    whom the masked model had dressed in random garments; no dataset here offers such photos of training pairs, so it runs from their
    weights (`weights`).
    """

    name: ClassVar[str] = "catvton_mask_free"
    needs: ClassVar[frozenset[str]] = frozenset({"photo"})
    first: ClassVar[str] = "photo"
    axis: ClassVar[int] = -1
    masked: ClassVar[bool] = False

    def encodings(self) -> dict[str, Encoding]:
        """Return the latents' moments of the person, of the whole photo (eq. 1, mask-free) and of the garment."""
        return {kind: self.encoding_of(kind) for kind in ("person", "photo", "garment")}
