"""The evaluator of outfits equals the authors' loops, and compatibility and true values equal plain loops over pairs."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from metrics.outfit_inputs import DRAWS, OUTFITS, assert_values, blanks_of, completed, evaluator, judge, mean, one, space
from safetensors.torch import save_file

from fashiongen.batches import Ragged
from fashiongen.errors import UserError
from fashiongen.metrics import Compatibility, TrueCompatibility, TruePreference
from fashiongen.nn.compatibility import FashionEvaluator, compatibility_loss
from fashiongen.wardrobe import make_item, make_outfit, make_user
from fashiongen.wardrobe.outfits import STYLE, compatible, fits

COMPLETED = completed()
RULE = ("Color", STYLE)


def updated(metric, whole=COMPLETED):
    metric.update(whole)
    return metric


def slots(outfit, of_blank, of_given):
    """An outfit's entries in slot order, built slot by slot."""
    count, places = OUTFITS[outfit]
    blanks, given = iter(blanks_of(COMPLETED, outfit)), iter(range(count))
    return [of_blank(next(blanks)) if slot in places else of_given(next(given)) for slot in range(count + len(places))]


def by_hand(network, items):
    """The authors' loop over the pairs of one outfit, (n, width), in float64."""
    network = FashionEvaluator(network.width, network.feat_layer.out_features).double().eval()
    network.load_state_dict({key: value.double() for key, value in evaluator().state_dict().items()})
    with torch.no_grad():
        features = [network.feat_layer(item) for item in items]
        pairs = [network.emb_layer(torch.cat([a, b])) for a, b in itertools.combinations(features, 2)]
        return 1 / (1 + math.exp(-network.eval_layer(sum(pairs) / len(pairs)).item()))


def test_the_evaluator_has_the_authors_keys_and_size():
    network = FashionEvaluator()
    assert sum(parameter.numel() for parameter in network.parameters()) == 2_615_681
    layers = {"feat_layer": [""], "emb_layer": [0, 1, 4, 5, 8, 9, 12, 13], "eval_layer": [0, 1, 4, 5, 8, 9, 12]}
    names = [f"{layer}.{number}".rstrip(".") for layer, numbers in layers.items() for number in numbers]
    assert list(network.state_dict()) == [f"{name}.{kind}" for name in names for kind in ("weight", "bias")]
    assert network.emb_layer[0].weight.shape == (512, 2048) and network.eval_layer[12].weight.shape == (1, 32)
    assert [module.p for module in network.modules() if isinstance(module, torch.nn.Dropout)] == [0.35] * 7


@pytest.mark.parametrize("length", [2, 3, 4, 6])
def test_the_evaluator_equals_the_authors_loop_for_any_number_of_items(length):
    items = torch.randn(5, length, 8, generator=torch.Generator().manual_seed(length))
    with torch.no_grad():
        found = evaluator().probability(items)
    torch.testing.assert_close(
        found.double(), torch.tensor([by_hand(evaluator(), outfit) for outfit in items.double()]).double(), rtol=1e-6, atol=0
    )
    assert not torch.allclose(found, evaluator().probability(items.flip(1)), atol=1e-4)  # the order of the items counts


def test_slots_without_an_item_change_nothing():
    items = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    present = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 1, 0], [0, 1, 0, 0, 0]]).bool()
    with torch.no_grad():
        scores = evaluator()(items, present)
        torch.testing.assert_close(scores[0], evaluator()(items[:1])[0])
        torch.testing.assert_close(scores[1], evaluator()(items[1:2, [0, 1, 3]])[0])
    assert scores[2].isnan()  # no pair


def test_the_loss_is_binary_cross_entropy_and_trains_all_parameters():
    scores, labels = torch.tensor([2.0, -1.0, 0.0]), torch.tensor([1, 0, 1])
    expected = -sum(math.log(1 / (1 + math.exp(-s if y else s))) for s, y in zip(scores.tolist(), labels.tolist(), strict=True)) / 3
    assert compatibility_loss(scores, labels).item() == pytest.approx(expected)
    torch.manual_seed(0)
    network = FashionEvaluator(8, 6)
    compatibility_loss(network(torch.randn(4, 3, 8)), torch.tensor([1, 0, 1, 0])).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in network.parameters())


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_compatibility_equals_a_plain_loop(ending, tmp_path):
    file = tmp_path / f"evaluator.{ending}"
    (torch.save if ending == "pth" else save_file)(evaluator().state_dict(), file)
    given = iter(COMPLETED.given.values)
    items = [[next(given) for _ in range(count)] for count, _ in OUTFITS]

    def value(draw, outfit):
        images = slots(outfit, lambda blank: COMPLETED.images[draw, blank], lambda number: items[outfit][number])
        return by_hand(evaluator(), [one(space(), image) for image in images])

    expected = [mean(value(draw, outfit) for draw in range(DRAWS)) for outfit in range(len(OUTFITS))]
    assert max(expected) - min(expected) > 1e-3
    metric = Compatibility(weights=str(file), network=space())
    assert_values(updated(metric), expected)
    assert metric.extractor == "custom" and metric.provenance()["evaluator"] == file.name


def test_each_blank_of_a_recommendation_is_its_own_image():
    """The authors' script scores four copies of one image."""
    three = {"images": COMPLETED.images[:, 2:5], "sample": torch.zeros(3).long(), "slot": torch.arange(3)}
    outfit = replace(COMPLETED, n_samples=1, given=None, **three)
    right = updated(Compatibility(evaluator=evaluator(), network=space()), outfit).compute()
    copies = replace(outfit, images=outfit.images[:, :1].repeat(1, 3, 1, 1, 1))
    assert (right - updated(Compatibility(evaluator=evaluator(), network=space()), copies).compute()).abs() > 1e-4
    alone = replace(outfit, images=outfit.images[:, :1], sample=torch.zeros(1).long(), slot=torch.arange(1))
    metric = updated(Compatibility(evaluator=evaluator(), network=space()), alone)
    assert metric.compute().isnan() and metric.n_undefined == 1


def test_a_given_image_that_is_not_finite_spoils_its_own_outfit_alone():
    values = COMPLETED.given.values.clone()
    values[3, 0, 0, 0] = math.nan  # the first of the second outfit
    metric = updated(
        Compatibility(evaluator=evaluator(), network=space()), replace(COMPLETED, given=Ragged(values, COMPLETED.given.offsets))
    )
    assert metric.values().isnan().tolist() == [False, True, False, False] and metric.n_undefined == 0


def test_faulty_evaluators_and_places_are_refused(tmp_path):
    state = evaluator().state_dict()
    torch.save({key: value for key, value in state.items() if key != "emb_layer.4.weight"} | {"extra": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"a\.pth does not fit FashionEvaluator: missing: emb_layer\.4\.weight; left over: extra"):
        Compatibility(weights=str(tmp_path / "a.pth"), network=space()).prepare()
    with pytest.raises(UserError, match=r"fashion-evaluator: there is no weights file /nowhere/b\.pth"):
        Compatibility(weights="/nowhere/b.pth", network=space()).prepare()
    with pytest.raises(UserError, match="give one of them"):
        Compatibility()
    with pytest.raises(UserError, match="takes 5 features and custom gives 8"):
        updated(Compatibility(evaluator=FashionEvaluator(5, 4), network=space()))
    for slot, words in (([0, 2, 0, 1, 1, 0, 2], "same slot"), ([4, 2, 0, 1, 2, 0, 2], "beyond")):
        whole = replace(COMPLETED, slot=torch.tensor(slot))
        with pytest.raises(ValueError, match=words):
            updated(Compatibility(evaluator=evaluator(), network=space()), whole)


def read(draw, blank):
    with torch.no_grad():
        logits = judge()(COMPLETED.images[draw, blank][None])
    return {name: judge().heads[name][int(values.argmax())] for name, values in logits.items()}


@pytest.mark.parametrize("rule", [fits, lambda first, second: first["Color"] <= second["Color"]], ids=["wardrobe", "ordered"])
def test_true_compatibility_equals_a_plain_loop(rule):
    known = [COMPLETED.given_attributes[outfit] for outfit in range(len(OUTFITS))]

    def value(draw, outfit):
        items = slots(outfit, lambda blank: (True, read(draw, blank)), lambda number: (False, known[outfit][number]))
        pairs = [(a, b) for (new_a, a), (new_b, b) in itertools.combinations(items, 2) if new_a or new_b]
        return mean(float(rule({key: a[key] for key in RULE}, {key: b[key] for key in RULE})) for a, b in pairs)

    expected = [mean(value(draw, outfit) for draw in range(DRAWS)) for outfit in range(len(OUTFITS))]
    assert 0 < mean(expected) < 1
    assert_values(updated(TrueCompatibility(rule=rule, network=judge())), expected)


def test_bounds_of_true_compatibility():
    assert updated(TrueCompatibility(rule=lambda first, second: True, network=judge())).values().tolist() == [1] * 4
    assert updated(TrueCompatibility(rule=lambda first, second: False, network=judge())).values().tolist() == [0] * 4
    alone = replace(COMPLETED, images=COMPLETED.images[:, :1], sample=torch.zeros(1).long(), n_samples=1, given=None, slot=torch.arange(1))
    metric = updated(TrueCompatibility(network=judge()), alone)
    assert metric.compute().isnan() and metric.n_undefined == 1


def test_the_rule_on_attributes_is_the_rule_on_items():
    items = [make_item(0, "train", index) for index in range(40)]
    found = [compatible(a, b) for a, b in itertools.product(items, repeat=2)]
    assert found == [fits(a.attributes, b.attributes) for a, b in itertools.product(items, repeat=2)] and 0 < sum(found) < len(found)
    outfit = make_outfit(0, "train", 1)
    assert all(
        compatible(a, b) for a, b in itertools.combinations([item for slot, item in outfit.items.items() if slot not in outfit.noisy], 2)
    )


def test_true_preference_is_the_liking_of_the_world():
    """On read attributes it is `User.liking`, for users of the wardrobe."""
    users = [make_user(0, "train", index) for index in range(len(OUTFITS))]
    likes = [{"Color": tuple(user.colors), "Design features": tuple(user.designs), STYLE: tuple(user.styles)} for user in users]

    def value(draw, blank):
        user = users[int(COMPLETED.sample[blank])]
        return user.liking(replace(make_item(0, "train", 0), attributes=read(draw, blank)))

    expected = [
        mean(value(draw, blank) for draw in range(DRAWS) for blank in blanks_of(COMPLETED, outfit)) for outfit in range(len(OUTFITS))
    ]
    assert 0 < mean(expected) < 1
    assert_values(updated(TruePreference(network=judge()), replace(COMPLETED, likes=likes)), expected)
    for values, bound in ((judge().heads, 1), (dict.fromkeys(judge().heads, ()), 0)):
        everything = replace(COMPLETED, likes=[values] * 4)
        assert updated(TruePreference(network=judge()), everything).values().tolist() == [bound] * 4
