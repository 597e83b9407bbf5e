"""A semantic segmentation network from a local transformers checkpoint, such as a SegFormer trained on clothes."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from fashiongen.errors import UserError
from fashiongen.nn.parts import loading


class Segmenter:
    """Labels the pixels of an image.

    Attributes:
        labels: the checkpoint's own names of its labels, in the order of their numbers.
    """

    def __init__(self, folder: str, device: str = "cpu") -> None:
        """Load the checkpoint of a local folder, with its image processor, onto a device.

        Raises:
            UserError: one line, if it is no semantic segmentation network, or its files are missing or unsuitable.
        """
        local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        config = loading.load_part(transformers.AutoConfig, folder, **local)
        known = transformers.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING
        if type(config) not in known:
            raise UserError(
                f"{folder}: a {config.model_type} checkpoint is no semantic segmentation network; give a SegFormer, for example"
            )
        self.processor = loading.load_part(transformers.AutoImageProcessor, folder, **local)
        self.network = loading.freeze(loading.load_part(known[type(config)], folder, local_files_only=True)).to(device)
        self.labels: list[str] = [str(config.id2label.get(number, number)) for number in range(config.num_labels)]

    @torch.no_grad()
    def __call__(self, image: Image.Image, size: tuple[int, int]) -> Tensor:
        """Return the number of each pixel's label at `size` (height, width): int64 (H, W) on the CPU."""
        pixels = self.processor(images=image, return_tensors="pt")["pixel_values"].to(self.network.device)
        logits: Tensor = self.network(pixel_values=pixels).logits
        return interpolate(logits, size, mode="bilinear", align_corners=False)[0].argmax(dim=0).cpu()
