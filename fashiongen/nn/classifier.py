"""A small convolutional network that predicts the attributes of an image.

Trained on the embedded wardrobe, it has three uses: as a judge of attributes (`read`), as the feature extractor of the tiny FID and KID
(`features`) and as the feature maps of the tiny LPIPS and DISTS (`stages`).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fashiongen.checkpoints import load_state, read_state
from fashiongen.errors import UserError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


class ResidualStage(nn.Module):
    """Two 3x3 convolutions with a projected shortcut that halve the image: `(B, C_in, H, W)` to `(B, C_out, H/2, W/2)`."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        """Build the stage for `channels_in` incoming and `channels_out` outgoing channels."""
        super().__init__()
        self.convolution_1 = nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1, bias=False)
        self.norm_1 = nn.BatchNorm2d(channels_out)
        self.convolution_2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm_2 = nn.BatchNorm2d(channels_out)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1, stride=2)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the stage's non-negative feature map."""
        residual = torch.relu(self.norm_1(self.convolution_1(hidden)))
        residual = self.norm_2(self.convolution_2(residual))
        return torch.relu(residual + self.shortcut(hidden))


class AttributeClassifier(nn.Module):
    """Predicts every attribute of images `(B, 3, H, W)` in [0, 1], of any size, with one linear head per attribute.

    Each stage halves the image (rounding up) and ends in a ReLU; the pooled vector is the mean and the maximum over space of the last.
    """

    def __init__(self, heads: Mapping[str, Sequence[str]], channels: Sequence[int] = (16, 32, 64, 128)) -> None:
        """Build the network.

        Args:
            heads: For each attribute the names of its values, in the order of the logits.
            channels: The width of each stage.
        """
        super().__init__()
        if not heads or any(len(values) == 0 for values in heads.values()):
            raise UserError(f"AttributeClassifier needs attributes with at least one value each, heads is {dict(heads)}: name them")
        if not channels:
            raise UserError("AttributeClassifier needs at least one stage: give channels at least one width")
        self.heads: dict[str, tuple[str, ...]] = {name: tuple(values) for name, values in heads.items()}
        self.channels: tuple[int, ...] = tuple(channels)
        self.body = nn.ModuleList(ResidualStage(before, after) for before, after in zip((3, *self.channels), self.channels, strict=False))
        # One matrix for all attributes, split by name, so that attribute names never clash with module names.
        self.head = nn.Linear(self.n_features, sum(len(values) for values in self.heads.values()))

    @property
    def config(self) -> dict[str, Any]:
        """The arguments to rebuild this network, as plain JSON types."""
        return {"heads": {name: list(values) for name, values in self.heads.items()}, "channels": list(self.channels)}

    @property
    def n_features(self) -> int:
        """Length of the pooled feature vector."""
        return 2 * self.channels[-1]

    def stages(self, images: Tensor) -> list[Tensor]:
        """Return the feature map `(B, C_i, ceil(H / 2^i), ceil(W / 2^i))` of each stage i = 1, 2, ... for images in [0, 1]."""
        hidden = (2 * images - 1).contiguous()  # torch 2.15 crashes on some CPUs in a channels-last backward pass
        maps = []
        for stage in self.body:
            hidden = stage(hidden)
            maps.append(hidden)
        return maps

    def features(self, images: Tensor) -> Tensor:
        """Return the pooled features `(B, n_features)`: mean, then maximum, over space of the last stage."""
        last = self.stages(images)[-1]
        return torch.cat([last.mean(dim=(2, 3)), last.amax(dim=(2, 3))], dim=1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return for each attribute its logits `(B, n_values)`."""
        logits: Tensor = self.head(self.features(images))
        parts = torch.split(logits, [len(values) for values in self.heads.values()], dim=1)
        return dict(zip(self.heads, parts, strict=True))

    def read(self, images: Tensor) -> dict[str, Tensor]:
        """Return for each attribute the index `(B,)` of its most likely value."""
        return {name: logits.argmax(dim=1) for name, logits in self(images).items()}

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write `config.json` and `model.safetensors` into a folder; with a dtype, floating point weights are stored in it."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {key: value.detach().cpu().contiguous() for key, value in self.state_dict().items()}
        if dtype is not None:
            state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in state.items()}
        (folder / CONFIG_FILE).write_text(json.dumps(self.config, indent=2) + "\n", encoding="utf-8")
        save_file(state, folder / WEIGHTS_FILE)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Build the network from a folder that `save_pretrained` wrote: in float32, on the CPU, in evaluation mode."""
        folder = Path(folder)
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            if not (folder / name).is_file():
                raise UserError(f"no attribute classifier in {folder}: {name} is missing; give the folder that save_pretrained wrote")
        try:
            config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
            network = cls(heads=config["heads"], channels=config["channels"])
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{folder / CONFIG_FILE} does not describe an attribute classifier ({error}): write it again") from error
        # Weights are copied into the float32 parameters, whatever dtype the file has.
        load_state(network, read_state(folder / WEIGHTS_FILE), source=str(folder / WEIGHTS_FILE))
        return network.eval()
