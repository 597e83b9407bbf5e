"""Losses and score of MGCM and Pix2PixCM against plain loops over numbers, in float64."""

import math

import pytest
import torch
from pair_batches import pairs, rolled_negatives
from torch import nn

from fashiongen.errors import UserError
from fashiongen.nn.template_matching import Generated, TemplateMatcher, Up, check_settings, discriminator_loss, prepare_images

DIMENSIONS, CODE = 5, 6
ALPHA, BETA = 1.3, 0.4


def matcher(variant="paper", generator=None, discriminator=None, **weights):
    settings = {"alpha": ALPHA, "beta": BETA, "mu": 0.1, "nu": 0.01, "pixel_weight": 10.0, **weights}
    return TemplateMatcher(
        generator or nn.Identity(), discriminator or nn.Identity(), width=2, dimensions=DIMENSIONS, variant=variant, **settings
    )


def plain_score(query, candidate, variant):
    alike = sum(float(query[k]) * float(candidate[k]) for k in range(DIMENSIONS))
    distance = sum(abs(float(query[k]) - float(candidate[k])) for k in range(DIMENSIONS, DIMENSIONS + CODE))
    return ALPHA * alike + (BETA if variant == "code" else -BETA) * distance


def test_embeddings_in_bfloat16_are_scored_in_float32():
    query, candidate = torch.rand(3, DIMENSIONS + CODE).bfloat16(), torch.rand(4, DIMENSIONS + CODE).bfloat16()
    scores = matcher().score(query, candidate)
    assert scores.dtype == torch.float32
    expected = torch.tensor([[plain_score(one, other, "paper") for other in candidate] for one in query])
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(matcher().pair_score(query, candidate[:3]), expected.diagonal(), atol=1e-5, rtol=1e-5)


def plain_ranking_loss(query, candidate, batch, variant):
    terms = []
    for row in range(len(query)):
        for back in (1, 2, 3):
            other = (row - back) % len(query)
            if variant == "paper" and (batch.bottom_ids[other] == batch.bottom_ids[row] or batch.bottom_ids[other] in batch.positives[row]):
                continue
            difference = plain_score(query[row], candidate[row], variant) - plain_score(query[row], candidate[other], variant)
            sigmoid = 1 / (1 + math.exp(-difference))
            terms.append(-math.log(sigmoid + (1e-12 if variant == "code" else 0)))
    return sum(terms) / len(terms) if terms else 0.0


def embeddings(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, DIMENSIONS + CODE, generator=generator, dtype=torch.float64) * 2


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_scores_equal_a_plain_loop(variant):
    query, candidate = embeddings(4), embeddings(7, seed=1)
    candidate[3] = candidate[5]  # a tie
    candidate[6, DIMENSIONS:] = query[0, DIMENSIONS:]  # the template itself
    scores = matcher(variant).score(query, candidate)
    expected = torch.tensor([[plain_score(one, other, variant) for other in candidate] for one in query], dtype=torch.float64)
    torch.testing.assert_close(scores, expected, atol=1e-6, rtol=0)
    assert (scores < 0).any() and (scores > 0).any()
    torch.testing.assert_close(scores[:, 3], scores[:, 5], atol=1e-12, rtol=0)
    torch.testing.assert_close(matcher(variant).pair_score(query, candidate[:4]), scores[:, :4].diag(), atol=1e-9, rtol=0)


def test_a_bottom_like_the_template_gains_in_paper_and_loses_in_code():
    query, candidate = embeddings(1), embeddings(2)
    candidate[1] = candidate[0]
    candidate[1, DIMENSIONS:] = query[0, DIMENSIONS:]
    assert matcher("paper").score(query, candidate).diff() > 0 > matcher("code").score(query, candidate).diff()


BATCHES = {
    "all different": pairs(list("abcdef"), images=False),
    "some known": pairs(list("abacdb"), [("a", "c"), ("b",), ("a",), ("c", "a"), ("d",), ("b", "d")], images=False),
    "fewer than the rolls": pairs(list("abc"), images=False),
    "all the same": pairs(list("aaaa"), images=False),
    "one": pairs(["a"], images=False),
}


@pytest.mark.parametrize("variant", ["paper", "code"])
@pytest.mark.parametrize("name", BATCHES)
def test_ranking_loss_equals_a_plain_loop(name, variant):
    batch = BATCHES[name]
    query, candidate = embeddings(len(batch)).requires_grad_(), embeddings(len(batch), seed=1).requires_grad_()
    loss = matcher(variant).ranking_loss(query, candidate, rolled_negatives(batch, (1, 2, 3)))
    assert abs(loss.item() - plain_ranking_loss(query.detach(), candidate.detach(), batch, variant)) < 1e-6
    loss.backward()
    assert query.grad.isfinite().all() and candidate.grad.isfinite().all()
    if variant == "paper" and name in ("all the same", "one"):
        assert loss == 0 and not query.grad.any()


def test_a_hopeless_difference_keeps_its_gradient_in_paper_alone():
    """A loss that is beyond float's sigmoid: the authors' guard of the logarithm makes it flat."""
    gradients = {}
    for variant in ("paper", "code"):
        query = torch.zeros(2, DIMENSIONS + CODE)
        query[:, 0] = 1
        candidate = torch.zeros(2, DIMENSIONS + CODE)
        candidate[:, 0] = torch.tensor([0.0, 200.0])
        candidate.requires_grad_()
        matcher(variant).ranking_loss(query, candidate, rolled_negatives(pairs(["a", "b"], images=False), (1, 2, 3))).backward()
        gradients[variant] = candidate.grad[0, 0].item()
    assert gradients["paper"] < -0.1 and abs(gradients["code"]) < 1e-6


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_discriminator_loss_equals_a_plain_loop(variant):
    fake, real = torch.rand(3, 1, 2, 2, dtype=torch.float64), torch.rand(3, 1, 2, 2, dtype=torch.float64)
    fakes, reals = fake.flatten().tolist(), real.flatten().tolist()
    of_real = 0.5 * sum((value - 1) ** 2 for value in reals) / len(reals)
    if variant == "paper":
        expected = 0.5 * sum(value**2 for value in fakes) / len(fakes) + of_real
    else:
        expected = 0.5 * sum((value - of_real) ** 2 for value in fakes) / len(fakes)
    assert abs(discriminator_loss(fake, real, variant).item() - expected) < 1e-6
    fake.requires_grad_(), real.requires_grad_()
    discriminator_loss(fake, real, variant).backward()
    assert real.grad.any() and (fake.grad is not None) == (variant == "paper")


class Painter(nn.Module):
    """Paints with one learnt colour, which is also its template's code."""

    def __init__(self):
        super().__init__()
        self.colour = nn.Parameter(torch.full((3, 1, 1), 0.2))

    def forward(self, tops, keys):
        template = self.colour.expand_as(tops)
        code = template[:, :1, ::32, ::32].repeat(1, 16, 1, 1)
        return Generated(tops[:, :1, ::32, ::32].repeat(1, 16, 1, 1), code * (2.0 if self.training else 1.0), template)


class Judge(nn.Module):
    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.3))

    def forward(self, tops, bottoms):
        return torch.sigmoid(self.slope * bottoms.mean(dim=(1, 2, 3)))


def test_the_three_losses_are_computed_in_turn_and_train_what_they_should():
    model = matcher(generator=Painter(), discriminator=Judge())
    tops, bottoms = torch.rand(4, 3, 64, 64) * 2 - 1, torch.rand(4, 3, 64, 64) * 2 - 1
    counted = rolled_negatives(pairs(list("abcd"), images=False), (1, 2, 3))
    losses = model.losses(tops, bottoms, counted, None)

    def trained(loss):
        model.zero_grad(set_to_none=True)
        loss.backward()
        return {name for name, parameter in model.named_parameters() if parameter.grad is not None and parameter.grad.any()}

    name, loss = next(losses)
    assert name == "discriminator" and trained(loss) == {"discriminator.slope"}
    judged = [torch.sigmoid(torch.tensor(0.3) * imaged.mean(dim=(1, 2, 3))) for imaged in (torch.full_like(tops, 0.2), bottoms)]
    torch.testing.assert_close(loss, 0.01 * (0.5 * judged[0].square().mean() + 0.5 * (judged[1] - 1).square().mean()))

    with torch.no_grad():
        model.discriminator.slope.fill_(-2.0)
    name, loss = next(losses)
    assert name == "generator" and trained(loss) >= {"generator.colour"}
    fooled = torch.sigmoid(torch.tensor(-2.0 * 0.2))
    torch.testing.assert_close(loss, 0.1 * 0.5 * (fooled - 1).square() + 10.0 * (bottoms - 0.2).abs().mean())

    with torch.no_grad():
        model.generator.colour.fill_(0.7)
    name, loss = next(losses)
    assert name == "ranking"
    assert {name.split(".")[0] for name in trained(loss)} == {"bottom_encoder", "ranker"}
    assert model.generator.training
    with torch.no_grad():
        query = model.eval().embed_tops(tops)
        torch.testing.assert_close(query[:, DIMENSIONS:], torch.full((4, 64), 0.7))
        candidate = model.train().embed_bottoms(bottoms)
    torch.testing.assert_close(loss.detach(), model.ranking_loss(query, candidate, counted))
    assert next(losses, None) is None


def test_embeddings_hold_the_projection_of_the_mean_code_and_the_code():
    model = matcher(generator=Painter()).double().eval().requires_grad_(False)
    bottoms = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    embedded = model.embed_bottoms(bottoms)
    code = model.bottom_encoder(bottoms)
    assert code.shape == (2, 16, 2, 2) and embedded.shape == (2, DIMENSIONS + 64)
    for row in range(2):
        for place in range(DIMENSIONS):
            pooled = [sum(code[row, channel].flatten().tolist()) / 4 for channel in range(16)]
            weighted = sum(float(w) * p for w, p in zip(model.ranker.bottom.weight[place], pooled, strict=True))
            expected = 1 / (1 + math.exp(-(weighted + float(model.ranker.bottom.bias[place]))))
            assert abs(embedded[row, place].item() - expected) < 1e-6
    assert torch.equal(embedded[:, DIMENSIONS:], code.flatten(1))


def test_dropout_belongs_to_the_sample_and_keeps_the_mean():
    layer = Up(4, 8).eval()
    features, key = torch.rand(3, 4, 16, 16), torch.tensor([5, 6, 7])
    layer.norm = nn.Identity()
    whole, dropped = layer(features), layer(features, key)
    torch.testing.assert_close(layer(features[1:2], key[1:2]), dropped[1:2])
    gone = dropped == 0
    assert abs(gone.float().mean() - 0.5) < 5 * (0.25 / gone.numel()) ** 0.5
    torch.testing.assert_close(dropped[~gone], 2 * whole[~gone])


def test_images_are_floats_of_the_wanted_size():
    shown = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    assert torch.equal(prepare_images(shown, 64, "M"), shown / 127.5 - 1)
    assert prepare_images(torch.full((1, 3, 100, 80), 255, dtype=torch.uint8), 64, "M").shape == (1, 3, 64, 64)
    with pytest.raises(UserError, match="M needs images, but the data reads only the lists"):
        prepare_images(None, 64, "M")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((32, 8, 8, "paper"), "image_size: 32: must be a multiple of 64"),
        ((96, 8, 8, "paper"), "image_size: 96"),
        ((64, 0, 8, "paper"), "width: 0"),
        ((64, 8, 0, "paper"), "dimensions: 0"),
        ((64, 8, 8, "peper"), "variant: peper: unknown; choose among paper, code"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        check_settings("MGCM", *settings)
