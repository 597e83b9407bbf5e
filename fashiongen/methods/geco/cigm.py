"""CIGM, stage 1 of GeCo (Attimonelli et al., "Fashion Image-to-Image Translation for Complementary Item Retrieval").

It generates a bottom for a top, the template. Equation numbers are the paper's; `variant` selects the paper's or the authors' code's
behaviour where they differ, as the folder's README explains.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torchvision.utils import make_grid

from fashiongen.batches import CandidateBatch, PairBatch, QueryBatch, to_uint8
from fashiongen.errors import UserError
from fashiongen.methods.geco import loss
from fashiongen.methods.geco.common import check_settings, prepare_images, template_noise
from fashiongen.methods.geco.loss import Variant
from fashiongen.methods.geco.network import Discriminator, Generator, resized
from fashiongen.methods.geco.published import load_discriminator, load_generator
from fashiongen.methods.multi_loss import MultiLossMethod
from fashiongen.nn import noise

SHOWN = 8  # rows of a logged image


class CIGM(MultiLossMethod):
    """Complementary item generation: a conditional GAN from a top to a matching bottom (Section 4.2)."""

    name: ClassVar[str] = "geco-cigm"
    trains: ClassVar[dict[str, tuple[str, ...]]] = {"discriminator": ("discriminator",), "generator": ("generator",)}
    inner_product: ClassVar[bool] = False
    draws_templates: ClassVar[bool] = True

    def __init__(
        self,
        image_size: int = 128,
        features: int = 64,
        noise_channels: int = 1024,
        discriminator_widths: tuple[int, ...] = (64, 128, 256, 512),
        l1_weight: float = 100.0,
        diversity: float = 0.0,
        compared_size: int = 16,
        variant: Variant = "paper",
        published: str | None = None,
        published_discriminator: str | None = None,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        """Build the generator and the discriminator.

        Args:
            image_size: S, a power of two from 16; images of another size are resized.
            features: width of the generator's first convolution.
            noise_channels: Z, size of the normal noise concatenated at the bottleneck.
            discriminator_widths: widths of the discriminator's convolutions; omit the last but one for 64 pixels.
            l1_weight: lambda of eq. 7.
            diversity: 0 is eq. 7; up to 1 rewards two draws of a top for differing, as much as its true bottoms may (ours, see
                `loss.spread`). Each step then draws two templates per top; the discriminator sees the first.
            compared_size: side that images are reduced to when CIGM itself ranks bottoms (see `score`).
            variant: `code` halves the discriminator's loss and has the layer `down6`, which is never called.
            published: a generator that was trained with the authors' code.
            published_discriminator: likewise a discriminator.
            optimizer: built twice, for the discriminator and for the generator.
            lr_scheduler: gets each of them; stepped once a training step. The paper has none.

        Raises:
            UserError: if a setting is out of range or a file unfit.
        """
        super().__init__(optimizer, lr_scheduler)
        check_settings("CIGM", variant, l1_weight=l1_weight, diversity=diversity)
        if diversity > 1:
            raise UserError(
                f"CIGM: diversity: {diversity}: must not be above 1, where templates would be rewarded for varying more than the bottoms do"
            )
        if not 1 <= compared_size <= image_size:
            raise UserError(f"CIGM: compared_size: {compared_size}: must lie in 1 to the image size, {image_size}")
        self.image_size = image_size
        self.l1_weight, self.diversity = l1_weight, diversity
        self.compared_size = compared_size
        self.variant: Variant = variant
        self.generator = Generator(image_size, features, noise_channels, unused_down=variant == "code")
        self.discriminator = Discriminator(image_size, tuple(discriminator_widths))
        if published is not None:
            load_generator(self.generator, published)
        if published_discriminator is not None:
            load_discriminator(self.discriminator, published_discriminator)

    def training_losses(self, batch: PairBatch, draw_step: int) -> Iterator[tuple[str, Tensor]]:
        """Yield eq. 8, then eq. 7, less the spread, against the discriminator so improved."""
        top, bottom = self.images(batch.top), self.images(batch.bottom)
        names = (self.seed, "train", draw_step)
        purposes = ["template", "second template"] if self.diversity else ["template"]
        drawn = [
            noise.normal(noise.keys(batch.ids, *names, purpose), (self.generator.noise_channels,), self.device) for purpose in purposes
        ]
        # A normal number is positive in half of the cases.
        dropout_masks = [
            noise.normal(noise.keys(batch.ids, *names, "dropout", level), shape, self.device) > 0
            for level, shape in enumerate(self.generator.dropout_shapes)
        ]
        generated = self.generator(top, torch.cat(drawn), dropout_masks)  # (B or, with a second draw, 2B, 3, S, S)
        judged = generated[: len(batch)]
        yield (
            "discriminator",
            loss.discriminator_loss(self.discriminator(top, bottom), self.discriminator(top, judged.detach()), self.variant),
        )

        true = bottom.repeat(len(drawn), 1, 1, 1)
        adversarial, l1 = loss.generator_loss(self.discriminator(top, judged), generated, true, self.l1_weight)
        whole, parts = adversarial + l1, {"train/l1": l1, "train/adversarial": adversarial}
        if self.diversity:
            parts["train/spread"] = loss.spread(generated, self.l1_weight, self.diversity)
            whole = whole - parts["train/spread"]
        self.log_dict(parts, batch_size=len(batch))
        yield "generator", whole

    @torch.no_grad()
    def validation_step(self, batch: PairBatch, batch_idx: int) -> None:
        """Log the generator's loss at the noise of inference, and an image of the first rows: tops, templates, bottoms."""
        top, bottom = self.images(batch.top), self.images(batch.bottom)
        templates = [self.template(top, batch.top_ids, draw) for draw in range(2 if self.diversity else 1)]
        adversarial, l1 = loss.generator_loss(self.discriminator(top, templates[0]), templates[0], bottom, self.l1_weight)
        values = {"val/loss": adversarial + l1, "val/l1": l1}
        if self.diversity:
            values["val/spread"] = loss.spread(torch.cat(templates), self.l1_weight, self.diversity)
            values["val/loss"] = values["val/loss"] - values["val/spread"]
        self.log_dict(values, batch_size=len(batch), sync_dist=True)
        if batch_idx == 0 and self.trainer.is_global_zero and isinstance(self.logger, TensorBoardLogger):
            rows = torch.cat([images[:SHOWN] for images in (top, *templates, bottom)])
            grid = make_grid(to_uint8(rows.cpu()), nrow=len(top[:SHOWN]))
            self.logger.experiment.add_image("val/top, template, bottom", grid, self.global_step)

    @torch.no_grad()
    def draw_template(self, batch: QueryBatch) -> Tensor:
        """Generate each top's template, (B, 3, S, S) in [-1, 1]: eq. 3, the noise from the top's id."""
        return self.template(self.images(batch.top), batch.top_ids)

    def template(self, top: Tensor, top_ids: list[str], draw: int = 0) -> Tensor:
        """Return G(t, z), (B, 3, S, S), for tops in [-1, 1], at noise of inference number `draw`; that of 0 is the template."""
        drawn: Tensor = self.generator(top, template_noise(top_ids, self.seed, draw, self.generator.noise_channels, self.device))
        return drawn

    @torch.no_grad()
    def embed_query(self, batch: QueryBatch) -> Tensor:
        """Return the templates at `compared_size`, (B, 3 * compared_size^2)."""
        return resized(self.draw_template(batch), self.compared_size).flatten(1)

    @torch.no_grad()
    def embed_candidate(self, batch: CandidateBatch) -> Tensor:
        """Return the bottoms at `compared_size`, (C, 3 * compared_size^2)."""
        return resized(self.images(batch.bottom), self.compared_size).flatten(1)

    def score(self, query: Tensor, candidate: Tensor) -> Tensor:
        """Return minus the mean absolute difference between template and bottom, (B, C).

        The paper ranks by GECo alone; this is what CIGM's own L1 loss makes of ranking.
        """
        return -torch.cdist(query, candidate, p=1.0) / query.shape[1]

    def images(self, images: Tensor | None) -> Tensor:
        """Return images (B, 3, S, S) in [-1, 1]."""
        return prepare_images(images, self.image_size, "CIGM")
