"""Parts of a Stable-Diffusion-style folder: an autoencoder's shift and scale, and the dtype of frozen parts."""

import logging

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.utils import logging as diffusers_logging
from safetensors.torch import load_file, save_file
from transformers import SiglipConfig, SiglipModel

from fashiongen import weights_read
from fashiongen.checkpoints import locate
from fashiongen.errors import UserError
from fashiongen.nn.parts import LatentCodec, load_codec, load_image_encoder, load_prompt_encoder, load_siglip


def autoencoder(**config) -> AutoencoderKL:
    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2, "block_out_channels": [8, 8]}
    return AutoencoderKL(**blocks, norm_num_groups=4, layers_per_block=1, **config).eval()


@torch.no_grad()
@pytest.mark.parametrize("shift", [0.0609, None])
def test_latents_are_shifted_and_scaled_as_in_stable_diffusion_3(shift):
    """SD3's pipelines compute (z - shift) * scale, and z = latents / scale + shift before decoding."""
    layers = {"use_quant_conv": False, "use_post_quant_conv": False, "latent_channels": 16}
    vae = autoencoder(**layers, scaling_factor=1.5305, shift_factor=shift)
    codec, images = LatentCodec(vae), torch.rand(2, 3, 16, 16) * 2 - 1
    z = vae.encode(images).latent_dist.mode()
    latents = codec.encode(images)
    assert latents.shape == (2, 16, 8, 8)
    torch.testing.assert_close(latents, (z - (shift or 0.0)) * 1.5305)
    torch.testing.assert_close(codec.decode(latents), vae.decode(z).sample.clamp(-1, 1), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_frozen_parts_may_be_bfloat16():
    """Half the memory; latents and images stay float32 and close to those of float32 weights."""
    folder, images = locate("tiny", "sd"), torch.rand(2, 3, 64, 48) * 2 - 1
    exact, low = load_codec(folder), load_codec(folder, torch.bfloat16)
    assert exact.vae.dtype == torch.float32 and low.vae.dtype == torch.bfloat16
    latents = low.encode(images)
    assert latents.dtype == low.decode(latents).dtype == torch.float32
    torch.testing.assert_close(latents, exact.encode(images), rtol=0.1, atol=0.1)
    torch.testing.assert_close(low.decode(latents), exact.decode(latents), rtol=0.1, atol=0.1)

    prompts = ["a photo of an upper body garment", ""]
    exact_text, low_text = load_prompt_encoder(folder)(prompts), load_prompt_encoder(folder, torch.bfloat16)(prompts)
    assert exact_text.dtype == torch.float32 and low_text.dtype == torch.bfloat16
    torch.testing.assert_close(low_text.float(), exact_text, rtol=0.1, atol=0.1)
    encoder = load_image_encoder(locate("tiny", "clip"), dtype=torch.bfloat16)
    assert encoder.dtype == torch.bfloat16 and not encoder.training and not any(p.requires_grad for p in encoder.parameters())


def test_a_prompt_that_validation_encoded_serves_training():
    """Lightning validates in inference mode, whose tensors cannot be saved for a backward pass."""
    encoder, scale = load_prompt_encoder(locate("tiny", "sd")), torch.ones(1, requires_grad=True)
    with torch.inference_mode():
        states = encoder(["a photo of an upper body garment"])
    (states * scale).sum().backward()
    torch.testing.assert_close(scale.grad, states.sum()[None])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loading_prints_nothing(dtype):
    """Especially not diffusers' warning about a cast with `to`."""
    told = []
    handler = logging.Handler()
    handler.emit = told.append
    diffusers_logging.add_handler(handler)
    try:
        load_codec(locate("tiny", "sd"), dtype)
    finally:
        diffusers_logging.remove_handler(handler)
    assert not told


def test_a_part_that_was_published_before_safetensors_is_read_from_its_bin(tmp_path):
    """Like the inpainting model's UNet; safetensors beside it win, and the record names the file that was read."""
    folder = tmp_path / "sd" / "vae"
    old = autoencoder()
    old.save_pretrained(folder, safe_serialization=False)
    assert {path.name for path in folder.iterdir()} == {"config.json", "diffusion_pytorch_model.bin"}
    for codec in (load_codec(str(folder.parent)), load_codec(str(folder), subfolder=None)):
        assert all(torch.equal(value, old.state_dict()[key]) for key, value in codec.vae.state_dict().items())
    assert noted(folder) == {"config.json", "diffusion_pytorch_model.bin"}
    new = autoencoder(latent_channels=8)
    new.save_pretrained(folder)
    assert load_codec(str(folder.parent)).channels == 8
    assert noted(folder) == {"config.json", "diffusion_pytorch_model.safetensors"}
    torch.save(new.state_dict(), folder / "diffusion_pytorch_model.bin")  # would fit the config now
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match="cannot load a AutoencoderKL"):
        load_codec(str(folder.parent))


def noted(folder):
    readings = weights_read.begin()
    load_codec(str(folder.parent))
    weights_read.end()
    return {path.name for reading in readings for path in reading.files}


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_bin_that_could_run_code_is_refused(tmp_path):
    folder = tmp_path / "sd" / "vae"
    autoencoder().save_pretrained(folder, safe_serialization=False)
    torch.save({"conv_in.weight": Bomb(str(tmp_path / "written"))}, folder / "diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match=r"cannot load a AutoencoderKL from there \(Unable to load weights .*\.bin"):
        load_codec(str(folder.parent))
    assert not (tmp_path / "written").exists()


@torch.no_grad()
def test_an_autoencoder_may_have_a_folder_of_its_own():
    """As stabilityai/sd-vae-ft-mse has it."""
    images = torch.rand(1, 3, 64, 48) * 2 - 1
    own = load_codec(f"{locate('tiny', 'sd')}/vae", subfolder=None)
    assert torch.equal(own.encode(images), load_codec(locate("tiny", "sd")).encode(images))


@torch.no_grad()
def test_siglip_is_loaded_alone_and_from_a_whole_pair(tmp_path):
    """The published file holds both halves, under `vision_model.` and `text_model.`."""
    alone = load_siglip(locate("tiny", "siglip"))
    assert alone.config.image_size == 64 and not alone.training and not any(p.requires_grad for p in alone.parameters())
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    config = SiglipConfig(text_config=small | {"vocab_size": 8}, vision_config=small | {"image_size": 16, "patch_size": 8})
    pair, pixels = SiglipModel(config).eval(), torch.rand(2, 3, 16, 16)
    pair.save_pretrained(tmp_path)
    keys = load_file(tmp_path / "model.safetensors")
    assert {key.split(".")[0] for key in keys} == {"vision_model", "text_model", "logit_scale", "logit_bias"}
    tokens = load_siglip(str(tmp_path))(pixels).last_hidden_state
    assert tokens.shape == (2, 4, 16) and torch.equal(tokens, pair.vision_model(pixels).last_hidden_state)
    save_file(keys | {"another.weight": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"has keys that are not weights of a SiglipVisionModel: another\.weight"):
        load_siglip(str(tmp_path))
