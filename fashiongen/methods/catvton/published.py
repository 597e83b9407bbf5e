"""Reads the self-attention layers that CatVTON's authors published, by name.

Their file is the state dict of a list of all modules of the UNet whose name contains `attn1`, in the order down, up, middle. A layer takes
eight places of the list: itself, `to_q`, `to_k`, `to_v`, `to_out`, its two entries, and its processor, so that the first layer's query is
`0.to_q.weight` and the second's is `8.to_q.weight`. With a processor that is no module a layer takes seven.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from fashiongen.checkpoints import check_fit, read_state
from fashiongen.errors import UserError
from fashiongen.nn.attention import attention_layers

STRIDES = (8, 7)
BLOCKS = ("down_blocks", "up_blocks", "mid_block")
# The names of each weight in a file, by the place after the layer's own: a module is in the list beside those that contain it. Files
# hold one of them or several.
ALIASES = {
    "to_q.weight": ((0, "to_q.weight"), (1, "weight")),
    "to_k.weight": ((0, "to_k.weight"), (2, "weight")),
    "to_v.weight": ((0, "to_v.weight"), (3, "weight")),
    "to_out.0.weight": ((0, "to_out.0.weight"), (4, "0.weight"), (5, "weight")),
    "to_out.0.bias": ((0, "to_out.0.bias"), (4, "0.bias"), (5, "bias")),
}


def load_self_attention(unet: UNet2DConditionModel, file: str | Path) -> None:
    """Fill the self-attention layers of a UNet from a file `.../attention/model.safetensors`.

    Raises:
        UserError: if the file cannot be read safely, or a key is missing, left over or of another shape; the keys are the file's.
    """
    state = read_state(file)
    # The stride whose names leave the fewest keys over.
    tables = [published_names(unet, stride) for stride in STRIDES]
    table = min(tables, key=lambda table: len(state.keys() - {name for names in table.values() for name in names}))
    parameters = dict(unet.named_parameters())
    chosen = {}
    for key, names in table.items():
        present = [name for name in names if name in state] or names[:1]
        for alias in present[1:]:
            if not torch.equal(state[alias], state[present[0]]):
                raise UserError(f"{file}: {present[0]} and {alias} are one weight of a CatVTON, but differ")
            del state[alias]
        chosen[present[0]] = parameters[key]
    check_fit(chosen, state, source=str(file), name="the self-attention of CatVTON")
    with torch.no_grad():
        for name, parameter in chosen.items():
            parameter.copy_(state[name])


def published_names(unet: UNet2DConditionModel, stride: int) -> dict[str, list[str]]:
    """Return the names of each self-attention weight in a file, by its name in the UNet; `stride` is the number of places of a layer."""
    layers = sorted(attention_layers(unet, "attn1"), key=_place)
    return {
        f"{layer}.{weight}": [f"{index * stride + offset}.{name}" for offset, name in names]
        for index, layer in enumerate(layers)
        for weight, names in ALIASES.items()
    }


def _place(name: str) -> tuple[int, ...]:
    """Return the place of a layer: its block's kind, then the numbers in its name."""
    return (BLOCKS.index(name.partition(".")[0]), *(int(number) for number in re.findall(r"\.(\d+)", name)))
