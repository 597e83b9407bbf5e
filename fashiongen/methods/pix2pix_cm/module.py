"""Pix2PixCM, MGCM with the networks of Pix2Pix, as GeCo's authors implemented it as a baseline (GeCo, Section 5.4)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from fashiongen.batches import CandidateBatch, PairBatch, QueryBatch
from fashiongen.methods.base import Method
from fashiongen.methods.pix2pix_cm.network import PatchGAN, UNet
from fashiongen.methods.pix2pix_cm.published import load_published
from fashiongen.nn.negatives import wrong
from fashiongen.nn.template_matching import ROLLS, TemplateMatcher, Variant, check_settings, check_strategy, dropout_keys, images


class Pix2PixCM(Method):
    """Ranks bottoms by their likeness to the top and to a template that a U-Net draws from the top."""

    name: ClassVar[str] = "pix2pix_cm"
    n_optimizers: ClassVar[int] = 3
    needs: ClassVar[frozenset[str]] = frozenset({"images"})
    inner_product: ClassVar[bool] = False
    draws_templates: ClassVar[bool] = True

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
    ) -> None:
        """Build the generator, the discriminator, the bottom encoder and the ranker.

        Args:
            image_size: S, pixels a side, a multiple of 64; images of another size are resized.
            width: channels after the first layer of each network; it grows to eight times that.
            dimensions: of the space in which top and bottom meet.
            alpha: weight of the item-to-item score.
            beta: weight of the item-to-template distance in the score.
            mu: weight of the generator's adversarial loss.
            nu: weight of the discriminator's loss.
            pixel_weight: weight of the mean absolute difference between template and bottom.
            variant: `paper`, or `code` for what the authors' code does instead (see the README).
            published: files that the authors' code wrote, by part: generator, discriminator, encoder, bpr.
            optimizer: built three times: for the discriminator, for the generator, for the bottom encoder and the ranker.

        Raises:
            UserError: if a setting is out of range or a file does not fit.
        """
        super().__init__(optimizer)
        check_settings("Pix2PixCM", image_size, width, dimensions, variant)
        self.automatic_optimization = False
        self.image_size = image_size
        self.network = TemplateMatcher(
            UNet(width),
            PatchGAN(width),
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
            load_published(self.network, published)

    def parts(self) -> dict[str, nn.Module]:
        """Return the four networks."""
        return dict(self.network.named_children())

    def configure_optimizers(self) -> Any:  # noqa: ANN401  Lightning's own union of shapes
        """Give three optimizers, in the order in which `TemplateMatcher.losses` yields the losses.

        Raises:
            UserError: under a strategy that cannot take them.
        """
        check_strategy("Pix2PixCM", self.trainer.strategy)
        network = self.network
        ranking = [*network.bottom_encoder.parameters(), *network.ranker.parameters()]
        return [self.optimizer(part) for part in (network.discriminator.parameters(), network.generator.parameters(), ranking)]

    def training_step(self, batch: PairBatch, batch_idx: int) -> None:
        """Take a step on each of the three losses in turn."""
        keys = dropout_keys(batch.ids, self.seed, self.global_step)
        tops, bottoms = (images(field, self.image_size, "Pix2PixCM") for field in (batch.top, batch.bottom))
        losses = self.network.losses(tops, bottoms, wrong(batch, ROLLS, tops.device), keys)
        for optimizer, (name, loss) in zip(self.optimizers(), losses, strict=True):
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.log(f"train/{name}", loss.detach(), prog_bar=True, batch_size=len(batch))

    def validation_step(self, batch: PairBatch, batch_idx: int) -> None:
        """Log the three losses without dropout; `val/loss` is the ranking's."""
        tops, bottoms = (images(field, self.image_size, "Pix2PixCM") for field in (batch.top, batch.bottom))
        for name, loss in self.network.losses(tops, bottoms, wrong(batch, ROLLS, tops.device), None):
            self.log("val/loss" if name == "ranking" else f"val/{name}", loss, batch_size=len(batch), sync_dist=True)

    @torch.no_grad()
    def embed_query(self, batch: QueryBatch) -> Tensor:
        """Embed tops with their templates' codes, (B, dimensions + N)."""
        return self.network.embed_tops(images(batch.top, self.image_size, "Pix2PixCM"))

    @torch.no_grad()
    def embed_candidate(self, batch: CandidateBatch) -> Tensor:
        """Embed bottoms with their codes, (C, dimensions + N)."""
        return self.network.embed_bottoms(images(batch.bottom, self.image_size, "Pix2PixCM"))

    def score(self, query: Tensor, candidate: Tensor) -> Tensor:
        """Return alpha <A, B> -+ beta || template code - bottom code ||_1, (B, C)."""
        return self.network.score(query, candidate)

    @torch.no_grad()
    def draw_template(self, batch: QueryBatch) -> Tensor:
        """Draw the tops' templates, (B, 3, S, S) in [-1, 1]; the generator takes no noise."""
        template: Tensor = self.network.generator(images(batch.top, self.image_size, "Pix2PixCM"), None).template
        return template
