"""The SigLIP image encoder."""

from __future__ import annotations

import torch
from transformers import SiglipVisionModel

from fashiongen.nn.parts import loading


def load_siglip(folder: str, dtype: torch.dtype = torch.float32) -> SiglipVisionModel:
    """Load and freeze a SigLIP image encoder, with weights of `dtype`; the folder may hold the text encoder too."""
    encoder: SiglipVisionModel = loading.load_part(SiglipVisionModel, folder, dtype=dtype)
    return loading.freeze(encoder)
