"""The parts of the tiny checkpoints: how each is built, trained and evaluated."""

from __future__ import annotations

import json
from pathlib import Path

import timm
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, l1_loss, mse_loss, pad
from transformers import CLIPConfig, CLIPModel, CLIPTextModel, CLIPTokenizer
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from fashiongen.batches import to_float
from fashiongen.methods.bpr_dae.network import AlexNet
from fashiongen.nn.classifier import AttributeClassifier
from fashiongen.nn.crop import bounding_boxes, crop_and_resize
from fashiongen.tiny.images import SIZE, RenderedImages, heads
from fashiongen.tiny.training import AnyModule, pick, train

CLIP_SIZE = 48
PROMPT_LENGTH = 24
LATENT_SCALE_SAMPLES = 512


def shift(images: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Shift each image of (B, 3, H, W) by up to `most` pixels, with replicated edges."""
    count, _, height, width = images.shape
    padded = pad(images, (most,) * 4, mode="replicate")
    rows = torch.randint(2 * most + 1, (count, 1, 1), generator=generator) + torch.arange(height)[None, :, None]
    columns = torch.randint(2 * most + 1, (count, 1, 1), generator=generator) + torch.arange(width)[None, None, :]
    return padded[torch.arange(count)[:, None, None], :, rows, columns].permute(0, 3, 1, 2)


def disturbed(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift uint8 images (B, 3, H, W), add slight noise, and return them in [0, 1]."""
    shifted = shift(images.float() / 255, 3, generator)
    strength = 0.05 * torch.rand(len(images), 1, 1, 1, generator=generator)
    return (shifted + strength * torch.randn(shifted.shape, generator=generator)).clamp(0, 1)


def train_classifier(shop: RenderedImages, steps: int, batch: int, state: Path, seed: int) -> AttributeClassifier:
    """Train the attribute classifier on augmented shop images, so that it also classifies restored images."""
    network = AttributeClassifier(heads())

    def loss(generator: torch.Generator) -> Tensor:
        chosen = pick(len(shop), batch, generator)
        logits = network(disturbed(shop.images[chosen], generator))
        return torch.stack([cross_entropy(logits[name], labels[chosen]) for name, labels in shop.labels.items()]).sum()

    return train("classifier", network, loss, steps=steps, learning_rate=4e-3, state=state, seed=seed)


@torch.no_grad()
def judge_classifier(network: AttributeClassifier, shop: RenderedImages) -> dict[str, float]:
    """Return the accuracy for each attribute."""
    read = network.read(shop.images.float() / 255)
    return {name: (read[name] == labels).float().mean().item() for name, labels in shop.labels.items()}


def build_resnet18() -> nn.Module:
    """Build the stand-in for ImageNet's ResNet-18 in timm's layout, a quarter as wide; its classes are all values of all attributes."""
    network: nn.Module = timm.create_model("resnet18", channels=[16, 32, 64, 128], num_classes=sum(map(len, heads().values())))
    return network


def build_alexnet() -> nn.Module:
    """Build the stand-in for ImageNet's AlexNet in torchvision's layout, narrower, with the same classes."""
    network = AlexNet(channels=(16, 48, 64, 64, 32), fc=256)
    network.classifier.append(nn.Linear(network.width, sum(map(len, heads().values()))))
    for layer in network.modules():
        if isinstance(
            layer, nn.Conv2d | nn.Linear
        ):  # with torch's default initialisation the signal vanishes over eight layers without normalisation
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif isinstance(layer, nn.Dropout):
            layer.p = 0.1
    return network


def labelled(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return each attribute's logits for images (B, 3, H, W) in [0, 1]; the network gets them with ImageNet's normalisation.

    AlexNet gets them at twice the size, since it reduces 64 pixels to a single cell.
    """
    if isinstance(network, AlexNet):
        images = interpolate(images, scale_factor=2, mode="bilinear", antialias=True)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    sizes = {name: len(values) for name, values in heads().items()}
    return dict(zip(sizes, network((images - mean) / std).split(list(sizes.values()), dim=1), strict=True))


def train_backbone(name: str, network: AnyModule, shop: RenderedImages, steps: int, batch: int, state: Path, seed: int) -> AnyModule:
    """Train a stand-in to classify all attributes of shop images, as the original classifies ImageNet."""

    def loss(generator: torch.Generator) -> Tensor:
        chosen = pick(len(shop), batch, generator)
        logits = labelled(network, disturbed(shop.images[chosen], generator))
        return torch.stack([cross_entropy(logits[name], labels[chosen]) for name, labels in shop.labels.items()]).sum()

    return train(name, network, loss, steps=steps, learning_rate=1e-3 if isinstance(network, AlexNet) else 2e-3, state=state, seed=seed)


@torch.no_grad()
def judge_backbone(network: nn.Module, shop: RenderedImages) -> dict[str, float]:
    """Return the accuracy for each attribute."""
    logits = labelled(network, shop.images.float() / 255)
    return {name: (logits[name].argmax(dim=1) == labels).float().mean().item() for name, labels in shop.labels.items()}


def build_tokenizer(captions: list[str], folder: Path) -> CLIPTokenizer:
    """Learn byte-pair merges from the words of the captions, and write a CLIP tokenizer to `folder`."""
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    specials = ["<|startoftext|>", "<|endoftext|>"]
    learner.train_from_iterator(
        captions, trainers.BpeTrainer(vocab_size=600, special_tokens=specials, end_of_word_suffix="</w>", show_progress=False)
    )
    content = json.loads(learner.to_str())["model"]
    vocabulary = dict(content["vocab"])
    for byte in (*map(chr, range(33, 127)), *(f"{chr(code)}</w>" for code in range(33, 127))):
        vocabulary.setdefault(byte, len(vocabulary))  # words of other prompts are split into letters instead of becoming unknown
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in content["merges"]]
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
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return (crop - mean) / std


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Return token ids, (N, length) int64."""
    ids: Tensor = tokenizer(captions, padding="max_length", max_length=PROMPT_LENGTH, truncation=True, return_tensors="pt").input_ids
    return ids


def mix(generator: torch.Generator, *choices: tuple[Tensor, float], otherwise: Tensor) -> Tensor:
    """Choose one of several tensors (B, ...) for each sample, each with its own probability."""
    drawn = torch.rand(len(otherwise), *[1] * (otherwise.dim() - 1), generator=generator)
    mixed, below = otherwise, sum(probability for _, probability in choices)
    for choice, probability in reversed(choices):
        mixed = torch.where(drawn < below, choice, mixed)
        below -= probability
    return mixed


def train_clip(
    tokenizer: CLIPTokenizer, shop: RenderedImages, people: RenderedImages, steps: int, batch: int, state: Path, seed: int
) -> CLIPModel:
    """Train the CLIP model by the symmetric contrastive loss.

    Half of the images are crops of shop images, half of people; one caption in twenty names only the kind of item.
    """
    network = build_clip(tokenizer)
    halves = [
        (rendered, tokenize(tokenizer, rendered.captions), tokenize(tokenizer, rendered.short_captions)) for rendered in (shop, people)
    ]

    def loss(generator: torch.Generator) -> Tensor:
        parts, told = [], []
        for rendered, full, short in halves:
            chosen = pick(len(rendered), batch // 2, generator)
            parts.append(garment_crops(rendered, chosen))
            told.append(mix(generator, (short[chosen], 0.05), otherwise=full[chosen]))
        images, ids = torch.cat(parts), torch.cat(told)
        value: Tensor = network(input_ids=ids, pixel_values=images, return_loss=True).loss
        return value

    return train("clip", network, loss, steps=steps, learning_rate=1.5e-3, state=state, seed=seed)


@torch.no_grad()
def judge_clip(network: CLIPModel, tokenizer: CLIPTokenizer, rendered: RenderedImages, among: int = 50) -> float:
    """Return recall@1 of caption retrieval: how often an image's own caption ranks first of `among`; equal captions count as one."""
    hits = []
    for start in range(0, len(rendered) - among + 1, among):
        chosen = torch.arange(start, start + among)
        ids = tokenize(tokenizer, [rendered.captions[index] for index in chosen])
        best = network(input_ids=ids, pixel_values=garment_crops(rendered, chosen)).logits_per_image.argmax(dim=1)
        hits += [rendered.captions[start + int(found)] == rendered.captions[start + own] for own, found in enumerate(best)]
    return sum(hits) / len(hits)


def build_vae() -> AutoencoderKL:
    """Build the autoencoder: downsampling factor 4, four latent channels, narrow at high resolution."""
    return AutoencoderKL(
        block_out_channels=(24, 48, 64),
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=SIZE[0],
    )


def train_vae(shop: RenderedImages, people: RenderedImages, steps: int, batch: int, state: Path, seed: int) -> AutoencoderKL:
    """Train the autoencoder on shop images and people, three to one, by L1 (items count fourfold), edges and a small KL term."""
    network = build_vae()

    def loss(generator: torch.Generator) -> Tensor:
        parts = [(shop, pick(len(shop), batch * 3 // 4, generator)), (people, pick(len(people), batch // 4, generator))]
        images = torch.cat([to_float(rendered.images[chosen]) for rendered, chosen in parts])
        weight = 1.0 + 3.0 * torch.cat([rendered.masks[chosen] for rendered, chosen in parts]).float()
        noise = torch.randn(batch, 4, SIZE[0] // 4, SIZE[1] // 4, generator=generator)
        latents = network.encode(images).latent_dist
        restored = network.decode(latents.mean + latents.std * noise).sample
        pixels = (weight * (restored - images).abs()).mean()
        edges = l1_loss(restored.diff(dim=2), images.diff(dim=2)) + l1_loss(restored.diff(dim=3), images.diff(dim=3))
        value: Tensor = pixels + edges + 1e-4 * latents.kl().mean() / 100
        return value

    trained = train("vae", network, loss, steps=steps, learning_rate=2e-3, state=state, seed=seed, average=0.99)
    trained.register_to_config(scaling_factor=round(1.0 / latents_of(trained, shop, LATENT_SCALE_SAMPLES).std().item(), 4))
    return trained


@torch.no_grad()
def latents_of(vae: AutoencoderKL, rendered: RenderedImages, count: int | None = None, batch: int = 256) -> Tensor:
    """Return the modes of the images' latents, (N, 4, h, w), not scaled."""
    return torch.cat([vae.encode(to_float(part)).latent_dist.mode() for part in rendered.images[:count].split(batch)])


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, rendered: RenderedImages, batch: int = 256) -> Tensor:
    """Return the images after encoding and decoding, (N, 3, H, W) in [0, 1]."""
    parts = [vae.decode(vae.encode(to_float(part)).latent_dist.mode()).sample for part in rendered.images.split(batch)]
    return (torch.cat(parts).clamp(-1, 1) + 1) / 2


def build_unet(text_width: int) -> UNet2DConditionModel:
    """Build the denoiser: two levels with attention on both, sized for 10 MB of weights and minutes on two cores."""
    return UNet2DConditionModel(
        sample_size=(SIZE[0] // 4, SIZE[1] // 4),
        in_channels=4,
        out_channels=4,
        block_out_channels=(48, 96),
        down_block_types=["CrossAttnDownBlock2D"] * 2,
        up_block_types=["CrossAttnUpBlock2D"] * 2,
        layers_per_block=1,
        cross_attention_dim=text_width,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def train_unet(
    schedule: DDPMScheduler,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    latents: Tensor,
    shop: RenderedImages,
    steps: int,
    batch: int,
    state: Path,
    seed: int,
) -> UNet2DConditionModel:
    """Train the denoiser to generate shop images from captions; of ten captions, one is empty and one names only the kind of item."""
    network = build_unet(text_encoder.config.hidden_size)
    full, short, empty = (tokenize(tokenizer, captions) for captions in (shop.captions, shop.short_captions, [""]))
    text_encoder.requires_grad_(False).eval()

    def loss(generator: torch.Generator) -> Tensor:
        chosen = pick(len(latents), batch, generator)
        ids = mix(generator, (empty, 0.1), (short[chosen], 0.1), otherwise=full[chosen])
        epsilon = torch.randn(latents[chosen].shape, generator=generator)
        timestep = torch.randint(schedule.config.num_train_timesteps, (batch,), generator=generator)
        noisy = schedule.add_noise(latents[chosen], epsilon, timestep)
        with torch.no_grad():
            text = text_encoder(ids).last_hidden_state
        return mse_loss(network(noisy, timestep, text).sample, epsilon)

    return train("unet", network, loss, steps=steps, learning_rate=1.5e-3, state=state, seed=seed)


def round_to_bfloat16(module: AnyModule) -> AnyModule:
    """Round the weights to the precision of the shipped files."""
    return nn.Module.to(module, torch.bfloat16)
