"""A small TWGTM and batches of both directions, shared by its tests."""

import torch

from fashiongen.batches import TryOffBatch, TryOnBatch
from fashiongen.methods.twgtm import TWGTM

SMALL = {
    "swin": {"width": 16, "depths": (1, 1, 1), "heads": (2, 2, 4), "window": 4},
    "queries": 8,
    "qformer_layers": 2,
    "spatial_queries": 6,
    "spatial_width": 64,
    "units": 2,
    "steps": 2,
}
CATEGORIES = ["upper", "lower", "full"]


def small(**settings):
    torch.manual_seed(0)
    return TWGTM(**SMALL | settings)


def batches(seed=0, height=64, width=48):
    """Three people with random pixels: as a batch of try-off and as one of try-on."""
    draw = torch.Generator().manual_seed(seed)
    person, garment = torch.randint(0, 256, (2, 3, 3, height, width), dtype=torch.uint8, generator=draw)
    mask, flat = torch.zeros(2, 3, 1, height, width, dtype=torch.bool)
    mask[..., height // 4 : 5 * height // 8, 10:36] = True
    flat[..., 8 : height - 8, 6:40] = True
    common = {"ids": list("abc"), "mask": mask, "category": CATEGORIES, "garment": garment, "garment_mask": flat, "person": person}
    grey = torch.where(mask, torch.full_like(person, 128), person)
    return TryOffBatch(**common), TryOnBatch(agnostic=grey, **common)


def painting(model, batch, direction, names=("val",)):
    """One direction of a batch, as training reads it."""
    images = {name: model.codec.mode(model.encoded(name, batch)) for name in ("person", "garment")}
    return model.painting(batch, direction, images, names)


def with_spatial(model):
    """Let the spatial features in, which ZLL keeps out until it has learned."""
    draw = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "zero_linear" in name:
            parameter.data.copy_(0.2 * torch.randn(parameter.shape, generator=draw))
    return model
