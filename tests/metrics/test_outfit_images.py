"""The image metrics of outfits equal plain loops in double precision, and behave at their bounds."""

import copy
import itertools
import math
from dataclasses import replace

import lpips as lpips_library
import pytest
import torch
from metrics.outfit_inputs import CANDIDATES, DRAWS, OUTFITS, assert_values, blanks_of, completed, cosine, judge, mean, one, part, space

from fashiongen.batches import Ragged
from fashiongen.errors import UserError
from fashiongen.metrics import (
    LPIPS,
    CategoryAccuracy,
    CLIPImageScore,
    CLIPScore,
    InceptionScore,
    LPIPSDiversity,
    LPIPSToTruth,
    Personalisation,
    RetrievalAccuracy,
    perceptual,
)
from fashiongen.metrics.clip_scores import evaluation_prompt

COMPLETED = completed()
EVERYWHERE = list(itertools.product(range(DRAWS), range(7)))


def updated(metric, whole=COMPLETED):
    metric.update(whole)
    return metric


def of_outfits(value):
    """The mean over each outfit's draws and blanks of `value(draw, blank)`."""
    return [mean(value(draw, blank) for draw in range(DRAWS) for blank in blanks_of(COMPLETED, outfit)) for outfit in range(len(OUTFITS))]


def probabilities(draw, blank):
    with torch.no_grad():
        return judge()(COMPLETED.images[draw, blank][None])["category"][0].double().softmax(dim=0).tolist()


@pytest.mark.parametrize("prior", ["marginal", "uniform"])
def test_inception_score_equals_a_plain_loop(prior):
    rows = [probabilities(draw, blank) for draw, blank in EVERYWHERE]
    wanted = [sum(row[c] for row in rows) / len(rows) if prior == "marginal" else 1 / 15 for c in range(15)]
    total = sum(p * (math.log(p + 1e-16) - math.log(wanted[c] + 1e-16)) for row in rows for c, p in enumerate(row))
    found = updated(InceptionScore(prior=prior, network=judge())).compute().item()
    assert found == pytest.approx(math.exp(total / len(rows)), rel=1e-6)
    assert 1.05 < found < 15


class Sure(torch.nn.Module):
    """A classifier of four categories that is certain: of the place of the brightest quarter."""

    labels = ("a", "b", "c", "d")

    def probabilities(self, images):
        return torch.nn.functional.one_hot(torch.nn.functional.adaptive_avg_pool2d(images.mean(1), 2).flatten(1).argmax(1), 4).float()


def bright(*quarters):
    images = torch.zeros(1, len(quarters), 3, 4, 4)
    for index, quarter in enumerate(quarters):
        images[0, index, :, 2 * (quarter // 2) : 2 * (quarter // 2) + 2, 2 * (quarter % 2) : 2 * (quarter % 2) + 2] = 1
    count = len(quarters)
    return replace(COMPLETED, images=images, sample=torch.arange(count), n_samples=count, category=list("abcd"[:count]))


def test_bounds_of_the_inception_score():
    score = {prior: InceptionScore(prior=prior, network=Sure()) for prior in ("marginal", "uniform")}
    assert updated(score["marginal"], bright(0, 1, 2, 3)).compute().item() == pytest.approx(4)
    assert updated(score["uniform"], bright(0, 1, 2, 3)).compute().item() == pytest.approx(4)
    for metric in score.values():
        metric.reset()
    # A single class: the best by DiFashion's prior, the worst by the marginal; and so is one image.
    for quarters in ((2, 2, 2), (2,)):
        assert updated(score["marginal"], bright(*quarters)).compute().item() == pytest.approx(1)
        assert updated(score["uniform"], bright(*quarters)).compute().item() == pytest.approx(4)
    with pytest.raises(UserError, match="marginal or uniform"):
        InceptionScore(prior="other")


@pytest.mark.parametrize("k", [1, 3])
def test_category_accuracy_equals_a_plain_loop(k):
    labels = judge().heads["category"]

    def ranked(draw, blank):
        return [label for _, label in sorted(zip(probabilities(draw, blank), labels, strict=True), reverse=True)]

    category = [ranked(blank % DRAWS, blank)[blank % 4] for blank in range(7)]

    def hit(draw, blank):
        return float(category[blank] in ranked(draw, blank)[:k])

    expected = of_outfits(hit)
    assert 0 < sum(expected) < len(expected)
    assert_values(updated(CategoryAccuracy(k=k, network=judge()), replace(COMPLETED, category=category)), expected)


def test_bounds_of_category_accuracy():
    assert updated(CategoryAccuracy(network=Sure()), bright(0, 1, 2, 3)).values().tolist() == [1, 1, 1, 1]
    assert updated(CategoryAccuracy(network=Sure()), bright(1, 2, 3, 0)).values().tolist() == [0, 0, 0, 0]
    undecided = copy.deepcopy(judge())
    torch.nn.init.zeros_(undecided.head.weight)
    torch.nn.init.zeros_(undecided.head.bias)
    assert updated(CategoryAccuracy(k=3, network=undecided)).values().tolist() == pytest.approx([3 / 15] * 4)
    with pytest.raises(UserError, match="'hood'"):
        updated(CategoryAccuracy(network=judge()), replace(COMPLETED, category=["hood"] * 7))
    with pytest.raises(UserError, match="at least 1"):
        CategoryAccuracy(k=0)


def test_personalisation_equals_a_plain_loop():
    def value(draw, blank):
        history = [one(space(), image) for image in COMPLETED.history[blank]]
        return 100 * cosine(one(space(), COMPLETED.images[draw, blank]), sum(history) / len(history)) if history else None

    expected = of_outfits(value)
    assert expected[1] is None  # no history at all
    assert_values(updated(Personalisation(network=space())), expected)


def test_bounds_of_personalisation():
    lengths = torch.ones(7, dtype=torch.int64)
    own = replace(COMPLETED, history=Ragged(COMPLETED.images[0].clone(), torch.cat([torch.zeros(1).long(), lengths.cumsum(0)])))
    own = replace(own, images=own.images[:1])
    torch.testing.assert_close(updated(Personalisation(network=space()), own).values(), torch.full((4,), 100.0))
    nobody = replace(COMPLETED, history=Ragged.of([[]] * 7))
    metric = updated(Personalisation(network=space()), nobody)
    assert metric.compute().isnan() and metric.n_undefined == 4


def test_clip_scores_equal_plain_loops():
    def text(draw, blank):
        wanted = space().text_features([evaluation_prompt(COMPLETED.category[blank])])[0]
        return 100 * cosine(one(space(), COMPLETED.images[draw, blank]), wanted)

    def truth(draw, blank):
        return 100 * cosine(one(space(), COMPLETED.images[draw, blank]), one(space(), COMPLETED.truth[blank]))

    assert_values(updated(CLIPScore(network=space())), of_outfits(text))
    assert_values(updated(CLIPImageScore(network=space())), of_outfits(truth))
    perfect = replace(COMPLETED, images=COMPLETED.truth[None].repeat(2, 1, 1, 1, 1))
    torch.testing.assert_close(updated(CLIPImageScore(network=space()), perfect).values(), torch.full((4,), 100.0))


def test_the_prompt_is_difashion_s():
    assert evaluation_prompt("skirt") == "A photo of a skirt, on white background"
    assert evaluation_prompt("women's casual pants") == "A photo of a pair of women's casual pants, on white background"
    assert evaluation_prompt("ankle boot") == "A photo of a ankle boot, on white background"  # "boots" alone are a pair there


@pytest.fixture(scope="module")
def library():
    torch.manual_seed(0)
    return lpips_library.LPIPS(net="squeeze", pnet_rand=True, verbose=False)


@pytest.fixture(params=["tiny", "library"])
def perceptual_network(request):
    return judge() if request.param == "tiny" else request.getfixturevalue("library")


def large(whole):
    """The same images four times as large: SqueezeNet needs some pixels."""

    def grow(images):
        return images.repeat_interleave(4, dim=-1).repeat_interleave(4, dim=-2)

    return replace(whole, images=grow(whole.images), truth=grow(whole.truth))


def distance(network, first, second):
    """The pair metric that the package already has, on a single pair."""
    metric = LPIPS(network=network)
    metric.update(first[None], second[None])
    return metric.compute().item()


@pytest.mark.parametrize("at_once", [1, 2**21])  # each group in its own chunk, and all in one
def test_perceptual_metrics_equal_plain_loops(perceptual_network, at_once, monkeypatch):
    monkeypatch.setattr(perceptual, "PIXELS_AT_ONCE", at_once)
    network, whole = perceptual_network, large(COMPLETED)
    images = whole.images

    def over_draws(outfit):
        return mean(
            mean(distance(network, images[a, blank], images[b, blank]) for a, b in itertools.combinations(range(DRAWS), 2))
            for blank in blanks_of(whole, outfit)
        )

    def over_outfit(outfit):
        pairs = list(itertools.combinations(blanks_of(whole, outfit), 2))
        return mean(mean(distance(network, images[draw, a], images[draw, b]) for a, b in pairs) for draw in range(DRAWS))

    everyone = range(len(OUTFITS))
    assert_values(updated(LPIPSDiversity(network=network), whole), [over_draws(outfit) for outfit in everyone], 3e-6)
    assert_values(updated(LPIPSDiversity(over="outfit", network=network), whole), [over_outfit(outfit) for outfit in everyone], 3e-6)
    truth = of_outfits(lambda draw, blank: distance(network, images[draw, blank], whole.truth[blank]))
    assert_values(updated(LPIPSToTruth(network=network), whole), truth, 3e-6)


def test_each_image_passes_once_through_the_network():
    class Counting(type(judge())):
        seen = 0

        def stages(self, images):
            Counting.seen += len(images)
            return super().stages(images)

    network = copy.deepcopy(judge())
    network.__class__ = Counting
    diversities = [LPIPSDiversity(over=over, network=network) for over in ("draws", "outfit")]
    for metric, count in (*((metric, 21) for metric in diversities), (LPIPSToTruth(network=network), 28)):
        Counting.seen = 0
        metric.update(COMPLETED)
        assert Counting.seen == count


def test_bounds_of_diversity():
    same = replace(COMPLETED, images=COMPLETED.images[:1].repeat(3, 1, 1, 1, 1))
    assert updated(LPIPSDiversity(network=judge()), same).values().tolist() == [0] * 4
    single = updated(LPIPSDiversity(network=judge()), replace(COMPLETED, images=COMPLETED.images[:1]))
    assert single.compute().isnan() and single.n_undefined == 4
    assert updated(LPIPSDiversity(over="outfit", network=judge())).n_undefined == 2  # outfits with one blank
    perfect = replace(COMPLETED, images=COMPLETED.truth[None].clone())
    assert updated(LPIPSToTruth(network=judge()), perfect).values().tolist() == [0] * 4
    with pytest.raises(UserError, match="draws or outfit"):
        LPIPSDiversity(over="all")


def test_retrieval_accuracy_equals_a_plain_loop():
    def value(draw, blank):
        outfit = int(COMPLETED.sample[blank])
        own = one(space(), COMPLETED.images[draw, blank])
        cosines = [cosine(own, one(space(), image)) for image in COMPLETED.candidates[outfit]]
        return float(max(range(len(cosines)), key=cosines.__getitem__) == 0) if cosines else None

    expected = of_outfits(value)
    assert [value is None for value in expected] == [not count for count in CANDIDATES] and 0 < mean(expected) < 1
    assert_values(updated(RetrievalAccuracy(network=space())), expected)


def test_bounds_of_retrieval_accuracy():
    whole = part(COMPLETED, [0, 1])
    candidates = [COMPLETED.candidates[0].clone(), COMPLETED.candidates[1].clone()]
    perfect = replace(whole, images=torch.stack([candidates[0][:1], candidates[1][:1]], dim=1)[0][None])
    assert updated(RetrievalAccuracy(network=space()), perfect).values().tolist() == [1, 1]
    wrong = replace(whole, images=torch.stack([candidates[0][1:2], candidates[1][2:3]], dim=1)[0][None])
    assert updated(RetrievalAccuracy(network=space()), wrong).values().tolist() == [0, 0]
    # Features that tell nothing: chance. And two candidates like the truth: a third.
    blind = copy.deepcopy(space())
    torch.nn.init.zeros_(blind.layer.weight)
    assert updated(RetrievalAccuracy(network=blind), whole).values().tolist() == pytest.approx([1 / 5, 1 / 3])
    candidates[0][3:] = candidates[0][0]
    tied = replace(perfect, candidates=Ragged.of(candidates))
    assert updated(RetrievalAccuracy(network=space()), tied).values().tolist() == pytest.approx([1 / 3, 1])
    spoilt = candidates[1].clone()
    spoilt[1, 0, 0, 0] = math.nan
    metric = updated(RetrievalAccuracy(network=space()), replace(perfect, candidates=Ragged.of([candidates[0], spoilt])))
    assert metric.values().isnan().tolist() == [False, True] and metric.n_undefined == 0
