"""Stable Diffusion 1.5 and IP-Adapter in their published layouts, at full size and small, with random weights."""

import json

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from fashiongen.checkpoints import tiny_weights
from fashiongen.methods.igr import IGR

# The config.json files of stable-diffusion-v1-5 and of IP-Adapter's image encoder, as they are published.
UNET = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}
VAE = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
TEXT = {
    "_name_or_path": "openai/clip-vit-large-patch14",
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "projection_dim": 768,
    "torch_dtype": "float32",
    "transformers_version": "4.22.0.dev0",
    "vocab_size": 49408,
}
IMAGE = {
    "architectures": ["CLIPVisionModelWithProjection"],
    "attention_dropout": 0.0,
    "dropout": 0.0,
    "hidden_act": "gelu",
    "hidden_size": 1280,
    "image_size": 224,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 5120,
    "layer_norm_eps": 1e-05,
    "model_type": "clip_vision_model",
    "num_attention_heads": 16,
    "num_channels": 3,
    "num_hidden_layers": 32,
    "patch_size": 14,
    "projection_dim": 1024,
    "torch_dtype": "float16",
    "transformers_version": "4.28.0.dev0",
}
SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
# The same blocks and names with few channels and layers.
SMALL = {
    "unet": UNET | {"block_out_channels": [32, 64, 96, 96], "cross_attention_dim": 48, "attention_head_dim": 4},
    "vae": VAE | {"block_out_channels": [32, 64, 96, 96]},
    "text_encoder": TEXT | {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    "image_encoder": IMAGE
    | {
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "projection_dim": 40,
        "image_size": 28,
    },
}
FULL = {"unet": UNET, "vae": VAE, "text_encoder": TEXT, "image_encoder": IMAGE}
PLACES = {"unet": "sd/unet", "vae": "sd/vae", "text_encoder": "sd/text_encoder", "image_encoder": "ip/models/image_encoder"}

# The attention layers of `ip_adapter.N.*` in ip-adapter_sd15: odd places, the middle block last.
IP_ADAPTER = {
    **{1 + 2 * index: f"down_blocks.{index // 2}.attentions.{index % 2}" for index in range(6)},
    **{13 + 2 * index: f"up_blocks.{1 + index // 3}.attentions.{index % 3}" for index in range(9)},
    31: "mid_block.attentions.0",
}


def empty_part(name, config):
    """A part on the meta device, from its published config."""
    with torch.device("meta"):
        if name == "unet":
            return UNet2DConditionModel.from_config(config)
        if name == "vae":
            return AutoencoderKL.from_config(config)
        if name == "text_encoder":
            return CLIPTextModel(CLIPTextConfig(**config))
        return CLIPVisionModelWithProjection(CLIPVisionConfig(**config))


def published_keys(name, part):
    """The keys of a part in its published file, by the names in today's libraries."""
    keys = {key: key for key in part.state_dict()}
    if name == "vae":  # the published file is older than diffusers' present attention layer
        for old, new in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")):
            keys = {key: published.replace(f"attentions.0.{new}.", f"attentions.0.{old}.") for key, published in keys.items()}
    if name == "text_encoder":
        keys = {key: "text_model." + key.removeprefix("text_model.") for key in keys}
    return keys


def image_prompt(config, image_dim):
    """Shapes of IP-Adapter's file for a UNet, by its published keys."""
    text_dim, channels = config["cross_attention_dim"], config["block_out_channels"]
    shapes = {
        "image_proj": {
            "proj.weight": (4 * text_dim, image_dim),
            "proj.bias": (4 * text_dim,),
            "norm.weight": (text_dim,),
            "norm.bias": (text_dim,),
        },
        "ip_adapter": {},
    }
    for place, layer in IP_ADAPTER.items():
        block = 3 if "mid" in layer else int(layer.split(".")[1])
        width = channels[::-1][block] if "up" in layer else channels[block]
        shapes["ip_adapter"] |= {f"{place}.to_k_ip.weight": (width, text_dim), f"{place}.to_v_ip.weight": (width, text_dim)}
    return shapes


def drawn(shape):
    return torch.empty(shape, dtype=torch.float16).uniform_(-0.05, 0.05)


def write(root, configs):
    """Write Stable Diffusion 1.5 and IP-Adapter in their published layouts, with random weights in half precision."""
    for name, config in configs.items():
        folder = root / PLACES[name]
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config))
        part = empty_part(name, config)
        keys, shapes = published_keys(name, part), part.state_dict()
        state = {keys[key]: drawn(value.shape) for key, value in shapes.items()}
        if name == "text_encoder":
            state["text_model.embeddings.position_ids"] = torch.arange(config["max_position_embeddings"])[None]
        if name == "image_encoder":
            state["vision_model.embeddings.position_ids"] = torch.arange((config["image_size"] // config["patch_size"]) ** 2 + 1)[None]
        file = "diffusion_pytorch_model" if name in ("unet", "vae") else "model"
        save_file(state, folder / f"{file}.safetensors", metadata={"format": "pt"})
    (root / "sd" / "scheduler").mkdir()
    (root / "sd" / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    tokenizer = root / "sd" / "tokenizer"
    tokenizer.mkdir()
    for file in ("vocab.json", "merges.txt", "tokenizer_config.json"):  # the published folder has no tokenizer.json
        (tokenizer / file).write_bytes((tiny_weights() / "sd" / "tokenizer" / file).read_bytes())
    shapes = image_prompt(configs["unet"], configs["image_encoder"]["projection_dim"])
    nested = {part: {key: drawn(shape) for key, shape in entries.items()} for part, entries in shapes.items()}
    torch.save(nested, root / "ip" / "models" / "ip-adapter_sd15.bin")
    flat = {f"{part}.{key}": value for part, entries in nested.items() for key, value in entries.items()}
    save_file(flat, root / "ip" / "models" / "ip-adapter_sd15.safetensors")
    return root


def build(root, ip_adapter="ip-adapter_sd15.bin", **options):
    return IGR(
        pretrained=str(root / "sd"),
        image_encoder=str(root / "ip"),
        image_encoder_subfolder="models/image_encoder",
        ip_adapter=str(root / "ip" / "models" / ip_adapter),
        **options,
    )
