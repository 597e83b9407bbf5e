"""Reads the state dicts of the authors' code (github.com/sisinflab/GeCo) by their key names.

Their files are `{"epoch", "model_state_dict", "optimizer_state_dict", "loss"}`; everything but the weights is ignored. No
weights were published: such files come from training with that code.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from fashiongen.checkpoints import check_fit, read_state
from fashiongen.methods.geco.network import Compatibility, Discriminator, Generator

# Our names to the authors'. Two of their up-blocks have one more wrapper, together with dropout.
GENERATOR = (
    (r"^first\.", "initial_down."),
    (r"^down\.(\d+)\.", lambda found: f"down{int(found[1]) + 1}."),
    (r"^unused_down\.", "down6."),
    (r"^up\.([01])\.", lambda found: f"up{int(found[1]) + 1}.0."),
    (r"^up\.(\d+)\.", lambda found: f"up{int(found[1]) + 1}."),
    (r"^last\.", "final_up."),
)
DISCRIMINATOR = ((r"^first\.", "initial."), (r"^blocks\.", "model."))
RANKER = (
    (r"^backbone\.", "resnet."),
    (r"^query_projection\.", "query_proj."),
    (r"^bottom_projection\.", "bottom_proj."),
)
Renaming = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]


def load_generator(generator: Generator, file: str | Path) -> None:
    """Fill `generator` from a file `generator_DATASET.pt`; `down6`, which is never called, is ignored if the generator lacks it.

    Raises:
        UserError: if the file cannot be read safely, or a key is missing, left over or of another shape; the keys are the authors'.
    """
    state = read_published(file)
    if generator.unused_down is None:
        state = {key: value for key, value in state.items() if not key.startswith("down6.")}
    _place(generator, state, GENERATOR, str(file), "CIGM's generator")


def load_discriminator(discriminator: Discriminator, file: str | Path) -> None:
    """Fill `discriminator` from a file `discriminator_DATASET.pt`; errors as in `load_generator`."""
    last = len(discriminator.blocks)  # theirs is one sequence of the blocks and the last convolution
    _place(discriminator, read_published(file), (*DISCRIMINATOR, (r"^last\.", f"model.{last}.")), str(file), "CIGM's discriminator")


def load_ranker(network: Compatibility, file: str | Path) -> None:
    """Fill `network` from a file `geco_DATASET_....pt`; ResNet's unused classifier is ignored if the network lacks it.

    Errors as in `load_generator`.
    """
    state = read_published(file)
    if not any(key.startswith("fc.") for key in network.backbone.state_dict()):
        state = {key: value for key, value in state.items() if not key.startswith("resnet.fc.")}
    _place(network, state, RANKER, str(file), "GECo's network")


def read_published(file: str | Path) -> dict[str, Tensor]:
    """Return the `model_state_dict` of a file from the authors' code, or a plain state dict.

    Raises:
        UserError: if the file is missing, not such a file, or holds pickles that could run code.
    """
    path = Path(file).expanduser()
    # CIGM's files contain their loss object; only that class, which holds no tensors and is discarded, may be unpickled.
    with torch.serialization.safe_globals([nn.BCEWithLogitsLoss]):
        return read_state(path)


def _place(module: nn.Module, state: dict[str, Tensor], renaming: Renaming, source: str, name: str) -> None:
    placed = {_renamed(key, renaming): value for key, value in module.state_dict().items()}
    check_fit(placed, state, source=source, name=name)
    with torch.no_grad():
        for key, value in placed.items():
            value.copy_(state[key])


def _renamed(key: str, renaming: Renaming) -> str:
    for pattern, replacement in renaming:
        renamed, found = re.subn(pattern, replacement, key)
        if found:
            return renamed
    return key
