"""Compatibility through a generated template, shared by MGCM and Pix2PixCM (Liu et al., Neurocomputing 2020; GeCo's Section 5.4).

A generator generates the bottom that matches a top, the template. A bottom's score combines the similarity of its embedding to the top's
(item to item) and the distance of its code to the template's (item to template). Shapes: B tops, C bottoms, images of S x S pixels, S a
multiple of 64, codes (B, 8w, S/32, S/32) with w the `width`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, l1_loss, leaky_relu, logsigmoid, mse_loss, relu

from fashiongen.batches import to_float
from fashiongen.checkpoints import load_state, read_state
from fashiongen.errors import UserError
from fashiongen.nn import noise
from fashiongen.nn.negatives import masked_mean, rolled
from fashiongen.nn.precision import full_float32

Variant = Literal["paper", "code"]
ROLLS = (1, 2, 3)  # negatives of a training row: the bottoms of the three rows before it
DROPOUT = 0.5
UPS = 5  # layers of a generator with dropout
TINY = 1e-12  # the authors' constant in the logarithm


class Generated(NamedTuple):
    """A generator's output: the codes of top and template, (B, 8w, S/32, S/32), and the template, (B, 3, S, S) in [-1, 1]."""

    top_code: Tensor
    template_code: Tensor
    template: Tensor


class Down(nn.Module):
    """Halves the size: LeakyReLU(0.01), batch norm, 4x4 convolution with stride 2."""

    def __init__(self, channels: int, out: int) -> None:
        """Take `channels`, give `out`."""
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, out, kernel_size=4, stride=2, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, channels, h, w) to (B, out, h/2, w/2)."""
        return self.conv(self.norm(leaky_relu(features)))  # type: ignore[no-any-return]


class Up(nn.Module):
    """Doubles the size: ReLU, 4x4 transposed convolution with stride 2, dropout 0.5, batch norm."""

    def __init__(self, channels: int, out: int) -> None:
        """Take `channels`, give `out`."""
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels, out, kernel_size=4, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(out)

    def forward(self, features: Tensor, key: Tensor | None = None) -> Tensor:
        """Map (B, channels, h, w) to (B, out, 2h, 2w); `key` (B,) seeds each sample's dropout, None disables it."""
        features = self.conv(relu(features))
        if key is not None:
            features = features * noise.coins(key, features.shape[1:], 1 - DROPOUT, features.device) / (1 - DROPOUT)
        return self.norm(features)  # type: ignore[no-any-return]


class BottomEncoder(nn.Module):
    """Encodes bottoms into codes of the template's shape: a convolution, then four blocks of LeakyReLU, convolution, batch norm."""

    def __init__(self, width: int) -> None:
        """Build it with `width` channels after the first layer."""
        super().__init__()
        channels = [width, 2 * width, 4 * width, 8 * width, 8 * width]
        self.first = nn.Conv2d(3, width, kernel_size=4, stride=2, padding=1)
        pairs = list(pairwise(channels))
        self.convs = nn.ModuleList(nn.Conv2d(before, after, kernel_size=4, stride=2, padding=1) for before, after in pairs)
        self.norms = nn.ModuleList(nn.BatchNorm2d(after) for _, after in pairs)

    def forward(self, bottoms: Tensor) -> Tensor:
        """Map (B, 3, S, S) to (B, 8w, S/32, S/32)."""
        code: Tensor = self.first(bottoms)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            code = norm(conv(leaky_relu(code)))
        return code


class Ranker(nn.Module):
    """Projects the codes of tops and of bottoms, averaged over positions, into one space: sigmoid(W x + b), with W and b per side."""

    def __init__(self, channels: int, dimensions: int) -> None:
        """Project `channels` to `dimensions`; Xavier uniform weights, zero biases."""
        super().__init__()
        self.top = nn.Linear(channels, dimensions)
        self.bottom = nn.Linear(channels, dimensions)
        for side in (self.top, self.bottom):
            nn.init.xavier_uniform_(side.weight)
            nn.init.zeros_(side.bias)


class TemplateMatcher(nn.Module):
    """The four networks, their losses and their score."""

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        *,
        width: int,
        dimensions: int,
        alpha: float,
        beta: float,
        mu: float,
        nu: float,
        pixel_weight: float,
        variant: Variant,
    ) -> None:
        """Combine a generator and a discriminator with a new bottom encoder and ranker.

        Args:
            generator: maps tops (B, 3, S, S) and dropout keys (one (B,) per Up, or None) to `Generated`.
            discriminator: maps tops and bottoms (B, 3, S, S) to how real the bottoms look, (B, ...) in [0, 1].
            width: channels after the first layer of the bottom encoder and the generator.
            dimensions: size of the ranker's embeddings.
            alpha: weight of the item-to-item score.
            beta: weight of the item-to-template distance in the score.
            mu: weight of the generator's adversarial loss.
            nu: weight of the discriminator's loss.
            pixel_weight: weight of the mean absolute difference between template and bottom.
            variant: see `losses`, `score`, `discriminator_loss` and `ranking_loss`.
        """
        super().__init__()
        self.generator = generator
        self.discriminator = discriminator
        self.bottom_encoder = BottomEncoder(width)
        self.ranker = Ranker(8 * width, dimensions)
        self.dimensions = dimensions
        self.alpha, self.beta, self.mu, self.nu, self.pixel_weight = alpha, beta, mu, nu, pixel_weight
        self.variant = variant

    @property
    def draws(self) -> int:
        """The number of templates that a training step draws for a top."""
        return 2 if self.variant == "code" else 1

    def losses(self, tops: Tensor, bottoms: Tensor, negative: Tensor, keys: Sequence[Tensor] | None) -> Iterator[tuple[str, Tensor]]:
        """Yield the losses of the discriminator, of the generator and of the bottom encoder with the ranker, in this order.

        Each is computed lazily, so that it sees the weights after the steps on the earlier ones. `code` draws another template for the
        generator's loss, shows the discriminator the real bottoms first, and encodes the bottoms twice.

        Args:
            tops: (B, 3, S, S) in [-1, 1].
            bottoms: (B, 3, S, S) in [-1, 1].
            negative: (R, B) bool, see `ranking_loss`.
            keys: keys of the generator's dropout, one (B,) per Up and draw (see `draws`); None disables it.
        """
        template = self.generator(tops, keys and keys[:UPS]).template
        if self.variant == "code":
            # The order and the number of runs matter to the running statistics of batch norm.
            real, fake = self.discriminator(tops, bottoms), self.discriminator(tops, template.detach())
        else:
            fake, real = self.discriminator(tops, template.detach()), self.discriminator(tops, bottoms)
        yield "discriminator", self.nu * discriminator_loss(fake, real, self.variant)

        if self.draws > 1 and self.generator.training:
            template = self.generator(tops, keys and keys[UPS:]).template
        fake = self.discriminator(tops, template)
        adversarial = 0.5 * mse_loss(fake, torch.ones_like(fake))
        yield "generator", self.mu * adversarial + self.pixel_weight * l1_loss(template, bottoms)

        # The ranker trains on templates generated as at inference; its loss sends no gradient to the generator.
        training = self.generator.training
        self.generator.eval()
        with torch.no_grad():
            generated = self.generator(tops, None)
        self.generator.train(training)
        candidate = self.embed_bottoms(bottoms)
        if self.variant == "code" and self.bottom_encoder.training:
            with torch.no_grad():
                # The authors encode the negatives again: the same bottoms and the same codes, but batch norm counts them twice.
                self.bottom_encoder(bottoms.repeat(len(ROLLS), 1, 1, 1))
        yield "ranking", self.ranking_loss(self.embed_generated(generated), candidate, negative)

    def ranking_loss(self, query: Tensor, candidate: Tensor, negative: Tensor) -> Tensor:
        """Bayesian personalised ranking: -log sigmoid(m_ij - m_ik), mean over the rolled bottoms k that are `negative`, (R, B) bool.

        `code` counts every rolled bottom and uses log(sigmoid + 1e-12), whose gradient vanishes if the difference is far below zero.
        """
        difference = self.pair_score(query, candidate) - self.pair_score(query, rolled(candidate, ROLLS))
        if self.variant == "code":
            return -torch.log(torch.sigmoid(difference) + TINY).mean()
        return masked_mean(-logsigmoid(difference), negative)

    def embed_tops(self, tops: Tensor) -> Tensor:
        """Embed tops, (B, dimensions + N): the ranker's embedding, then the template's code of N numbers."""
        return self.embed_generated(self.generator(tops, None))

    def embed_generated(self, generated: Generated) -> Tensor:
        """Embed the generator's output, like `embed_tops`."""
        projected = torch.sigmoid(self.ranker.top(generated.top_code.mean(dim=(2, 3))))
        return torch.cat([projected, generated.template_code.flatten(1)], dim=1)

    def embed_bottoms(self, bottoms: Tensor) -> Tensor:
        """Embed bottoms, (C, dimensions + N): the ranker's embedding, then the bottom's code of N numbers."""
        code = self.bottom_encoder(bottoms)
        projected = torch.sigmoid(self.ranker.bottom(code.mean(dim=(2, 3))))
        return torch.cat([projected, code.flatten(1)], dim=1)

    def score(self, query: Tensor, candidate: Tensor) -> Tensor:
        """Score all pairs of (B, D) and (C, D): (B, C) of alpha <A, B> - beta || template code - bottom code ||_1.

        `code` adds the distance, so a bottom unlike the template scores higher.
        """
        with torch.autocast(query.device.type, enabled=False), full_float32():
            query, candidate = at_least_float32(query, candidate)
            alike = query[:, : self.dimensions] @ candidate[:, : self.dimensions].T
            return self._join(alike, torch.cdist(query[:, self.dimensions :], candidate[:, self.dimensions :], p=1.0))

    def pair_score(self, query: Tensor, candidate: Tensor) -> Tensor:
        """Score each query with the candidate in its own row, (..., B) of (B, D) and (..., B, D)."""
        query, candidate = at_least_float32(query, candidate)
        alike = (query[:, : self.dimensions] * candidate[..., : self.dimensions]).sum(dim=-1)
        return self._join(alike, (query[:, self.dimensions :] - candidate[..., self.dimensions :]).abs().sum(dim=-1))

    def _join(self, alike: Tensor, distance: Tensor) -> Tensor:
        return self.alpha * alike + (self.beta if self.variant == "code" else -self.beta) * distance


def at_least_float32(*embeddings: Tensor) -> list[Tensor]:
    """Return embeddings of any shape in float32 or better: distances have too few digits in bfloat16, and torch has no cdist for it."""
    return [values.to(torch.promote_types(values.dtype, torch.float32)) for values in embeddings]


def discriminator_loss(fake: Tensor, real: Tensor, variant: Variant) -> Tensor:
    """Least-squares GAN: (mean fake^2 + mean (real - 1)^2) / 2, of probabilities of any shape.

    `code` has the second term inside the first one's target, through a misplaced parenthesis: mean (fake - r)^2 / 2 with
    r = mean (real - 1)^2 / 2, and no gradient through `fake`. Real bottoms then train r to match the probability given to fakes.
    """
    of_real = 0.5 * mse_loss(real, torch.ones_like(real))
    if variant == "code":
        return 0.5 * (fake.detach() - of_real).square().mean()
    return 0.5 * mse_loss(fake, torch.zeros_like(fake)) + of_real


def prepare_images(images: Tensor | None, image_size: int, method: str) -> Tensor:
    """Return a batch's images, (B, 3, S, S) uint8 or None, as floats in [-1, 1] of `image_size` pixels per side.

    Raises:
        UserError: if the data provide none.
    """
    if images is None:
        raise UserError(f"{method} needs images, but the data reads only the lists: set data.init_args.images=true")
    floats = to_float(images)
    if floats.shape[-2:] == (image_size, image_size):
        return floats
    return interpolate(floats, size=(image_size, image_size), mode="bilinear", antialias=True, align_corners=False)


def dropout_keys(ids: Sequence[str], seed: int, step: int, draws: int = 1) -> list[Tensor]:
    """Return the keys of a training step's dropout, one (B,) per Up and draw of the template (see `TemplateMatcher.draws`)."""
    return [noise.keys(ids, seed, "train", step, "dropout", layer) for layer in range(draws * UPS)]


def check_settings(method: str, image_size: int, width: int, dimensions: int, variant: str) -> None:
    """Raise a UserError naming the setting that is out of range."""
    if image_size < 64 or image_size % 64:
        raise UserError(f"{method}: image_size: {image_size}: must be a multiple of 64, since the generator halves six times")
    for what, value in (("width", width), ("dimensions", dimensions)):
        if value < 1:
            raise UserError(f"{method}: {what}: {value}: must be at least 1")
    if variant not in get_args(Variant):
        raise UserError(f"{method}: variant: {variant}: unknown; choose among {', '.join(get_args(Variant))}")


# The authors' layer names in `encoder` and `bpr`, and ours.
_ENCODER = {"encoder.0": "first"}
_ENCODER |= {f"encoder.{place}.1": f"convs.{place - 1}" for place in range(1, 5)}
_ENCODER |= {f"encoder.{place}.2": f"norms.{place - 1}" for place in range(1, 5)}
_BPR = {"enc_A_W": "top.weight", "enc_A_b": "top.bias", "enc_B_W": "bottom.weight", "enc_B_b": "bottom.bias"}


def load_authors_files(
    matcher: TemplateMatcher, files: dict[str, str], generator: dict[str, str], discriminator: dict[str, str], method: str
) -> None:
    """Load the given files of the authors' training code, one per part.

    Args:
        matcher: receives the weights.
        files: paths by part: generator, discriminator, encoder, bpr.
        generator: the authors' layer names of the generator, mapped to ours.
        discriminator: the same for the discriminator.
        method: the method's name, for errors.

    Raises:
        UserError: if a part is unknown, or a file cannot be read safely or does not fit.
    """
    parts = {
        "generator": (matcher.generator, generator),
        "discriminator": (matcher.discriminator, discriminator),
        "encoder": (matcher.bottom_encoder, _ENCODER),
        "bpr": (matcher.ranker, {}),
    }
    if unknown := sorted(set(files) - set(parts)):
        raise UserError(f"{method}: published: {', '.join(unknown)}: unknown; choose among {', '.join(parts)}")
    for part, file in files.items():
        module, names = parts[part]
        state = {}
        for key, value in read_state(file).items():
            layer, _, leaf = key.rpartition(".")
            if part == "bpr":
                state[_BPR.get(key, key)] = value.T.contiguous() if key.endswith("_W") else value  # they store W as (in, out)
            else:
                state[f"{names.get(layer, layer)}.{leaf}"] = value
        load_state(module, state, source=file)
