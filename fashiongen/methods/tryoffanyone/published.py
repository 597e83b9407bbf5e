"""Reads the transformer blocks that TryOffAnyone's authors published, by name.

Their file is the state dict of a list of lists: the `attentions` of each block of the UNet that has any, in the order down, middle, up
(CatVTON's list of layers has the middle last). It holds the cross-attention too, which the method never computes.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from fashiongen.checkpoints import check_fit, read_state

UNUSED = re.compile(r"\d+\.\d+\.transformer_blocks\.\d+\.attn2\.(to_q\.weight|to_k\.weight|to_v\.weight|to_out\.0\.weight|to_out\.0\.bias)")
"""The keys of a file that are left over on purpose: the weights of cross-attention layers, 43,962,560 of the published 267,239,360."""


def load_transformers(unet: UNet2DConditionModel, file: str | Path) -> None:
    """Fill the transformer blocks of a UNet without cross-attention from a file; the keys of `UNUSED` are ignored.

    Raises:
        UserError: if the file cannot be read safely, or a key is missing, left over or of another shape; the keys are the file's.
    """
    state = {key: value for key, value in read_state(file).items() if not UNUSED.fullmatch(key)}
    placed = published_weights(unet)
    check_fit(placed, state, source=str(file), name="the transformer blocks of TryOffAnyone")
    with torch.no_grad():
        for key, value in placed.items():
            value.copy_(state[key])


def published_weights(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """Return the weights (not copies) of a UNet's transformer blocks, by their names in a file."""
    blocks: list[nn.Module] = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
    lists = [block.get_submodule("attentions") for block in blocks if hasattr(block, "attentions")]
    return {f"{place}.{name}": weight for place, entries in enumerate(lists) for name, weight in entries.named_parameters()}
