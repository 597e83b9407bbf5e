"""The feature extractors that metrics are built on, by name, and where their weights are found.

A metric's reported name carries its extractor, so a number from the tiny network never shares a column with one from a published network.

Nothing is ever downloaded here: nobody who runs a test has asked for it. What is not on the machine is told in one line, before any
sampling, with the file and the place where it belongs. A metric's `weights` names a file (for CLIP and DINOv2 a folder, or another
`owner/name`); without it the places are

- the folder `hub/checkpoints` under TORCH_HOME (by default ~/.cache/torch), where torchvision and pytorch-fid keep theirs;
- for CLIP and DINOv2 the cache of the Hugging Face hub (HF_HOME moves it), which `hf download owner/name` fills.

No file is read in a way that could run code: safetensors, or a torch file of plain tensors; never TorchScript.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fashiongen.checkpoints import tiny_weights
from fashiongen.errors import UserError
from fashiongen.metrics.extractors import CLIPFeatures, DINOFeatures, InceptionFeatures, load_dists, load_lpips
from fashiongen.nn.classifier import AttributeClassifier


@dataclass(frozen=True)
class Extractor:
    """How a network is loaded, and where its published weights are.

    Attributes:
        load: takes the file or folder, returns the network.
        url: of the published file; its last part is the file's name under TORCH_HOME.
        repository: `owner/name` on the hub, for a folder.
    """

    load: Callable[[Path], nn.Module]
    url: str = ""
    repository: str = ""


TORCHVISION = "https://download.pytorch.org/models"
PYTORCH_FID = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights"
EXTRACTORS = {
    # Both mean the attribute classifier trained on the embedded wardrobe: distances are called lpips[tiny], sets fid[tiny-classifier].
    "tiny": Extractor(AttributeClassifier.from_pretrained),
    "tiny-classifier": Extractor(AttributeClassifier.from_pretrained),
    "alex": Extractor(partial(load_lpips, "alex"), url=f"{TORCHVISION}/alexnet-owt-7be5be79.pth"),
    "vgg": Extractor(partial(load_lpips, "vgg"), url=f"{TORCHVISION}/vgg16-397923af.pth"),
    "squeeze": Extractor(partial(load_lpips, "squeeze"), url=f"{TORCHVISION}/squeezenet1_1-b8a52dc0.pth"),
    "vgg16": Extractor(load_dists, url=f"{TORCHVISION}/vgg16-397923af.pth"),
    "inception-v3": Extractor(InceptionFeatures.from_pretrained, url=f"{PYTORCH_FID}/pt_inception-2015-12-05-6726825d.pth"),
    "clip-vit-b-32": Extractor(partial(CLIPFeatures.from_pretrained, "clip-vit-b-32"), repository="openai/clip-vit-base-patch32"),
    "dinov2-small": Extractor(partial(DINOFeatures.from_pretrained, "dinov2-small"), repository="facebook/dinov2-small"),
    "dinov2-base": Extractor(partial(DINOFeatures.from_pretrained, "dinov2-base"), repository="facebook/dinov2-base"),
    "dinov2-large": Extractor(partial(DINOFeatures.from_pretrained, "dinov2-large"), repository="facebook/dinov2-large"),
}
TINY = ("tiny", "tiny-classifier")
# For sets any network with pooled features will do.
SET_EXTRACTORS = ("tiny-classifier", "inception-v3", "clip-vit-b-32", "dinov2-small", "dinov2-base", "dinov2-large")
INJECTED = "custom"
FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")


@cache
def extractor(name: str, place: Path) -> Any:  # noqa: ANN401  each metric knows what its own extractors can do
    """Return the network of that name from its file or folder, frozen and in evaluation mode; one process loads it once.

    Raises:
        UserError: if `place` holds no weights of that network that can be read safely.
    """
    with torch.inference_mode(False):  # ordinary tensors even where a metric is first used under inference mode
        return EXTRACTORS[name].load(place).eval().requires_grad_(False)


def find(name: str, weights: str | None = None) -> Path:
    """Return the file or folder with the weights of the extractor `name`, on this machine.

    Raises:
        UserError: if it is not there; the line says which one to put where.
    """
    if name in TINY:
        return tiny_weights() / "classifier"
    published = EXTRACTORS[name]
    if weights is not None and (given := Path(weights).expanduser()).exists():
        return given
    if published.url:
        if weights is not None:
            raise UserError(f"{name}: there is no weights file {weights}: {published.url} is the published one")
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(published.url).name
        if not file.is_file():
            raise UserError(f"{name}: its weights are not at {file}: put {published.url} there, or name the file with `weights`")
        return file
    repository = weights or published.repository
    if weights is not None and (weights.startswith((".", "~", "/")) or weights.count("/") != 1):
        raise UserError(f"{name}: there is no folder {weights}: give one in transformers' format, or {published.repository}")
    from huggingface_hub import constants, snapshot_download

    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except (OSError, ValueError) as error:  # what huggingface_hub raises where it finds nothing
        remedy = f"`hf download {repository}` puts it there, or name a folder with `weights`"
        raise UserError(f"{name}: {repository} is not in the hub's cache {constants.HF_HUB_CACHE}: {remedy}") from error


class FrozenNetwork:
    """A metric's hold on its extractor: loaded at first use, moved to where it is used, and no submodule.

    A network that a metric held as a submodule would land in the checkpoint and among the parameters of the method that holds the metric.
    Copies and pickles of a named extractor carry the name alone.
    """

    def __init__(
        self, name: str, network: nn.Module | None = None, weights: str | None = None, choices: Sequence[str] = tuple(EXTRACTORS)
    ) -> None:
        """Hold the extractor called `name`, or a frozen copy of `network`.

        Args:
            name: one of `choices`, or with a `network` the name to report for it.
            network: stands in for a named extractor; it is then never reported under a built-in name, but as `custom`.
            weights: the extractor's file or folder, by default where its published weights are kept.
            choices: the extractors that will do.

        Raises:
            UserError: if the name is unknown and no network is given.
        """
        if network is None and name not in choices:
            raise UserError(f"unknown feature extractor {name!r}: choose one of {', '.join(choices)}")
        self.name = INJECTED if network is not None and name in EXTRACTORS else name
        self.weights = weights
        self._network = None if network is None else deepcopy(network).eval().requires_grad_(False)

    def on(self, device: torch.device) -> Any:  # noqa: ANN401  each metric knows what its own extractors can do
        """Return the network on `device`.

        Raises:
            UserError: if its weights are not on this machine, or cannot be read safely.
        """
        network = extractor(self.name, find(self.name, self.weights)) if self._network is None else self._network
        return network.to(device)

    def provenance(self) -> dict[str, str] | None:
        """Return where the weights came from and the sha256 of their file, for the record; None for a network that was handed over."""
        if self._network is not None:
            return None
        place = find(self.name, self.weights)
        file = place if place.is_file() else next(place / name for name in FOLDER_FILES if (place / name).is_file())
        # The hub's cache keeps a repository under models--OWNER--NAME/snapshots/REVISION.
        cached = re.search(r"models--(.+?)--(.+)/snapshots/([^/]+)$", place.as_posix())
        name = f"{cached[1]}/{cached[2]}@{cached[3]}/{file.name}" if cached else file.name
        return {"weights": name, "sha256": _sha256(file, file.stat().st_mtime_ns)}

    def doubt(self) -> str | None:
        """Say so if the weights are not the published ones: such a file carries the first 8 digits of its sha256 in its name."""
        found, url = self.provenance(), getattr(EXTRACTORS.get(self.name), "url", "")
        promised = re.search(r"-([0-9a-f]{8})\.pth$", url)
        if found is None or promised is None or found["sha256"].startswith(promised[1]):
            return None
        return f"the weights of {self.name} ({found['weights']}) are not the published {Path(url).name}"


@cache
def _sha256(file: Path, modified: int) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
