"""The metrics' feature extractors by name, and the locations of their weights.

A metric's reported name includes its extractor, so a number from the tiny network never shares a column with one from a published network.

Nothing is ever downloaded. Before any sampling, a one-line error names each missing file and where to put it. A metric's `weights` names
a file (for CLIP and DINOv2 a folder, or another `owner/name@revision`); without it the locations are

- the folder `hub/checkpoints` under TORCH_HOME (by default ~/.cache/torch), which torchvision and pytorch-fid use too;
- for CLIP and DINOv2 the Hugging Face cache (set by HF_HOME), which `hf download owner/name --revision R` fills with the pinned revision.

No file is read in a way that could run code: only safetensors, or torch files of plain tensors; never TorchScript.
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

from fashiongen.checkpoints import split_revision, tiny_weights
from fashiongen.errors import UserError
from fashiongen.metrics.clip import CLIPFeatures, TinyCLIPFeatures
from fashiongen.metrics.extractors import DINOFeatures, InceptionFeatures, load_dists, load_lpips
from fashiongen.metrics.inception50 import Inception50
from fashiongen.nn.classifier import AttributeClassifier
from fashiongen.nn.compatibility import FashionEvaluator
from fashiongen.weights_read import unnoted


@dataclass(frozen=True)
class Extractor:
    """How to load a network, and the source of its published weights.

    Attributes:
        load: returns the network, given the file or folder.
        url: URL of the published file; its last part is the file's name under TORCH_HOME.
        repository: `owner/name@revision` on the hub, for a folder.
    """

    load: Callable[[Path], nn.Module]
    url: str = ""
    repository: str = ""


TORCHVISION = "https://download.pytorch.org/models"
PYTORCH_FID = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights"
CLIP = "openai/clip-vit-base-patch32@3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268"
CLIP_H = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K@94a64189c3535c1cb44acfcccd7b0908c1c8eb23"
DINOV2_SMALL = "facebook/dinov2-small@ed25f3a31f01632728cabb09d1542f84ab7b0056"
DINOV2_BASE = "facebook/dinov2-base@f9e44c814b77203eaa57a6bdbbd535f21ede1415"
DINOV2_LARGE = "facebook/dinov2-large@47b73eefe95e8d44ec3623f8890bd894b6ea2d6c"
EXTRACTORS = {
    # Both are the attribute classifier trained on the embedded wardrobe; e.g. lpips[tiny] for pairs, fid[tiny-classifier] for sets.
    "tiny": Extractor(AttributeClassifier.from_pretrained),
    "tiny-classifier": Extractor(AttributeClassifier.from_pretrained),
    # The same for garments on people, cut out by the mask.
    "tiny-worn-classifier": Extractor(AttributeClassifier.from_pretrained),
    "alex": Extractor(partial(load_lpips, "alex"), url=f"{TORCHVISION}/alexnet-owt-7be5be79.pth"),
    "vgg": Extractor(partial(load_lpips, "vgg"), url=f"{TORCHVISION}/vgg16-397923af.pth"),
    "squeeze": Extractor(partial(load_lpips, "squeeze"), url=f"{TORCHVISION}/squeezenet1_1-b8a52dc0.pth"),
    "vgg16": Extractor(load_dists, url=f"{TORCHVISION}/vgg16-397923af.pth"),
    "inception-v3": Extractor(InceptionFeatures.from_pretrained, url=f"{PYTORCH_FID}/pt_inception-2015-12-05-6726825d.pth"),
    "clip-vit-b-32": Extractor(partial(CLIPFeatures.from_pretrained, "clip-vit-b-32"), repository=CLIP),
    "clip-vit-h-14": Extractor(partial(CLIPFeatures.from_pretrained, "clip-vit-h-14"), repository=CLIP_H),
    "tiny-clip": Extractor(partial(TinyCLIPFeatures.from_pretrained, "tiny-clip")),
    # Files that no address offers: DiFashion's authors share them in a cloud folder.
    "inception-50": Extractor(Inception50.from_file),
    "fashion-evaluator": Extractor(FashionEvaluator.from_file),
    "dinov2-small": Extractor(partial(DINOFeatures.from_pretrained, "dinov2-small"), repository=DINOV2_SMALL),
    "dinov2-base": Extractor(partial(DINOFeatures.from_pretrained, "dinov2-base"), repository=DINOV2_BASE),
    "dinov2-large": Extractor(partial(DINOFeatures.from_pretrained, "dinov2-large"), repository=DINOV2_LARGE),
}
TINY = ("tiny", "tiny-classifier")
WORN = "tiny-worn-classifier"
# Embeddings of images and texts in one space.
CLIP_EXTRACTORS = ("tiny-clip", "clip-vit-b-32", "clip-vit-h-14")
# Classifiers of the category of an item.
CATEGORY_EXTRACTORS = ("tiny-classifier", "inception-50")
# Set metrics work with any network that has pooled features.
SET_EXTRACTORS = ("tiny-classifier", "inception-v3", "clip-vit-b-32", "dinov2-small", "dinov2-base", "dinov2-large")
INJECTED = "custom"
FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")


@cache
def extractor(name: str, place: Path) -> Any:  # noqa: ANN401  each metric knows what its own extractors can do
    """Return the named network from its file or folder, frozen and in evaluation mode; loaded once per process.

    Raises:
        UserError: if `place` holds no weights of that network that can be read safely.
    """
    with unnoted(), torch.inference_mode(False):  # ordinary tensors even if a metric is first used in inference mode
        return EXTRACTORS[name].load(place).eval().requires_grad_(False)


def find(name: str, weights: str | None = None) -> Path:
    """Return the local file or folder with the weights of the extractor `name`.

    Raises:
        UserError: if it is missing; the message says what to put where.
    """
    # Each folder is named where it is joined, so that a command's record lists the parts that it reads.
    if name == WORN:
        return tiny_weights() / "worn_classifier"
    if name == "tiny-clip":
        return tiny_weights() / "clip"
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
    if not published.repository:
        missing = "its weights have no address of their own" if weights is None else f"there is no weights file {weights}"
        raise UserError(f"{name}: {missing}: name the file, which DiFashion's authors share, with `weights`")
    repository, revision = split_revision(weights or published.repository)
    if weights is not None and (weights.startswith((".", "~", "/")) or weights.count("/") != 1):
        raise UserError(f"{name}: there is no folder {weights}: give one in transformers' format, or {published.repository}")
    from huggingface_hub import constants, snapshot_download

    try:
        return Path(snapshot_download(repository, revision=revision, local_files_only=True))
    except (OSError, ValueError) as error:  # raised by huggingface_hub if it finds nothing
        at = f" --revision {revision}" if revision else ""
        remedy = f"`hf download {repository}{at}` puts it there, or name a folder with `weights`"
        raise UserError(
            f"{name}: {weights or published.repository} is not in the hub's cache {constants.HF_HUB_CACHE}: {remedy}"
        ) from error


class FrozenNetwork:
    """A metric's extractor: loaded lazily, moved to the device in use, and not a submodule.

    As a submodule of the metric, the network would end up in the checkpoint and parameters of the method that holds the metric.
    Copies and pickles of a named extractor contain only the name.
    """

    def __init__(
        self, name: str, network: nn.Module | None = None, weights: str | None = None, choices: Sequence[str] = tuple(EXTRACTORS)
    ) -> None:
        """Use the extractor called `name`, or a frozen copy of `network`.

        Args:
            name: one of `choices`, or the name to report for `network`.
            network: used instead of a named extractor; reported as `custom` if `name` is a built-in name.
            weights: the extractor's file or folder, by default the location of its published weights.
            choices: the allowed extractors.

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
            UserError: if its weights are not found locally, or cannot be read safely.
        """
        network = extractor(self.name, find(self.name, self.weights)) if self._network is None else self._network
        return network.to(device)

    def provenance(self) -> dict[str, str] | None:
        """Return the source of the weights and the sha256 of their file, for the record; None for a network passed in."""
        if self._network is not None:
            return None
        place = find(self.name, self.weights)
        file = place if place.is_file() else next(place / name for name in FOLDER_FILES if (place / name).is_file())
        # The hub's cache stores a repository in models--OWNER--NAME/snapshots/REVISION.
        cached = re.search(r"models--(.+?)--(.+)/snapshots/([^/]+)$", place.as_posix())
        name = f"{cached[1]}/{cached[2]}@{cached[3]}/{file.name}" if cached else file.name
        return {"weights": name, "sha256": _sha256(file, file.stat().st_mtime_ns)}

    def doubt(self) -> str | None:
        """Return a warning if the weights are not the published ones: published file names contain the first 8 digits of the sha256."""
        found, url = self.provenance(), getattr(EXTRACTORS.get(self.name), "url", "")
        promised = re.search(r"-([0-9a-f]{8})\.pth$", url)
        if found is None or promised is None or found["sha256"].startswith(promised[1]):
            return None
        return f"the weights of {self.name} ({found['weights']}) are not the published {Path(url).name}"


@cache
def _sha256(file: Path, modified: int) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
