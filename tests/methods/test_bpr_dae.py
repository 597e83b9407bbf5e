"""BPR-DAE: AlexNet as torchvision's, the cost against plain loops in float64, features cached by image, exact resuming."""

import math
import warnings
from functools import partial

import lightning.pytorch as L
import pytest
import torch
from authors_layers import State
from lightning.pytorch.callbacks import ModelCheckpoint
from pair_batches import PairData, candidates, pairs, queries, rolled_negatives
from safetensors.torch import save_file
from torchvision.models import alexnet
from torchvision.transforms.functional import normalize

from fashiongen.errors import UserError
from fashiongen.methods.bpr_dae import BPRDAE
from fashiongen.methods.bpr_dae.loss import ranking_loss, reconstruction_loss, weight_penalty
from fashiongen.methods.bpr_dae.network import AlexNet, BPRDAENetwork, TiedAutoencoder
from fashiongen.methods.bpr_dae.published import load_published

SMALL = {"image_size": 64, "hidden": 8}
SGD = partial(torch.optim.SGD, lr=0.01, momentum=0.9)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """An AlexNet of a few channels, in torchvision's layout, the last layer included."""
    torch.manual_seed(0)
    state = AlexNet((4, 6, 8, 8, 6), fc=20).state_dict() | {"classifier.6.weight": torch.zeros(3, 20), "classifier.6.bias": torch.zeros(3)}
    file = tmp_path_factory.mktemp("alexnet") / "model.safetensors"
    save_file(state, file)
    return str(file)


def build(narrow, **settings):
    torch.manual_seed(0)
    return BPRDAE(weights=narrow, optimizer=SGD, **{**SMALL, **settings})


def hard(value):
    return min(max(value / 6 + 0.5, 0.0), 1.0)


def plain_encode(visible, weight, bias):
    return [
        [hard(sum(x * float(weight[i, j]) for i, x in enumerate(row)) + float(bias[j])) for j in range(weight.shape[1])]
        for row in visible.tolist()
    ]


def plain_cost(network, top, bottom, batch, mu, lambda_, variant):
    """The authors' cost with every row three times, as their training lays it out."""
    size = len(batch)
    rows = [(row, (row - back) % size) for row in range(size) for back in (1, 2, 3)]
    sides = {"top": (network.top, top), "bottom": (network.bottom, bottom)}
    codes = {name: plain_encode(x, side.weight, side.hidden_bias) for name, (side, x) in sides.items()}
    again = {
        name: plain_encode(torch.tensor(codes[name], dtype=torch.float64), side.weight.T, side.visible_bias)
        for name, (side, _) in sides.items()
    }

    def error(name, row):
        return sum((a - b) ** 2 for a, b in zip(again[name][row], sides[name][1][row].tolist(), strict=True)) / top.shape[1]

    reconstruction = sum(error("top", i) + error("bottom", i) + error("bottom", k) for i, k in rows) / len(rows)
    terms = []
    for i, k in rows:
        if variant == "paper" and (batch.bottom_ids[k] == batch.bottom_ids[i] or batch.bottom_ids[k] in batch.positives[i]):
            continue
        likeness = [sum(a * b for a, b in zip(codes["top"][i], codes["bottom"][j], strict=True)) for j in (i, k)]
        difference = likeness[0] - likeness[1]
        terms.append(-hard(difference) if variant == "code" else -math.log(1 / (1 + math.exp(-difference))))
    penalty = sum(sum(float(x) ** 2 for x in parameter.flatten()) / parameter.numel() for parameter in network.parameters())
    return mu * reconstruction + lambda_ * penalty + (sum(terms) / len(terms) if terms else 0.0)


BATCHES = {
    "all different": pairs(list("abcdef"), images=False),
    "some known": pairs(list("abacdb"), [("a", "c"), ("b",), ("a",), ("c", "a"), ("d",), ("b", "d")], images=False),
    "all the same": pairs(list("aaaa"), images=False),
    "one": pairs(["a"], images=False),
}


@torch.no_grad()
@pytest.mark.parametrize("variant", ["paper", "code"])
@pytest.mark.parametrize("name", BATCHES)
def test_cost_equals_a_plain_loop(name, variant):
    batch = BATCHES[name]
    network = BPRDAENetwork(7, 5).double()
    for parameter in network.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.3)
    top, bottom = torch.rand(len(batch), 7, dtype=torch.float64) * 4, torch.rand(len(batch), 7, dtype=torch.float64) * 4
    top_code, bottom_code = network.top.encode(top), network.bottom.encode(bottom)
    reconstruction = reconstruction_loss(top, network.top.decode(top_code), bottom, network.bottom.decode(bottom_code))
    ranking = ranking_loss(top_code, bottom_code, rolled_negatives(batch, (1, 2, 3)), variant)
    cost = 0.3 * reconstruction + 0.2 * weight_penalty(network.parameters()) + ranking
    assert abs(cost.item() - plain_cost(network, top, bottom, batch, 0.3, 0.2, variant)) < 1e-6
    if variant == "paper" and name in ("all the same", "one"):
        assert ranking == 0


def test_only_the_papers_ranking_loss_has_a_gradient_for_badly_wrong_orders():
    found = {}
    for variant in ("paper", "code"):
        top, bottom = torch.ones(2, 9), torch.stack([torch.zeros(9), torch.ones(9)]).requires_grad_()
        ranking_loss(top, bottom, rolled_negatives(pairs(["a", "b"], images=False), (1,)), variant, rolls=(1,)).backward()
        found[variant] = bool(bottom.grad[0].any())
    assert found == {"paper": True, "code": False}


def test_the_backbone_is_torchvisions_alexnet_up_to_fc7(tmp_path):
    theirs = alexnet(weights=None).eval()
    torch.save(theirs.state_dict(), tmp_path / "alexnet.pth")
    method = BPRDAE(weights=str(tmp_path / "alexnet.pth"))
    own = method.backbone
    assert sum(parameter.numel() for parameter in own.parameters()) == 61_100_840 - 4096 * 1000 - 1000
    assert not any(parameter.requires_grad for parameter in own.parameters())
    assert own.width == 4096 and method.network.top.weight.shape == (4096, 512)
    assert sum(parameter.numel() for parameter in method.parameters() if parameter.requires_grad) == 2 * (4096 * 512 + 512 + 4096)
    batch = pairs(["a", "b"], size=224)
    method.train()  # dropout stays off
    with torch.no_grad():
        shown = normalize(batch.top / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        expected = theirs.classifier[:-1](theirs.avgpool(theirs.features(shown)).flatten(1))
    torch.testing.assert_close(method.encoded("top", batch), expected, atol=1e-5, rtol=1e-4)
    assert (expected >= 0).all() and expected.any()


def test_sizes_follow_the_weights(narrow):
    method = build(narrow)
    assert method.backbone.width == 20 and method.network.bottom.weight.shape == (20, 8)
    assert "backbone" not in {key.partition(".")[0] for key in method.state_dict()}


def test_a_checkpoint_holds_a_random_backbone(monkeypatch):
    """Another seed would give another one, for which the codes are meaningless."""
    monkeypatch.setattr("fashiongen.methods.bpr_dae.network.AlexNet", partial(AlexNet, (4, 6, 8, 8, 6), 20))
    torch.manual_seed(0)
    first = BPRDAE(weights=None, optimizer=SGD, **SMALL)
    torch.manual_seed(1)
    second = BPRDAE(weights=None, optimizer=SGD, **SMALL)
    images = torch.rand(2, 3, 64, 64)
    assert (first.backbone.eval()(images) - second.backbone.eval()(images)).abs().max() > 1e-3
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(second.backbone(images), first.backbone(images))


def test_the_autoencoders_start_as_the_authors_do():
    weight = TiedAutoencoder(4096, 512).weight
    bound = 4 * (6 / (4096 + 512)) ** 0.5
    assert weight.abs().max() <= bound
    assert abs(weight.std() - bound / 3**0.5) < 0.01 * bound


@torch.no_grad()
def test_the_authors_weights_are_placed(tmp_path):
    sizes = {"W1_v": (9, 4), "W2_v": (9, 4), "b1_v": (4,), "b2_v": (4,), "b1_prime_v": (9,), "b2_prime_v": (9,)}
    state = State({name: torch.randn(size) for name, size in sizes.items()})
    network = BPRDAENetwork(9, 4)
    load_published(network, state.save(tmp_path / "bprdae_fashionvc_0.01_512_0.01_0.01_0.9.pt"))
    x = torch.randn(3, 9)
    for side, number in ((network.top, 1), (network.bottom, 2)):
        code = torch.nn.functional.hardsigmoid(x @ state[f"W{number}_v"] + state[f"b{number}_v"])
        assert torch.equal(side.encode(x), code)
        again = torch.nn.functional.hardsigmoid(code @ state[f"W{number}_v"].T + state[f"b{number}_prime_v"])
        torch.testing.assert_close(side.decode(code), again)
    del state["W2_v"]
    with pytest.raises(UserError, match=r"does not fit BPRDAENetwork: missing: bottom.weight"):
        load_published(network, state.save(tmp_path / "half.pt"))


def fit(folder, method, batch, ckpt=None, **options):
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        callbacks=[ModelCheckpoint(dirpath=folder, save_last=True, save_top_k=0, every_n_train_steps=1)],
        **{"max_epochs": 2, "limit_val_batches": 0, **options},
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(method, PairData(batch), ckpt_path=ckpt, weights_only=True)
    return trainer


def test_each_image_is_encoded_once_in_training_and_a_resumed_run_ends_alike(narrow, tmp_path):
    torch.manual_seed(1)
    batch = pairs([f"b{index % 5}" for index in range(12)], top_ids=[f"t{index % 4}" for index in range(12)])
    for index, (top, bottom) in enumerate(zip(batch.top_ids, batch.bottom_ids, strict=True)):  # one image an id
        batch.top[index] = batch.top[batch.top_ids.index(top)]
        batch.bottom[index] = batch.bottom[batch.bottom_ids.index(bottom)]
    whole, seen = build(narrow), []
    whole.backbone.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    fit(tmp_path / "whole", whole, batch)
    in_two_epochs = sum(seen)
    fit(tmp_path / "whole", whole, batch, max_epochs=4)
    assert sum(seen) == in_two_epochs <= 24, "from the second epoch on nothing is encoded"
    assert len(whole.encoding_cache._values) == 4 + 5, "cached by image, not by row"

    fit(tmp_path / "a", build(narrow), batch, max_epochs=4, max_steps=5)
    resumed = build(narrow)
    fit(tmp_path / "b", resumed, batch, ckpt=tmp_path / "a" / "last.ckpt", max_epochs=4)
    uncached = build(narrow, cache_encodings=False)
    fit(tmp_path / "c", uncached, batch, max_epochs=4)
    for name, value in resumed.state_dict().items():
        torch.testing.assert_close(value, uncached.state_dict()[name], atol=1e-6, rtol=1e-5)


def test_training_lowers_the_cost_and_ranks_the_own_bottoms_first(narrow, tmp_path):
    """With cached features, so that the images are not read."""
    torch.manual_seed(1)
    batch = pairs([f"b{index}" for index in range(8)], images=False)
    batch.encoded = {kind: torch.randn(8, 20).relu() for kind in ("top", "bottom")}
    method = build(narrow, hidden=32)
    method.optimizer = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
    seen = []
    method.log = lambda name, value, **_: seen.append(float(value)) if name == "train/loss" else None
    fit(tmp_path, method, batch, max_epochs=40)
    assert sum(seen[-4:]) < 0.5 * sum(seen[:4]), (seen[:4], seen[-4:])
    scores = method.score(method.network.top.encode(batch.encoded["top"]), method.network.bottom.encode(batch.encoded["bottom"]))
    better = (scores.diag()[:, None] > scores).float().sum() / (8 * 7)
    assert better > 0.9


def test_validation_logs_the_cost(narrow):
    method = build(narrow)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)
    (logged,) = trainer.validate(method, PairData(pairs(list("abcdefgh"))), verbose=False)
    assert set(logged) == {"val/loss", "val/ranking", "val/reconstruction"} and not method.encoding_cache._values


def test_scores_are_inner_products_and_do_not_depend_on_the_batch(narrow):
    method, batch = build(narrow).eval(), pairs(list("abcd"), size=80)
    query, candidate = method.embed_query(queries(batch)), method.embed_candidate(candidates(batch))
    assert query.shape == candidate.shape == (4, 8) and method.inner_product
    expected = [[sum(a * b for a, b in zip(one, other, strict=True)) for other in candidate.tolist()] for one in query.tolist()]
    torch.testing.assert_close(method.score(query, candidate), torch.tensor(expected))
    torch.testing.assert_close(method.embed_query(queries(batch.select([2]))), query[2:3])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variant": "peper"}, "variant: peper: unknown; choose among paper, code"),
        ({"image_size": 62}, "image_size: 62: AlexNet needs at least 63"),
        ({"hidden": 0}, "hidden: 0"),
        ({"weights": "./absent.safetensors"}, "absent.safetensors: no such weights file"),
    ],
)
def test_settings_out_of_range_are_named(narrow, settings, message):
    with pytest.raises(UserError, match=message):
        build(narrow, **settings) if "weights" not in settings else BPRDAE(**settings)


def test_the_smallest_image_works_and_foreign_weights_are_refused(narrow, tmp_path):
    assert build(narrow, image_size=63).embed_query(queries(pairs(["a"]))).shape == (1, 8)
    save_file({"conv.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"other.safetensors: no weights of an AlexNet"):
        BPRDAE(weights=str(tmp_path / "other.safetensors"))
    with pytest.raises(UserError, match="BPRDAE needs images, but the data reads only the lists"):
        build(narrow).embed_candidate(candidates(pairs(["a"], images=False)))
