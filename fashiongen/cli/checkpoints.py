"""Checkpoint files: written atomically, checked early, and DeepSpeed's folders turned into a single file."""

import glob
import os
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.plugins.io import TorchCheckpointIO

from fashiongen import shipped
from fashiongen.errors import UserError

RESUMES = ("last", "hpc")
"""Values of --ckpt_path that Lightning itself resolves to a file."""


class WholeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints atomically: a kill or a full disk leaves either the old file or the new one.

    Lightning's own goes through memory and the system's temporary folder, and is then copied over the old file.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:  # noqa: ANN401  as in Lightning
        """Write one file.

        Raises:
            UserError: if the file cannot be written, for example because the disk is full; the previous file stays.
        """
        if "://" in str(path):
            return super().save_checkpoint(checkpoint, path, storage_options)
        place = Path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_name(f".{place.name}.{os.getpid()}.part")
        _sweep(place)
        try:
            with open(temporary, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, place)
        except (OSError, RuntimeError) as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, OSError):  # torch's writer sometimes wraps it in a RuntimeError
                cause = cause.__context__
            if cause is None:
                raise
            raise UserError(f"cannot write {place}: {cause.strerror or cause}; any previous file is kept") from error
        finally:
            temporary.unlink(missing_ok=True)


def _sweep(place: Path) -> None:
    """Delete partial files that killed processes left for this checkpoint."""
    for left in place.parent.glob(f".{glob.escape(place.name)}.*.part"):
        owner = left.name.split(".")[-2]
        try:
            os.kill(int(owner), 0)  # signal 0 only checks that the process exists
        except ProcessLookupError:
            with suppress(OSError):  # a leftover that cannot be deleted is harmless
                left.unlink()
        except (ValueError, OverflowError, PermissionError):  # not a process id, or another user's process
            continue


def check_checkpoint(path: str | None, trust: bool) -> None:
    """Check that --ckpt_path exists, can be read, and is no DeepSpeed folder unless `trust` is given.

    Raises:
        UserError: if a check fails.
    """
    if path is None or path in RESUMES or "://" in path:
        return
    if not Path(path).exists():
        raise UserError(f"--ckpt_path {path}: no such file; `fashiongen fit` writes checkpoints where the recipe's ModelCheckpoint says")
    if Path(path).is_dir():
        if not trust:
            raise UserError(
                f"--ckpt_path {path} is a DeepSpeed checkpoint, whose pickles can run code: add --trust if you made it yourself"
            )
    elif not zipfile.is_zipfile(path):
        raise UserError(f"--ckpt_path {path}: not a checkpoint, or a damaged one")


def check_parents(parents: dict[str, str], recipe: str) -> None:
    """Check that a training run got the checkpoints of its parents.

    Args:
        parents: the path of a checkpoint by role, or the name of the parent's recipe if none was given.
        recipe: the recipe to train, as typed.

    Raises:
        UserError: if one is missing.
    """
    for role, value in parents.items():
        if Path(value).is_file():
            continue
        if "/" in value or value.endswith(".ckpt"):
            raise UserError(f"--parents.{role} {value}: no such checkpoint file")
        suffix = shipped.SUFFIX if recipe.endswith(shipped.SUFFIX) else ""
        train = f"fashiongen fit --config {Path(recipe).with_name(value + suffix)}"
        raise UserError(f"{recipe} needs the checkpoint of its parent {value}: add --parents.{role} PATH (train it with `{train}`)")


def consolidate(folder: Path, out: Path, *, trust: bool) -> None:
    """Gather a DeepSpeed checkpoint of ZeRO stage 2 or 3 into one file that loads with `weights_only=True`.

    Raises:
        UserError: without `trust`, since this format holds pickles, which can run code; or if `folder` is no such checkpoint.
    """
    if not (folder / "latest").is_file():
        raise UserError(f"{folder}: not a DeepSpeed checkpoint (a folder with a file `latest`)")
    if not trust:
        raise UserError(f"{folder} holds pickles, which can run code when they are read: add --trust if you made this checkpoint yourself")
    if out.exists():
        raise UserError(f"{out} exists: give another name")
    from lightning.pytorch.utilities.deepspeed import convert_zero_checkpoint_to_fp32_state_dict

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        whole = Path(scratch) / out.name
        convert_zero_checkpoint_to_fp32_state_dict(folder, whole)
        torch.load(whole, weights_only=True, mmap=True)
        whole.rename(out)
