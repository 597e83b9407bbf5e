"""TWGTM's modules against the paper's equations."""

import math

import pytest
import torch
from diffusers import UNet2DConditionModel
from published_sd15 import UNET
from small_twgtm import batches, painting, small
from torch.nn.functional import interpolate

from fashiongen.methods.twgtm import TWGTM
from fashiongen.methods.twgtm.network import ExtendedSelfAttention, keep_mask_last, scale_heads, scale_of, scale_widths
from fashiongen.methods.twgtm.semantic import SemanticAbstraction
from fashiongen.methods.twgtm.spatial import Block, QueryMLPs, SpatialRefinement, build_swin, load_swin, positions
from fashiongen.nn.attention import attention_layers

OFF, ON = batches()


@pytest.fixture(scope="module")
def twgtm():
    return small().eval()


def softmax_attention(query, key, value, heads):
    """Explicit attention on (B, N, heads * d)."""
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    weights = (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).softmax(dim=-1)
    return (weights @ value).transpose(1, 2).flatten(2)


@torch.no_grad()
def test_the_first_convolution_is_stable_diffusions_away_from_the_border():
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config({**UNET, "in_channels": 9, "block_out_channels": [32, 32, 32, 32]})
    noise, latents = torch.randn(2, 2, 4, 12, 16)
    repaint = (torch.rand(2, 1, 12, 16) < 0.5).float()
    expected = unet.conv_in(torch.cat([noise, repaint, latents], dim=1))
    keep_mask_last(unet)
    found = unet.conv_in(torch.cat([noise, latents, 1 - repaint], dim=1))
    torch.testing.assert_close(found[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], atol=1e-5, rtol=1e-5)
    assert (found - expected)[..., 0, :].abs().max() > 1e-3  # zero padding reads as "repaint" here, as "keep" there


@torch.no_grad()
def test_eq_13_is_self_attention_plus_zero_linear_of_cross_attention(twgtm):
    attn = next(iter(twgtm.network._self_attention.values()))
    processor = attn.processor
    assert isinstance(processor, ExtendedSelfAttention)
    tokens, spatial = torch.randn(2, 24, 48), torch.randn(2, 12, 48)
    zero = processor.zero_linear
    assert not zero.weight.any() and not zero.bias.any()
    memory = twgtm.network.memory(type_of_reference(spatial, twgtm))
    own = attn.to_out[0](softmax_attention(attn.to_q(tokens), attn.to_k(tokens), attn.to_v(tokens), attn.heads))
    torch.testing.assert_close(attn(tokens, memory=memory), own)  # ZLL starts as zero
    torch.nn.init.normal_(zero.weight)
    try:
        keys, values = processor.to_k_spatial(spatial), processor.to_v_spatial(spatial)
        crossed = softmax_attention(attn.to_q(tokens), keys, values, attn.heads)
        torch.testing.assert_close(attn(tokens, memory=memory), own + zero(crossed), atol=1e-5, rtol=1e-5)
    finally:
        torch.nn.init.zeros_(zero.weight)


def type_of_reference(spatial, twgtm):
    from fashiongen.methods.twgtm.network import Reference

    return Reference(torch.randn(2, 9, 64), [spatial, torch.randn(2, 6, 96)])


@torch.no_grad()
def test_spatial_features_change_nothing_until_phase_2_has_trained(twgtm):
    shown = painting(twgtm, ON, "vton")
    reference, _ = twgtm.reference(shown, ON.category)
    assert len(reference.spatial) == 2
    noisy, condition, step = torch.randn(3, 4, 16, 24), twgtm.condition(shown), torch.tensor(500)
    with_spatial = twgtm.network(noisy, condition, step, twgtm.network.memory(reference), reference.semantic)
    bare = type(reference)(reference.semantic, [])
    torch.testing.assert_close(with_spatial, twgtm.network(noisy, condition, step, twgtm.network.memory(bare), reference.semantic))


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["joined", "ip_adapter"])
def test_the_variants_read_the_spatial_features(fusion):
    model = small(fusion=fusion).eval()
    shown = painting(model, ON, "vton")
    reference, _ = model.reference(shown, ON.category)
    other = type(reference)(reference.semantic, [tokens + 1 for tokens in reference.spatial])
    noisy, condition = torch.randn(3, 4, 16, 24), model.condition(shown)
    first, second = (model.network(noisy, condition, torch.tensor(10), model.network.memory(r), r.semantic) for r in (reference, other))
    assert (first - second).abs().max() > 1e-4


@torch.no_grad()
def test_f_sam_is_clips_embedding_and_the_queries(twgtm):
    shown = painting(twgtm, ON, "vton")
    reference, _ = twgtm.reference(shown, ON.category)
    assert reference.semantic.shape == (3, 1 + 8, 64)
    pixels = interpolate(ON.garment.float() / 127.5 - 1, size=(48, 48), mode="bicubic", antialias=True).clamp(-1, 1)
    from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    expected = twgtm.image_encoder(((pixels + 1) / 2 - mean) / std).image_embeds
    torch.testing.assert_close(reference.semantic[:, 0], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        reference.semantic[:, 1:], twgtm.network.semantic(shown.tokens, twgtm.prompt_encoder([twgtm.prompts[c] for c in ON.category]))
    )


@torch.no_grad()
def test_the_prompt_steers_the_queries():
    torch.manual_seed(0)
    module = SemanticAbstraction(96, 64, 8, 2, 4).eval()
    tokens, text = torch.randn(2, 65, 96), torch.randn(2, 5, 64)
    found = module(tokens, text)
    assert found.shape == (2, 8, 64)
    assert (module(tokens, text.roll(1, 2)) - found).abs().max() > 1e-3
    assert (module(tokens.roll(1, 2), text) - found).abs().max() > 1e-3


@torch.no_grad()
def test_a_masked_place_is_not_read():
    torch.manual_seed(0)
    block = Block(64, 2)
    state, positions, key = torch.randn(2, 6, 64), torch.randn(1, 6, 64), torch.randn(2, 10, 64)
    mask = torch.full((2, 6, 10), 50.0)  # M = 1
    mask[:, :, 7] = -1e9  # M = 0
    changed = key.clone()
    changed[:, 7] += 3
    expected = block(state, positions, key, key, mask)
    torch.testing.assert_close(block(state, positions, changed, changed, mask), expected)
    assert (block(state, positions, changed, changed, torch.zeros_like(mask)) - expected).abs().max() > 1e-3
    # M = 1 everywhere is plain attention.
    plain = softmax_attention(block.query(state + positions), block.key(key), block.value(key), 2)
    first = block.norms[0](state + block.out(plain))
    placed = first + positions
    second = block.norms[1](first + block.self_attention(placed, placed, first)[0])
    torch.testing.assert_close(
        block(state, positions, key, key, torch.full_like(mask, 60.0)), block.norms[2](second + block.feed_forward(second))
    )


def test_masks_weigh_attention_and_get_gradients():
    former = small(phase=1)
    former.losses(OFF, ("val",), 0.0)["loss"].backward()
    for part in (former.network.spatial.taskformer.semantic_mask, former.network.spatial.taskformer.spatial_mask):
        assert all(parameter.grad.abs().sum() > 0 for parameter in part.parameters())


@torch.no_grad()
def test_each_query_has_its_own_mlp():
    torch.manual_seed(0)
    module = QueryMLPs(3, 8)
    state = torch.randn(2, 3, 8)
    for query in range(3):
        hidden = (state[:, query] @ module.first[query] + module.first_bias[query]).relu()
        expected = hidden @ module.second[query] + module.second_bias[query]
        torch.testing.assert_close(module(state)[:, query], expected)


@torch.no_grad()
def test_the_spatial_module_gives_one_mask_and_the_unets_scales():
    torch.manual_seed(0)
    module = SpatialRefinement(build_swin(16, (1, 1, 1), (2, 2, 4), 4), 64, [48, 96], [4, 4], 64, 6, 2).eval()
    image, semantic = torch.randn(2, 3, 64, 48), torch.randn(2, 8, 64)
    found = module(image, semantic, (16, 12))
    assert [tokens.shape for tokens in found.tokens] == [(2, 192, 48), (2, 48, 96)] and found.flat_mask.shape == (2, 1, 16, 12)
    features = module.swin(image).feature_maps
    assert [tuple(feature.shape[-2:]) for feature in features] == [(16, 12), (8, 6), (4, 3)]
    maps, logits = module.taskformer(list(features), semantic)
    assert maps.shape == (2, 6, 16, 12) and torch.equal(maps[:, :1], logits.sigmoid()) and maps[:, 1:].min() < 0
    on_words, on_image = module.taskformer.masks(torch.randn(2, 6, 64), torch.randn(2, 8, 64), torch.randn(2, 64, 16, 12))
    assert on_words.shape == (2, 6, 8) and on_image.shape == (2, 6, 16, 12)
    assert module(image, semantic, None).tokens == []
    states = []
    masks = module.taskformer.masks
    module.taskformer.masks = lambda state, *others: states.append(state) or masks(state, *others)
    module.taskformer(list(features), semantic)
    assert len(states) == 2 and not torch.equal(states[0], states[1]), "each unit has the masks of the one before"
    placed = positions(torch.zeros(1, 64, 5, 7)).flatten(2)[0].T
    assert len({tuple(place.tolist()) for place in placed}) == 35


def test_a_published_swin_loads_up_to_its_third_stage(tmp_path):
    from transformers import SwinConfig, SwinForImageClassification

    torch.manual_seed(0)
    config = SwinConfig(embed_dim=16, depths=[1, 1, 1, 1], num_heads=[2, 2, 4, 4], window_size=4)
    published = SwinForImageClassification(config).eval()
    published.save_pretrained(tmp_path)
    whole = published.swin
    swin = load_swin(str(tmp_path)).eval()
    assert len(swin.swin.encoder.layers) == 3
    own, given = swin.swin.encoder.layers[2].blocks[0], whole.encoder.layers[2].blocks[0]
    assert torch.equal(own.attention.q_proj.weight, given.attention.q_proj.weight)
    with torch.no_grad():
        image = torch.randn(1, 3, 128, 128)  # its window is 4, and the fourth stage has 4x4 tokens
        found = swin(image).feature_maps
        second = whole(image, output_hidden_states=True).hidden_states[1]  # after the first stage and its downsampling
        layer = swin.swin.encoder.layers[1].blocks[0]
        seen = []
        layer.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        swin(image)
    assert [feature.shape[1] for feature in found] == [16, 32, 64]
    torch.testing.assert_close(seen[0], second)


def test_at_full_size(monkeypatch):
    """Stable Diffusion 1.5's inpainting UNet on the meta device: its scales and the paper's three additions."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config({**UNET, "in_channels": 9})
        assert sum(p.numel() for p in unet.parameters()) == 859_520_964 + 5 * 320 * 9
        assert scale_widths(unet) == [320, 640, 1280] and scale_heads(unet) == [8, 8, 8]
        scales = [scale_of(name, unet) for name in attention_layers(unet, "attn1")]
        assert [scales.count(scale) for scale in range(3)] == [5, 5, 6]
        from fashiongen.methods.twgtm.network import TWGTMNetwork

        semantic = SemanticAbstraction(1024, 768, 32, 12, 12)
        spatial = SpatialRefinement(build_swin(96, (2, 2, 6), (3, 6, 12), 7), 768, [320, 640, 1280], [8, 8, 8], 256, 16, 3)
        network = TWGTMNetwork(unet, semantic, spatial, "extended")
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    widths = [320] * 5 + [640] * 5 + [1280] * 6
    assert counts["unet"] == 859_520_964 + 5 * 320 * 9 + sum(2 * width**2 + width**2 + width for width in widths)
    assert counts == {"unet": 896_719_044, "semantic": 158_310_912, "spatial": 78_500_362}


def test_the_default_is_the_papers_whole_model():
    import inspect

    defaults = {name: parameter.default for name, parameter in inspect.signature(TWGTM).parameters.items()}
    assert defaults["phase"] == 2 and set(defaults["directions"]) == {"vton", "vtoff"} and defaults["spatial"] and defaults["qformer"]
    assert defaults["fusion"] == "extended" and defaults["layout"] == "side_by_side" and defaults["rectangle"] is None
