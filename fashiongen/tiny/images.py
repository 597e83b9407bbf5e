"""The training and evaluation images of the tiny checkpoints, rendered once and cached next to the build."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from fashiongen.wardrobe import (
    ATTRIBUTES,
    CATEGORIES,
    GARMENT_TYPE,
    WORLD_VERSION,
    Item,
    make_item,
    make_person,
    render_item,
    render_item_mask,
    render_person,
)
from fashiongen.wardrobe.people import VITON_CATEGORIES

SIZE = (64, 48)
SQUARE = (64, 64)  # input size of the backbones' stand-ins
CHUNK = 200
TOPS = VITON_CATEGORIES
BOTTOMS_AND_DRESSES = tuple(category for category, kind in GARMENT_TYPE.items() if kind in ("lower", "full"))


@dataclass
class RenderedImages:
    """N rendered images of items, as shop images on white or worn by a person.

    Attributes:
        images: (N, 3, H, W) uint8.
        masks: (N, 1, H, W) bool: the item in a shop image; the agnostic region in a photo of a person.
        labels: (N,) int64 indices into `heads()` for each attribute and "category".
        captions: N sentences.
    """

    images: Tensor
    masks: Tensor
    labels: dict[str, Tensor]
    captions: list[str]

    def __len__(self) -> int:
        """Return N."""
        return len(self.images)

    def fingerprint(self) -> str:
        """Return the SHA-256 of all pixels."""
        return hashlib.sha256(self.images.cpu().numpy().tobytes()).hexdigest()

    def share_read(self, read: dict[str, Tensor]) -> dict[str, float]:
        """Return for each attribute the share of the first images, as many as were read, whose label was read rightly."""
        return {name: round((read[name] == labels[: len(read[name])]).float().mean().item(), 4) for name, labels in self.labels.items()}

    def to(self, device: torch.device) -> RenderedImages:
        """Return the same images on another device."""
        labels = {name: values.to(device) for name, values in self.labels.items()}
        return replace(self, images=self.images.to(device), masks=self.masks.to(device), labels=labels)

    def first(self, count: int) -> RenderedImages:
        """Return the first `count` images."""
        labels = {name: values[:count] for name, values in self.labels.items()}
        return RenderedImages(self.images[:count], self.masks[:count], labels, self.captions[:count])

    def joined(self, other: RenderedImages) -> RenderedImages:
        """Return these images followed by the other ones."""
        return RenderedImages(
            torch.cat([self.images, other.images]),
            torch.cat([self.masks, other.masks]),
            {name: torch.cat([values, other.labels[name]]) for name, values in self.labels.items()},
            self.captions + other.captions,
        )


def heads() -> dict[str, tuple[str, ...]]:
    """Return the heads of the attribute classifier: the category and the four attributes, each with its values."""
    return {"category": CATEGORIES, **ATTRIBUTES}


def shop_images(seed: int, namespace: str, items: range, cache: Path, size: tuple[int, int] = SIZE) -> RenderedImages:
    """Render the shop images of the items of a namespace with these indices, at `size` (height, width)."""
    return _render(partial(_shop_chunk, seed, namespace, size), f"shop-{namespace}-{seed}", items, cache, size)


def people_images(
    seed: int, namespace: str, people: range, cache: Path, categories: Sequence[str] = TOPS, name: str = "people"
) -> RenderedImages:
    """Render people of a namespace, each wearing a garment of one of the categories and labelled by it."""
    return _render(partial(_people_chunk, seed, namespace, tuple(categories)), f"{name}-{namespace}-{seed}", people, cache, SIZE)


def _render(
    chunk: Callable[[range], tuple[np.ndarray, np.ndarray, list[Item]]], name: str, indices: range, cache: Path, size: tuple[int, int]
) -> RenderedImages:
    path = cache / f"{name}-{indices.start}-{indices.stop}-{size[0]}x{size[1]}-world{WORLD_VERSION}.pt"
    if not path.is_file():
        ranges = [indices[start : start + CHUNK] for start in range(0, len(indices), CHUNK)]
        with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
            parts = list(track(pool.map(chunk, ranges), description=f"rendering {name}", total=len(ranges)))
        items = [item for part in parts for item in part[2]]
        content = {
            "images": torch.from_numpy(np.concatenate([part[0] for part in parts])).permute(0, 3, 1, 2).contiguous(),
            "masks": torch.from_numpy(np.concatenate([part[1] for part in parts]))[:, None],
            "labels": {name: torch.tensor([values.index(_value(item, name)) for item in items]) for name, values in heads().items()},
            "captions": [item.caption() for item in items],
        }
        cache.mkdir(parents=True, exist_ok=True)
        torch.save(content, path.with_suffix(".tmp"))
        os.replace(path.with_suffix(".tmp"), path)
    return RenderedImages(**torch.load(path, weights_only=True))


def _value(item: Item, name: str) -> str:
    return item.category if name == "category" else item.attributes[name]


def _shop_chunk(seed: int, namespace: str, size: tuple[int, int], indices: range) -> tuple[np.ndarray, np.ndarray, list[Item]]:
    items = [make_item(seed, namespace, index) for index in indices]
    return np.stack([render_item(item, *size) for item in items]), np.stack([render_item_mask(item, *size) for item in items]), items


def _people_chunk(seed: int, namespace: str, categories: tuple[str, ...], indices: range) -> tuple[np.ndarray, np.ndarray, list[Item]]:
    people = [make_person(seed, namespace, index, categories) for index in indices]
    rendered = [render_person(person, *SIZE) for person in people]
    return np.stack([p.image for p in rendered]), np.stack([p.agnostic_mask for p in rendered]), [person.garment for person in people]
