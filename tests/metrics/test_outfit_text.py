"""The metrics of captions equal plain loops in double precision, and behave at their bounds."""

import collections
import itertools
import json
import math
from dataclasses import replace

import pytest
import torch
from metrics.outfit_inputs import DRAWS, OUTFITS, assert_values, blanks_of, completed, cosine, mean, one, space

from fashiongen.errors import UserError
from fashiongen.metrics import AttributeEntropy, SemanticDistance, TextAlign, TextCompatibility, TextPersonalisation
from fashiongen.preference import ATTRIBUTES

COMPLETED = completed()


def updated(metric, whole=COMPLETED):
    metric.update(whole)
    return metric


def of_outfits(value, draws=DRAWS):
    return [mean(value(draw, blank) for draw in range(draws) for blank in blanks_of(COMPLETED, outfit)) for outfit in range(len(OUTFITS))]


def text(value):
    return space().text_features([value])[0]


def content(caption):
    return json.loads(caption) if caption.startswith("{") else {}


def with_captions(*captions):
    """The same caption for all blanks of a draw."""
    return replace(COMPLETED, images=COMPLETED.images[: len(captions)], captions=[[caption] * 7 for caption in captions])


def test_text_align_equals_a_plain_loop():
    def value(draw, blank):
        image = one(space(), COMPLETED.images[draw, blank])
        return mean(cosine(text(f"{key}: {entry}"), image) for key, entry in content(COMPLETED.captions[draw][blank]).items())

    assert_values(updated(TextAlign(network=space())), of_outfits(value))


def test_text_personalisation_equals_a_plain_loop():
    def value(draw, blank):
        own, wanted = content(COMPLETED.captions[draw][blank]), content(COMPLETED.preference[blank])
        return mean(cosine(text(f"{key}: {own[key]}"), text(f"{key}: {wanted[key]}")) for key in ATTRIBUTES if key in own and key in wanted)

    assert_values(updated(TextPersonalisation(network=space())), of_outfits(value))
    preferred = '{"Color": "red", "Material": "wool"}'
    same = replace(with_captions(preferred), preference=[preferred] * 7)
    torch.testing.assert_close(updated(TextPersonalisation(network=space()), same).values(), torch.ones(4))
    strange = replace(with_captions('{"Color": "red"}'), preference=['{"Material": "wool"}'] * 7)
    assert updated(TextPersonalisation(network=space()), strange).n_undefined == 4


def test_semantic_distance_equals_a_plain_loop():
    def value(_, blank):
        filled = [COMPLETED.captions[draw][blank] for draw in range(DRAWS) if content(COMPLETED.captions[draw][blank])]
        return mean(1 - cosine(text(a), text(b)) for a, b in itertools.combinations(filled, 2))

    assert_values(updated(SemanticDistance(network=space())), of_outfits(value, draws=1))
    same = updated(SemanticDistance(network=space()), with_captions(*['{"Color": "red"}'] * 3))
    torch.testing.assert_close(same.values(), torch.zeros(4))
    assert updated(SemanticDistance(network=space()), with_captions('{"Color": "red"}')).n_undefined == 4  # a single draw


@pytest.mark.parametrize("metric_class", [TextAlign, TextPersonalisation, SemanticDistance])
def test_empty_captions_are_undefined_and_counted(metric_class):
    metric = updated(metric_class(network=space()), with_captions("", "nothing", "[]"))
    assert metric.compute().isnan() and metric.n_undefined == 4


@pytest.mark.parametrize("weighting", ["attributes", "values"])
def test_attribute_entropy_equals_a_plain_loop(weighting):
    counts = collections.defaultdict(collections.Counter)
    for caption in itertools.chain(*COMPLETED.captions):
        for key, value in content(caption).items():
            counts[key][value] += 1
    entropies = {key: -sum(n / of.total() * math.log(n / of.total()) for n in of.values()) for key, of in counts.items()}
    weights = {key: counts[key].total() if weighting == "values" else 1 for key in entropies}
    expected = sum(weights[key] * entropies[key] for key in entropies) / sum(weights.values())
    assert len(set(weights.values())) == (1 if weighting == "attributes" else 4)
    assert updated(AttributeEntropy(weighting)).compute().item() == pytest.approx(expected, rel=1e-6)


def test_bounds_of_attribute_entropy():
    assert updated(AttributeEntropy(), with_captions('{"Color": "red"}', '{"Color": "red"}')).compute() == 0
    different = with_captions(*(json.dumps({"Color": str(number), "Material": "wool"}) for number in range(3)))
    assert updated(AttributeEntropy(), different).compute().item() == pytest.approx(math.log(3) / 2)
    assert updated(AttributeEntropy("values"), different).compute().item() == pytest.approx(math.log(3) / 2)
    assert updated(AttributeEntropy(), with_captions("", "nothing")).compute().isnan()
    with pytest.raises(UserError, match="attributes or values"):
        AttributeEntropy("all")


def lengths(questions):
    """A judge that likes long captions and few given items."""
    return [1 + (len(caption) % 7) / len(others) for caption, others in questions]


def test_text_compatibility_equals_a_plain_loop():
    def value(draw, blank):
        caption, others = COMPLETED.captions[draw][blank], COMPLETED.given_captions[int(COMPLETED.sample[blank])]
        return lengths([(caption, others)])[0] if content(caption) and others else None

    expected = of_outfits(value)
    assert expected[2] is None  # nothing is given
    metric = TextCompatibility(lengths, "length")
    assert_values(updated(metric), expected)
    assert metric.extractor == "length"
    assert updated(TextCompatibility(lambda questions: torch.full((len(questions),), 10))).compute() == 10


def test_a_judge_is_held_to_its_scale():
    for answers in (lambda questions: [0] * len(questions), lambda questions: [11] * len(questions), lambda questions: [5]):
        with pytest.raises(ValueError, match="one score from 1 to 10"):
            updated(TextCompatibility(answers))
    broken = updated(TextCompatibility(lambda questions: [math.nan] * len(questions)))
    assert broken.values().isnan().all() and broken.n_undefined == 1


def test_a_text_is_encoded_once_for_all_metrics(monkeypatch):
    from fashiongen.metrics.features import FrozenNetwork
    from fashiongen.metrics.shared import shared_features

    seen, images = [], []
    network = type(space())()
    real = network.text_features, network.features
    network.text_features = lambda texts: (seen.extend(texts), real[0](texts))[1]
    network.features = lambda batch: (images.append(len(batch)), real[1](batch))[1]
    monkeypatch.setattr(FrozenNetwork, "on", lambda self, device: network)
    with shared_features():
        for metric_class in (TextAlign, TextPersonalisation, TextAlign, SemanticDistance):
            updated(metric_class())
    assert len(seen) == len(set(seen)) and images == [21]
    updated(TextAlign())
    assert images == [21, 21]  # outside, nothing is remembered
