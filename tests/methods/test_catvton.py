"""CatVTON: the authors' published self-attention layers in every form of their file, the model without a mask, and the settings."""

from dataclasses import replace

import pytest
import torch
from published_sd15 import UNET, empty_part
from safetensors.torch import load_file, save_file
from small_inpainting import config, write

from fashiongen import tasks
from fashiongen.batches import to_float
from fashiongen.checkpoints import tiny_weights
from fashiongen.data import VITONHD
from fashiongen.errors import UserError
from fashiongen.methods.catvton import CatVTON, CatVTONMaskFree
from fashiongen.methods.catvton.published import load_self_attention, published_names
from fashiongen.nn.concatenation import remove_cross_attention

STEPS = 2

# Stable Diffusion's self-attention layers in the order of the published file: down, up, middle.
LAYERS = [
    *(f"down_blocks.{block}.attentions.{index}" for block in range(3) for index in range(2)),
    *(f"up_blocks.{block}.attentions.{index}" for block in (1, 2, 3) for index in range(3)),
    "mid_block.attentions.0",
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write(tmp_path_factory.mktemp("base") / "sd")


def small():
    """The tiny UNet: two blocks down and up, one and two layers each."""
    torch.manual_seed(1)
    return empty("cpu", config())


def empty(device, settings):
    from diffusers import UNet2DConditionModel

    with torch.device(device):
        return UNet2DConditionModel.from_config(settings)


class Processor(torch.nn.Module):
    """The authors' processors are modules, and so take a place in the list."""


def authors_file(unet, path, *, stride=8, names="all", dtype=torch.float32):
    """Write what `accelerate` writes of the authors' list of modules, made as in their code.

    Args:
        unet: whose weights are written.
        path: the file.
        stride: places of a layer in the list.
        names: `all` of a weight's names, the `first` or the `last`.
        dtype: of the file.
    """
    modules = []
    for name, module in unet.named_modules():
        if "attn1" in name:
            modules.append(module)
            if name.endswith("to_out.1") and stride == 8:
                modules.append(Processor())
    state = {key: value.to(dtype) for key, value in torch.nn.ModuleList(modules).state_dict().items()}
    if names != "all":
        places = {}
        for key, value in torch.nn.ModuleList(modules).state_dict().items():
            places.setdefault(value.data_ptr(), []).append(key)
        state = {found[0 if names == "first" else -1]: state[found[0 if names == "first" else -1]] for found in places.values()}
    save_file({key: value.clone() for key, value in state.items()}, path)
    return state


def test_the_published_file_has_these_names_and_this_size():
    """Stable Diffusion 1.5's inpainting UNet on the meta device: 16 layers, 128 names, 49,574,080 weights."""
    unet = empty_part("unet", UNET | {"in_channels": 9})
    modules = [module for name, module in unet.named_modules() if "attn1" in name]
    assert len(modules) == 16 * 7  # a processor that is a module makes it eight a layer
    names = published_names(remove_cross_attention(unet), 8)
    assert [key.removesuffix(".transformer_blocks.0.attn1.to_q.weight") for key in names if key.endswith("to_q.weight")] == LAYERS
    first = {found[0]: unet.get_parameter(key).shape for key, found in names.items()}
    assert set(first) == {
        f"{8 * index}.{leaf}"
        for index in range(16)
        for leaf in ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight", "to_out.0.bias")
    }
    assert sum(shape.numel() for shape in first.values()) == 49_574_080
    assert first["120.to_q.weight"] == (1280, 1280) and first["112.to_q.weight"] == (320, 320)  # the middle is last
    aliases = {alias for found in names.values() for alias in found}
    assert len(aliases) == 16 * 12 and {"1.weight", "4.0.bias", "5.bias", "125.weight"} <= aliases


@pytest.mark.parametrize("names", ["all", "first", "last"])
@pytest.mark.parametrize("stride", [8, 7])
def test_every_form_of_the_file_fills_the_layers_by_name(stride, names, base, tmp_path):
    source, file = small(), tmp_path / "model.safetensors"
    state = authors_file(source, file, stride=stride, names=names, dtype=torch.float16 if names == "first" else torch.float32)
    assert len(state) == {"all": 12, "first": 5, "last": 5}[names] * 7
    method = CatVTON(pretrained=base, weights=str(file))
    before = CatVTON(pretrained=base).network.unet.state_dict()
    wanted = source.state_dict()
    for key, value in method.network.unet.state_dict().items():
        expected = wanted[key].half().float() if names == "first" else wanted[key]
        assert torch.equal(value, expected if ".attn1." in key else before[key]), key
        assert ".attn1." not in key or not torch.equal(value, before[key])


FAULTS = {
    "many": (lambda state: state.update({"64.to_q.weight": torch.zeros(1)}), r"left over: 64\.to_q\.weight"),
    "a stranger": (lambda state: state.update({"0.norm.weight": torch.zeros(1)}), r"left over: 0\.norm\.weight"),
    "few": (lambda state: state.pop("16.to_v.weight"), r"missing: 16\.to_v\.weight"),
    "misshapen": (lambda state: state.update({"8.to_out.0.bias": torch.zeros(3)}), r"of another shape: 8\.to_out\.0\.bias \(3,\)"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_key_too_many_too_few_or_misshapen_is_named_in_one_line(fault, tmp_path):
    unet, file = small(), tmp_path / "model.safetensors"
    state = authors_file(unet, file, names="first")
    change, says = FAULTS[fault]
    change(state)
    save_file({key: value.clone() for key, value in state.items()}, file)
    with pytest.raises(UserError, match=says) as error:
        load_self_attention(unet, file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_names_of_one_weight_that_differ_are_told(tmp_path):
    unet, file = small(), tmp_path / "model.safetensors"
    state = authors_file(unet, file)
    state["9.weight"] = state["9.weight"] + 1
    save_file({key: value.clone() for key, value in state.items()}, file)
    with pytest.raises(UserError, match=r"8\.to_q\.weight and 9\.weight are one weight of a CatVTON, but differ"):
        load_self_attention(unet, file)


# ---- without a mask


@pytest.fixture(scope="module")
def strangers(cache):
    """Four test people with the garments of others."""
    data = VITONHD(root="wardrobe", people=40, size=(64, 48), num_workers=0, validation=4, task="vton", pairing="unpaired")
    data.prepare_data()
    data.setup("test")
    assert CatVTONMaskFree.needs <= data.offers
    return type(data.datasets["test"][0]).collate([data.datasets["test"][index] for index in range(4)])


@pytest.fixture(scope="module")
def pix2pix(tmp_path_factory):
    return write(tmp_path_factory.mktemp("pix2pix") / "sd", channels=8)


@torch.no_grad()
def test_without_a_mask_the_garment_stands_to_the_right_of_the_whole_photo(strangers, pix2pix, monkeypatch):
    method = CatVTONMaskFree(pretrained=pix2pix, steps=STEPS).eval()
    seen, forward = [], method.network.unet.forward
    monkeypatch.setattr(method.network.unet, "forward", lambda x, *args, **kwargs: (seen.append(x.clone()), forward(x, *args, **kwargs))[1])
    found = tasks.run(method, strangers)
    assert found.shape == (4, 3, 64, 48) and [tuple(entry.shape) for entry in seen] == [(8, 8, 16, 24)] * STEPS
    photo, garment = (method.codec.encode(to_float(images)) for images in (strangers.photo, strangers.garment))
    for half in (seen[0][:4], seen[0][4:]):
        torch.testing.assert_close(half[:, 4:, :, :12], photo, atol=1e-5, rtol=0)
    torch.testing.assert_close(seen[0][4:, 4:, :, 12:], garment, atol=1e-5, rtol=0)
    assert not seen[0][:4, 4:, :, 12:].any()
    # It reads neither the truth nor what the mask hides or shows.
    hidden = {"agnostic": torch.full_like(strangers.agnostic, 7), "mask": ~strangers.mask}
    spoiled = replace(tasks.find("vton").spoil_truth(strangers), **hidden)
    assert torch.equal(method.try_on(spoiled), found)


def test_without_a_mask_it_is_trained_on_photos_in_other_clothes(strangers, pix2pix):
    method = CatVTONMaskFree(pretrained=pix2pix).train()
    loss = method.denoising_loss(strangers, ("train", 0), 0.1)
    loss.backward()
    assert loss.isfinite() and all(p.grad is not None for p in method.network.parameters() if p.requires_grad)
    assert set(method.encodings()) == {"person", "photo", "garment"}


def test_without_a_mask_the_published_file_has_the_same_form(pix2pix, base, tmp_path):
    source, file = empty("cpu", config(8)), tmp_path / "model.safetensors"
    authors_file(source, file)
    unet = CatVTONMaskFree(pretrained=pix2pix, weights=str(file)).network.unet
    key = "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.bias"
    assert torch.equal(unet.state_dict()[key], source.state_dict()[key])
    with pytest.raises(UserError, match=r"its UNet has 9 input channels, not 8: \[noise \| image\] \(InstructPix2Pix\)"):
        CatVTONMaskFree(pretrained=base)


# ---- settings


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"trained": "attention"}, "CatVTON: trained: attention: choose one of self_attention, transformers, all"),
        ({"condition_dropout": 1.5}, "CatVTON: condition_dropout: 1.5: must lie in"),
        ({"dream": 0.0}, "CatVTON: dream: 0.0: must be above 0; leave it out to train without it"),
        ({"snr_gamma": -1.0}, "CatVTON: snr_gamma: -1.0: must be above 0"),
        ({"steps": 0}, "CatVTON: steps: 0: must lie in 1 to 1000"),
        ({"eta": 2.0}, "CatVTON: eta: 2.0: must lie in"),
        ({"weights": "tiny"}, "tiny: no such weights file; give a file or a file on the hub such as owner/name@revision"),
        ({"weights": "./absent.safetensors"}, r"absent\.safetensors: no such weights file"),
        ({"vae": "/absent/folder"}, "/absent/folder: no such folder"),
    ],
)
def test_settings_out_of_range_are_told(settings, says, base):
    with pytest.raises(UserError, match=says):
        CatVTON(pretrained=base, **settings)


def test_a_base_model_with_other_channels_is_refused(base, tmp_path):
    with pytest.raises(
        UserError, match=r"CatVTON: pretrained: .*: its UNet has 4 input channels, not 9: \[noise \| mask \| image\] \(Stable"
    ):
        CatVTON(pretrained=write(tmp_path / "sd", channels=4))


def test_another_autoencoder_is_read_from_the_top_of_its_folder(base, tmp_path):
    own = CatVTON(pretrained=base).codec.vae.state_dict()
    folder = tmp_path / "vae"
    folder.mkdir()
    (folder / "config.json").symlink_to(tiny_weights() / "sd" / "vae" / "config.json")
    state = load_file(tiny_weights() / "sd" / "vae" / "diffusion_pytorch_model.safetensors")
    save_file({key: value * 2 for key, value in state.items()}, folder / "diffusion_pytorch_model.safetensors")
    other = CatVTON(pretrained=base, vae=str(folder)).codec.vae.state_dict()
    assert all(torch.equal(value * 2, other[key]) for key, value in own.items())
    assert torch.equal(CatVTON(pretrained=base, vae="tiny").codec.vae.state_dict()["encoder.conv_in.weight"], own["encoder.conv_in.weight"])
