"""MGCM at the published size: the authors' layers by their names, and their numbers of parameters."""

import pytest
import torch
from authors_layers import State, bottom_encoder, encode_bottoms, rank, ranker
from pair_batches import candidates, pairs, queries
from torch.nn.functional import relu

from fashiongen.batches import to_float
from fashiongen.errors import UserError
from fashiongen.methods.mgcm import MGCM


def generator():
    state = State()
    state.conv("encoder.0", 3, 64)
    for place, (before, after) in enumerate([(64, 128), (128, 256), (256, 512), (512, 512)], start=1):
        state.norm(f"encoder.{place}.1", before)
        state.conv(f"encoder.{place}.2", before, after)
    state.norm("final_enc.1", 512)
    state.conv("final_enc.2", 512, 512)
    state.up("m.1", 512, 512)
    state.norm("m.3", 512)
    for place, (before, after) in enumerate([(512, 512), (512, 256), (256, 128), (128, 64)]):
        state.up(f"decoder.{place}.1", before, after)
        state.norm(f"decoder.{place}.3", after)
    state.up("decoder.4.1", 64, 3)
    return state


def leaky(features):
    return torch.where(features > 0, features, 0.01 * features)


def generate(state, tops):
    features = state.down_layer("encoder.0", tops)
    for place in range(1, 5):
        features = state.down_layer(f"encoder.{place}.2", state.norm_layer(f"encoder.{place}.1", leaky(features)))
    top_code = features
    features = state.down_layer("final_enc.2", state.norm_layer("final_enc.1", leaky(features)))
    features = template_code = state.norm_layer("m.3", state.up_layer("m.1", relu(features)))
    for place in range(4):
        features = state.norm_layer(f"decoder.{place}.3", state.up_layer(f"decoder.{place}.1", relu(features)))
    return top_code, template_code, state.up_layer("decoder.4.1", relu(features)).tanh()


def discriminator():
    state = State()
    state.conv("encoder.0.0", 6, 64)
    for place, (before, after) in enumerate([(64, 128), (128, 256), (256, 512)], start=1):
        state.conv(f"encoder.{place}.0", before, after)
        state.norm(f"encoder.{place}.1", after)
    state["out_layer.weight"], state["out_layer.bias"] = torch.randn(1, 8192) * 0.01, torch.randn(1)
    return state


def discriminate(state, tops, bottoms):
    features = leaky(state.down_layer("encoder.0.0", torch.cat([tops, bottoms], dim=1)))
    for place in range(1, 4):
        features = leaky(state.norm_layer(f"encoder.{place}.1", state.down_layer(f"encoder.{place}.0", features)))
    return torch.sigmoid(features.flatten(1) @ state["out_layer.weight"].T + state["out_layer.bias"])


@pytest.fixture(scope="module")
def states():
    torch.manual_seed(0)
    return {"generator": generator(), "discriminator": discriminator(), "encoder": bottom_encoder(), "bpr": ranker()}


@pytest.fixture(scope="module")
def files(states, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mgcm")
    return {part: state.save(folder / f"mgcm_{part}_fashionvc.pt") for part, state in states.items()}


@torch.no_grad()
def test_the_authors_weights_give_the_authors_numbers(states, files):
    method = MGCM(variant="code", published=files).eval()
    batch = pairs(["a", "b", "c"])
    tops, bottoms = to_float(batch.top), to_float(batch.bottom)
    top_code, template_code, template = generate(states["generator"], tops)
    assert top_code.shape == template_code.shape == (3, 512, 2, 2)
    torch.testing.assert_close(method.draw_template(queries(batch)), template, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        method.network.discriminator(tops, bottoms), discriminate(states["discriminator"], tops, bottoms), atol=1e-5, rtol=1e-4
    )
    code = encode_bottoms(states["encoder"], bottoms)
    top, bottom = rank(states["bpr"], "A", top_code), rank(states["bpr"], "B", code)
    expected = torch.stack(
        [(row * bottom).sum(1) + 0.01 * (own - code).abs().sum(dim=(1, 2, 3)) for row, own in zip(top, template_code, strict=True)]
    )
    scores = method.score(method.embed_query(queries(batch)), method.embed_candidate(candidates(batch)))
    torch.testing.assert_close(scores, expected, atol=1e-3, rtol=1e-4)


def test_parameters_are_as_many_as_the_authors(states):
    method = MGCM()
    parts = {"generator": "generator", "discriminator": "discriminator", "bottom_encoder": "encoder", "ranker": "bpr"}
    for own, theirs in parts.items():
        assert sum(parameter.numel() for parameter in getattr(method.network, own).parameters()) == states[theirs].parameters()
    counts = [sum(parameter.numel() for parameter in part.parameters()) for part in method.parts().values()]
    assert counts == [22_297_731, 2_769_601, 6_954_176, 131_328]
    assert method.network.discriminator.out.in_features == 8192


def test_a_file_that_does_not_fit_is_named(files, tmp_path):
    with pytest.raises(UserError, match="MGCM: published: critic: unknown; choose among generator, discriminator, encoder, bpr"):
        MGCM(published={"critic": files["bpr"]})
    with pytest.raises(UserError, match=r"mgcm_encoder_fashionvc.pt does not fit Generator: missing: down"):
        MGCM(published={"generator": files["encoder"]})
    with pytest.raises(UserError, match="no such weights file"):
        MGCM(published={"bpr": str(tmp_path / "absent.pt")})
    with pytest.raises(UserError, match=r"does not fit Ranker: missing: top.weight.*left over: W1_v"):
        other = State(W1_v=torch.zeros(2, 2))
        MGCM(published={"bpr": other.save(tmp_path / "other.pt")})
