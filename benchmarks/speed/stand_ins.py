"""Random weights in the shapes and layouts of published files, for measurements on machines that cannot have the published ones.

Speed and memory depend on shapes alone. `replace` exchanges the names in a recipe's settings, such as
`stable-diffusion-v1-5/stable-diffusion-v1-5`, for files that `write` makes when they are first asked for.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.embeddings import ImageProjection
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from fashiongen.checkpoints import tiny_weights
from fashiongen.methods.bpr_dae.network import HEAD, AlexNet
from fashiongen.nn.attention import ImagePromptAttention, attention_layers, image_prompt_state

FULL_UNET = 859_520_964
"""Parameters of Stable Diffusion 1.5's denoiser."""
FULL_UNET_2 = 865_910_724
"""Those of Stable Diffusion 2's."""

# What differs between the published sizes and small ones for rehearsals on a CPU.
SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "full": {
        "unet": {"cross_attention_dim": 768, "block_out_channels": (320, 640, 1280, 1280), "attention_head_dim": 8},
        "unet-2": {
            "cross_attention_dim": 1024,
            "block_out_channels": (320, 640, 1280, 1280),
            "attention_head_dim": (5, 10, 20, 20),
            "use_linear_projection": True,
        },
        "text-2": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 23,
            "num_attention_heads": 16,
            "hidden_act": "gelu",
        },
        "vae": {"block_out_channels": (128, 256, 512, 512)},
        "text": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
        "image": {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16},
        "embedding": {"projection_dim": 1024, "image_size": 224},
        "clip-l": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "projection_dim": 768,
        },
        "siglip": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "image_size": 512},
        "alexnet": {},
    },
    "small": {
        "unet": {"cross_attention_dim": 48, "block_out_channels": (32, 64, 64, 64), "attention_head_dim": 4, "layers_per_block": 1},
        "unet-2": {
            "cross_attention_dim": 48,
            "block_out_channels": (32, 64, 64, 64),
            "attention_head_dim": (2, 4, 4, 4),
            "layers_per_block": 1,
            "use_linear_projection": True,
        },
        "text-2": {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "hidden_act": "gelu"},
        "vae": {"block_out_channels": (32, 32, 32, 32)},
        "text": {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4},
        "image": {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4},
        "embedding": {"projection_dim": 40, "image_size": 28},
        "clip-l": {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "projection_dim": 48},
        "siglip": {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "image_size": 64},
        "alexnet": {"channels": (8, 8, 8, 8, 8), "fc": 64},
    },
}


def build_unet(size: str, channels: int = 4, part: str = "unet") -> UNet2DConditionModel:
    """Return Stable Diffusion 1.5's denoiser (`unet-2`: 2's), or a small one with the same blocks, on torch's current default device."""
    return UNet2DConditionModel(sample_size=64, in_channels=channels, **SIZES[size][part])


def build_vae(size: str) -> AutoencoderKL:
    """Return Stable Diffusion 1.5's autoencoder, or a small one with the same blocks, on torch's current default device."""
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    return AutoencoderKL(**kinds, **SIZES[size]["vae"], layers_per_block=2, latent_channels=4, sample_size=512)


def write_vae(folder: Path, size: str, device: str) -> Path:
    """Write an autoencoder in a folder of its own."""
    with torch.device(device):
        vae = build_vae(size)
    vae.half().save_pretrained(folder)
    return folder


def write_siglip(folder: Path, size: str, device: str) -> Path:
    """Write SigLIP's image encoder alone."""
    with torch.device(device):
        encoder = SiglipVisionModel(SiglipVisionConfig(**SIZES[size]["siglip"], patch_size=16))
    encoder.half().save_pretrained(folder)
    return folder


def write_stable_diffusion(folder: Path, size: str, device: str, channels: int = 4, version: str = "") -> Path:
    """Write `unet`, `vae`, `text_encoder`, `tokenizer` and `scheduler`; for inpainting the UNet has 9 input channels.

    Version "-2" has the denoiser and the text encoder of Stable Diffusion 2.
    """
    widths = SIZES[size][f"text{version}"]
    with torch.device(device):
        unet = build_unet(size, channels, f"unet{version}")
        vae = build_vae(size)
        text = CLIPTextModel(CLIPTextConfig(**widths, projection_dim=widths["hidden_size"]))
    published = FULL_UNET_2 if version else FULL_UNET
    assert size != "full" or sum(p.numel() for p in unet.parameters()) == published + (channels - 4) * unet.conv_in.out_channels * 9
    for name, part in (("unet", unet), ("vae", vae), ("text_encoder", text)):
        part.half().save_pretrained(folder / name)
    for name in ("tokenizer", "scheduler"):
        shutil.copytree(tiny_weights() / "sd" / name, folder / name)
    settings = folder / "tokenizer" / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"model_max_length": 77}))
    return folder


def write_clip_l(folder: Path, size: str, device: str) -> Path:
    """Write the image encoder of CLIP ViT-L/14 alone."""
    with torch.device(device):
        encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(**SIZES[size]["clip-l"], image_size=224, patch_size=14))
    encoder.half().save_pretrained(folder)
    return folder


def write_image_encoder(folder: Path, size: str, device: str) -> Path:
    """Write the image encoder of IP-Adapter, CLIP ViT-H, where IP-Adapter's repository has it."""
    settings = CLIPVisionConfig(**SIZES[size]["image"], **SIZES[size]["embedding"], patch_size=14)
    with torch.device(device):
        encoder = CLIPVisionModelWithProjection(settings)
    encoder.half().save_pretrained(folder / "models" / "image_encoder")
    return folder


def write_ip_adapter(folder: Path, size: str, device: str) -> Path:
    """Write `ip-adapter_sd15`: the image prompt's projection, and keys and values for each cross-attention."""
    with torch.device("meta"):
        unet = build_unet(size)
        projection = ImageProjection(SIZES[size]["embedding"]["projection_dim"], unet.config.cross_attention_dim, 4)
        for name, attn in attention_layers(unet, "attn2").items():
            attn.set_processor(ImagePromptAttention(name, attn))
    shapes = image_prompt_state(projection, unet)
    return write_state(folder / "ip-adapter_sd15.safetensors", {key: 0.02 * torch.randn(value.shape) for key, value in shapes.items()})


def write_alexnet(folder: Path, size: str, device: str) -> Path:
    """Write torchvision's AlexNet, as its own file: a pickle of tensors."""
    network = AlexNet(**SIZES[size]["alexnet"])
    file = folder / "alexnet.pth"
    torch.save(network.state_dict() | {f"{HEAD}weight": torch.zeros(1000, network.width), f"{HEAD}bias": torch.zeros(1000)}, file)
    return file


def write_resnet18(folder: Path, size: str, device: str) -> Path:
    """Write timm's ResNet-18, which is small enough for any machine."""
    network: nn.Module = timm.create_model("resnet18", pretrained=False, zero_init_last=False)
    return write_state(folder / "model.safetensors", network.state_dict())


def write_state(file: Path, state: dict[str, Tensor]) -> Path:
    """Write a safetensors file."""
    save_file({key: value.contiguous() for key, value in state.items()}, file)
    return file


STAND_INS: dict[str, Callable[[Path, str, str], Path]] = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": write_stable_diffusion,
    "stabilityai/stable-diffusion-2-base": partial(write_stable_diffusion, version="-2"),
    "CompVis/stable-diffusion-v1-4": write_stable_diffusion,
    "stable-diffusion-v1-5/stable-diffusion-inpainting": partial(write_stable_diffusion, channels=9),
    "openai/clip-vit-large-patch14": write_clip_l,
    "stabilityai/sd-vae-ft-mse": write_vae,
    "google/siglip-base-patch16-512": write_siglip,
    "h94/IP-Adapter": write_image_encoder,
    "h94/IP-Adapter/models/ip-adapter_sd15.safetensors": write_ip_adapter,
    "weights/alexnet-owt-7be5be79.pth": write_alexnet,
    "timm/resnet18.tv_in1k/model.safetensors": write_resnet18,
}
"""Published weights by their names in recipes, without a revision."""


def write(name: str, root: Path, size: str, device: str = "cpu") -> Path:
    """Return the stand-in of published weights below `root`, written once.

    Args:
        name: as in `STAND_INS`.
        root: folder of all stand-ins.
        size: `full` or `small`.
        device: where to draw the weights; a GPU is faster.
    """
    place = root / size / name.replace("/", "--")
    if not place.is_dir():
        part = place.with_name(f".{place.name}.{os.getpid()}")
        part.mkdir(parents=True)
        torch.manual_seed(0)
        path = STAND_INS[name](part, size, device)
        (part / "path.json").write_text(json.dumps(path.relative_to(part).as_posix()))
        with suppress(OSError):  # another process was sooner
            part.rename(place)
    return place / str(json.loads((place / "path.json").read_text()))


def replaced(settings: dict[str, Any], root: Path, size: str, device: str = "cpu") -> dict[str, str]:
    """Return the settings of a recipe's model that name published weights, with the paths of their stand-ins.

    Raises:
        LookupError: if a setting looks like published weights and there is no stand-in for them.
    """
    found: dict[str, str] = {}
    for key, value in settings.items():
        if not isinstance(value, str) or value.count("/") == 0:
            continue
        name = "/".join(part.partition("@")[0] for part in value.split("/"))  # owner/name@revision/file
        if key.endswith("subfolder"):
            continue
        if name not in STAND_INS:
            raise LookupError(f"{key}: {value}: no stand-in has its shapes; add one to STAND_INS in {Path(__file__).name}")
        found[key] = str(write(name, root, size, device))
    return found
