"""GECo's losses against plain loops over rows, in double precision."""

import math

import pytest
import torch

from fashiongen.methods.geco import loss
from fashiongen.nn.negatives import negative_mask

# Six rows: rows 0 and 3 share a bottom, top 1 goes with the bottom of row 0 too, top 4 with every bottom of the batch, and
# of top 5 nothing is listed: its own bottom is no negative in any case.
BOTTOMS = ["a", "b", "c", "a", "d", "e"]
POSITIVES = [("a",), ("b", "a"), ("c", "elsewhere"), ("a",), ("a", "b", "c", "d", "e"), ()]


@pytest.fixture
def batch():
    query, bottom = (torch.randn(len(BOTTOMS), 5, dtype=torch.float64) for _ in range(2))
    bottom[3] = bottom[0]
    query[2] = 0.0  # all of its scores are equal
    return query.requires_grad_(), bottom.requires_grad_(), negative_mask(BOTTOMS, POSITIVES)


def dot(one, other):
    return sum(a * b for a, b in zip(one.tolist(), other.tolist(), strict=True))


def cosine(one, other):
    return dot(one, other) / math.sqrt(max(dot(one, one), 1e-24) * max(dot(other, other), 1e-24))


def is_negative(row, other):
    return BOTTOMS[other] != BOTTOMS[row] and BOTTOMS[other] not in POSITIVES[row]


def plain_bpr(query, bottom, variant):
    values = []
    for row in range(len(query)):
        before = len(query) - 1 if row == 0 else row - 1
        sigma = 1 / (1 + math.exp(dot(query[row], bottom[before]) - dot(query[row], bottom[row])))
        if variant == "code":
            values.append(-math.log(1e-5 + sigma))
        elif is_negative(row, before):
            values.append(-math.log(sigma))
    return sum(values) / len(values)


def plain_info_nce(query, bottom, tau, variant):
    similarity = cosine if variant == "code" else dot
    values = []
    for row in range(len(query)):
        own = math.exp(similarity(query[row], bottom[row]) / tau)
        others = [
            math.exp(similarity(query[row], bottom[other]) / tau)
            for other in range(len(query))
            if other != row and (variant == "code" or is_negative(row, other))
        ]
        value = -math.log(own / (own + sum(others)))
        values.append(value if variant == "code" else value / tau)
    return sum(values) / len(values)


def plain_regulariser(parameters, query, bottom, variant):
    def norm(tensor):
        return math.sqrt(sum(value**2 for value in tensor.flatten().tolist()))

    if variant == "paper":
        return math.sqrt(sum(norm(parameter) ** 2 for parameter in parameters))
    rolled = torch.stack([bottom[row - 1] for row in range(len(bottom))])
    embeddings = sum(norm(embedding) / len(embedding) for embedding in (query, bottom, rolled))
    return embeddings + sum(norm(parameter) / parameter.shape[0] for parameter in parameters)


def test_negatives_are_what_is_not_known_to_go_with_the_top(batch):
    negative = batch[2]
    for row in range(len(BOTTOMS)):
        for other in range(len(BOTTOMS)):
            assert negative[row, other] == is_negative(row, other), (row, other)
    assert not negative[4].any() and not negative.diagonal().any()
    assert not negative[0, 3] and not negative[1, 0] and negative[0, 1]


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_losses_equal_plain_loops(batch, variant):
    query, bottom, negative = batch
    bpr = loss.bpr_loss(query, bottom, negative, variant)
    assert bpr.item() == pytest.approx(plain_bpr(query, bottom, variant), abs=1e-6)
    for tau in (0.5, 0.1):
        info_nce = loss.info_nce_loss(query, bottom, negative, tau, variant)
        assert info_nce.item() == pytest.approx(plain_info_nce(query, bottom, tau, variant), abs=1e-6)
    parameters = [torch.randn(3, 4, dtype=torch.float64), torch.randn(7, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)]
    regulariser = loss.regulariser(parameters, query, bottom, variant)
    assert regulariser.item() == pytest.approx(plain_regulariser(parameters, query, bottom, variant), abs=1e-6)


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_gradients_equal_finite_differences(batch, variant):
    query, bottom, negative = batch
    query.data[2] = torch.randn(5)  # a cosine has no derivative at zero
    for function in (
        lambda q, b: loss.bpr_loss(q, b, negative, variant),
        lambda q, b: loss.info_nce_loss(q, b, negative, 0.5, variant),
        lambda q, b: loss.regulariser([q, b], q, b, variant),
    ):
        assert torch.autograd.gradcheck(function, (query, bottom))


def test_a_masked_negative_has_no_part_in_the_loss(batch):
    """Top 1 goes with the bottom of rows 0 and 3 too: its own gradient does not depend on where that bottom is."""
    query, bottom, negative = batch

    def gradient_of_query_1(bottoms, variant):
        value = loss.info_nce_loss(query, bottoms, negative, 0.5, variant) + loss.bpr_loss(query, bottoms, negative, variant)
        return torch.autograd.grad(value, query)[0][1]

    moved = bottom.detach().clone()
    moved[0] = moved[3] = 0.3
    torch.testing.assert_close(gradient_of_query_1(moved, "paper"), gradient_of_query_1(bottom, "paper"))
    assert not torch.allclose(gradient_of_query_1(moved, "code"), gradient_of_query_1(bottom, "code"))


@pytest.mark.parametrize("rows", [1, 3])
def test_rows_without_any_negative_cost_nothing(rows):
    query, bottom = (torch.randn(rows, 4, requires_grad=True) for _ in range(2))
    negative = negative_mask(["same"] * rows, [("same",)] * rows)
    for value in (loss.bpr_loss(query, bottom, negative, "paper"), loss.info_nce_loss(query, bottom, negative, 0.5, "paper")):
        assert value.item() == 0
        value.backward()
        assert not query.grad.any() and not bottom.grad.any()
    assert loss.bpr_loss(query[:1], bottom[:1], negative, "code").item() == pytest.approx(-math.log(1e-5 + 0.5))
    assert loss.info_nce_loss(query[:1], bottom[:1], negative, 0.5, "code").item() == 0


def test_ties_cost_what_chance_costs():
    query, bottom = torch.randn(4, 3, dtype=torch.float64), torch.ones(4, 3, dtype=torch.float64)
    negative = negative_mask(list("abcd"), [(name,) for name in "abcd"])
    assert loss.bpr_loss(query, bottom, negative, "paper").item() == pytest.approx(math.log(2))
    assert loss.info_nce_loss(query, bottom, negative, 0.5, "paper").item() == pytest.approx(math.log(4) / 0.5)
    assert loss.info_nce_loss(query, bottom, negative, 0.5, "code").item() == pytest.approx(math.log(4))


def test_scores_far_apart_stay_finite():
    """The code's 1e-5 ends BPR at 11.5; the paper's goes on, so that a pair far off is still pulled."""
    query = torch.tensor([[1.0], [1.0]])
    bottom = torch.tensor([[-500.0], [500.0]], requires_grad=True)
    negative = negative_mask(["a", "b"], [("a",), ("b",)])
    paper = loss.bpr_loss(query, bottom, negative, "paper")
    paper.backward()
    assert paper.item() == pytest.approx(500.0)
    assert bottom.grad[0].item() == pytest.approx(-0.5)
    assert loss.bpr_loss(query, bottom, negative, "code").item() == pytest.approx(-math.log(1e-5) / 2, rel=1e-4)
    assert torch.isfinite(loss.info_nce_loss(query, bottom, negative, 0.005, "paper"))


def test_cigm_losses_equal_plain_loops():
    real, fake = (torch.randn(3, 1, 2, 2, dtype=torch.float64) * 4 for _ in range(2))
    generated, bottom = (torch.rand(3, 3, 4, 4, dtype=torch.float64) for _ in range(2))

    def log_sigma(logits, sign):
        return sum(math.log(1 / (1 + math.exp(-sign * value))) for value in logits.flatten().tolist()) / logits.numel()

    eq_8 = -log_sigma(real, 1) - log_sigma(fake, -1)
    assert loss.discriminator_loss(real, fake, "paper").item() == pytest.approx(eq_8, abs=1e-6)
    assert loss.discriminator_loss(real, fake, "code").item() == pytest.approx(eq_8 / 2, abs=1e-6)
    adversarial, l1 = loss.generator_loss(fake, generated, bottom, 100.0)
    assert adversarial.item() == pytest.approx(-log_sigma(fake, 1), abs=1e-6)
    differences = [abs(a - b) for a, b in zip(generated.flatten().tolist(), bottom.flatten().tolist(), strict=True)]
    assert l1.item() == pytest.approx(100 * sum(differences) / len(differences), abs=1e-6)


def test_with_the_spread_the_true_distribution_is_better_than_its_median():
    """Eq. 7's L1 is .5 for the constant between bottoms of 0 and 1, and for 0 or 1 by chance; less the spread the latter is better, and
    than what is spread too wide."""

    def expected(outcomes, diversity):
        """The mean over every pair of draws and both bottoms, lambda 10."""
        every = torch.tensor([(z, other, bottom) for z in outcomes for other in outcomes for bottom in (0.0, 1.0)])
        first, second, bottom = (column.view(-1, 1, 1, 1) for column in every.unbind(dim=1))
        drawn = torch.cat([first, second])
        _, l1 = loss.generator_loss(torch.zeros(1), drawn, bottom.repeat(2, 1, 1, 1), 10.0)
        return (l1 - loss.spread(drawn, 10.0, diversity)).item()

    assert [expected(outcomes, 0.0) for outcomes in ([0.5], [0.0, 1.0], [-1.0, 2.0])] == pytest.approx([5.0, 5.0, 15.0])
    assert [expected(outcomes, 1.0) for outcomes in ([0.5], [0.0, 1.0], [-1.0, 2.0])] == pytest.approx([5.0, 2.5, 7.5])
    assert [expected(outcomes, 0.5) for outcomes in ([0.5], [0.0, 1.0])] == pytest.approx([5.0, 3.75])
