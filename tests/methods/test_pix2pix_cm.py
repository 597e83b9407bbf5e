"""Pix2PixCM at the published size: the authors' layers by their names, and their numbers of parameters."""

import pytest
import torch
from authors_layers import State, bottom_encoder, encode_bottoms, rank, ranker
from pair_batches import candidates, pairs, queries
from torch.nn.functional import conv2d, pad, relu

from fashiongen.batches import to_float
from fashiongen.methods.pix2pix_cm import Pix2PixCM


def generator():
    state = State()
    state.conv("e1", 3, 64)
    for place, (before, after) in enumerate([(64, 128), (128, 256), (256, 512), (512, 512), (512, 512)], start=2):
        state.norm(f"e{place}.1", before)
        state.conv(f"e{place}.2", before, after)
    for place, (before, after) in enumerate([(512, 512), (1024, 512), (1024, 256), (512, 128), (256, 64)], start=1):
        state.up(f"d{place}.1", before, after)
        state.norm(f"d{place}.3", after)
    state.up("d6.1", 128, 3)
    return state


def leaky(features, slope):
    return torch.where(features > 0, features, slope * features)


def generate(state, tops):
    e = {1: state.down_layer("e1", tops)}
    for place in range(2, 7):
        e[place] = state.down_layer(f"e{place}.2", state.norm_layer(f"e{place}.1", leaky(e[place - 1], 0.01)))
    d = state.norm_layer("d1.3", state.up_layer("d1.1", relu(e[6])))
    template_code = d
    for place in range(2, 6):
        d = state.norm_layer(f"d{place}.3", state.up_layer(f"d{place}.1", relu(torch.cat([d, e[7 - place]], dim=1))))
    return e[5], template_code, state.up_layer("d6.1", relu(torch.cat([d, e[1]], dim=1))).tanh()


def discriminator():
    state = State()
    state.conv("initial.0", 6, 64)
    for place, (before, after) in enumerate([(64, 128), (128, 256), (256, 512)]):
        state.conv(f"model.{place}.0", before, after, bias=False)
        state.norm(f"model.{place}.1", after)
    state.conv("model.3", 512, 1, size=1)
    return state


def discriminate(state, tops, bottoms):
    def reflected(name, features):
        return conv2d(pad(features, (1, 1, 1, 1), mode="reflect"), state[f"{name}.weight"], state.get(f"{name}.bias"), stride=2)

    features = leaky(reflected("initial.0", torch.cat([tops, bottoms], dim=1)), 0.2)
    for place in range(3):
        features = leaky(state.norm_layer(f"model.{place}.1", reflected(f"model.{place}.0", features)), 0.2)
    return torch.sigmoid(conv2d(features, state["model.3.weight"], state["model.3.bias"]))


@pytest.fixture(scope="module")
def states():
    torch.manual_seed(0)
    return {"generator": generator(), "discriminator": discriminator(), "encoder": bottom_encoder(), "bpr": ranker()}


@torch.no_grad()
def test_the_authors_weights_give_the_authors_numbers(states, tmp_path):
    files = {part: state.save(tmp_path / f"pix2pixcm_{part}_fashionvc.pt") for part, state in states.items()}
    method = Pix2PixCM(variant="code", published=files).eval()
    batch = pairs(["a", "b", "c"])
    tops, bottoms = to_float(batch.top), to_float(batch.bottom)
    top_code, template_code, template = generate(states["generator"], tops)
    assert top_code.shape == template_code.shape == (3, 512, 2, 2)
    torch.testing.assert_close(method.draw_template(queries(batch)), template, atol=1e-4, rtol=1e-4)
    judged = method.network.discriminator(tops, bottoms)
    assert judged.shape == (3, 1, 4, 4)
    torch.testing.assert_close(judged, discriminate(states["discriminator"], tops, bottoms), atol=1e-5, rtol=1e-4)
    code = encode_bottoms(states["encoder"], bottoms)
    top, bottom = rank(states["bpr"], "A", top_code), rank(states["bpr"], "B", code)
    expected = torch.stack(
        [(row * bottom).sum(1) + 0.01 * (own - code).abs().sum(dim=(1, 2, 3)) for row, own in zip(top, template_code, strict=True)]
    )
    scores = method.score(method.embed_query(queries(batch)), method.embed_candidate(candidates(batch)))
    torch.testing.assert_close(scores, expected, atol=1e-3, rtol=1e-4)


def test_parameters_are_as_many_as_the_authors(states):
    method = Pix2PixCM()
    parts = {"generator": "generator", "discriminator": "discriminator", "bottom_encoder": "encoder", "ranker": "bpr"}
    for own, theirs in parts.items():
        assert sum(parameter.numel() for parameter in getattr(method.network, own).parameters()) == states[theirs].parameters()
    counts = [sum(parameter.numel() for parameter in part.parameters()) for part in method.parts().values()]
    assert counts == [29_247_619, 2_761_025, 6_954_176, 131_328]
