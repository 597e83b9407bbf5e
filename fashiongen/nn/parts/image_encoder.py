"""The CLIP image encoder of image prompts."""

from __future__ import annotations

import torch
from transformers import CLIPVisionModelWithProjection

from fashiongen.nn.parts import loading


def load_image_encoder(folder: str, subfolder: str | None = None, dtype: torch.dtype = torch.float32) -> CLIPVisionModelWithProjection:
    """Load and freeze a CLIP image encoder with its projection, with weights of `dtype`."""
    encoder: CLIPVisionModelWithProjection = loading.load_part(CLIPVisionModelWithProjection, folder, subfolder, dtype=dtype)
    return loading.freeze(encoder)
