"""The classifier of DiFashion's Inception Score and its accuracy: Inception-v3 with an output for each of iFashion's 50 categories."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from fashiongen.checkpoints import load_state, read_state
from fashiongen.metrics.extractors import in_steps

# `id_cate_dict.npy` of iFashion and Polyvore-U: the category with the number of its place.
CATEGORIES = (
    "skirt", "women's canvas shoe", "women's chiffon top", "earrings", "women's sweater", "women's t-shirt", "bracelet",
    "women's wool coat", "men's jeans", "belt", "men's jacket", "women's slipper", "women's casual pants", "women's leather jacket",
    "ring", "men's polo shirt", "women's winter jacket", "women's jeans", "travel bag", "women's suit jacket",
    "women's sleeveless top", "women's casual coat", "men's sweater", "women's sandal", "necklace", "men's winter jacket", "vest",
    "bangle", "trench coat", "crossbody bag", "ankle boot", "men's high-top shoe", "men's leather jacket", "women's casual shoe",
    "men's shoe", "women's boot", "men's t-shirt", "dress", "hat", "pendant", "legging", "men's shirt", "watch", "canvas shoe",
    "men's casual pants", "men's coat", "women's shoe", "women's shirt", "men's sweatshirt", "women's sweatshirt",
)  # fmt: skip
# The network's outputs are in the order of the numbers as text, 0, 1, 10, 11, ... (the authors' `cid_to_label.npy`).
LABELS = tuple(CATEGORIES[number] for number in sorted(range(len(CATEGORIES)), key=str))
SIDE = 299


class Inception50(nn.Module):
    """torchvision's Inception-v3 with 50 classes, as DiFashion evaluates it: `eval_utils.py`, `calculate_inception_score_given_data`.

    Images are resized to 299 x 299, bilinear and without antialiasing, whatever their shape, and mapped to [-1, 1]. The authors build the
    network with ImageNet's weights before they load their own, so that torchvision then maps its input once more, from ImageNet's mean
    and deviation to [-1, 1] (`transform_input`): so it does here.
    """

    labels = LABELS

    def __init__(self) -> None:
        """Build the network, without weights."""
        super().__init__()
        with torch.device("meta"):
            network = torchvision.models.inception_v3(
                weights=None, num_classes=len(LABELS), aux_logits=True, transform_input=True, init_weights=False
            )
        self.network = network.to_empty(device="cpu")

    @classmethod
    def from_file(cls, file: Path) -> Self:
        """Build the network with the weights of the authors' file, `Inception-finetune-epoch300`.

        Raises:
            UserError: if the file cannot be read safely, or its keys do not fit.
        """
        classifier = cls()
        # Files from old versions of PyTorch lack these unused counters.
        counters = {key: value.zero_() for key, value in classifier.network.state_dict().items() if key.endswith("num_batches_tracked")}
        load_state(classifier.network, counters | read_state(file), source=str(file))
        return classifier.eval()

    def probabilities(self, images: Tensor) -> Tensor:
        """Return the probability of each of `labels`, (N, 50), for images (N, 3, H, W) in [0, 1]."""
        resized = functional.interpolate(in_steps(images) / 255, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        logits: Tensor = self.network(2 * resized - 1)
        return logits.softmax(dim=1)
