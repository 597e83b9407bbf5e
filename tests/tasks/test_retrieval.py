import json
import math
from typing import ClassVar

import lightning.pytorch as L
import pytest
import torch

from fashiongen.batches import QueryBatch, to_float
from fashiongen.data import FashionTaobaoTB
from fashiongen.errors import UserError
from fashiongen.evaluation import Evaluate
from fashiongen.methods.base import Method
from fashiongen.metrics import AUC, MRR, Recall
from fashiongen.tasks.retrieval import Catalogue
from fashiongen.wardrobe import write_fashion_taobao_tb

SIZE = (8, 8)
METRICS = {
    "auc_all": (AUC, {"candidates": "negatives:1", "leave_out_others": False}),
    "mrr_all": (MRR, {"candidates": "positives", "leave_out_others": False}),
    "auc": (AUC, {"candidates": "catalogue"}),
    "recall": (Recall, {"candidates": "catalogue", "k": 10}),
}


class Colours(Method):
    """Prefers bottoms with the top's mean colour; counts how often it has embedded each bottom."""

    inner_product: ClassVar[bool] = False

    def __init__(self):
        super().__init__()
        self.embedded = []

    def embed_query(self, batch):
        assert batch.positive is batch.negatives is batch.others is None
        return to_float(batch.top).mean(dim=(2, 3))

    def embed_candidate(self, batch):
        self.embedded += batch.ids
        return to_float(batch.bottom).mean(dim=(2, 3))

    def score(self, query, candidate):
        return -torch.cdist(query, candidate, compute_mode="donot_use_mm_for_euclid_dist")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_fashion_taobao_tb(tmp_path_factory.mktemp("world") / "copy", people=200, size=SIZE, seed=0, workers=1)


def judged(method, root, out=None, batch_size=7):
    data = FashionTaobaoTB(root=str(root), size=SIZE, batch_size=batch_size, num_workers=0)
    evaluate = Evaluate("retrieval", "toy", {name: make(**options) for name, (make, options) in METRICS.items()}, out=out)
    options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    L.Trainer(callbacks=[evaluate], **options).test(method, datamodule=data, verbose=False)
    return {name: result["value"] for name, result in evaluate.results.items()}, data


def plain(method, data):
    """The same with a plain loop over pairs."""

    def embed(dataset, index, method):
        return method(dataset[index].without_target())

    catalogue, queries = data.catalogue(), data.test_dataloader().dataset
    found = {name: [] for name in METRICS}
    for index in range(len(queries)):
        query, row = embed(queries, index, method.embed_query), queries[index]
        scores = {
            id_: method.score(query, embed(catalogue, place, method.embed_candidate)).item() for place, id_ in enumerate(catalogue.ids)
        }
        own = scores[row.positive[0]]
        wrong = [score for id_, score in scores.items() if id_ != row.positive[0] and id_ not in row.others[0]]
        listed = [scores[id_] for id_ in catalogue.ids[: catalogue.n_positives] if id_ != row.positive[0]]
        first = scores[row.negatives[0][0]]
        found["auc_all"].append(float(own > first) + 0.5 * float(own == first))
        found["mrr_all"].append(1 / (1 + sum(score > own for score in listed)))
        found["auc"].append(sum((own > score) + 0.5 * (own == score) for score in wrong) / len(wrong))
        found["recall"].append(float(sum(score > own for score in wrong) < 10))
    return {name: sum(values) / len(values) for name, values in found.items()}


def test_a_test_equals_the_plain_loop_over_pairs_and_embeds_each_bottom_once(root, tmp_path):
    method = Colours()
    values, data = judged(method, root, out=str(tmp_path / "record.json"))
    assert sorted(method.embedded) == sorted(data.catalogue().ids)
    assert values == pytest.approx(plain(method, data), abs=1e-6)
    assert not math.isclose(values["auc"], 0.5, abs_tol=0.01)
    record = json.loads((tmp_path / "record.json").read_text())
    assert (record["task"], record["protocol"], record["n_samples"]) == ("retrieval", "toy", 30)
    assert record["reference"]["catalogue"] == str(len(data.catalogue()))
    assert record["metrics"]["auc"]["ci95"][0] < values["auc"] < record["metrics"]["auc"]["ci95"][1]
    rows = [json.loads(line) for line in (tmp_path / record["per_sample"]).read_text().splitlines()]
    assert len(rows) == 30
    cluster = {row["id"]: row["cluster"] for row in rows}
    pairs = data.test_dataloader().dataset.rows
    linked = [
        (one, other) for one in pairs for other in pairs if one.id < other.id and (one.top == other.top or one.bottom == other.bottom)
    ]
    assert record["clusters"] == "top or bottom" and linked and all(cluster[one.id] == cluster[other.id] for one, other in linked)
    assert 30 - len(linked) <= len(set(cluster.values())) < 30
    assert sum(row["recall"] for row in rows) / 30 == pytest.approx(values["recall"], abs=1e-6)


def test_the_result_does_not_depend_on_the_batch_size(root):
    assert judged(Colours(), root, batch_size=1)[0] == judged(Colours(), root, batch_size=30)[0]


def test_blocks_of_candidates_give_the_scores_of_all_at_once():
    draw = torch.Generator().manual_seed(0)
    queries, candidates = torch.randn(5, 3, generator=draw), torch.randn(23, 3, generator=draw)
    catalogue = Catalogue([str(number) for number in range(23)], candidates, 23)
    assert torch.equal(catalogue.scores(Colours(), queries, block=4), catalogue.scores(Colours(), queries))


class Broken(Colours):
    def score(self, query, candidate):
        return torch.full((len(query), len(candidate)), torch.nan)


class Shapeless(Colours):
    def score(self, query, candidate):
        return query.sum(dim=1)


class Products(Colours):
    def score(self, query, candidate):
        return query @ candidate.T


@pytest.mark.parametrize("count", [1, 7])
def test_equal_candidates_have_equal_scores_however_many_queries_there_are(count):
    """A matrix product sums its last columns in another order."""
    method = Products()
    candidates = torch.randn(1, 130, generator=torch.Generator().manual_seed(0)).repeat(257, 1)
    queries = torch.randn(count, 130, generator=torch.Generator().manual_seed(1))
    scores = Catalogue([str(index) for index in range(257)], candidates, 1).scores(method, queries)
    assert scores.shape == (count, 257)
    assert (scores == scores[:, :1]).all()


def test_errors_of_a_method_are_never_hidden(root, tmp_path):
    values, _ = judged(Broken(), root, tmp_path / "broken.json")
    assert all(math.isnan(value) for value in values.values())
    record = json.loads((tmp_path / "broken.json").read_text())
    assert f"{record['n_samples']} of {record['n_samples']} predictions are not finite" in json.dumps(record)
    with pytest.raises(TypeError, match=r"score must return \(B, C\)"):
        judged(Shapeless(), root)


class NoRanker(Method):
    def take_off(self, batch):
        return batch.person


def test_a_method_that_cannot_rank_is_refused_with_the_tasks_it_supports(root):
    with pytest.raises(UserError, match=r"NoRanker does not support this task; it supports: vtoff"):
        judged(NoRanker(), root)


@pytest.mark.parametrize("lacking", ["positive", "negatives", "others"])
def test_queries_without_their_truth_cannot_be_ranked(lacking):
    truth = {"positive": ["b"], "negatives": [("c",)], "others": [()]} | {lacking: None}
    with pytest.raises(TypeError, match="evaluated on batches of queries with their positives, not on QueryBatch"):
        Catalogue.rank(None, None, None, QueryBatch(ids=["a"], top_ids=["a"], **truth))
