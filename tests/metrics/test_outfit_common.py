"""Tests for all metrics of outfits: batch splits, hostile input, copies, processes, what the data does not offer."""

import copy
import math
import pickle
from dataclasses import replace

import pytest
import torch
from metrics.outfit_inputs import completed, evaluator, judge, part, space

from fashiongen.errors import UserError
from fashiongen.metrics import (
    AttributeEntropy,
    CategoryAccuracy,
    CLIPImageScore,
    CLIPScore,
    Compatibility,
    InceptionScore,
    LPIPSDiversity,
    LPIPSToTruth,
    OutfitSetMetric,
    Personalisation,
    RetrievalAccuracy,
    SemanticDistance,
    TextAlign,
    TextCompatibility,
    TextPersonalisation,
    TrueCompatibility,
    TruePreference,
)
from fashiongen.metrics.shared import shared_features

COMPLETED = completed()


def score_captions(questions):
    return [1 + len(caption) % 9 for caption, _ in questions]


METRICS = {
    "is": lambda: InceptionScore(network=judge()),
    "is-uniform": lambda: InceptionScore(prior="uniform", network=judge()),
    "is-acc": lambda: CategoryAccuracy(k=3, network=judge()),
    "personalisation": lambda: Personalisation(network=space()),
    "diversity": lambda: LPIPSDiversity(network=judge()),
    "diversity-outfit": lambda: LPIPSDiversity(over="outfit", network=judge()),
    "clip-score": lambda: CLIPScore(network=space()),
    "clip-image-score": lambda: CLIPImageScore(network=space()),
    "lpips": lambda: LPIPSToTruth(network=judge()),
    "retrieval": lambda: RetrievalAccuracy(network=space()),
    "compatibility": lambda: Compatibility(evaluator=evaluator(), network=space()),
    "true-compatibility": lambda: TrueCompatibility(network=judge()),
    "true-preference": lambda: TruePreference(network=judge()),
    "text-align": lambda: TextAlign(network=space()),
    "text-personalisation": lambda: TextPersonalisation(network=space()),
    "semantic-distance": lambda: SemanticDistance(network=space()),
    "text-compatibility": lambda: TextCompatibility(score_captions),
    "attribute-entropy": lambda: AttributeEntropy(),
}
SETS = {key for key, make in METRICS.items() if isinstance(make(), OutfitSetMetric)}
PER_OUTFIT = [key for key in METRICS if key not in SETS]
# The outfits without a value: no history, no pair in an outfit, no candidates, nothing given.
UNDEFINED = {"personalisation": [1], "diversity-outfit": [0, 1], "retrieval": [2, 3], "text-compatibility": [2]}
# What each cannot do without.
NEEDS = {
    "personalisation": ("history",),
    "clip-image-score": ("truth",),
    "lpips": ("truth",),
    "retrieval": ("candidates",),
    "true-compatibility": ("attributes", "given_attributes"),
    "true-preference": ("likes",),
    "text-align": ("captions",),
    "text-personalisation": ("captions", "preference"),
    "semantic-distance": ("captions",),
    "text-compatibility": ("captions", "given_captions"),
    "attribute-entropy": ("captions",),
}


def fed(metric, batches=((0, 1, 2, 3),), whole=COMPLETED):
    for batch in batches:
        metric.update(part(whole, batch))
    return metric


@pytest.mark.parametrize("key", METRICS)
@pytest.mark.parametrize("batches", [((0,), (1,), (2,), (3,)), ((0, 2), (1, 3))], ids=["single", "others"])
def test_result_does_not_depend_on_the_split_into_batches(key, batches):
    whole, split = fed(METRICS[key]()), fed(METRICS[key](), batches)
    torch.testing.assert_close(split.compute(), whole.compute(), rtol=1e-5, atol=1e-6)
    if key in PER_OUTFIT:
        order = [outfit for batch in batches for outfit in batch]
        torch.testing.assert_close(split.values(), whole.values()[order], rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("key", METRICS)
def test_features_that_are_shared_change_no_bit(key):
    apart = fed(METRICS[key]())
    with shared_features():
        one, two = METRICS[key](), METRICS[key]()
        for metric in (one, two):
            metric.update(COMPLETED)
    assert torch.equal(one.compute(), apart.compute()) and torch.equal(two.compute(), apart.compute())


@pytest.mark.parametrize("key", PER_OUTFIT)
def test_undefined_outfits_are_left_out_and_counted(key):
    metric = fed(METRICS[key]())
    assert [outfit for outfit in range(4) if not metric.defined_samples()[outfit]] == UNDEFINED.get(key, [])
    assert metric.n_undefined == len(UNDEFINED.get(key, []))
    assert metric.values().isnan().nonzero().flatten().tolist() == UNDEFINED.get(key, [])
    torch.testing.assert_close(metric.compute(), metric.values().nanmean())


@pytest.mark.parametrize("key", METRICS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_image_that_is_not_finite_makes_the_whole_metric_nan(key, value):
    outfit = 0 if key == "retrieval" else 3  # one with a value
    images = COMPLETED.images.clone()
    images[1, 0 if outfit == 0 else 5, 0, 2, 3] = value
    metric = fed(METRICS[key](), whole=replace(COMPLETED, images=images))
    assert metric.compute().isnan()
    if key in PER_OUTFIT:
        assert metric.values().isnan().nonzero().flatten().tolist() == sorted([*UNDEFINED.get(key, []), outfit])
        assert metric.n_undefined == len(UNDEFINED.get(key, []))
    everything = fed(METRICS[key](), whole=replace(COMPLETED, images=torch.full_like(images, value)))
    assert everything.compute().isnan()


@pytest.mark.parametrize("key", ["clip-image-score", "lpips"])
def test_truth_that_is_not_finite_scores_nan(key):
    truth = COMPLETED.truth.clone()
    truth[0, 0, 0, 0] = math.nan
    assert fed(METRICS[key](), whole=replace(COMPLETED, truth=truth)).values().isnan().tolist() == [True, False, False, False]


@pytest.mark.parametrize("key", METRICS)
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_no_outfit_gives_nan(key):
    assert METRICS[key]().compute().isnan()


@pytest.mark.parametrize("key", METRICS)
def test_constant_images_have_a_value(key):
    metric = fed(METRICS[key](), whole=replace(COMPLETED, images=torch.full_like(COMPLETED.images, 0.5)))
    assert metric.compute().isfinite()
    if key == "is":
        assert metric.compute().item() == pytest.approx(1)
    if key.startswith("diversity"):
        assert metric.compute() == 0


@pytest.mark.parametrize("key", METRICS)
def test_one_outfit_has_a_value(key):
    assert fed(METRICS[key](), ((3,) if key != "retrieval" else (0,),)).compute().isfinite()


@pytest.mark.parametrize(("key", "field"), [(key, field) for key, fields in NEEDS.items() for field in fields])
def test_what_the_data_does_not_offer_is_named_in_one_line(key, field):
    with pytest.raises(UserError, match="leave the metric out of the protocol") as error:
        METRICS[key]().update(replace(COMPLETED, **{field: None}))
    assert type(METRICS[key]()).__name__ in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("key", METRICS)
def test_a_metric_needs_nothing_else(key):
    needs = ("images", "sample", "n_samples", "slot", "category", *NEEDS.get(key, ()))
    if key in ("compatibility", "true-compatibility"):
        needs += ("given",)
    others = {name: None for name in vars(COMPLETED) if name not in needs}
    metric = METRICS[key]()
    metric.update(replace(COMPLETED, **others))
    assert torch.equal(metric.compute(), fed(METRICS[key]()).compute())


@pytest.mark.parametrize("key", METRICS)
def test_nothing_lands_in_checkpoints_or_parameters(key):
    metric = fed(METRICS[key]())
    assert metric.state_dict() == {}
    assert list(metric.parameters()) == list(metric.buffers()) == list(metric.children()) == []


@pytest.mark.parametrize("key", METRICS)
def test_copies_and_pickles_carry_state_and_go_on(key):
    whole = fed(METRICS[key]()).compute()
    metric = fed(METRICS[key](), ((0, 1),))
    for other in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        torch.testing.assert_close(fed(other, ((2, 3),)).compute(), whole, rtol=1e-5, atol=1e-6)
    metric.reset()
    torch.testing.assert_close(fed(metric).compute(), whole)


@pytest.mark.parametrize("key", METRICS)
def test_states_of_several_processes_merge(key):
    """As torchmetrics merges states: the sum of counts, and lists one after the other."""
    first, second = fed(METRICS[key](), ((0, 1),)), fed(METRICS[key](), ((2, 3),))
    first.merge_state(second)
    torch.testing.assert_close(first.compute(), fed(METRICS[key]()).compute(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("key", METRICS)
def test_states_are_of_a_type_that_an_empty_process_shares(key):
    """An empty list is gathered as float32: other types would be read wrongly."""
    metric = fed(METRICS[key]())
    for name in ("rows",) if key in SETS else ("scores", "defined"):
        assert {state.dtype for state in getattr(metric, name)} == {torch.float32}


@pytest.mark.parametrize("key", METRICS)
def test_autocast_does_not_change_the_result(key):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = fed(METRICS[key]()).compute()
    assert torch.equal(cast, fed(METRICS[key]()).compute())


@pytest.mark.parametrize("key", METRICS)
def test_wrong_range_type_and_shape_are_refused(key):
    name, images = type(METRICS[key]()).__name__, COMPLETED.images
    with pytest.raises(ValueError, match=rf"^{name} .*\[0, 1\], the generated has the value -"):
        METRICS[key]().update(replace(COMPLETED, images=2 * images - 1))
    with pytest.raises(TypeError, match="uint8"):
        METRICS[key]().update(replace(COMPLETED, images=(images * 255).to(torch.uint8)))
    for wrong in (images[0], images[:, 1:], images[:0], images[:, :, :1]):
        with pytest.raises(ValueError, match=rf"^{name} takes images \(D, K, 3, H, W\)"):
            METRICS[key]().update(replace(COMPLETED, images=wrong))


def test_a_value_with_other_counts_is_not_the_mean_over_images():
    """Each outfit counts once; with equally many blanks in all of them it is the published mean over all images."""
    network = space()
    equal = part(COMPLETED, (0, 1))
    metric = CLIPImageScore(network=network)
    metric.update(equal)
    cosines = [torch.nn.functional.cosine_similarity(network.features(images), network.features(equal.truth)) for images in equal.images]
    torch.testing.assert_close(metric.compute(), 100 * torch.cat(cosines).mean().detach(), rtol=1e-6, atol=0)
