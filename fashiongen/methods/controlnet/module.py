"""ControlNet (Zhang et al., ICCV 2023) as a baseline of outfit generation: Stable Diffusion controlled by an image of the other items.

DiFashion's and DualFashion's tables have such a row and do not say what the control image is: see the folder's README.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from diffusers import ControlNetModel
from torch import Tensor
from torch.nn.functional import interpolate

from fashiongen.batches import to_float
from fashiongen.checkpoints import locate
from fashiongen.errors import UserError
from fashiongen.methods.outfit_diffusion import Conditions, OutfitDiffusion
from fashiongen.nn.parts import load_part
from fashiongen.outfit_batches import OutfitBatch

WIDTHS = (16, 32, 96, 256)
"""Channels of the layers that bring the control image to the size of the latents, each but the first halving it."""


class ControlNet(OutfitDiffusion):
    """Generates each item from its category, controlled by the outfit's other items in one image; the user plays no part."""

    name: ClassVar[str] = "controlnet"
    frozen: ClassVar[tuple[str, ...]] = ("codec", "prompt_encoder", "unet")

    def __init__(
        self,
        controlnet: str | None = None,
        train_unet: bool = False,
        outfit_dropout: float = 0.5,
        control_scale: float = 1.0,
        **options: Any,  # noqa: ANN401  the base's own
    ) -> None:
        """Load the pretrained parts and the control network.

        Args:
            controlnet: a folder or hub id of a control network to start from, whose control image is in [-1, 1] here; None starts from a
                copy of the denoiser's first half, whose outputs are at first zero.
            train_unet: train the denoiser too, which ControlNet leaves as it is.
            outfit_dropout: probability that the control image is white in training, in [0, 1]: an outfit recommendation has none.
            control_scale: of the control network's outputs.
            options: options of every such method.

        Raises:
            UserError: if a part cannot be loaded or a setting is out of range.
        """
        super().__init__(**options)
        if not 0.0 <= outfit_dropout <= 1.0:
            raise UserError(f"ControlNet: outfit_dropout: {outfit_dropout}: must lie in [0, 1]")
        self.outfit_dropout, self.control_scale = outfit_dropout, control_scale
        self.unet.requires_grad_(train_unet)
        if controlnet is None:
            halvings = int(math.log2(self.codec.factor))
            self.controlnet = ControlNetModel.from_unet(self.unet, conditioning_embedding_out_channels=WIDTHS[: halvings + 1])
        else:
            self.controlnet = load_part(ControlNetModel, locate(controlnet))
            for what in ("cross_attention_dim", "block_out_channels"):
                if (own := self.controlnet.config[what]) != (base := self.unet.config[what]):
                    raise UserError(
                        f"ControlNet: controlnet: {controlnet}: its {what} is {own}, the denoiser's {base}: of another base model"
                    )
        self.controlnet.requires_grad_(True).train()
        if self.unet.is_gradient_checkpointing:
            self.controlnet.enable_gradient_checkpointing()

    def training_conditions(self, batch: OutfitBatch, latents: Tensor, ids: list[str], names: tuple[str | int, ...]) -> Conditions:
        """Return the prompts, and for each item the image of the others, white where it is dropped at random."""
        assert batch.true_images is not None
        control = collages(to_float(batch.true_images.values), batch.blank.row_of, torch.ones_like(batch.blank.values), len(batch))
        kept = self.kept(ids, self.outfit_dropout, names, "outfit")
        if kept is not None:
            control = torch.where(kept.to(control.device)[:, None, None, None], control, 1.0)
        return Conditions(super().training_conditions(batch, latents, ids, names).text, control)

    def blank_conditions(self, batch: OutfitBatch) -> Conditions:
        """Return the prompts, and for each blank the image of the given items."""
        assert batch.images is not None
        control = collages(to_float(batch.images.values), batch.blank.row_of, batch.given.values, len(batch))
        return Conditions(super().blank_conditions(batch).text, control[batch.blank_slots()])

    def denoise(self, noisy: Tensor, timestep: Tensor, conditions: Conditions) -> Tensor:
        """Predict the noise of N items' latents, with the control network's features added to the denoiser's."""
        assert conditions.extra is not None
        dtype = self.unet.dtype
        text, latents, control = conditions.text.to(dtype), noisy.to(dtype), conditions.extra.to(dtype)
        down, middle = self.controlnet(
            latents, timestep, encoder_hidden_states=text, controlnet_cond=control, conditioning_scale=self.control_scale, return_dict=False
        )
        predicted: Tensor = self.unet(
            latents,
            timestep,
            encoder_hidden_states=text,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample
        return predicted.float()


def collages(images: Tensor, row: Tensor, shown: Tensor, outfits: int) -> Tensor:
    """Return for each item one image of its outfit's other items: a square grid of reduced images, white where none is shown.

    Args:
        images: all T items in [-1, 1], (T, 3, H, W).
        row: the outfit of each, (T,) int64.
        shown: which of them may be seen, (T,) bool.
        outfits: the number of outfits, B.

    Returns:
        (T, 3, H, W) in [-1, 1]; an item's place in the grid is its place in the outfit, so that its own cell is white.
    """
    height, width = images.shape[-2:]
    first = torch.searchsorted(row, torch.arange(outfits, device=row.device))
    place = torch.arange(len(row), device=row.device) - first[row]
    sides = row.bincount(minlength=outfits).float().sqrt().ceil().long()[row]  # of each outfit's own grid
    collage = images.new_ones(len(row), *images.shape[1:])
    for side in sides.unique().tolist():
        chosen = (sides == side).nonzero().flatten()
        small = interpolate(images[chosen], size=(height // side, width // side), mode="bilinear", antialias=True)
        small = small.where(shown[chosen, None, None, None], 1.0).clamp(-1.0, 1.0)
        cells = images.new_ones(outfits, side * side, *small.shape[1:])
        cells[row[chosen], place[chosen]] = small
        others = cells[row[chosen]].clone()
        others[torch.arange(len(chosen), device=row.device), place[chosen]] = 1.0
        grid = others.unflatten(1, (side, side)).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
        whole = images.new_ones(len(chosen), *images.shape[1:])
        whole[..., : grid.shape[-2], : grid.shape[-1]] = grid
        collage[chosen] = whole
    return collage
