"""TWGTM's choices, checked."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

from torch import Tensor

from fashiongen.errors import UserError
from fashiongen.methods.twgtm.network import Fusion
from fashiongen.methods.twgtm.spatial import STAGES

Direction = Literal["vton", "vtoff"]
Layout = Literal["side_by_side", "warped"]
PROMPTS = {"upper": "upper garment", "lower": "lower garment", "full": "dress"}
SWIN: dict[str, Any] = {"width": 96, "depths": (2, 2, 6), "heads": (3, 6, 12), "window": 7}
"""The first three stages of Swin-T."""


class Painting(NamedTuple):
    """One direction of a batch: what is painted, where, and from which reference.

    Attributes:
        kept: h_f's first image, the target with zeros inside `hole`, (B, 3, H, W) in [-1, 1].
        kept_latents: E(kept), (B, 4, h, w).
        hole: (B, 1, H, W) bool, True where the target is repainted: 1 minus h_m's first half.
        reference: the other image, (B, 3, H, W) in [-1, 1].
        reference_latents: E(reference), (B, 4, h, w).
        tokens: CLIP's last hidden states of the reference, (B, L, E).
        region: (B, 1, H, W) bool, where the reference shows the garment; read by Table 4's variant 2 alone.
    """

    kept: Tensor
    kept_latents: Tensor
    hole: Tensor
    reference: Tensor
    reference_latents: Tensor
    tokens: Tensor
    region: Tensor


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
    weights: dict[str, float],
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
    if len(growth) != 2 or not -0.5 <= growth[0] <= growth[1]:
        raise UserError(f"TWGTM: growth: {list(growth)}: must be two ascending shares of the image, of at least -0.5")
    for name in ("depths", "heads"):
        if isinstance(swin, dict) and len(swin.get(name, SWIN[name])) != STAGES:
            raise UserError(f"TWGTM: swin: {name}: {list(swin[name])}: give {STAGES} numbers, one for each stage")
    if isinstance(rectangle, str):
        if rectangle != "predicted" or not spatial:
            raise UserError(
                f"TWGTM: rectangle: {rectangle}: give `predicted` (with the spatial module), or left, top, right, bottom as shares"
            )
    elif rectangle is not None:
        left, top, right, bottom = rectangle
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise UserError(f"TWGTM: rectangle: {list(rectangle)}: left, top, right, bottom are shares of the image in [0, 1]")
    if counts["spatial_width"] % 32 and counts["spatial_width"] > 32:
        raise UserError(f"TWGTM: spatial_width: {counts['spatial_width']}: must be a multiple of 32, the width of a head")
    for what, weight in weights.items():
        if not weight >= 0:
            raise UserError(f"TWGTM: {what}: {weight}: must not be negative")
    for what, count in counts.items():
        if count < 1:
            raise UserError(f"TWGTM: {what}: {count}: must be at least 1")
