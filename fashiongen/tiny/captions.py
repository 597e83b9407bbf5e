"""The texts that the tiny checkpoints learn to read: every form in which a method may describe an item."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fashiongen.tiny.images import RenderedImages
from fashiongen.tiny.training import Draws
from fashiongen.wardrobe import ATTRIBUTES, CATEGORIES, GARMENT_TYPE

SHORT_CAPTIONS = {
    "upper": "a photo of an upper body garment",
    "lower": "a photo of a lower body garment",
    "full": "a photo of a full body garment",
    "other": "a photo of an accessory",
}
PAIRS = ("trousers", "shorts", "shoes")  # categories that prompts may call "a pair of"
UNKNOWN = "Unknown"
UNKNOWN_SHARE = 0.2  # of the values of a four-attribute caption
AT_ONCE = 500
BLANK = "a blank image"
"""The caption of an empty slot of an outfit, a white image."""


def short_caption(category: str) -> str:
    """Return a caption that names only the kind of item, like many captions on the web and IGR's prompts."""
    return SHORT_CAPTIONS[GARMENT_TYPE[category]]


def shop_prompt(category: str, pair: bool = False, quality: bool = True) -> str:
    """Return the prompt of generative outfit recommendation (DiFashion): the category alone, on white."""
    return f"a photo of a {'pair of ' if pair else ''}{category}, on white background{', high quality' if quality else ''}"


def structured_caption(values: dict[str, str]) -> str:
    """Return DualFashion's caption: the four attributes as JSON; an unknown value is "Unknown"."""
    return json.dumps({name: values.get(name, UNKNOWN) for name in ATTRIBUTES})


@dataclass(frozen=True)
class CaptionForms:
    """The captions of N images in every form.

    Attributes:
        table: the encodings of all distinct texts, (M, ...).
        full: rows of the table with the sentence of each image, (N,) int64; the other forms alike.
        structured: four-attribute captions in which a fifth of the values are unknown.
        prompt: prompts of generative outfit recommendation.
        short: captions that name only the kind of item.
        empty: row of the empty text, (1,).
        blank: row of the caption of a blank image, (1,).
    """

    table: Tensor
    full: Tensor
    structured: Tensor
    prompt: Tensor
    short: Tensor
    empty: Tensor
    blank: Tensor

    def drawn(self, draws: Draws, chosen: Tensor, structured: float, prompt: float, short: float, empty: float = 0.0) -> Tensor:
        """Return the encoding of one form for each chosen image, (B, ...): the others with their probabilities, else the sentence."""
        choices = ((self.empty, empty), (self.short[chosen], short), (self.prompt[chosen], prompt), (self.structured[chosen], structured))
        return self.table[draws.mix(*choices, otherwise=self.full[chosen])]


def texts_of(rendered: RenderedImages, seed: int = 0) -> dict[str, list[str]]:
    """Return the texts of every form, by the names of `CaptionForms`."""
    stream = random.Random(seed)
    categories = [CATEGORIES[label] for label in rendered.labels["category"].tolist()]
    values = {name: [of[label] for label in rendered.labels[name].tolist()] for name, of in ATTRIBUTES.items()}
    return {
        "full": rendered.captions,
        "structured": [
            structured_caption({name: of[index] for name, of in values.items() if stream.random() >= UNKNOWN_SHARE})
            for index in range(len(rendered))
        ],
        "prompt": [
            shop_prompt(category, pair=category in PAIRS and stream.random() < 0.5, quality=stream.random() < 0.5)
            for category in categories
        ],
        "short": [short_caption(category) for category in categories],
        "empty": [""],
        "blank": [BLANK],
    }


def caption_forms(rendered: RenderedImages, encode: Callable[[list[str]], Tensor]) -> CaptionForms:
    """Encode all captions of some images with `encode`, each distinct text once."""
    texts = texts_of(rendered)
    distinct = sorted({text for form in texts.values() for text in form})
    row = {text: index for index, text in enumerate(distinct)}
    table = torch.cat([encode(distinct[start : start + AT_ONCE]) for start in range(0, len(distinct), AT_ONCE)])
    return CaptionForms(table, **{name: torch.tensor([row[text] for text in form], device=table.device) for name, form in texts.items()})
