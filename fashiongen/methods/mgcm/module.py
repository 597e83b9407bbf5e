"""MGCM (Liu et al., Neurocomputing 414, 2020), as re-implemented by GeCo's authors as a baseline (GeCo, Section 5.4)."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from fashiongen.methods.mgcm.network import Discriminator, Generator
from fashiongen.methods.mgcm.published import DISCRIMINATOR, GENERATOR
from fashiongen.methods.template_matching import TemplateMatchingMethod


class MGCM(TemplateMatchingMethod):
    """Ranks bottoms by their similarity to the top and to a template that a GAN generates from the top."""

    name: ClassVar[str] = "mgcm"
    generator_names: ClassVar[dict[str, str]] = GENERATOR
    discriminator_names: ClassVar[dict[str, str]] = DISCRIMINATOR

    def build_gan(self, width: int, image_size: int) -> tuple[nn.Module, nn.Module]:
        """Return an encoder-decoder without skip connections and a discriminator of whole images."""
        return Generator(width), Discriminator(width, image_size)
