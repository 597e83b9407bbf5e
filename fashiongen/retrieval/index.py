"""Finds the best candidates of a catalogue: exactly, for any score, or with a faiss index if the score is an inner product.

Neither search holds the whole catalogue or all scores in memory; building `hnsw` holds the catalogue.
"""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fashiongen.data.user_cache import locked
from fashiongen.errors import UserError
from fashiongen.retrieval.embeddings import Embeddings

Kind = Literal["exact", "ivf", "hnsw"]
QUERIES = 64  # scored at once: together with a block of candidates this bounds memory
LINKS = 32  # per item in `hnsw`: M of Malkov and Yashunin (2018)
TRAINED_ON = 39  # training items per list of `ivf`: faiss's minimum without a warning
TOLERANCE = 1e-5  # for scores summed in another order


@dataclass(frozen=True)
class Found:
    """The best candidates of each query, best first.

    Attributes:
        scores: (Q, k) float32; -inf if an index found fewer.
        places: (Q, k) int64, their positions in the catalogue; -1 if an index found fewer.
    """

    scores: Tensor
    places: Tensor


def check_kind(kind: str, method: Any) -> None:  # noqa: ANN401  a method that ranks bottoms
    """Check that the index exists, suits the method's score, and is installed.

    Raises:
        UserError: if not.
    """
    if kind not in get_args(Kind):
        raise UserError(f"--index {kind}: there is no such index; choose among {', '.join(get_args(Kind))}")
    if kind == "exact":
        return
    if not method.inner_product:
        name = getattr(method, "name", "") or type(method).__name__
        raise UserError(f"--index {kind} needs a score that is an inner product, and {name}'s is not: use --index exact, which takes any")
    _faiss(kind)


@torch.no_grad()
def search_exactly(method: Any, queries: Tensor, catalogue: Embeddings, k: int) -> Found:  # noqa: ANN401  a method that ranks bottoms
    """Score everything in blocks of queries and candidates, and keep the best; ties are in catalogue order.

    Args:
        method: scores (B, D) with (C, E).
        queries: (Q, D), on the method's device.
        catalogue: C candidates.
        k: number of results per query, at most C.

    Raises:
        TypeError: if the method's scores have another shape.
        UserError: if a score is not finite.
    """
    parts = [Found(torch.empty(len(part), 0), torch.empty(len(part), 0, dtype=torch.int64)) for part in queries.split(QUERIES)]
    for start, candidates in catalogue.blocks():
        candidates = candidates.to(queries.device)
        for number, part in enumerate(queries.split(QUERIES)):
            scores, wanted = method.score(part, candidates), (len(part), len(candidates))
            if scores.shape != wanted:
                raise TypeError(f"{type(method).__name__}.score must return (B, C) = {wanted}, not {tuple(scores.shape)}")
            if not scores.isfinite().all():
                raise UserError(f"{type(method).__name__} gives scores that are not finite: its weights are damaged, or it has diverged")
            best = _best(scores.float(), min(k, len(candidates)))
            joined = torch.cat([parts[number].scores, best.scores.cpu()], dim=1)
            order = joined.sort(dim=1, descending=True, stable=True).indices[:, :k]
            places = torch.cat([parts[number].places, best.places.cpu() + start], dim=1)
            parts[number] = Found(joined.gather(1, order), places.gather(1, order))
    return Found(torch.cat([part.scores for part in parts]), torch.cat([part.places for part in parts]))


def _best(scores: Tensor, k: int) -> Found:
    """Return the k best of each row of (B, C), with ties in catalogue order, which `topk` alone does not guarantee."""
    values, places = scores.topk(k, dim=1)
    tied = (scores >= values[:, -1:]).sum(dim=1) > k
    if tied.any():
        places[tied] = scores[tied].sort(dim=1, descending=True, stable=True).indices[:, :k]
    places = places.sort(dim=1).values
    values, order = scores.gather(1, places).sort(dim=1, descending=True, stable=True)
    return Found(values, places.gather(1, order))


class Index:
    """A faiss index of a catalogue, stored in a file.

    `ivf` groups items into lists, which stay on disk: a search reads a few of them. `hnsw` is a neighbour graph, faster and more
    accurate, whose file holds the items too; the file is memory-mapped, so a search reads only what it visits, but it is built in memory.
    """

    def __init__(self, kind: Kind, catalogue: Embeddings, folder: Path) -> None:
        """Open the index of this exact catalogue in `folder`, building it if missing.

        Raises:
            UserError: if faiss is not installed.
        """
        self.kind = kind
        self._lib = _faiss(kind)
        self._lib.omp_set_num_threads(torch.get_num_threads())
        # Rows of a store never change, so their indices identify their content.
        told = f"{catalogue.file.absolute()} {catalogue.width} {LINKS} {self._lib.__version__}\0".encode()
        file = folder / f"{kind}-{hashlib.sha256(told + catalogue.rows.tobytes()).hexdigest()[:16]}.faiss"
        with locked(file):
            if not file.is_file():
                (self._build_lists if kind == "ivf" else self._build_graph)(catalogue, file)
        try:
            self._index = self._lib.read_index(str(file), 0 if kind == "ivf" else self._lib.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise UserError(f"{file} cannot be read: delete it; it will be rebuilt") from error

    def search(self, queries: Tensor, k: int, effort: int) -> Found:
        """Find approximately the k best candidates of each query.

        Args:
            queries: (Q, E).
            k: number of results per query, at most the catalogue's size.
            effort: lists that `ivf` reads (nprobe) or candidates that `hnsw` follows (efSearch): more is slower and misses less.
        """
        if self.kind == "ivf":
            self._index.nprobe = min(effort, self._index.nlist)
        else:
            self._index.hnsw.efSearch = max(effort, k)
        scores, places = self._index.search(queries.float().cpu().numpy(), min(k, self._index.ntotal))
        found = torch.from_numpy(places)
        return Found(torch.where(found >= 0, torch.from_numpy(scores), -torch.inf), found)

    def _build_graph(self, catalogue: Embeddings, file: Path) -> None:
        index = self._lib.IndexHNSWFlat(catalogue.width, LINKS, self._lib.METRIC_INNER_PRODUCT)
        for _, block in catalogue.blocks():
            index.add(block.numpy())
        self._write(index, file)

    def _build_lists(self, catalogue: Embeddings, file: Path) -> None:
        """Build the lists of each block on disk, and merge them there."""
        from faiss.contrib.ondisk import merge_ondisk

        lists = max(1, min(round(4 * math.sqrt(len(catalogue))), len(catalogue) // TRAINED_ON))
        step = max(1, len(catalogue) // (TRAINED_ON * lists))
        sample = torch.cat([block[-start % step :: step] for start, block in catalogue.blocks()])
        width, lib = catalogue.width, self._lib
        trained = lib.IndexIVFFlat(lib.IndexFlatIP(width), width, lists, lib.METRIC_INNER_PRODUCT)
        trained.cp.min_points_per_centroid = 1  # a catalogue of fewer than 39 items has one list
        trained.train(sample.numpy())
        with TemporaryDirectory(dir=file.parent, prefix=".lists-") as scratch:
            parts = []
            for start, block in catalogue.blocks():
                part = lib.clone_index(trained)
                part.add_with_ids(block.numpy(), torch.arange(start, start + len(block)).numpy())
                parts.append(f"{scratch}/{start}")
                lib.write_index(part, parts[-1])
            merge_ondisk(trained, parts, str(file.with_suffix(".lists")))
            self._write(trained, file)

    def _write(self, index: Any, file: Path) -> None:  # noqa: ANN401  faiss has no types
        part = file.with_name(f".{file.name}.part")  # we hold the lock, so a leftover file is stale
        self._lib.write_index(index, str(part))
        part.replace(file)


def recall(found: Found, exact: Found) -> float:
    """Return the share of the exact best that was found; another candidate with the same score counts as found."""
    worst = exact.scores[:, -1:]
    return float((found.scores >= worst - TOLERANCE * worst.abs().clamp(min=1.0)).float().mean())


def _faiss(kind: str) -> Any:  # noqa: ANN401  faiss has no types
    try:
        import faiss
    except ImportError as error:
        raise UserError(f"--index {kind} needs faiss: pip install -e '.[scale]', or use --index exact, which needs nothing") from error
    return faiss
