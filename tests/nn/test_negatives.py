import torch
from pair_batches import pairs, rolled_negatives

from fashiongen.nn.negatives import masked_mean, rolled


def test_each_roll_gives_the_bottoms_of_an_earlier_row():
    bottoms = torch.arange(10.0).view(5, 2)
    assert torch.equal(rolled(bottoms, (1, 3))[:, 4, 0], torch.tensor([6.0, 2.0]))
    assert torch.equal(rolled(bottoms, (1, 3))[:, 0, 0], torch.tensor([8.0, 4.0]))


def test_the_own_bottom_and_other_true_positives_are_no_negatives():
    batch = pairs(["a", "b", "a", "c"], [("a", "c"), ("b",), ("a",), ("c",)], images=False)
    # Row 0 ("a", with which "c" goes too): one before it is row 3's "c", two is row 2's "a", three is row 1's "b".
    assert rolled_negatives(batch, (1, 2, 3)).T.tolist() == [
        [False, False, True],
        [True, True, True],
        [True, False, True],
        [True, True, True],
    ]
    batch.positives = [()] * 4  # the own bottom is known even if the list leaves it out
    assert rolled_negatives(batch, (4, 2)).T.tolist() == [[False, False], [False, True], [False, False], [False, True]]
    assert not rolled_negatives(pairs(["a"], images=False), (1, 2, 3)).any(), "in a batch of one every roll is the row itself"


def test_a_mean_over_nothing_is_zero_and_has_a_zero_gradient():
    values = torch.tensor([[1.0, torch.inf], [3.0, 7.0]], requires_grad=True)
    counted = torch.tensor([[True, False], [True, False]])
    assert masked_mean(values, counted) == 2
    nothing = masked_mean(values, torch.zeros(2, 2, dtype=torch.bool))
    nothing.backward()
    assert nothing == 0 and torch.equal(values.grad, torch.zeros(2, 2))
