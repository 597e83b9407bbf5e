"""Pieces of the tiny checkpoints' training."""

import torch

from fashiongen.methods.igr.module import PROMPTS
from fashiongen.tiny.captions import SHORT_CAPTIONS
from fashiongen.tiny.training import Draws

CPU = torch.device("cpu")


def test_the_denoiser_has_seen_the_prompts_it_gets():
    assert PROMPTS.items() <= SHORT_CAPTIONS.items()


def test_each_choice_is_taken_with_its_probability_and_the_first_draws_take_the_first():
    count = 20_000
    first, second, otherwise = torch.full((1, 3), 1), torch.full((count, 3), 2), torch.zeros(count, 3, dtype=torch.long)
    mixed = Draws(0, 0, CPU).mix((first, 0.3), (second, 0.4), otherwise=otherwise)
    drawn = torch.rand(count, 1, generator=torch.Generator().manual_seed(0)).expand(-1, 3)
    assert torch.equal(mixed, torch.where(drawn < 0.3, 1, torch.where(drawn < 0.7, 2, 0))), "one draw a sample, in the order of the choices"
    shares = torch.bincount(mixed[:, 0]) / count
    torch.testing.assert_close(shares, torch.tensor([0.3, 0.3, 0.4]), rtol=0, atol=4 * (0.25 / count) ** 0.5)


def test_a_sample_keeps_its_own_of_each_choice():
    own = torch.arange(50).view(50, 1, 1).expand(-1, 2, 3)
    mixed = Draws(0, 0, CPU).mix((own + 100, 0.5), otherwise=own)
    assert torch.equal(mixed % 100, own)
    assert 0 < (mixed[:, 0, 0] >= 100).sum() < 50
