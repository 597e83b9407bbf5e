"""The catalogue of a retrieval test: every candidate is embedded once, then each batch of queries is scored against all of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import lightning.pytorch as L
import torch
import torch.distributed as dist
from rich.progress import track
from torch import Tensor

from fashiongen.batches import Batch, CandidateBatch, QueryBatch
from fashiongen.errors import UserError
from fashiongen.metrics.ranking import Ranked

# Candidates scored at a time; with queries in batches this bounds the memory of one block.
BLOCK = 65_536


class Catalogue:
    """Embedded candidates, and what a test's lists say about them."""

    def __init__(self, ids: Sequence[str], embeddings: Tensor, n_positives: int) -> None:
        """Take candidates in order.

        Args:
            ids: C ids, each once.
            embeddings: (C, E).
            n_positives: how many of them, the first ones, are right for some query.
        """
        self.ids = list(ids)
        # Equal candidates are scored once: a matrix product adds up in another order near its edges, and would break ties by place.
        self.distinct, self._which = embeddings.unique(dim=0, return_inverse=True)
        self.n_positives = n_positives
        self._place = {id_: index for index, id_ in enumerate(self.ids)}

    def __len__(self) -> int:
        """Return the number of candidates, C."""
        return len(self.ids)

    def places(self, ids: Iterable[str]) -> list[int]:
        """Return where candidates stand."""
        return [self._place[id_] for id_ in ids]

    def scores(self, method: Any, queries: Tensor, block: int = BLOCK) -> Tensor:  # noqa: ANN401  a method that ranks bottoms
        """Score embedded queries (B, D) against all candidates, `block` of them at a time: (B, C).

        Raises:
            TypeError: if the method's scores have another shape.
        """
        parts = []
        for candidates in self.distinct.split(block):
            part, wanted = method.score(queries, candidates), (len(queries), len(candidates))
            if part.shape != wanted:
                raise TypeError(f"{type(method).__name__}.score must return (B, C) = {wanted}, not {tuple(part.shape)}")
            parts.append(part)
        return torch.cat(parts, dim=1)[:, self._which]

    def rank(self, method: Any, queries: object, batch: Batch) -> Ranked:  # noqa: ANN401  a method that ranks bottoms
        """Score a batch whose embeddings `test_step` returned, and look up its positives, negatives and others.

        Raises:
            TypeError: if what the verb returned are not the batch's embeddings.
        """
        if not isinstance(batch, QueryBatch) or batch.positive is None or batch.negatives is None or batch.others is None:
            raise TypeError(f"retrieval is judged by batches of queries with their positives, not by {type(batch).__name__}")
        if not isinstance(queries, Tensor) or queries.ndim != 2 or len(queries) != len(batch):
            raise TypeError(f"{type(method).__name__}.embed_query must return (B, D) for {len(batch)} queries")
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


@torch.no_grad()
def encode_catalogue(trainer: L.Trainer, module: Any) -> Catalogue:  # noqa: ANN401  a method that ranks bottoms
    """Embed each bottom of the tested split once; several processes share the work and all get the whole.

    Raises:
        UserError: if there is no bottom.
    """
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    data.trainer = trainer  # tells the data module which share is this process's
    listed = data.catalogue("test")
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
            parts.append(module.embed_candidate(batch))
    module.train(training)
    ids, embeddings = _shared(ids, torch.cat(parts) if parts else None, module.device)
    order = {id_: index for index, id_ in enumerate(ids)}
    return Catalogue(listed.ids, embeddings[[order[id_] for id_ in listed.ids]], listed.n_positives)


def _on_device(batch: CandidateBatch, device: torch.device) -> CandidateBatch:
    if batch.bottom is not None:
        batch.bottom = batch.bottom.to(device)
    return batch


def _shared(ids: list[str], embeddings: Tensor | None, device: torch.device) -> tuple[list[str], Tensor]:
    """Join what the processes have embedded."""
    mine = (ids, None if embeddings is None else embeddings.cpu())
    parts: list[Any] = [mine]
    if dist.is_available() and dist.is_initialized():
        parts = [None] * dist.get_world_size()
        dist.all_gather_object(parts, mine)
    together = torch.cat([part for _, part in parts if part is not None]).to(device)
    return [id_ for part_ids, _ in parts for id_ in part_ids], together
