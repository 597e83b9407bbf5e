"""Pix2PixCM, MGCM with the networks of Pix2Pix, as implemented by GeCo's authors as a baseline (GeCo, Section 5.4)."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from fashiongen.methods.pix2pix_cm.network import PatchGAN, UNet
from fashiongen.methods.pix2pix_cm.published import DISCRIMINATOR, GENERATOR
from fashiongen.methods.template_matching import TemplateMatchingMethod


class Pix2PixCM(TemplateMatchingMethod):
    """Ranks bottoms by their similarity to the top and to a template that a U-Net generates from the top."""

    name: ClassVar[str] = "pix2pix_cm"
    generator_names: ClassVar[dict[str, str]] = GENERATOR
    discriminator_names: ClassVar[dict[str, str]] = DISCRIMINATOR

    def build_gan(self, width: int, image_size: int) -> tuple[nn.Module, nn.Module]:
        """Return a U-Net and a PatchGAN."""
        return UNet(width), PatchGAN(width)
