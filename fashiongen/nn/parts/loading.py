"""Loads one part with its `from_pretrained`, naming every missing, left over or misshapen key in one line."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import diffusers
import torch
import transformers
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn

from fashiongen.checkpoints import is_commit, some, split_revision
from fashiongen.errors import UserError
from fashiongen.weights_read import note

AnyModule = TypeVar("AnyModule", bound=nn.Module)

# Raised by `from_pretrained` for files that are missing, damaged, of another model, or have invalid settings.
UNLOADABLE = (
    pickle.UnpicklingError,
    OSError,
    ValueError,
    RuntimeError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    SafetensorError,
    StrictDataclassError,
)

# One of these is in the folder of every part.
CONFIGS = ("config.json", "tokenizer_config.json", "vocab.json", "scheduler_config.json")
# The names of weights files by their ending, before it or the number of a shard. Where there are safetensors, nothing else is read.
STEMS = {".safetensors": ("diffusion_pytorch_model", "model"), ".bin": ("diffusion_pytorch_model", "pytorch_model")}
# In the libraries' errors for a place without safetensors.
NO_FILE = re.compile(r"no file named|does not appear to have a file named")
ABSENT = re.compile(r"(no file named|does not appear to have a file named) [\w.-]*\.safetensors")

# Keys in files that belong to another part: the other half of a CLIP or SigLIP pair, a classifier's head.
OTHER_HALF = {
    "CLIPTextModel": ("vision_model.", "visual_projection.", "text_projection.", "logit_scale"),
    "SwinModel": ("classifier.",),
    "CLIPVisionModelWithProjection": ("text_model.", "text_projection.", "logit_scale"),
    "SiglipVisionModel": ("text_model.", "logit_scale", "logit_bias"),
}


def load_part(
    kind: Any,  # noqa: ANN401  any class with from_pretrained
    folder: str,
    subfolder: str | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    **options: Any,  # noqa: ANN401  from_pretrained's own
) -> Any:  # noqa: ANN401  an instance of `kind`
    """Load one part with its `from_pretrained`.

    Weights come from safetensors. A part that was published before them, such as the UNet of Stable Diffusion's inpainting model, is read
    from its `.bin`, with the unpickler that accepts tensors alone.

    Args:
        kind: the diffusers or transformers class.
        folder: a local folder or hub id (`owner/name@revision`), as returned by `checkpoints.locate`.
        subfolder: the part's folder inside it.
        dtype: the weights' dtype, whatever the file's; trained parts need float32, frozen ones may be bfloat16.
        **options: passed to `from_pretrained`.

    Raises:
        UserError: one line, if a file is missing or unsuitable, or a key is missing, left over or of another shape.
    """
    source, revision = split_revision(folder)
    if subfolder is not None:
        options["subfolder"] = subfolder
    if revision is not None:
        options["revision"] = revision
    is_module = issubclass(kind, nn.Module)
    if is_module:
        options |= {"use_safetensors": True, "output_loading_info": True}
        if issubclass(kind, transformers.PreTrainedModel):
            options["ignore_mismatched_sizes"] = True  # the loading info then names them; transformers' own error does not
    place = f"{folder}/{subfolder}" if subfolder else folder
    try:
        with _silenced():
            loaded = _from_pretrained(kind, source, options)
            if is_module:
                loaded[0].to(dtype)  # of which diffusers warns, whatever it casts
    except UNLOADABLE as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        reason = reason.partition(". If you want")[0]  # cut off diffusers' advice for programmers
        raise UserError(f"pretrained: {place}: cannot load a {kind.__name__} from there ({reason})") from error
    found = _local_folder(source, subfolder, revision)
    if found is None:  # from a hub's cache of another layout
        note(place, pinned=is_commit(revision))
    else:
        note(found, _read_files(found, weights=is_module), pinned=None if Path(source).is_dir() else is_commit(revision))
    if not is_module:
        return loaded
    part, info = loaded
    # The libraries initialise missing and misshapen weights at random, and ignore unused ones.
    problems = {
        "lacks weights": sorted(info["missing_keys"]),
        "has weights of another shape than those": sorted(
            f"{key} {tuple(found)} for {tuple(wanted)}" for key, found, wanted in info["mismatched_keys"]
        ),
        "has keys that are not weights": sorted(key for key in info["unexpected_keys"] if not _is_no_weight(key, kind)),
    }
    for what, keys in problems.items():
        if keys:
            raise UserError(f"pretrained: {place}: {what} of a {kind.__name__}: {some(keys)}")
    return part


def _from_pretrained(kind: Any, source: str, options: dict[str, Any]) -> Any:  # noqa: ANN401  as in load_part
    """Load from safetensors, or from a `.bin` if there are none; both libraries load that with `weights_only=True`."""
    try:
        return kind.from_pretrained(source, **options)
    except OSError as error:
        if "use_safetensors" not in options or not ABSENT.search(str(error)):
            raise
        try:
            return kind.from_pretrained(source, **(options | {"use_safetensors": False, "weights_only": True}))
        except UNLOADABLE as second:
            raise (error if NO_FILE.search(str(second)) else second) from None


def _local_folder(source: str, subfolder: str | None, revision: str | None) -> Path | None:
    """Return the local folder of a part, in the hub's cache if it is from a hub; None if it is not there."""
    if Path(source).is_dir():
        return Path(source, subfolder or "")
    for name in CONFIGS:
        file = try_to_load_from_cache(source, f"{subfolder}/{name}" if subfolder else name, revision=revision)
        if isinstance(file, str):
            return Path(file).parent
    return None


def _read_files(folder: Path, *, weights: bool) -> list[Path]:
    """Return the files that `from_pretrained` reads: for a network its config and its weights, else all but weights."""
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []  # a missing folder is told by the caller
    if not weights:
        return [path for path in files if path.suffix in (".json", ".txt", ".model") and ".index." not in path.name]
    for ending, stems in STEMS.items():
        whole, shards = {f"{stem}{ending}" for stem in stems}, tuple(f"{stem}-0" for stem in stems)
        found = [path for path in files if path.name in whole or (path.suffix == ending and path.name.startswith(shards))]
        if found:
            indices = {f"{stem}{ending}.index.json" for stem in stems}
            return sorted([*found, *(path for path in files if path.name == "config.json" or path.name in indices)])
    return [path for path in files if path.name == "config.json"]


def _is_no_weight(key: str, kind: type) -> bool:
    """Return whether a key may be left over: the other half of a pair, or the position indices in older files."""
    return key.endswith("position_ids") or key.startswith(OTHER_HALF.get(kind.__name__, ()))


@contextmanager
def _silenced() -> Iterator[None]:
    """Hide the libraries' reports and progress bars; `load_part` summarises them in one line."""
    logs = (transformers.logging, diffusers.utils.logging)
    verbosity = [log.get_verbosity() for log in logs]
    for log in logs:
        log.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        for log, level in zip(logs, verbosity, strict=True):
            log.set_verbosity(level)
        transformers.logging.enable_progress_bar()


def freeze(module: AnyModule) -> AnyModule:
    """Disable gradients, set evaluation mode, and return the module."""
    return module.requires_grad_(False).eval()
