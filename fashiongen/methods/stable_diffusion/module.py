"""Stable Diffusion 1.5 and 2 (Rombach et al., 2022), pre-trained or fine-tuned, and `SD-naive`: baselines of DiFashion's tables."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from fashiongen.errors import UserError
from fashiongen.methods.outfit_diffusion import Conditions, OutfitDiffusion
from fashiongen.nn.outfits import mean_of_others, mean_of_rows
from fashiongen.nn.parts import load_unet, widen_input, with_linear_projections
from fashiongen.outfit_batches import OutfitBatch


class SDv15(OutfitDiffusion):
    """Stable Diffusion 1.5, which is told the category alone: neither the outfit nor the user."""

    name: ClassVar[str] = "sd_v15"


class SDv2(OutfitDiffusion):
    """Stable Diffusion 2 (base), which differs in its text encoder and in linear projections.

    `pretrained: tiny` is the tiny Stable Diffusion 1.5 in the layout of version 2: both compute the same.
    """

    name: ClassVar[str] = "sd_v2"

    def build_unet(self, folder: str) -> UNet2DConditionModel:
        """Load the denoiser, and bring one in the layout of version 1 into that of version 2."""
        unet = load_unet(folder)
        return unet if unet.config.use_linear_projection else with_linear_projections(unet).train()


class SDNaive(OutfitDiffusion):
    """Stable Diffusion whose input is widened by two conditions as they are: the mean of the outfit's other items, and of the history.

    The denoiser's input is [z_t | mean of the other items' clean latents | mean of the history's latents]; the new channels start at zero.
    A white image's latents stand for what is absent or dropped.
    """

    name: ClassVar[str] = "sd_naive"
    needs: ClassVar[frozenset[str]] = frozenset({"images", "history"})

    def __init__(self, outfit_dropout: float = 0.5, history_dropout: float = 0.2, **options: Any) -> None:  # noqa: ANN401  the base's own
        """Load the pretrained parts.

        Args:
            outfit_dropout: probability that the other items are dropped in training: an outfit recommendation has none.
            history_dropout: probability that the history is dropped in training.
            options: options of every such method.

        Raises:
            UserError: if a part cannot be loaded or a setting is out of range.
        """
        super().__init__(**options)
        for what, value in (("outfit_dropout", outfit_dropout), ("history_dropout", history_dropout)):
            if not 0.0 <= value <= 1.0:
                raise UserError(f"SDNaive: {what}: {value}: must lie in [0, 1]")
        self.outfit_dropout, self.history_dropout = outfit_dropout, history_dropout

    def build_unet(self, folder: str) -> UNet2DConditionModel:
        """Load the denoiser and widen its input."""
        unet = load_unet(folder)
        widen_input(unet, 2 * self.codec.channels)
        return unet

    def training_conditions(self, batch: OutfitBatch, latents: Tensor, ids: list[str], names: tuple[str | int, ...]) -> Conditions:
        """Return the prompts, the mean of each item's others, and the history, each dropped at random."""
        white = self.white(batch)
        others = mean_of_others(latents, batch.blank.row_of, len(batch), white)
        outfit = _dropped(others, self.kept(ids, self.outfit_dropout, names, "outfit"), white)
        history = _dropped(
            self.history_latents(batch, torch.arange(len(ids))), self.kept(ids, self.history_dropout, names, "history"), white
        )
        text = super().training_conditions(batch, latents, ids, names).text
        return Conditions(text, torch.cat([outfit, history], dim=1))

    def blank_conditions(self, batch: OutfitBatch) -> Conditions:
        """Return the prompts, the mean of the given items, and the history."""
        assert batch.images is not None
        given = batch.given.values.nonzero().flatten()
        items = [batch.items.values[slot] for slot in given.tolist()]
        white = self.white(batch)
        if items:
            means = mean_of_rows(self.item_latents(items, batch.images.values[given]), batch.given.row_of[given], white, len(batch))
        else:
            means = white.expand(len(batch), -1, -1, -1)
        history = self.history_latents(batch, batch.blank_slots())
        return Conditions(super().blank_conditions(batch).text, torch.cat([means[batch.blank_samples()], history], dim=1))


def _dropped(values: Tensor, kept: Tensor | None, empty: Tensor) -> Tensor:
    return values if kept is None else torch.where(kept.to(values.device)[:, None, None, None], values, empty)
