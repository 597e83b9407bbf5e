"""TWGTM's choices, checked."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from torch import Tensor

from fashiongen.errors import UserError
from fashiongen.methods.twgtm.network import Fusion

Direction = Literal["vton", "vtoff"]
Layout = Literal["side_by_side", "warped"]
PROMPTS = {"upper": "upper garment", "lower": "lower garment", "full": "dress"}
SWIN = {"width": 96, "depths": (2, 2, 6), "heads": (3, 6, 12), "window": 7}
"""The first three stages of Swin-T."""


class Painting(NamedTuple):
    """One direction of a batch: what is painted, where, and from which reference.

    Attributes:
        known: h_f's first image, the target with zeros inside `hole`, (B, 3, H, W) in [-1, 1].
        hole: (B, 1, H, W) bool, True where the target is repainted: 1 minus h_m's first half.
        reference: the other image, (B, 3, H, W) in [-1, 1].
        region: (B, 1, H, W) bool, where the reference shows the garment; read by Table 4's variant 2 alone.
        reference_latents: E(reference), (B, 4, h, w).
        tokens: CLIP's last hidden states of the reference, (B, L, E).
        known_latents: E(known), if it is known already.
    """

    known: Tensor
    hole: Tensor
    reference: Tensor
    region: Tensor
    reference_latents: Tensor
    tokens: Tensor
    known_latents: Tensor | None = None


def check(
    *,
    prompts: dict[str, str],
    phase: int,
    directions: tuple[Direction, ...],
    fusion: Fusion,
    layout: Layout,
    spatial: bool,
    growth: tuple[float, float],
    rectangle: str | tuple[float, float, float, float] | None,
    condition_dropout: float,
    snr_gamma: float | None,
    swin: object,
    counts: dict[str, int],
) -> None:
    """Check the settings, see TWGTM's constructor.

    Raises:
        UserError: one line that names the setting that is out of range.
    """
    for what, given, known in (
        ("prompts", tuple(prompts), tuple(PROMPTS)),
        ("directions", tuple(directions), get_args(Direction)),
        ("fusion", (fusion,), get_args(Fusion)),
        ("layout", (layout,), get_args(Layout)),
        ("swin", tuple(swin) if isinstance(swin, dict) else (), tuple(SWIN)),
    ):
        if unknown := sorted(set(given) - set(known)):
            raise UserError(f"TWGTM: {what}: {', '.join(map(str, unknown))}: unknown; choose among {', '.join(known)}")
    if phase not in (1, 2):
        raise UserError(f"TWGTM: phase: {phase}: must be 1 or 2")
    if not directions or len(set(directions)) != len(directions):
        raise UserError("TWGTM: directions: name `vton`, `vtoff` or both, each once")
    if not 0.0 <= condition_dropout <= 1.0:
        raise UserError(f"TWGTM: condition_dropout: {condition_dropout}: must lie in [0, 1]")
    if snr_gamma is not None and not snr_gamma > 0:
        raise UserError(f"TWGTM: snr_gamma: {snr_gamma}: must be above 0; leave it out to weight all noises equally")
    if not -0.5 <= growth[0] <= growth[1]:
        raise UserError(f"TWGTM: growth: {growth[0]} to {growth[1]}: must be two ascending shares of the image, of at least -0.5")
    if isinstance(rectangle, str):
        if rectangle != "predicted" or not spatial:
            raise UserError(
                f"TWGTM: rectangle: {rectangle}: give `predicted` (with the spatial module), or left, top, right, bottom as shares"
            )
    elif rectangle is not None:
        left, top, right, bottom = rectangle
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise UserError(f"TWGTM: rectangle: {list(rectangle)}: left, top, right, bottom are shares of the image in [0, 1]")
    for what, count in counts.items():
        if count < 1:
            raise UserError(f"TWGTM: {what}: {count}: must be at least 1")
