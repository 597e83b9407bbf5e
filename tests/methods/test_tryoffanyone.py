"""TryOffAnyone: the authors' published transformer blocks."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from published_sd15 import UNET, empty_part
from safetensors.torch import load_file, save_file
from small_inpainting import config, write

from fashiongen.errors import UserError
from fashiongen.methods.tryoffanyone import TryOffAnyone
from fashiongen.methods.tryoffanyone.published import UNUSED, published_weights
from fashiongen.nn.concatenation import remove_cross_attention


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write(tmp_path_factory.mktemp("base") / "sd")


@pytest.fixture
def published(tmp_path):
    """A file made as in the authors' code, the UNet it is from, and its path."""
    torch.manual_seed(1)
    unet = UNet2DConditionModel.from_config(config())
    file = tmp_path / "model.safetensors"
    save_file({key: value.clone() for key, value in authors_list(unet).state_dict().items()}, file)
    return unet, file


def authors_list(unet):
    trained = torch.nn.ModuleList()
    for blocks in (unet.down_blocks, unet.mid_block, unet.up_blocks):
        if hasattr(blocks, "attentions"):
            trained.append(blocks.attentions)
        else:
            trained.extend(block.attentions for block in blocks if hasattr(block, "attentions"))
    return trained


def test_the_published_file_has_these_names_and_this_size():
    """Stable Diffusion 1.5's inpainting UNet on the meta device: 267,239,360 weights, of them 43,962,560 that are left over."""
    unet = empty_part("unet", UNET | {"in_channels": 9})
    shapes = {key: value.shape for key, value in authors_list(unet).state_dict().items()}
    assert sum(shape.numel() for shape in shapes.values()) == 267_239_360
    assert sum(shape.numel() for key, shape in shapes.items() if UNUSED.fullmatch(key)) == 43_962_560
    assert [len({key.split(".")[1] for key in shapes if key.startswith(f"{place}.")}) for place in range(7)] == [2, 2, 2, 1, 3, 3, 3]
    ours = published_weights(remove_cross_attention(unet))
    assert {key: value.shape for key, value in ours.items()} == {key: shape for key, shape in shapes.items() if not UNUSED.fullmatch(key)}
    assert ours["3.0.transformer_blocks.0.attn1.to_q.weight"] is unet.get_parameter(
        "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    )
    assert {"0.0.norm.weight", "0.0.proj_in.weight", "6.2.transformer_blocks.0.ff.net.0.proj.weight"} <= set(ours)


def test_the_file_fills_the_transformer_blocks_by_name(base, published):
    source, file = published
    assert any(UNUSED.fullmatch(key) for key in load_file(file))
    before, wanted = TryOffAnyone(pretrained=base).network.unet.state_dict(), source.state_dict()
    for key, value in TryOffAnyone(pretrained=base, weights=str(file)).network.unet.state_dict().items():
        assert torch.equal(value, wanted[key] if ".attentions." in key else before[key]), key
        assert not torch.equal(wanted[key], before[key]) or value.unique().numel() == 1  # norms and biases start alike


FAULTS = {
    "many": ("7.0.norm.weight", lambda state, key: state.update({key: torch.zeros(1)}), "left over"),
    "a stranger of the cross-attention": (
        "0.0.transformer_blocks.0.attn2.to_k_ip.weight",
        lambda state, key: state.update({key: torch.zeros(1)}),
        "left over",
    ),
    "few": ("2.0.proj_out.bias", lambda state, key: state.pop(key), "missing"),
    "misshapen": ("1.0.transformer_blocks.0.norm2.weight", lambda state, key: state.update({key: torch.zeros(3)}), "of another shape"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_key_too_many_too_few_or_misshapen_is_named_in_one_line(fault, base, published):
    _, file = published
    key, change, says = FAULTS[fault]
    state = load_file(file)
    change(state, key)
    save_file(state, file)
    with pytest.raises(UserError) as error:
        TryOffAnyone(pretrained=base, weights=str(file))
    assert f"{says}: {key}" in str(error.value) and str(file) in str(error.value) and "\n" not in str(error.value)


def test_a_file_of_catvtons_layers_is_refused(base, tmp_path):
    save_file({"0.to_q.weight": torch.zeros(48, 48)}, tmp_path / "attention.safetensors")
    with pytest.raises(UserError, match=r"does not fit the transformer blocks of TryOffAnyone: missing: .*left over: 0\.to_q\.weight"):
        TryOffAnyone(pretrained=base, weights=str(tmp_path / "attention.safetensors"))
