"""The stages of the tiny image-text pairs: CLIP (tokenizer, text and image encoder) and a SigLIP-like image encoder."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, SiglipConfig, SiglipModel
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from fashiongen.batches import to_float
from fashiongen.nn.crop import bounding_boxes, crop_and_resize
from fashiongen.tiny.captions import caption_forms
from fashiongen.tiny.images import SIZE, RenderedImages
from fashiongen.tiny.training import Draws, Run, train

CLIP_SIZE = 48
PROMPT_LENGTH = 32
SIGLIP_SIZE = 64


def build_tokenizer(captions: list[str], folder: Path) -> CLIPTokenizer:
    """Learn byte-pair merges from the words of the captions, and write a CLIP tokenizer to `folder`."""
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    specials = ["<|startoftext|>", "<|endoftext|>"]
    learner.train_from_iterator(
        [caption.lower() for caption in captions],
        trainers.BpeTrainer(vocab_size=600, special_tokens=specials, end_of_word_suffix="</w>", show_progress=False),
    )
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in json.loads(learner.to_str())["model"]["merges"]]
    # All printable characters, so that words of other prompts are split into letters instead of becoming unknown. The learner numbers
    # its characters in another order each time; this order is always the same.
    letters = [chr(code) for code in range(33, 127)]
    tokens = [*specials, *letters, *(f"{letter}</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": PROMPT_LENGTH}))
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder)
    assert len(tokenizer) == len(vocabulary), "transformers built a tokenizer without the vocabulary"
    tokenizer.save_pretrained(folder)
    return tokenizer


def build_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Build a CLIP model with about a million parameters."""
    common = {"hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 4, "projection_dim": 64}
    text = {
        **common,
        "vocab_size": len(tokenizer),
        "num_hidden_layers": 2,
        "max_position_embeddings": PROMPT_LENGTH,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {**common, "hidden_size": 96, "num_hidden_layers": 3, "image_size": CLIP_SIZE, "patch_size": 6}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64))


def garment_crops(rendered: RenderedImages, chosen: Tensor) -> Tensor:
    """Crop images to the mask, black outside of it, and normalise them for CLIP: (B, 3, S, S)."""
    masks = rendered.masks[chosen]
    crop = crop_and_resize(rendered.images[chosen].float() / 255 * masks, bounding_boxes(masks), (CLIP_SIZE, CLIP_SIZE))
    mean, std = (crop.new_tensor(values).view(3, 1, 1) for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return (crop - mean) / std


def tokenize(tokenizer: CLIPTokenizer, captions: list[str], device: torch.device | None = None) -> Tensor:
    """Return token ids, (N, length) int64."""
    ids: Tensor = tokenizer(captions, padding="max_length", max_length=PROMPT_LENGTH, truncation=True, return_tensors="pt").input_ids
    return ids.to(device)


View = Callable[[RenderedImages, Tensor], Tensor]
"""Prepares chosen images (B,) for an image encoder: (B, 3, S, S)."""


def contrastive_loss(
    run: Run, network: nn.Module, tokenizer: CLIPTokenizer, view: View, *sets: RenderedImages, batch: int
) -> Callable[[Draws], Tensor]:
    """Return the network's own loss of image-text pairs, an equal part of each batch from each set of images.

    Of twenty captions, ten are sentences, eight have the four-attribute form, one is a prompt and one names only the kind of item.
    """
    parts = [(rendered, caption_forms(rendered, partial(tokenize, tokenizer, device=run.device))) for rendered in sets]

    def loss(draws: Draws) -> Tensor:
        images, ids = [], []
        for rendered, captions in parts:
            chosen = draws.integers(len(rendered), batch // len(parts))
            images.append(view(rendered, chosen))
            ids.append(captions.drawn(draws, chosen, structured=0.4, prompt=0.05, short=0.05))
        value: Tensor = network(input_ids=torch.cat(ids), pixel_values=torch.cat(images), return_loss=True).loss
        return value

    return loss


def train_clip(
    run: Run, name: str, tokenizer: CLIPTokenizer, shop: RenderedImages, people: RenderedImages, steps: int, batch: int
) -> CLIPModel:
    """Train a CLIP model by the symmetric contrastive loss on crops of items, half of them from shop images, half from people."""
    network = build_clip(tokenizer)
    loss = contrastive_loss(run, network, tokenizer, garment_crops, shop, people, batch=batch)
    return train(run, name, network, loss, steps=steps, learning_rate=1.5e-3)


@torch.no_grad()
def judge_pairs(
    network: nn.Module, tokenizer: CLIPTokenizer, view: View, rendered: RenderedImages, captions: list[str], among: int = 50
) -> float:
    """Return recall@1 of caption retrieval: how often an image's own caption ranks first of `among`; equal captions count as one."""
    hits: list[bool] = []
    for start in range(0, len(rendered) - among + 1, among):
        chosen = torch.arange(start, start + among, device=rendered.images.device)
        ids = tokenize(tokenizer, captions[start : start + among], chosen.device)
        best = network(input_ids=ids, pixel_values=view(rendered, chosen)).logits_per_image.argmax(dim=1)
        hits += [captions[start + found] == captions[start + own] for own, found in enumerate(best.tolist())]
    return sum(hits) / len(hits)


def build_siglip(tokenizer: CLIPTokenizer) -> SiglipModel:
    """Build a SigLIP model with 64 image tokens of 96 channels; its text encoder is only used in training."""
    common = {"hidden_size": 96, "intermediate_size": 192, "num_attention_heads": 4}
    text = {**common, "vocab_size": len(tokenizer), "num_hidden_layers": 2, "max_position_embeddings": PROMPT_LENGTH, "projection_size": 96}
    vision = {**common, "num_hidden_layers": 3, "image_size": SIGLIP_SIZE, "patch_size": 8}
    network = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    with torch.no_grad():  # as in the paper (Zhai et al. 2023, Section 3.2): from 0 and 0 all embeddings collapse into one
        network.logit_scale.fill_(math.log(10.0))
        network.logit_bias.fill_(-10.0)
    return network


def squares(rendered: RenderedImages, chosen: Tensor) -> Tensor:
    """Pad whole images to squares by their edges (as TryOffDiff does), and normalise them for SigLIP: (B, 3, S, S) in [-1, 1]."""
    side = (SIZE[0] - SIZE[1]) // 2
    return pad(to_float(rendered.images[chosen]), (side, side, 0, 0), mode="replicate")


def train_siglip(run: Run, tokenizer: CLIPTokenizer, shop: RenderedImages, people: RenderedImages, steps: int, batch: int) -> SiglipModel:
    """Train a SigLIP model by the sigmoid loss on whole images: half shop images, half people with the caption of what they wear."""
    network = build_siglip(tokenizer)
    loss = contrastive_loss(run, network, tokenizer, squares, shop, people, batch=batch)
    return train(run, "siglip", network, loss, steps=steps, learning_rate=1.5e-3)
