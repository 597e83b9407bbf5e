"""IGR loads Stable Diffusion 1.5 and IP-Adapter from their published layouts; every key is loaded, and every unfit key is named."""

import pytest
import torch
from published_sd15 import IP_ADAPTER, PLACES, SMALL, build, empty_part, published_keys, write
from safetensors.torch import load_file, save_file

from fashiongen.checkpoints import read_state
from fashiongen.errors import UserError
from fashiongen.nn.parts import load_codec, load_image_encoder, load_prompt_encoder, load_unet


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
    "unet": lambda root: load_unet(str(root / "sd")),
    "vae": lambda root: load_codec(str(root / "sd")),
    "text_encoder": lambda root: load_prompt_encoder(str(root / "sd")),
    "image_encoder": lambda root: load_image_encoder(str(root / "ip"), "models/image_encoder"),
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
