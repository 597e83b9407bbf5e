"""The Lightning module shared by MGCM and Pix2PixCM, which differ in the generator, discriminator and the authors' layer names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from fashiongen.batches import CandidateBatch, PairBatch, QueryBatch
from fashiongen.methods.multi_loss import MultiLossMethod
from fashiongen.nn.negatives import negative_mask, rolled_mask
from fashiongen.nn.template_matching import (
    ROLLS,
    TemplateMatcher,
    Variant,
    check_settings,
    dropout_keys,
    load_authors_files,
    prepare_images,
)


class TemplateMatchingMethod(MultiLossMethod):
    """Ranks bottoms by their similarity to the top and to a template that a GAN generates from the top.

    Attributes:
        generator_names: the authors' layer names in their generator files, mapped to ours.
        discriminator_names: the same for the discriminator.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"images"})
    inner_product: ClassVar[bool] = False
    draws_templates: ClassVar[bool] = True
    trains: ClassVar[dict[str, tuple[str, ...]]] = {
        "discriminator": ("network.discriminator",),
        "generator": ("network.generator",),
        "ranking": ("network.bottom_encoder", "network.ranker"),
    }
    generator_names: ClassVar[dict[str, str]]
    discriminator_names: ClassVar[dict[str, str]]

    def __init__(
        self,
        image_size: int = 64,
        width: int = 64,
        dimensions: int = 128,
        alpha: float = 1.0,
        beta: float = 0.01,
        mu: float = 0.1,
        nu: float = 0.01,
        pixel_weight: float = 10000.0,
        variant: Variant = "paper",
        published: dict[str, str] | None = None,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        """Build the generator, the discriminator, the bottom encoder and the ranker.

        Args:
            image_size: S, pixels per side, a multiple of 64; images of another size are resized.
            width: channels after the first layer of each network; it grows to eight times that.
            dimensions: size of the shared embedding space of tops and bottoms.
            alpha: weight of the item-to-item score.
            beta: weight of the item-to-template distance in the score.
            mu: weight of the generator's adversarial loss.
            nu: weight of the discriminator's loss.
            pixel_weight: weight of the mean absolute difference between template and bottom.
            variant: `paper`, or `code` for the behaviour of the authors' code (see the README).
            published: files written by the authors' code, by part: generator, discriminator, encoder, bpr.
            optimizer: created three times: for the discriminator, for the generator, for the bottom encoder and the ranker.
            lr_scheduler: created for each of them; stepped once per training step.

        Raises:
            UserError: if a setting is out of range or a file does not fit.
        """
        super().__init__(optimizer, lr_scheduler)
        name = type(self).__name__
        check_settings(name, image_size, width, dimensions, variant)
        self.image_size = image_size
        self.network = TemplateMatcher(
            *self.build_gan(width, image_size),
            width=width,
            dimensions=dimensions,
            alpha=alpha,
            beta=beta,
            mu=mu,
            nu=nu,
            pixel_weight=pixel_weight,
            variant=variant,
        )
        if published is not None:
            load_authors_files(self.network, published, self.generator_names, self.discriminator_names, name)

    def build_gan(self, width: int, image_size: int) -> tuple[nn.Module, nn.Module]:
        """Return a new generator and discriminator, see `fashiongen.nn.template_matching.TemplateMatcher`."""
        raise NotImplementedError

    def parts(self) -> dict[str, nn.Module]:
        """Return the four networks."""
        return dict(self.network.named_children())

    def training_losses(self, batch: PairBatch, draw_step: int) -> Iterator[tuple[str, Tensor]]:
        """Yield the losses of the discriminator, the generator and the ranking."""
        return self._losses(batch, dropout_keys(batch.ids, self.seed, draw_step, self.network.draws))

    def validation_step(self, batch: PairBatch, batch_idx: int) -> None:
        """Log the three losses without dropout; `val/loss` is the ranking's."""
        for name, loss in self._losses(batch, None):
            self.log("val/loss" if name == "ranking" else f"val/{name}", loss, batch_size=len(batch), sync_dist=True)

    def _losses(self, batch: PairBatch, keys: list[Tensor] | None) -> Iterator[tuple[str, Tensor]]:
        tops, bottoms = self.images(batch.top), self.images(batch.bottom)
        negative = rolled_mask(negative_mask(batch.bottom_ids, batch.positives), ROLLS).to(tops.device)
        return self.network.losses(tops, bottoms, negative, keys)

    @torch.no_grad()
    def embed_query(self, batch: QueryBatch) -> Tensor:
        """Embed tops with their templates' codes, (B, dimensions + N)."""
        return self.network.embed_tops(self.images(batch.top))

    @torch.no_grad()
    def embed_candidate(self, batch: CandidateBatch) -> Tensor:
        """Embed bottoms with their codes, (C, dimensions + N)."""
        return self.network.embed_bottoms(self.images(batch.bottom))

    def score(self, query: Tensor, candidate: Tensor) -> Tensor:
        """Return alpha <A, B> -+ beta || template code - bottom code ||_1, (B, C)."""
        return self.network.score(query, candidate)

    @torch.no_grad()
    def draw_template(self, batch: QueryBatch) -> Tensor:
        """Generate the tops' templates, (B, 3, S, S) in [-1, 1]; the generator takes no noise."""
        template: Tensor = self.network.generator(self.images(batch.top), None).template
        return template

    def images(self, images: Tensor | None) -> Tensor:
        """Return images (B, 3, S, S) in [-1, 1]."""
        return prepare_images(images, self.image_size, type(self).__name__)
