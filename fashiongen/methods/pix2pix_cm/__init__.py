"""Pix2PixCM: MGCM with a U-Net generator and a PatchGAN discriminator."""

from fashiongen.methods.pix2pix_cm.module import Pix2PixCM

__all__ = ["Pix2PixCM"]
