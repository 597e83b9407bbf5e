import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fashiongen.errors import UserError
from fashiongen.retrieval import embeddings, index
from fashiongen.retrieval.embeddings import Embeddings
from fashiongen.retrieval.index import Found, Index, check_kind, recall, search_exactly


class Products:
    inner_product = True
    name = "products"

    def __init__(self):
        self.blocks = []

    def score(self, query, candidate):
        self.blocks.append((len(query), len(candidate)))
        return query @ candidate.T


class Distances(Products):
    inner_product = False
    name = "distances"

    def score(self, query, candidate):
        return -torch.cdist(query, candidate, p=1.0)


def stored(folder: Path, values: torch.Tensor, rows=None) -> Embeddings:
    values.numpy().tofile(folder / "rows.f32")
    return Embeddings(folder / "rows.f32", np.arange(len(values)) if rows is None else np.array(rows), values.shape[1])


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 30 candidates of 8 numbers, and of 4 queries."""
    monkeypatch.setattr(embeddings, "BLOCK_BYTES", 30 * 8 * 4)
    monkeypatch.setattr(index, "QUERIES", 4)


@pytest.mark.parametrize("k", [7, 70])  # less and more than a block holds
@pytest.mark.parametrize("method", [Products(), Distances()], ids=lambda method: method.name)
def test_the_exact_search_equals_brute_force_on_ties_too(method, k, tmp_path, small_blocks):
    values = torch.randint(-2, 3, (100, 8)).float()  # many scores are equal
    queries = torch.randint(-2, 3, (9, 8)).float()
    found = search_exactly(method, queries, stored(tmp_path, values), k)
    wanted = method.score(queries, values).sort(dim=1, descending=True, stable=True)
    assert torch.equal(found.scores, wanted.values[:, :k])
    assert torch.equal(found.places, wanted.indices[:, :k])
    assert (wanted.values[:, k - 1] == wanted.values[:, k]).any() and (wanted.values < 0).any()


def test_a_constant_score_keeps_the_catalogues_order(tmp_path, small_blocks):
    found = search_exactly(Products(), torch.zeros(2, 8), stored(tmp_path, torch.randn(100, 8)), 20)
    assert found.places.tolist() == [list(range(20))] * 2


def test_rows_may_lie_in_any_order_and_fewer_than_wanted(tmp_path, small_blocks):
    values, queries = torch.randn(100, 8), torch.randn(3, 8)
    rows = torch.randperm(100)[:61].tolist()
    catalogue = stored(tmp_path, values, rows)
    assert torch.equal(torch.cat([block for _, block in catalogue.blocks()]), values[rows])
    found = search_exactly(Products(), queries, catalogue, 1000)
    assert found.places.shape == (3, 61)
    assert torch.equal(found.places.sort(dim=1).values, torch.arange(61).expand(3, 61))
    torch.testing.assert_close(found.scores, (queries @ values[rows].T).gather(1, found.places))


def test_memory_holds_a_block_of_scores_and_of_candidates(tmp_path, small_blocks):
    method, catalogue = Products(), stored(tmp_path, torch.randn(1000, 8))
    search_exactly(method, torch.randn(50, 8), catalogue, 10)
    assert max(rows for rows, _ in method.blocks) == 4 and max(columns for _, columns in method.blocks) == 30
    assert sum(rows * columns for rows, columns in method.blocks) == 50 * 1000


class Broken(Products):
    def score(self, query, candidate):
        return (query @ candidate.T).where(candidate[:, 0] != candidate[-1, 0], torch.nan)


class Shapeless(Products):
    def score(self, query, candidate):
        return query @ query.T


def test_a_broken_score_is_never_hidden(tmp_path):
    catalogue = stored(tmp_path, torch.randn(100, 8))
    with pytest.raises(UserError, match="Broken gives scores that are not finite"):
        search_exactly(Broken(), torch.randn(3, 8), catalogue, 5)
    with pytest.raises(TypeError, match=r"Shapeless.score must return \(B, C\) = \(3, 100\)"):
        search_exactly(Shapeless(), torch.randn(3, 8), catalogue, 5)


def grouped(count: int, groups: int = 20) -> torch.Tensor:
    return torch.randn(groups, 8).repeat(count // groups + 1, 1)[:count] + 0.1 * torch.randn(count, 8)


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_an_index_that_looks_everywhere_equals_the_exact_search(kind, tmp_path, small_blocks):
    pytest.importorskip("faiss")
    values, queries = grouped(400), torch.randn(9, 8)
    catalogue = stored(tmp_path, values, torch.randperm(400).tolist())
    exact = search_exactly(Products(), queries, catalogue, 10)
    made = Index(kind, catalogue, tmp_path)
    found = made.search(queries, 10, effort=400)
    assert torch.equal(found.places, exact.places)
    torch.testing.assert_close(found.scores, exact.scores)
    assert recall(found, exact) == 1.0
    many = torch.randn(300, 8)
    best = search_exactly(Products(), many, catalogue, 1)
    assert recall(made.search(many, 1, effort=1), best) < recall(made.search(many, 1, effort=400), best)


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_an_index_is_built_once_for_a_catalogue(kind, tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    values, queries = grouped(200), torch.randn(3, 8)
    first = Index(kind, stored(tmp_path, values), tmp_path).search(queries, 5, 200)
    build = {"ivf": "_build_lists", "hnsw": "_build_graph"}[kind]
    with monkeypatch.context() as patch:
        patch.setattr(Index, build, None)
        assert torch.equal(Index(kind, stored(tmp_path, values), tmp_path).search(queries, 5, 200).places, first.places)
    fewer = Index(kind, stored(tmp_path, values, range(150)), tmp_path).search(queries, 5, 200)
    assert fewer.places.max() < 150
    assert not list(tmp_path.glob(".*part")) and not list(tmp_path.glob(".lists-*"))
    for file in tmp_path.glob("*.faiss"):
        file.write_bytes(b"no index")
    with pytest.raises(UserError, match=r"faiss cannot be read: delete it"):
        Index(kind, stored(tmp_path, values), tmp_path)


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_a_catalogue_of_one_and_what_is_not_found(kind, tmp_path):
    pytest.importorskip("faiss")
    found = Index(kind, stored(tmp_path, torch.ones(1, 8)), tmp_path).search(torch.ones(2, 8), 5, 64)
    assert found.places.tolist() == [[0], [0]] and found.scores.tolist() == [[8.0], [8.0]]
    lists = Index("ivf", stored(tmp_path, grouped(400)), tmp_path).search(torch.randn(20, 8), 300, 1)
    assert ((lists.places == -1) == (lists.scores == -torch.inf)).all() and (lists.places == -1).any()


def test_recall_counts_scores_not_places():
    exact = Found(torch.tensor([[3.0, 2.0], [5.0, 5.0]]), torch.tensor([[4, 1], [0, 1]]))
    assert recall(Found(torch.tensor([[3.0, 1.0], [5.0, 5.0]]), torch.tensor([[4, 7], [8, 9]])), exact) == 0.75
    assert recall(Found(torch.tensor([[3.0, 2.0], [5.0, -torch.inf]]), torch.tensor([[4, 1], [0, -1]])), exact) == 0.75


def test_unsupported_uses_of_an_index_are_one_line_errors(monkeypatch):
    check_kind("exact", Distances())
    with pytest.raises(UserError, match=r"--index ivf needs a score that is an inner product, and distances's is not: use --index exact"):
        check_kind("ivf", Distances())
    with pytest.raises(UserError, match=r"--index flat: there is no such index; choose among exact, ivf, hnsw"):
        check_kind("flat", Products())
    monkeypatch.setitem(sys.modules, "faiss", None)
    check_kind("exact", Products())
    with pytest.raises(UserError, match=r"--index hnsw needs faiss: pip install -e '\.\[scale\]', or use --index exact"):
        check_kind("hnsw", Products())
