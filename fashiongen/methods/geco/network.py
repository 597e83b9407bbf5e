"""The networks of CIGM and GECo in pure torch (Sections 4.2 and 4.3, Figures 4 and 6).

Shapes: B samples; images (B, 3, S, S) with S the image size; noise (B, Z); features (B, F); embeddings (B, D).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from fashiongen.checkpoints import check_fit, locate_file, read_state
from fashiongen.errors import UserError


def resized(images: Tensor, size: int) -> Tensor:
    """Return (B, 3, size, size): bilinear with antialiasing, the images unchanged if they have that size."""
    if tuple(images.shape[-2:]) == (size, size):
        return images
    return interpolate(images, size=(size, size), mode="bilinear", antialias=True)


class Generator(nn.Module):
    """CIGM's generator: Pix2Pix's U-Net with noise concatenated at the bottleneck (Figure 4), with the authors' 54,413,507 parameters.

    Each convolution halves the image, so log2(S) of them reduce it to a single cell; the widths are features * (1, 2, 4, 8, 8, ...).

    Attributes:
        dropout_shapes: the shapes, without the batch, that dropout 0.5 acts on in training: the first two up-convolutions' outputs.
    """

    def __init__(self, image_size: int = 128, features: int = 64, noise_channels: int = 1024, unused_down: bool = False) -> None:
        """Build the generator.

        Args:
            image_size: S, a power of two from 16.
            features: width of the first convolution (64).
            noise_channels: Z (1024).
            unused_down: also build `down6` of the authors' code, which is in their state dict but never called.

        Raises:
            UserError: if a size is invalid.
        """
        super().__init__()
        depth = image_size.bit_length() - 1
        if image_size < 16 or image_size != 2**depth:
            raise UserError(f"image_size: {image_size}: the generator halves the image down to one cell; give a power of two from 16")
        if features < 1 or noise_channels < 1:
            raise UserError(f"features and noise_channels must be at least 1, not {features} and {noise_channels}")
        self.image_size = image_size
        self.noise_channels = noise_channels
        widths = [features * min(2**level, 8) for level in range(depth)]  # 128: 64, 128, 256, 512, 512, 512 and 512 of the bottleneck
        skipped, deepest = widths[:-1], widths[-1]
        self.first = nn.Sequential(nn.Conv2d(3, skipped[0], 4, 2, 1, padding_mode="reflect"), nn.LeakyReLU(0.2))
        self.down = nn.ModuleList(_down(before, after) for before, after in pairwise(skipped))
        self.unused_down = _down(skipped[-1], skipped[-1]) if unused_down else None
        self.bottleneck = nn.Sequential(nn.Conv2d(skipped[-1], deepest, 4, 2, 1, padding_mode="reflect"), nn.ReLU())
        incoming = [deepest + noise_channels, *(2 * width for width in reversed(skipped[1:]))]
        outgoing = skipped[::-1]
        self.dropout_shapes = [(width, 2**level, 2**level) for level, width in enumerate(outgoing[:2], start=1)]
        self.up = nn.ModuleList(_up(before, after) for before, after in zip(incoming, outgoing, strict=True))
        self.last = nn.Sequential(nn.ConvTranspose2d(2 * skipped[0], 3, 4, 2, 1), nn.Tanh())
        self.apply(_initialise)

    def forward(self, top: Tensor, noise: Tensor, dropout_masks: list[Tensor] | None = None) -> Tensor:
        """Generate bottoms, eq. 3.

        Args:
            top: (B, 3, S, S), in training in [-1, 1].
            noise: z of eq. 6, (K * B, Z), standard normal: K draws of all tops, concatenated. The tops are encoded once.
            dropout_masks: in training, (B, ...) bool of the `dropout_shapes`, True where a value is kept, the same for all K draws. Drawn
                by the caller, so that they depend on sample and step.

        Returns:
            (K * B, 3, S, S) in [-1, 1], float32.
        """
        draws = len(noise) // len(top)
        hidden = self.first(top.to(next(self.parameters()).dtype))
        skips = [hidden]
        for down in self.down:
            hidden = down(hidden)
            skips.append(hidden)
        hidden = self.bottleneck(hidden)  # (B, 8 * features, 1, 1)
        hidden = torch.cat([noise.to(hidden.dtype)[:, :, None, None], _repeated(hidden, draws)], dim=1)
        for level, up in enumerate(self.up):
            hidden = up(hidden)
            if dropout_masks is not None and level < len(dropout_masks):
                hidden = hidden * _repeated(dropout_masks[level], draws) * 2.0
            hidden = torch.cat([hidden, _repeated(skips.pop(), draws)], dim=1)
        return self.last(hidden).float()  # type: ignore[no-any-return]


def _repeated(hidden: Tensor, draws: int) -> Tensor:
    """Repeat a batch (B, C, H, W) K times: (K * B, C, H, W)."""
    return hidden if draws == 1 else hidden.repeat(draws, 1, 1, 1)


def _down(channels_in: int, channels_out: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, 4, 2, 1, bias=False, padding_mode="reflect")
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.LeakyReLU(0.2))


def _up(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(nn.ConvTranspose2d(channels_in, channels_out, 4, 2, 1, bias=False), nn.BatchNorm2d(channels_out), nn.ReLU())


def _initialise(module: nn.Module) -> None:
    """Pix2Pix's initialisation, N(0, 0.02); the authors use it only for the generator."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


class Discriminator(nn.Module):
    """CIGM's PatchGAN (eq. 5): one logit per patch for a pair of top and bottom, 2,768,705 parameters; 8x8 patches at 128 pixels."""

    def __init__(self, image_size: int = 128, widths: tuple[int, ...] = (64, 128, 256, 512)) -> None:
        """Build the discriminator.

        Args:
            image_size: S.
            widths: widths of its convolutions; all but the last halve the image.

        Raises:
            UserError: if the image is too small to leave a patch.
        """
        super().__init__()
        if len(widths) < 2 or min(widths) < 1:
            raise UserError(f"discriminator_widths: {list(widths)}: give at least two, each at least 1")
        self.first = nn.Sequential(nn.Conv2d(6, widths[0], 4, 2, 1, padding_mode="reflect"), nn.LeakyReLU(0.2))
        strides = [2] * (len(widths) - 2) + [1]
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 4, stride, bias=False), nn.BatchNorm2d(after), nn.LeakyReLU(0.2))
            for before, after, stride in zip(widths[:-1], widths[1:], strides, strict=True)
        )
        self.last = nn.Conv2d(widths[-1], 1, 4)
        patches = image_size // 2
        for stride in [*strides, 1]:
            patches = (patches - 4) // stride + 1
        if patches < 1:
            raise UserError(f"discriminator_widths: {list(widths)}: too many convolutions for images of {image_size} pixels; give fewer")

    def forward(self, top: Tensor, bottom: Tensor) -> Tensor:
        """Return logits (B, 1, c, c), above zero if the pair looks real; images (B, 3, S, S) in [-1, 1]."""
        hidden = self.first(torch.cat([top, bottom], dim=1).to(next(self.parameters()).dtype))
        for block in self.blocks:
            hidden = block(hidden)
        return self.last(hidden).float()  # type: ignore[no-any-return]


class Compatibility(nn.Module):
    """GECo's network (Figure 6): one backbone for top, template and bottom, and two linear projections to the spaces W and W~."""

    def __init__(self, backbone: nn.Module, embedding: int, template: bool) -> None:
        """Build around a timm `backbone`; without `template` (our own ablation) the query is only the top."""
        super().__init__()
        self.backbone = backbone
        features = int(backbone.num_features)  # type: ignore[arg-type]  # timm does not declare it
        self.query_projection = nn.Linear((2 if template else 1) * features, embedding)
        self.bottom_projection = nn.Linear(features, embedding)
        for projection in (self.query_projection, self.bottom_projection):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def features(self, images: Tensor) -> Tensor:
        """Return the backbone's pooled features, (B, F), of images normalised for it."""
        backbone: Any = self.backbone
        maps = backbone.forward_features(images.to(self.query_projection.weight.dtype))
        return backbone.forward_head(maps, pre_logits=True)  # type: ignore[no-any-return]

    def query(self, top: Tensor, template: Tensor | None) -> Tensor:
        """Embed the composed query (eq. 4) in W, (B, D); the images are normalised for the backbone."""
        return self.project(*(self.features(image) for image in (top, template) if image is not None))

    def bottom(self, bottom: Tensor) -> Tensor:
        """Embed bottoms in W~, (B, D); the images are normalised for the backbone."""
        return self.bottom_projection(self.features(bottom)).float()  # type: ignore[no-any-return]

    def forward(self, top: Tensor, template: Tensor | None, bottom: Tensor) -> tuple[Tensor, Tensor]:
        """Return `query` and `bottom`, the backbone run once over all images.

        In training its norms then see tops, templates and bottoms together, so their running statistics match the training ones. In three
        separate runs each kind would be normalised separately, but at inference all of them with the mean statistics.
        """
        images = [image for image in (top, template, bottom) if image is not None]
        *composed, features = self.features(torch.cat(images)).chunk(len(images))
        return self.project(*composed), self.bottom_projection(features).float()

    def project(self, *composed: Tensor) -> Tensor:
        """Project the features of a query's parts, (B, F) each, to (B, D)."""
        return self.query_projection(torch.cat(composed, dim=1)).float()  # type: ignore[no-any-return]


def load_backbone(name: str, weights: str | None, classifier: bool, options: dict[str, Any]) -> nn.Module:
    """Build a timm backbone; timm has torchvision's ResNets, with the same weight names and the same outputs.

    Args:
        name: timm's name, such as `resnet18`.
        weights: None for random weights; else a file, `tiny`, or a file on the hub (see `checkpoints.locate_file`).
        classifier: also build the classification layer after the features.
        options: further arguments of `timm.create_model`, such as `channels`.

    Raises:
        UserError: if there is no such network, an option is unknown, or the weights do not belong to this network.
    """
    if not timm.is_model(name):
        raise UserError(f"backbone: {name}: timm has no such network; `python -c 'import timm; print(timm.list_models())'` lists them")
    try:
        head_options = {} if classifier else {"num_classes": 0}
        if weights is None and timm.model_entrypoint(name).__module__ == "timm.models.resnet":
            # timm, unlike torchvision, initialises the residual branches to zero: their convolutions then get no gradient at first.
            options = {"zero_init_last": False, **options}
        backbone: Any = timm.create_model(name, pretrained=False, **{**options, **head_options})
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise UserError(f"backbone: {name}: timm cannot build it with {options} ({error})") from error
    if weights is None:
        return backbone  # type: ignore[no-any-return]
    file = locate_file(weights, f"{name}/model.safetensors")
    own = backbone.state_dict()
    # Files from before torch 1.0 have no batch counters, and only the authors' code keeps the classifier.
    state = {key: value for key, value in own.items() if key.endswith("num_batches_tracked")} | read_state(file)
    head = backbone.pretrained_cfg["classifier"]
    if not classifier:
        state = {key: value for key, value in state.items() if not key.startswith(f"{head}.")}
    check_fit(own, state, source=str(file), name=f"the backbone {name}")
    backbone.load_state_dict(state)
    return backbone  # type: ignore[no-any-return]
