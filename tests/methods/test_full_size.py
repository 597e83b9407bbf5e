"""IGR at Stable Diffusion 1.5's size: the published files' layouts, the numbers of parameters, one step of training."""

import json
import os
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from fashiongen.checkpoints import read_state, tiny_weights
from fashiongen.errors import UserError
from fashiongen.methods.igr import IGR
from fashiongen.methods.igr import module as igr_module
from fashiongen.nn import backbone
from fashiongen.wardrobe import write_viton_hd

RECIPE = Path(__file__).parents[2] / "recipes" / "igr.yaml"

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


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    torch.manual_seed(0)
    return write(tmp_path_factory.mktemp("published"), SMALL)


def weights_file(root, part):
    return next((root / PLACES[part]).glob("*.safetensors"))


def test_the_layouts_are_those_of_the_published_files(published):
    """Their numbers of keys, and some names as they stand there."""
    files = {name: load_file(weights_file(published, name)) for name in PLACES}
    per_layer = 16
    assert len(files["unet"]) == 686
    assert len(files["vae"]) == 248
    assert len(files["text_encoder"]) - 2 * per_layer == 197 - 12 * per_layer
    assert len(files["image_encoder"]) - 2 * per_layer == 521 - 32 * per_layer
    assert "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj.weight" in files["unet"]
    assert "encoder.mid_block.attentions.0.proj_attn.bias" in files["vae"]
    assert "text_model.encoder.layers.0.self_attn.q_proj.weight" in files["text_encoder"]
    assert {"vision_model.pre_layrnorm.weight", "visual_projection.weight"} <= set(files["image_encoder"])
    flat = load_file(published / "ip" / "models" / "ip-adapter_sd15.safetensors")
    assert len(flat) == 36 and {"image_proj.norm.bias", "ip_adapter.1.to_k_ip.weight", "ip_adapter.31.to_v_ip.weight"} <= set(flat)


def test_every_published_key_is_placed(published):
    igr = build(published)
    parts = {
        "unet": igr.network.denoiser,
        "vae": igr.codec.vae,
        "text_encoder": igr.prompt_encoder.text_encoder,
        "image_encoder": igr.image_encoder,
    }
    for name, part in parts.items():
        state, file = part.state_dict(), load_file(weights_file(published, name))
        keys = published_keys(name, empty_part(name, SMALL[name]))
        assert set(file) - set(keys.values()) <= {f"{tower}.embeddings.position_ids" for tower in ("text_model", "vision_model")}
        for key, there in keys.items():
            assert torch.equal(state[key], file[there].float()), (name, key)
    image_prompt = load_file(published / "ip" / "models" / "ip-adapter_sd15.safetensors")
    placed = {"image_proj.proj.weight", "image_proj.proj.bias", "image_proj.norm.weight", "image_proj.norm.bias"}
    projection = igr.network.image_projection
    for key, own in (("proj.weight", projection.image_embeds.weight), ("norm.bias", projection.norm.bias)):
        assert torch.equal(own, image_prompt[f"image_proj.{key}"].float())
    for place, layer in IP_ADAPTER.items():
        processor = igr.network.denoiser.get_submodule(f"{layer}.transformer_blocks.0.attn2").processor
        for key in ("to_k_ip", "to_v_ip"):
            assert torch.equal(getattr(processor, key).weight, image_prompt[f"ip_adapter.{place}.{key}.weight"].float())
            placed.add(f"ip_adapter.{place}.{key}.weight")
    assert placed == set(image_prompt)
    first = load_file(weights_file(published, "unet"))["conv_in.weight"].float()
    assert torch.equal(igr.network.garmnet.conv_in.weight, torch.cat([first, torch.zeros_like(first[:, :1])], dim=1))
    assert len(igr.prompt_encoder.tokenizer) > 100 and igr.schedule.config.beta_schedule == "scaled_linear"


def test_both_layouts_of_an_ip_adapter_are_one_state(published):
    folder = published / "ip" / "models"
    nested, flat = (read_state(folder / f"ip-adapter_sd15.{ending}") for ending in ("bin", "safetensors"))
    assert nested.keys() == flat.keys()
    assert all(torch.equal(nested[key], flat[key]) for key in flat)


LOADS = {
    "unet": lambda root: backbone.load_unet(str(root / "sd")),
    "vae": lambda root: backbone.load_codec(str(root / "sd")),
    "text_encoder": lambda root: backbone.load_prompt_encoder(str(root / "sd")),
    "image_encoder": lambda root: backbone.load_part(CLIPVisionModelWithProjection, str(root / "ip"), "models/image_encoder"),
}
KEYS = {
    "unet": "mid_block.resnets.1.time_emb_proj.weight",
    "vae": "decoder.conv_in.weight",
    "text_encoder": "text_model.encoder.layers.1.mlp.fc1.weight",
    "image_encoder": "vision_model.encoder.layers.1.mlp.fc1.weight",
}


@pytest.mark.parametrize("part", LOADS)
@pytest.mark.parametrize("fault", ["many", "few", "misshapen"])
def test_a_key_too_many_too_few_or_misshapen_is_named(part, fault, published, capfd):
    file, key = weights_file(published, part), KEYS[part]
    whole = file.read_bytes()
    state = load_file(file)
    if fault == "many":
        key = key.replace("weight", "lora")
        state[key] = torch.zeros(1)
    elif fault == "few":
        del state[key]
    else:
        state[key] = torch.zeros(3, 5)
    try:
        save_file(state, file, metadata={"format": "pt"})
        with pytest.raises(UserError) as error:
            LOADS[part](published)
    finally:
        file.write_bytes(whole)
    line = str(error.value)
    assert key.removeprefix("text_model.") in line and str(file.parent) in line and "\n" not in line, line
    assert fault != "misshapen" or ("3, 5" in line and len(line) < 300)
    assert "".join(capfd.readouterr()) == "", "the libraries' own reports are several lines"


@pytest.mark.parametrize("ending", ["bin", "safetensors"])
def test_an_ip_adapter_of_another_model_is_named_key_by_key(ending, published, tmp_path):
    state = read_state(published / "ip" / "models" / "ip-adapter_sd15.safetensors")
    del state["ip_adapter.3.to_v_ip.weight"]
    state["image_proj.proj.weight"] = torch.zeros(3, 5)
    state["ip_adapter.33.to_k_ip.weight"] = torch.zeros(1)
    if ending == "bin":
        nested = {
            part: {key.partition(".")[2]: state[key] for key in state if key.startswith(part)} for part in ("image_proj", "ip_adapter")
        }
        torch.save(nested, tmp_path / "other.bin")
    else:
        save_file(state, tmp_path / "other.safetensors")
    (published / "ip" / "models" / f"other.{ending}").symlink_to(tmp_path / f"other.{ending}")
    with pytest.raises(UserError) as error:
        build(published, f"other.{ending}")
    assert "missing: ip_adapter.3.to_v_ip.weight; left over: ip_adapter.33.to_k_ip.weight; of another shape: image_proj.proj.weight" in str(
        error.value
    )


def test_the_recipes_networks_have_the_published_numbers_of_parameters(monkeypatch, tmp_path):
    """The recipe's own settings, built from the published configs on the meta device."""
    settings = yaml.safe_load(RECIPE.read_text())["model"]["init_args"]
    del settings["optimizer"]

    def load(kind, folder, subfolder=None, **options):
        assert folder in (settings["pretrained"], settings["image_encoder"])
        names = {"unet": "unet", "vae": "vae", "text_encoder": "text_encoder", "models/image_encoder": "image_encoder"}
        if subfolder in names:
            return empty_part(names[subfolder], FULL[names[subfolder]])
        return kind.from_config(SCHEDULER) if subfolder == "scheduler" else kind.from_pretrained(tiny_weights() / "sd" / "tokenizer")

    shapes = image_prompt(UNET, IMAGE["projection_dim"])
    flat = {f"{part}.{key}": torch.empty(shape, device="meta") for part, entries in shapes.items() for key, shape in entries.items()}
    monkeypatch.setattr(backbone, "load_part", load)
    monkeypatch.setattr(igr_module, "load_part", load)
    monkeypatch.setattr(igr_module, "locate_file", lambda value, tiny: value)
    monkeypatch.setattr(igr_module, "read_state", lambda path: flat)
    with torch.device("meta"):
        network = IGR(**settings).network
    counts = {name: sum(p.numel() for p in child.parameters()) for name, child in network.named_children()}
    own = sum(p.numel() for name, p in network.denoiser.named_parameters() if "processor" not in name)
    assert own == 859_520_964
    assert counts["garmnet"] == own + 320 * 3 * 3
    assert network.garmnet.config.in_channels == network.denoiser.config.in_channels + 1 == 5
    # IP-Adapter's two projections a cross-attention layer, and the one from the image's embedding to four tokens with its norm.
    widths = [320] * 2 + [640] * 2 + [1280] * 2 + [1280] * 3 + [640] * 3 + [320] * 3 + [1280]
    assert counts["denoiser"] - own == 2 * 768 * sum(widths) == 19_169_280
    assert counts["image_projection"] == 1024 * 3072 + 3072 + 2 * 768 == 3_150_336


GIGABYTES_NEEDED = 16


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_one_step_of_training_at_full_size(tmp_path, monkeypatch):
    """Stable Diffusion 1.5's shapes with random weights, the recipe's data path, 64 x 64 pixels.

    Weights in bfloat16 and SGD instead of AdamW: AdamW in float32 would take 16 bytes for each of 1.74e9 trained weights, 28 GB, to which
    the frozen parts add 3.4 GB. So it took 10.8 GB while loading (float32), 13.6 GB in the step, and four minutes of one core.
    """
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    if available < GIGABYTES_NEEDED:
        pytest.skip(f"needs {GIGABYTES_NEEDED} GB of free memory, there are {available:.0f}")
    from fashiongen.cli.lightning import FashionCLI
    from fashiongen.cli.protocols import CommandLine

    monkeypatch.chdir(tmp_path)
    write(tmp_path / "published", FULL)
    write_viton_hd(tmp_path / "viton", people=4, size=(64, 64), seed=0, test_fraction=0.5, workers=1)
    arguments = {
        "model.init_args.pretrained": "published/sd",
        "model.init_args.image_encoder": "published/ip",
        "model.init_args.ip_adapter": "published/ip/models/ip-adapter_sd15.bin",
        "model.init_args.optimizer": "torch.optim.SGD",
        "data.init_args.root": "viton",
        "data.init_args.size": "[64, 64]",
        "data.init_args.batch_size": "1",
        "data.init_args.validation": "1",
        "data.init_args.num_workers": "0",
        "trainer.accelerator": "cpu",
        "trainer.precision": "bf16-true",
        "trainer.max_steps": "1",
        "trainer.limit_val_batches": "0",
    }
    options = [f"--{key}={value}" for key, value in arguments.items()]
    cli = FashionCLI(CommandLine.read(["fit", "--config", str(RECIPE), *options]))
    assert cli.trainer.global_step == 1
    assert torch.isfinite(cli.trainer.callback_metrics["train/loss"])
    for name, child in cli.model.network.named_children():
        gradients = [p.grad for p in child.parameters() if p.requires_grad]
        assert sum(gradient is not None and bool(gradient.any()) for gradient in gradients) > 0.9 * len(gradients), name
        assert all(bool(gradient.isfinite().all()) for gradient in gradients if gradient is not None), name
    assert sum(p.numel() for p in cli.model.network.denoiser.parameters()) == 859_520_964 + 19_169_280
