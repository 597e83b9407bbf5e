"""Resolves `pretrained:`, and loads weights safely: nothing read here can run code."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Set as AbstractSet
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fashiongen.errors import UserError
from fashiongen.weights_read import TINY, note

# Raised by torch's restricted unpickler for files that are not weights.
UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, OSError, LookupError, ValueError, TypeError, AttributeError, AssertionError)


def tiny_weights() -> Path:
    """Return the folder of the shipped tiny checkpoints (built by `fashiongen tiny build`)."""
    return TINY


def locate(pretrained: str, part: str = "sd") -> str:
    """Resolve `tiny`, a local folder or a hub id to an argument for `nn.parts`.

    Args:
        pretrained: `tiny` (the shipped checkpoint), a folder in the diffusers layout, or a hub id `owner/name@revision`. Unless the
            revision is a commit, another run may get other weights: branches and tags move.
        part: which of the tiny checkpoints, by its folder, such as `sd` or `clip`.

    Raises:
        UserError: if the value looks like a path (or is `tiny`) and no such folder exists.
    """
    if pretrained == "tiny":
        folder = tiny_weights() / part
        if not folder.is_dir():
            raise UserError(
                f"the tiny checkpoint {part!r} is missing at {folder}; rebuild it with `fashiongen tiny build --out {tiny_weights()}`"
            )
        return str(folder)
    folder = Path(pretrained).expanduser()
    if folder.is_dir():
        return str(folder)
    if folder.is_absolute() or pretrained.startswith((".", "~")) or pretrained.count("/") != 1:
        raise UserError(
            f"pretrained: {pretrained}: no such folder; give `tiny`, a folder in the diffusers layout, or a hub id owner/name@revision"
        )
    return pretrained


def split_revision(pretrained: str) -> tuple[str, str | None]:
    """Split `owner/name@revision`; a folder, or an id without a revision, has None.

    >>> split_revision("owner/name@v1")
    ('owner/name', 'v1')
    """
    repository, _, revision = pretrained.partition("@")
    return (pretrained, None) if Path(pretrained).is_dir() else (repository, revision or None)


def is_commit(revision: str | None) -> bool:
    """Return whether a revision is a commit, which never changes.

    >>> is_commit("main"), is_commit("3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268")
    (False, True)
    """
    return re.fullmatch("[0-9a-f]{40}", revision or "") is not None


def locate_file(value: str, tiny: str | None = None) -> Path:
    """Resolve `tiny`, a local file or a file on the hub (`owner/name@revision/path/in/repository`) to a local path.

    Args:
        value: the value in the recipe.
        tiny: the shipped file that `tiny` refers to, relative to `tiny_weights()`; None if there is none.

    Raises:
        UserError: if there is no such file, locally or on the hub, or the hub cannot be reached.
    """
    path = tiny_weights() / tiny if value == "tiny" and tiny is not None else Path(value).expanduser()
    if path.is_file():
        return path
    if value == "tiny" or path.is_absolute() or value.startswith((".", "~")) or value.count("/") < 2:
        choices = "a file" if tiny is None else "`tiny`, a file,"
        raise UserError(
            f"{path}: no such weights file; give {choices} or a file on the hub such as owner/name@revision/folder/file.safetensors"
        )
    owner, name, inside = value.split("/", 2)
    name, _, revision = name.partition("@")
    from huggingface_hub import hf_hub_download

    try:
        found = Path(hf_hub_download(f"{owner}/{name}", inside, revision=revision or None))
    except (OSError, ValueError) as error:  # huggingface_hub's errors if the file is missing or the hub cannot be reached
        raise UserError(f"{value}: no such local file, and none on the hub ({type(error).__name__})") from error
    note(found, pinned=is_commit(revision))
    return found


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from a `.safetensors` file, or from a torch file with `weights_only=True`.

    For a checkpoint this is its `state_dict` (Lightning) or `model_state_dict` (plain training loops). Nested mappings,
    as in IP-Adapter's `.bin` files, are joined with dots: `{"image_proj": {"norm.bias": ...}}` becomes `{"image_proj.norm.bias": ...}`.

    Raises:
        UserError: if the file is missing, is not a weights file, or holds a pickle that could run code.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder: convert a DeepSpeed checkpoint with `fashiongen consolidate {path} OUT.ckpt --trust` first")
    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    note(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's warnings about other programs' pickles, which it then reads or rejects
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, *UNREADABLE) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path}: not a weights file that can be read safely ({reason}); give safetensors or a torch file of plain tensors"
        ) from error
    state = None
    if isinstance(content, dict):
        state = _flat(next((content[name] for name in ("state_dict", "model_state_dict") if name in content), content))
    if state is None:
        raise UserError(f"{path}: contains no state dict (a mapping of names to tensors)")
    return state


def _flat(content: object, prefix: str = "") -> dict[str, Tensor] | None:
    """Join the names of nested mappings with dots; None if there is anything but named tensors."""
    if not isinstance(content, dict):
        return None
    flat: dict[str, Tensor] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        inner = {name: value} if isinstance(value, Tensor) else _flat(value, f"{name}.")
        if inner is None or not isinstance(key, str):
            return None
        flat |= inner
    return flat


def load_state(module: nn.Module, state: dict[str, Tensor], *, source: str, may_miss: AbstractSet[str] = frozenset()) -> None:
    """Load `state` into `module`, naming every key that is missing, left over or of another shape.

    Args:
        module: receives the weights.
        state: names to tensors.
        source: where the state came from, for the error.
        may_miss: keys that may be missing (frozen parts, which checkpoints omit).

    Raises:
        UserError: one line that names the keys.
    """
    check_fit(nn.Module.state_dict(module), state, source=source, name=type(module).__name__, may_miss=may_miss)
    nn.Module.load_state_dict(module, state, strict=False)


def check_fit(
    own: dict[str, Tensor], state: dict[str, Tensor], *, source: str, name: str, may_miss: AbstractSet[str] = frozenset()
) -> None:
    """Raise a UserError that names every key of `state` that is missing, left over or of another shape than in `own`."""
    missing = [key for key in own if key not in state and key not in may_miss]
    left_over = [key for key in state if key not in own]
    misshapen = [
        f"{key} {tuple(value.shape)} for {tuple(own[key].shape)}"
        for key, value in state.items()
        if key in own and value.shape != own[key].shape
    ]
    problems = [
        f"{what}: {some(keys)}" for what, keys in (("missing", missing), ("left over", left_over), ("of another shape", misshapen)) if keys
    ]
    if problems:
        raise UserError(f"{source} does not fit {name}: " + "; ".join(problems))


def some(keys: list[str], most: int = 4) -> str:
    """List the first few keys, and the number of the others."""
    return ", ".join(keys[:most]) + (f" and {len(keys) - most} more" if len(keys) > most else "")
