"""Top-bottom retrieval (`retrieval`): rank all bottoms of a catalogue for a top.

Each bottom is embedded once, before the first query; then each batch of queries is scored against all bottoms.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import lightning.pytorch as L
import torch
from rich.progress import track
from torch import Tensor

from fashiongen.batches import Batch, CandidateBatch, QueryBatch, Ranked
from fashiongen.errors import UserError
from fashiongen.nn.processes import gather
from fashiongen.tasks.base import Data, PredictionFiles, Task
from fashiongen.tasks.base import Protocol as EvaluationProtocol

# Candidates scored at once; together with the query batch size this bounds memory.
BLOCK = 65_536
RANKS, CANDIDATES = "ranks", "candidates"
"""The table of kept rankings, and the list of its columns."""


@runtime_checkable
class RanksBottoms(Protocol):
    """The interface of retrieval: each top and each bottom is embedded once, then all pairs are scored in blocks.

    Attributes:
        inner_product: whether `score` is the matrix product of the embeddings, so that a nearest-neighbour index can be used.
    """

    inner_product: ClassVar[bool]

    def embed_query(self, batch: QueryBatch) -> Tensor:
        """Embed tops: (B, D), in the order of `batch.ids`."""

    def embed_candidate(self, batch: CandidateBatch) -> Tensor:
        """Embed bottoms: (C, E), in the order of `batch.ids`."""

    def score(self, query: Tensor, candidate: Tensor) -> Tensor:
        """Score all pairs of embeddings (B, D) and (C, E): (B, C), higher is better."""


class Candidates(Protocol):
    """A Dataset of distinct bottoms.

    Attributes:
        ids: first the positives of any query, then the others.
        n_positives: how many are a positive of some query.
    """

    ids: list[str]
    n_positives: int

    def __len__(self) -> int:
        """Return their number, C."""


@runtime_checkable
class CatalogueData(Protocol):
    """What retrieval requires of a DataModule besides `Data`."""

    def catalogue(self, split: str) -> Candidates:
        """Return the bottoms of a split."""

    def catalogue_dataloader(self, split: str) -> Any:  # noqa: ANN401  Lightning's own union of loaders
        """Return a loader of this process's share of the bottoms, in batches of candidates."""


class Retrieval(Task):
    """Evaluated by the rank of a query's positive among a metric's candidates."""

    name: ClassVar[str] = "retrieval"
    batch: ClassVar[type[Batch]] = QueryBatch
    interface: ClassVar[type] = RanksBottoms
    method: ClassVar[str] = "embed_query"
    shares: ClassVar[str] = "top or bottom"
    kept_as: ClassVar[typing.Literal["images", "rows"]] = "rows"

    def check_data(self, data: Data, protocol: EvaluationProtocol) -> None:
        """Check that the data have a catalogue.

        Raises:
            UserError: if not.
        """
        if not isinstance(data, CatalogueData):
            raise UserError(f"{self.name} needs a catalogue to rank, which {data.name} does not have; use a dataset of tops and bottoms")

    def start(self, trainer: L.Trainer, module: L.LightningModule, protocol: EvaluationProtocol) -> None:
        """Embed the catalogue."""
        self.catalogue = encode_catalogue(trainer, module)

    def check_prediction(self, method: object, prediction: object, batch: Batch) -> Tensor:
        """Return the embedded queries, (B, D).

        Raises:
            TypeError: if the prediction has another type or shape.
        """
        if not isinstance(prediction, Tensor) or prediction.ndim != 2 or len(prediction) != len(batch):
            raise TypeError(f"{type(method).__name__}.embed_query must return (B, D) for {len(batch)} queries")
        return prediction

    def update(self, method: L.LightningModule, prediction: Tensor, batch: Batch, protocol: EvaluationProtocol) -> int:
        """Rank the catalogue for each query."""
        ranked = self.catalogue.rank(method, prediction, batch)
        self.scores = ranked.scores
        for metric in protocol.metrics.values():
            metric.update(ranked)
        return int((~ranked.scores.isfinite().all(dim=1)).sum())

    def shared_keys(self, batch: Batch) -> list[tuple[str, ...]]:
        """Return each row's top and its matching bottom: both may occur in several rows."""
        assert isinstance(batch, QueryBatch) and batch.positive is not None
        return [(f"top:{top}", f"bottom:{bottom}") for top, bottom in zip(batch.top_ids, batch.positive, strict=True)]

    def images(self, prediction: Any, batch: Batch) -> list[tuple[str, Tensor]]:  # noqa: ANN401
        """Raise: a ranking is not an image.

        Raises:
            UserError: always, with what to use instead.
        """
        raise UserError("predict writes images, and a ranking is not an image: `fashiongen retrieve` ranks a folder of bottoms for a top")

    def kept_rows(self, prediction: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the rank of every bottom, (B, C): see `dense_ranks`. Metrics depend on nothing else."""
        return {RANKS: dense_ranks(self.scores)}

    def kept_labels(self) -> dict[str, list[str]]:
        """Return the ids of the ranked bottoms, in the order of the columns."""
        return {CANDIDATES: self.catalogue.ids}

    def start_judging(self, trainer: L.Trainer, module: L.LightningModule, protocol: EvaluationProtocol, files: PredictionFiles) -> None:
        """Match the kept columns with the catalogue; nothing is embedded.

        Raises:
            UserError: if another catalogue was ranked.
        """
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # Lightning does not declare it
        listed: Candidates = data.catalogue("test")
        ranked = files.labels(CANDIDATES)
        if sorted(ranked) != sorted(listed.ids):
            absent = sorted(set(listed.ids) - set(ranked))
            what = f"lack {len(absent)} of its bottoms, first {absent[0]}" if absent else f"rank {len(ranked)} bottoms, not {len(listed)}"
            raise UserError(f"the kept rankings are of another catalogue than {data.name}'s: they {what}; give the data of their test")
        place = {id_: column for column, id_ in enumerate(ranked)}
        self.catalogue = KeptCatalogue(listed.ids, [place[id_] for id_ in listed.ids], listed.n_positives)

    def read_prediction(self, files: PredictionFiles, batch: Batch) -> Tensor:
        """Return the negative ranks as scores, (B, C) in the kept order of columns; NaN where a score was not finite.

        Raises:
            UserError: if there is not a rank for each bottom.
        """
        ranks = files.rows(RANKS, batch.ids)
        if ranks.shape[1] != len(self.catalogue):
            raise UserError(f"the kept rankings are damaged: {ranks.shape[1]} ranks in a row for {len(self.catalogue)} bottoms")
        return torch.where(ranks < 0, torch.nan, -ranks.float())

    def reference_info(self, data: Data, protocol: EvaluationProtocol) -> dict[str, str]:
        """Return which catalogue was ranked."""
        size = str(len(self.catalogue))
        return {"dataset": data.name, "split": data.split, "field": "bottom", "catalogue": size, "fingerprint": data.fingerprint()}


class Catalogue:
    """Embedded candidates and their positions in the catalogue."""

    def __init__(self, ids: Sequence[str], embeddings: Tensor, n_positives: int) -> None:
        """Store candidates in order.

        Args:
            ids: C distinct ids.
            embeddings: (C, E).
            n_positives: the first `n_positives` candidates are positives of some query.
        """
        self.ids = list(ids)
        # Equal candidates are scored once: near its edges a matrix product sums in another order, which would break ties by position.
        self.distinct, self._which = embeddings.unique(dim=0, return_inverse=True)
        self.n_positives = n_positives
        self._place = {id_: index for index, id_ in enumerate(self.ids)}

    def __len__(self) -> int:
        """Return the number of candidates, C."""
        return len(self.ids)

    def places(self, ids: Iterable[str]) -> list[int]:
        """Return the positions of candidates in the catalogue."""
        return [self._place[id_] for id_ in ids]

    def scores(self, method: RanksBottoms | L.LightningModule, queries: Tensor, block: int = BLOCK) -> Tensor:
        """Score embedded queries (B, D) against all candidates, in blocks of `block` candidates: (B, C).

        Raises:
            TypeError: if the method's scores have another shape.
        """
        ranker = typing.cast(RanksBottoms, method)
        parts = []
        for candidates in self.distinct.split(block):
            part, expected = ranker.score(queries, candidates), (len(queries), len(candidates))
            if part.shape != expected:
                raise TypeError(f"{type(method).__name__}.score must return (B, C) = {expected}, not {tuple(part.shape)}")
            parts.append(part)
        return torch.cat(parts, dim=1)[:, self._which]

    def rank(self, method: RanksBottoms | L.LightningModule, queries: Tensor, batch: Batch) -> Ranked:
        """Score embedded queries (B, D) of a batch, and look up its positives, negatives and others.

        Raises:
            TypeError: if the batch has no positives.
        """
        if not isinstance(batch, QueryBatch) or batch.positive is None or batch.negatives is None or batch.others is None:
            raise TypeError(f"retrieval is evaluated on batches of queries with their positives, not on {type(batch).__name__}")
        with torch.no_grad():
            scores = self.scores(method, queries)
        others = torch.zeros(scores.shape, dtype=torch.bool)
        for row, ids in enumerate(batch.others):
            others[row, self.places(ids)] = True
        longest = max(len(negatives) for negatives in batch.negatives)
        negatives = torch.tensor(
            [[*self.places(listed), *[-1] * (longest - len(listed))] for listed in batch.negatives], dtype=torch.int64
        ).reshape(len(batch), longest)
        device = scores.device
        positive = torch.tensor(self.places(batch.positive), device=device)
        return Ranked(
            scores=scores, positive=positive, negatives=negatives.to(device), others=others.to(device), n_positives=self.n_positives
        )


class KeptCatalogue(Catalogue):
    """Candidates whose scores are read from a file."""

    def __init__(self, ids: Sequence[str], columns: Sequence[int], n_positives: int) -> None:
        """Store candidates in order, with the column of each in the file; see `Catalogue`."""
        super().__init__(ids, torch.arange(len(ids))[:, None], n_positives)
        self.columns = torch.as_tensor(columns)

    def scores(self, method: RanksBottoms | L.LightningModule, queries: Tensor, block: int = BLOCK) -> Tensor:
        """Return the scores (B, C) that were read, in the order of the ids."""
        return queries[:, self.columns.to(queries.device)]


def dense_ranks(scores: Tensor) -> Tensor:
    """Return how many distinct higher scores there are in each row of `scores` (B, C), int32; -1 where a score is not finite.

    >>> dense_ranks(torch.tensor([[0.5, 2.0, 0.5, float("nan")]])).tolist()
    [[1, 0, 1, -1]]
    """
    scores = scores.cpu()
    finite = scores.isfinite()
    values, order = scores.where(finite, -torch.inf).sort(dim=1, descending=True)
    higher = torch.zeros_like(order)
    higher[:, 1:] = (values[:, 1:] != values[:, :-1]).cumsum(dim=1)
    return torch.empty_like(higher).scatter_(1, order, higher).where(finite, -1).to(torch.int32)


@torch.no_grad()
def encode_catalogue(trainer: L.Trainer, module: L.LightningModule) -> Catalogue:
    """Embed each bottom of the tested split once; processes share the work, and each gets the whole catalogue.

    Raises:
        UserError: if there is no bottom.
    """
    data: Any = trainer.datamodule  # type: ignore[attr-defined]  # Lightning does not declare it
    data.trainer = trainer  # determines this process's share
    ranker = typing.cast(RanksBottoms, module)
    listed: Candidates = data.catalogue("test")
    if not len(listed):
        raise UserError(f"retrieval: {data.name} has no bottom to rank")
    loader = data.catalogue_dataloader("test")
    ids: list[str] = []
    parts: list[Tensor] = []
    training = module.training
    module.eval()
    with trainer.precision_plugin.forward_context():
        for batch in track(loader, "catalogue", total=len(loader), disable=not trainer.is_global_zero, transient=True):
            batch = _on_device(batch, module.device)
            ids += batch.ids
            parts.append(ranker.embed_candidate(batch))
    module.train(training)
    ids, embeddings = _join_processes(ids, torch.cat(parts) if parts else None, module.device)
    order = {id_: index for index, id_ in enumerate(ids)}
    return Catalogue(listed.ids, embeddings[[order[id_] for id_ in listed.ids]], listed.n_positives)


def _on_device(batch: CandidateBatch, device: torch.device) -> CandidateBatch:
    if batch.bottom is not None:
        batch.bottom = batch.bottom.to(device)
    return batch


def _join_processes(ids: list[str], embeddings: Tensor | None, device: torch.device) -> tuple[list[str], Tensor]:
    """Concatenate the ids and embeddings of all processes."""
    parts = gather((ids, None if embeddings is None else embeddings.cpu()))
    together = torch.cat([part for _, part in parts if part is not None]).to(device)
    return [id_ for part_ids, _ in parts for id_ in part_ids], together
