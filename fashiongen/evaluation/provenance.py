"""The machine, code and weights behind a record's numbers."""

import hashlib
import importlib.metadata
import os
import platform
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

import fashiongen
from fashiongen import weights_read
from fashiongen.checkpoints import read_state
from fashiongen.closure import COMMAND, Closure, Name, names_in, of_objects
from fashiongen.data.base import FashionData
from fashiongen.own_code import own_files, own_sources
from fashiongen.records import GARMENTS, Record, WeightsEntry, file_sha256
from fashiongen.weights_read import CHANGED, Stat, stat_of


def now(device: torch.device) -> float:
    """Return the time in seconds, after waiting for the device to finish."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def peak_memory(device: torch.device) -> int:
    """Return the peak memory in bytes: of the GPU since the last reset, else of this process since its start."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    in_bytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * in_bytes


def parameters(module: torch.nn.Module) -> dict[str, int]:
    """Return a module's numbers of trainable and of all parameters."""
    trainable = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    return {"trainable": trainable, "total": sum(parameter.numel() for parameter in module.parameters())}


def code_of(*objects: object) -> Closure:
    """Return this package's modules that a run uses: those of its command, of the objects' classes and of what the user's own import."""
    names: list[Name] = [(COMMAND, None)]
    classes = [f"{cls.__module__}.{cls.__qualname__}" for value in objects for cls in type(value).__mro__]
    for file in own_files(own_sources(classes)):
        names += names_in(file)
    return of_objects(*objects, names=names)


def code_sha256(method: object, *others: object) -> dict[str, str]:
    """Return a record's hashes of this package's code: all that the run uses, and that without the method's.

    Args:
        method: the method.
        others: the data, those of the reference images, the task's handler and the metrics.
    """
    return {"source_sha256": code_of(method, *others).sha256, "evaluation_sha256": code_of(*others).sha256}


def data_info(data: FashionData) -> dict[str, str]:
    """Return a record's entries about the data: fingerprint, size, origin of the masks, and whether they are the embedded world's.

    Results with a dataset's own masks differ from those with derived masks. Embedded data share only the layout of the dataset whose name
    they carry.
    """
    origins = data.describe().get("masks", {}).get(data.split)
    info = {
        "fingerprint": data.fingerprint(),
        "size": "" if data.size is None else f"{data.size[0]}x{data.size[1]}",
        "masks": ", ".join(origins or ()),
        "world": "wardrobe" if data.embedded else "",
    }
    return {name: value for name, value in info.items() if value}


def variant(data: FashionData) -> list[str]:
    """Return what the data add to the name of a method: the garments, if a test puts on those that another test took off."""
    name = getattr(data, "garments_name", None)
    return [] if name is None else [f"{GARMENTS}{name}"]


def conditions(record: Record, of_task: dict[str, str]) -> dict[str, str]:
    """Return what comparable results must share, besides task, dataset, split and protocol: of a record so far, and of its task."""
    reference = record.reference or {}
    found = {
        "world": record.data.get("world", ""),
        "data": record.data["fingerprint"][:12],
        "masks": record.data.get("masks", ""),
        "samples": str(record.n_samples),
        "reference": " ".join(reference.get(key, "") for key in ("dataset", "split", "field", "size")).strip(),
        "reference_data": reference.get("fingerprint", "")[:12],
        "protocol_settings": (record.protocol_sha256 or "")[:12],
        **of_task,
    }
    return {name: value for name, value in found.items() if value}


class TestedCheckpoint:
    """The checkpoint of a test: what was loaded, whatever becomes of the file, which a training that goes on may replace.

    Attributes:
        path: the file, or the folder (DeepSpeed).
        loaded: sha256 of the weights that were loaded, see `weights_sha256`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Look at the file, before it is loaded."""
        self.path = Path(path)
        self.loaded: str | None = None
        self._before = self._stats()

    def _stats(self) -> list[Stat]:
        return [stat_of(file) for file in ([self.path] if self.path.is_file() else sorted(self.path.rglob("*")))]

    def unchanged(self) -> bool:
        """Return whether the file is the one that was looked at."""
        return self._stats() == self._before

    def entry(self) -> dict[str, str]:
        """Return the record's entry: a file that has been replaced has no hash, only the weights that were loaded from it have."""
        if not self.unchanged():
            entry = {"path": str(self.path), "sha256": CHANGED}
        elif self.loaded is None or self.path.is_dir():
            entry = checkpoint(self.path)
        else:
            entry = {"path": str(self.path), "sha256": file_sha256(self.path)}
        return entry if self.loaded is None else {**entry, "weights_sha256": self.loaded}


def checkpoint(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return a checkpoint's path, sha256 and sha256 of the weights; a folder's (DeepSpeed) sha256 covers its files' names and hashes."""
    if Path(path).is_dir():
        files = sorted(file for file in Path(path).rglob("*") if file.is_file())
        listing = "".join(f"{file.relative_to(path).as_posix()} {file_sha256(file)}\n" for file in files)
        return {"path": str(path), "sha256": hashlib.sha256(listing.encode()).hexdigest()}
    with weights_read.unnoted():
        return {"path": str(path), "sha256": file_sha256(Path(path)), "weights_sha256": weights_sha256(read_state(Path(path)))}


def checkpoints_left(trainer: L.Trainer) -> dict[str, dict[str, str]]:
    """Return the checkpoints that a training left, by role: `last`, and `best` with its `monitor` and `score` if one is monitored."""
    saving = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    left: dict[str, dict[str, str]] = {}
    for callback in saving:
        path = callback.last_model_path or (callback.best_model_path if callback.monitor is None else "")
        if "last" not in left and path and Path(path).exists():
            left["last"] = checkpoint(path)
        if "best" not in left and callback.monitor is not None and callback.best_model_path and Path(callback.best_model_path).exists():
            score = "" if callback.best_model_score is None else str(float(callback.best_model_score))
            left["best"] = {**checkpoint(callback.best_model_path), "monitor": callback.monitor, "score": score}
    return left


def unpinned(method: L.LightningModule) -> list[str]:
    """Return a line for each repository of a hub from which a method has read without naming the commit."""
    return weights_read.unpinned(reading.source() for reading in getattr(method, "weights_read", ()) if reading.pinned is False)


def finish_reading(method: L.LightningModule) -> None:
    """Note no further weights as read by the method, and print a line for those that are not pinned."""
    weights_read.end()
    for line in unpinned(method):
        rank_zero_info(line)


def weights(method: L.LightningModule) -> list[WeightsEntry]:
    """Return the identities of the frozen parts and of all other weights that a method has read, by source.

    Those of a resumed training include what the run before it had read, such as the weights of its parents.
    """
    return weights_read.entries(getattr(method, "weights_read", ()), getattr(method, "weights_resumed", ()))


def weights_sha256(state: Mapping[str, torch.Tensor]) -> str:
    """Return a sha256 over the names, types, shapes and values of weights, sorted by name.

    Checkpoints with equal weights have the same hash, whatever else (paths, counters, times) the files hold.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of the libraries that affect numbers."""
    return {
        "fashiongen": fashiongen.__version__,
        **{name: importlib.metadata.version(name) for name in ("torch", "lightning", "diffusers")},
    }


def device_name(device: torch.device, count: int) -> str:
    """Return a device's name, with the number of devices if there are several."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} ({platform.processor() or platform.machine()})"
    return f"{count} x {name}" if count > 1 else name
