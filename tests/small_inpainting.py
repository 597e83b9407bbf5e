"""A small base model of CatVTON and TryOffAnyone with random weights: the shipped parts of `sd`, and a UNet with more input channels."""

import json
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from fashiongen.checkpoints import tiny_weights


def config(channels=9):
    return json.loads((tiny_weights() / "sd" / "unet" / "config.json").read_text()) | {"in_channels": channels}


def write(root: Path, channels: int = 9) -> str:
    """Write the base model to a new folder in the diffusers layout."""
    root.mkdir(parents=True)
    for part in ("vae", "scheduler"):
        (root / part).symlink_to(tiny_weights() / "sd" / part)
    torch.manual_seed(0)
    UNet2DConditionModel.from_config(config(channels)).save_pretrained(root / "unet")
    return str(root)


class Skip:
    """The authors' processor of cross-attention layers."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        return hidden_states


def skip_cross_attention(unet):
    """Give a whole UNet the authors' processors; its cross-attention weights stay."""
    unet.set_attn_processor({name: Skip() if "attn2" in name else own for name, own in unet.attn_processors.items()})
    return unet
