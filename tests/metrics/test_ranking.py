import itertools
import math

import pytest
import torch

from fashiongen.batches import Ranked
from fashiongen.errors import UserError
from fashiongen.metrics import AUC, MRR, NDCG, Recall


def ranked(seed=0, rows=40, width=12, levels=4, several=True):
    """Scores with many ties, negative ones among them; a listed negative may stand twice or be right."""
    draw = torch.Generator().manual_seed(seed)
    scores = torch.randint(levels, (rows, width), generator=draw).double() - 2.0
    positive = torch.randint(8, (rows,), generator=draw)
    others = (torch.rand(rows, width, generator=draw) < 0.15) if several else torch.zeros(rows, width, dtype=torch.bool)
    others[torch.arange(rows), positive] = False
    others[:, 8:] = False
    negatives = torch.randint(width, (rows, 5), generator=draw)
    return Ranked(scores=scores, positive=positive, negatives=negatives, others=others, n_positives=8)


def candidates_of(given, row, candidates, leave_out):
    own, right = int(given.positive[row]), given.others[row].tolist()
    if candidates.startswith("negatives"):
        listed = given.negatives[row, : int(candidates.split(":")[1])].tolist()
        return [place for place in listed if not (leave_out and (place == own or right[place]))]
    width = given.n_positives if candidates == "positives" else given.scores.shape[1]
    return [place for place in range(width) if place != own and not (leave_out and right[place])]


def plain(given, value, candidates, leave_out):
    """The mean over queries of the mean over all orders of equal scores of `value(rank, number of candidates)`, by brute force."""
    found = []
    for row in range(len(given.scores)):
        own = given.scores[row, given.positive[row]].item()
        rivals = [given.scores[row, place].item() for place in candidates_of(given, row, candidates, leave_out)]
        if not rivals:
            continue
        above, ties = sum(rival > own for rival in rivals), sum(rival == own for rival in rivals)
        found.append(sum(value(above + place + 1, len(rivals)) for place in range(ties + 1)) / (ties + 1))
    return sum(found) / len(found)


METRICS = {
    "auc": (AUC, {}, lambda rank, count: (count - rank + 1) / count),
    "mrr": (MRR, {}, lambda rank, count: 1 / rank),
    "recall": (Recall, {"k": 3}, lambda rank, count: float(rank <= 3)),
    "ndcg": (NDCG, {}, lambda rank, count: 1 / math.log2(1 + rank)),
}


@pytest.mark.parametrize("leave_out", [True, False])
@pytest.mark.parametrize("candidates", ["catalogue", "positives", "negatives:1", "negatives:5"])
@pytest.mark.parametrize("name", METRICS)
def test_equals_a_plain_loop_with_ties_and_negative_scores(name, candidates, leave_out):
    make, options, value = METRICS[name]
    metric = make(candidates=candidates, leave_out_others=leave_out, **options)
    given = ranked()
    for part in (slice(0, 7), slice(7, None)):
        pick = {key: field[part] for key, field in vars(given).items() if isinstance(field, torch.Tensor)}
        metric.update(Ranked(**pick, n_positives=given.n_positives))
    assert metric.compute().item() == pytest.approx(plain(given, value, candidates, leave_out), abs=1e-6)


@pytest.mark.parametrize("level", [-3.0, 0.0, 5.0])
def test_a_constant_scorer_gets_exactly_chance(level):
    given = ranked(several=False)
    given = Ranked(**{**vars(given), "scores": torch.full_like(given.scores, level)})
    harmonic = sum(1 / rank for rank in range(1, 13)) / 12
    chance = {"auc": 0.5, "mrr": harmonic, "recall": 3 / 12, "ndcg": sum(1 / math.log2(1 + rank) for rank in range(1, 13)) / 12}
    for name, (make, options, _) in METRICS.items():
        metric = make(candidates="catalogue", **options)
        metric.update(given)
        assert metric.compute().item() == pytest.approx(chance[name], abs=1e-6), name


def test_the_mean_over_tied_places_is_the_mean_over_all_orders():
    scores = torch.tensor([[1.0, 1.0, 0.0, 1.0]]).double()
    given = Ranked(
        scores=scores, positive=torch.tensor([0]), negatives=torch.zeros(1, 0).long(), others=torch.zeros(1, 4).bool(), n_positives=4
    )
    metric = MRR()
    metric.update(given)
    orders = [1 / (1 + order.index(0)) for order in itertools.permutations([0, 1, 3])]
    assert metric.compute().item() == pytest.approx(sum(orders) / len(orders), abs=1e-7)


def test_scores_that_are_not_finite_are_never_left_out():
    given = ranked()
    given.scores[3, 0] = torch.nan
    metric = AUC()
    metric.update(given)
    assert metric.compute().isnan()
    assert metric.n_undefined == 0


def test_a_query_without_candidates_has_no_value_and_is_counted():
    given = ranked()
    given.others[0] = True
    given.others[0, given.positive[0]] = False
    metric = AUC()
    metric.update(given)
    assert metric.n_undefined == 1
    assert metric.compute().item() == pytest.approx(plain(given, METRICS["auc"][2], "catalogue", True), abs=1e-6)


def test_too_short_lists_are_an_error():
    given = ranked()
    with pytest.raises(UserError, match="fewer negatives"):
        AUC(candidates="negatives:6").update(given)
    given.negatives[2, 4] = -1
    with pytest.raises(UserError, match="fewer negatives"):
        AUC(candidates="negatives:5").update(given)
    AUC(candidates="negatives:4").update(given)


@pytest.mark.parametrize("wrong", ["", "negatives", "negatives:0", "negatives:-1", "everything", "positives:3"])
def test_unknown_candidates_are_named(wrong):
    with pytest.raises(UserError, match="candidates"):
        AUC(candidates=wrong)
