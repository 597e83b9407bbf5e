"""BPR-DAE's networks in pure torch: the frozen AlexNet up to fc7 and an autoencoder with tied weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import hardsigmoid

from fashiongen.checkpoints import load_state, locate_file, read_state
from fashiongen.errors import UserError

CHANNELS = (64, 192, 384, 256, 256)
FC = 4096
HEAD = "classifier.6."  # the classification layer after fc7


class AlexNet(nn.Module):
    """AlexNet without its last layer (Krizhevsky, arXiv 1404.5997), layers named as torchvision names them."""

    def __init__(self, channels: tuple[int, ...] = CHANNELS, fc: int = FC) -> None:
        """Build it with the five convolutions' `channels` and `fc` units in fc6 and fc7; the defaults are the published sizes."""
        super().__init__()
        c1, c2, c3, c4, c5 = channels
        self.features = nn.Sequential(
            *(nn.Conv2d(3, c1, kernel_size=11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(kernel_size=3, stride=2)),
            *(nn.Conv2d(c1, c2, kernel_size=5, padding=2), nn.ReLU(), nn.MaxPool2d(kernel_size=3, stride=2)),
            *(nn.Conv2d(c2, c3, kernel_size=3, padding=1), nn.ReLU()),
            *(nn.Conv2d(c3, c4, kernel_size=3, padding=1), nn.ReLU()),
            *(nn.Conv2d(c4, c5, kernel_size=3, padding=1), nn.ReLU(), nn.MaxPool2d(kernel_size=3, stride=2)),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
            *(nn.Dropout(), nn.Linear(c5 * 36, fc), nn.ReLU()),
            *(nn.Dropout(), nn.Linear(fc, fc), nn.ReLU()),
        )

    @property
    def width(self) -> int:
        """The size of fc7's output."""
        return self.classifier[4].out_features  # type: ignore[return-value]  # torch types a layer's attributes as Tensor | Module

    def forward(self, images: Tensor) -> Tensor:
        """Return fc7 after its ReLU, (B, fc), of images (B, 3, S, S) normalised as ImageNet's."""
        return self.classifier(self.avgpool(self.features(images)).flatten(1))  # type: ignore[no-any-return]


def load_alexnet(weights: str | None) -> AlexNet:
    """Build the frozen backbone.

    Args:
        weights: None (random), a file in torchvision's key layout whose shapes determine the sizes, `tiny`, or a file on the hub.

    Raises:
        UserError: if the file is missing or does not fit.
    """
    if weights is None:
        backbone = AlexNet()
    else:
        file = locate_file(weights, "alexnet/model.safetensors")
        state = {key: value for key, value in read_state(file).items() if not key.startswith(HEAD)}
        sizes = [state.get(f"{layer}.weight", torch.zeros(0)) for layer in ("features.0", "features.3", "features.6", "features.8")]
        sizes += [state.get(f"{layer}.weight", torch.zeros(0)) for layer in ("features.10", "classifier.4")]
        if not all(len(size) for size in sizes):
            raise UserError(f"{file}: no weights of an AlexNet (features.0.weight to classifier.4.weight as torchvision names them)")
        *channels, fc = (len(size) for size in sizes)
        backbone = AlexNet(tuple(channels), fc)
        load_state(backbone, state, source=str(file))
    return backbone.requires_grad_(False).eval()


class TiedAutoencoder(nn.Module):
    """An autoencoder whose decoder has the encoder's weights, transposed."""

    def __init__(self, visible: int, hidden: int) -> None:
        """Map `visible` numbers to `hidden` and back; weights uniform within 4 sqrt(6 / (visible + hidden)), biases zero."""
        super().__init__()
        bound = 4 * (6 / (visible + hidden)) ** 0.5
        self.weight = nn.Parameter(torch.empty(visible, hidden).uniform_(-bound, bound))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))
        self.visible_bias = nn.Parameter(torch.zeros(visible))

    def encode(self, visible: Tensor) -> Tensor:
        """Encode: y = s(x W + b), (B, hidden) in [0, 1], s the hard sigmoid clip(x / 6 + 1 / 2)."""
        return hardsigmoid(visible @ self.weight + self.hidden_bias)

    def decode(self, hidden: Tensor) -> Tensor:
        """Decode: z = s(y W' + b'), (B, visible) in [0, 1]."""
        return hardsigmoid(hidden @ self.weight.T + self.visible_bias)


class BPRDAENetwork(nn.Module):
    """One autoencoder for tops and one for bottoms, whose codes are compared by inner product."""

    def __init__(self, visible: int, hidden: int) -> None:
        """Build both for features of `visible` numbers and codes of `hidden`."""
        super().__init__()
        self.top = TiedAutoencoder(visible, hidden)
        self.bottom = TiedAutoencoder(visible, hidden)
