"""The parts of a Stable-Diffusion-style folder, one file per part, each loaded separately and safely."""

from fashiongen.nn.parts.autoencoder import LatentCodec, load_codec
from fashiongen.nn.parts.image_encoder import load_image_encoder
from fashiongen.nn.parts.loading import freeze, load_part
from fashiongen.nn.parts.schedule import ddim, load_noise_schedule
from fashiongen.nn.parts.siglip import load_siglip
from fashiongen.nn.parts.text_encoder import PromptEncoder, load_prompt_encoder
from fashiongen.nn.parts.unet import load_inpainting_unet, load_unet, widen_input, with_linear_projections

__all__ = [
    "LatentCodec",
    "PromptEncoder",
    "ddim",
    "freeze",
    "load_codec",
    "load_image_encoder",
    "load_inpainting_unet",
    "load_noise_schedule",
    "load_part",
    "load_prompt_encoder",
    "load_siglip",
    "load_unet",
    "widen_input",
    "with_linear_projections",
]
