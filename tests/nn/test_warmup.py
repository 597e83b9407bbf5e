"""Schedules of learning rates, against diffusers' functions of the same shape."""

import pytest
import torch
from diffusers.optimization import get_cosine_with_hard_restarts_schedule_with_warmup, get_linear_schedule_with_warmup

from fashiongen.errors import UserError
from fashiongen.nn.warmup import WarmupCosine, WarmupLinear


def rates(build):
    """Return the rates of two groups, whose own are 1 and 10, over 30 steps, (30, 2)."""
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (1.0, 10.0)]
    optimizer = torch.optim.SGD(groups)
    scheduler = build(optimizer)
    found = []
    for _ in range(30):
        found.append(scheduler.get_last_lr())
        optimizer.step()
        scheduler.step()
    return torch.tensor(found)


@pytest.mark.parametrize("cycles", [1, 3])
def test_cosine_is_diffusers_with_hard_restarts(cycles):
    ours = rates(lambda optimizer: WarmupCosine(optimizer, 4, 25, cycles))
    torch.testing.assert_close(ours, rates(lambda optimizer: get_cosine_with_hard_restarts_schedule_with_warmup(optimizer, 4, 25, cycles)))
    assert ours[0, 0] == 0 and ours[4, 0] == 1 and not ours[25:].any()
    torch.testing.assert_close(ours[:, 1], 10 * ours[:, 0])


def test_linear_is_diffusers():
    ours = rates(lambda optimizer: WarmupLinear(optimizer, 4, 25))
    torch.testing.assert_close(ours, rates(lambda optimizer: get_linear_schedule_with_warmup(optimizer, 4, 25)))
    assert ours[4, 0] == 1 and not ours[25:].any() and ours[:25].diff(dim=0)[4:].max() < 0


def test_there_may_be_no_warm_up():
    assert rates(lambda optimizer: WarmupCosine(optimizer, 0, 25))[0, 1] == 10


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda optimizer: WarmupCosine(optimizer, 5, 5), "WarmupCosine: warmup_steps: 5: must be at least 0 and below total_steps, 5"),
        (lambda optimizer: WarmupLinear(optimizer, -1, 5), "WarmupLinear: warmup_steps: -1"),
        (lambda optimizer: WarmupCosine(optimizer, 1, 5, 0), "WarmupCosine: cycles: 0: must be at least 1"),
    ],
)
def test_settings_out_of_range_are_told(build, says):
    with pytest.raises(UserError, match=says):
        rates(build)
