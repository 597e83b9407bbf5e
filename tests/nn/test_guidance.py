import torch

from fashiongen.nn.guidance import condition_mask, guide


def test_guide_is_equation_2():
    conditional, unconditional = torch.randn(2, 3), torch.randn(2, 3)
    torch.testing.assert_close(guide(unconditional, conditional, 1.5), 1.5 * conditional + (1 - 1.5) * unconditional)
    torch.testing.assert_close(guide(unconditional, conditional, 1.0), conditional)


def test_conditions_are_dropped_with_the_given_probability():
    ids = [str(number) for number in range(10_000)]
    assert condition_mask(ids, 0.0, 0, "dropout").all()
    assert not condition_mask(ids, 1.0, 0, "dropout").any()
    assert abs(condition_mask(ids, 0.1, 0, "dropout").float().mean() - 0.9) < 0.015
