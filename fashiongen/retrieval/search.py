"""`fashiongen retrieve`: ranks the bottoms of a folder for a top and writes a page with their images, as in GeCo's Figure 10."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor

from fashiongen import tasks
from fashiongen.batches import CandidateBatch, QueryBatch, to_uint8
from fashiongen.data.images import image_to_tensor, open_image
from fashiongen.data.pairs import ENDINGS
from fashiongen.data.user_cache import cache_folder
from fashiongen.errors import UserError
from fashiongen.records import write_atomically
from fashiongen.retrieval.embeddings import Embeddings, Store, identity
from fashiongen.retrieval.index import Found, Index, Kind, check_kind, recall, search_exactly

SHOWN_HEIGHT = 192
JUDGED = 100  # queries for which an index is compared with the slower exact search
STYLE = """
body { font-family: sans-serif; margin: 2rem; }
section { display: flex; flex-wrap: wrap; gap: 1rem; align-items: end; margin-bottom: 2rem; }
figure { margin: 0; text-align: center; }
img { border: 1px solid #ccc; display: block; margin: auto; }
.query img { border: 3px solid #36c; }
"""


@dataclass(frozen=True)
class Hit:
    """A ranked bottom: its file and its score."""

    path: Path
    score: float


def images_in(place: Path) -> list[Path]:
    """Return the image, or all images below a folder, in order.

    Raises:
        UserError: if there is none.
    """
    found = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
    if not found:
        raise UserError(f"{place}: no image in this folder ({', '.join(ENDINGS)})")
    return found


@torch.no_grad()
def embed_catalogue(
    method: Any,  # noqa: ANN401  a method that ranks bottoms
    paths: Sequence[Path],
    store: Store,
    *,
    size: tuple[int, int],
    batch_size: int,
) -> tuple[list[Path], Embeddings]:
    """Embed the images of bottoms that the store does not hold yet.

    Args:
        method: has the task `retrieval`.
        paths: the images.
        store: the store of their embeddings.
        size: (height, width) at which the method was trained.
        batch_size: images embedded at once.

    Returns:
        The readable images (others raise a warning), and their embeddings in the same order.
    """
    method.eval()
    keys = dict.fromkeys(paths, "")
    for path in track(paths, "reading", console=Console(stderr=True), transient=True):
        try:
            keys[path] = store.key(path)
        except OSError as error:
            _tell(f"{path}: {error.strerror}")
            del keys[path]
    known = store.rows(list(keys.values()))
    new: dict[str, Path] = {key: path for (path, key), row in zip(keys.items(), known, strict=True) if row < 0}
    waiting: list[tuple[str, Tensor]] = []

    def embed() -> None:
        images = torch.stack([image for _, image in waiting]).to(method.device)
        batch = CandidateBatch(ids=[new[key].stem for key, _ in waiting], bottom=images)
        store.add([key for key, _ in waiting], method.embed_candidate(batch))
        waiting.clear()

    for key, path in track(new.items(), "encoding", console=Console(stderr=True), transient=True):
        try:
            waiting.append((key, image_to_tensor(open_image(path), size)))
        except UserError as error:
            _tell(str(error))
        if len(waiting) == batch_size:
            embed()
    if waiting:
        embed()
    rows = store.rows(list(keys.values()))
    return [path for path, row in zip(keys, rows, strict=True) if row >= 0], store.embeddings(rows[rows >= 0])


def _tell(reason: str) -> None:
    rank_zero_warn(f"left out of the catalogue: {reason}")


@torch.no_grad()
def embed_queries(
    method: Any,  # noqa: ANN401  a method that ranks bottoms
    queries: Sequence[Path],
    *,
    size: tuple[int, int],
    batch_size: int,
) -> tuple[Tensor, Tensor | None]:
    """Embed images of tops: (Q, D), and their templates (Q, 3, H, W) in [-1, 1] if the method draws them.

    Raises:
        UserError: if an image cannot be read.
    """
    method.eval()
    embedded, templates = [], []
    for start in range(0, len(queries), batch_size):
        paths = queries[start : start + batch_size]
        images = torch.stack([image_to_tensor(open_image(path), size) for path in paths]).to(method.device)
        names = [path.stem for path in paths]
        asked = QueryBatch(ids=names, top_ids=names, top=images)
        embedded.append(tasks.run(method, asked).float())
        if getattr(method, "draws_templates", False):
            templates.append(method.draw_template(asked).float().cpu())
    return torch.cat(embedded), torch.cat(templates) if templates else None


@dataclass(frozen=True)
class Ranking:
    """The result of `retrieve`.

    Attributes:
        hits: the best bottoms of each query, best first.
        templates: (Q, 3, H, W) in [-1, 1] if the method draws them.
        size: number of bottoms in the catalogue.
        recall: the share of the exact best that an index found, over the first queries; None for exact search.
        judged: the number of these queries.
    """

    hits: list[list[Hit]]
    templates: Tensor | None
    size: int
    recall: float | None = None
    judged: int = 0


def retrieve(
    method: Any,  # noqa: ANN401  a method that ranks bottoms
    queries: Sequence[Path],
    catalogue: Path,
    *,
    size: tuple[int, int],
    cache: Path,
    top: int = 10,
    batch_size: int = 64,
    index: Kind = "exact",
    effort: int = 64,
) -> Ranking:
    """Rank the images of a folder for each query.

    Args:
        method: has the task `retrieval`.
        queries: images of tops.
        catalogue: a folder of images of bottoms, or one image.
        size: (height, width) at which the method was trained.
        cache: folder for the embeddings of this method with these weights and settings (see `identity`), and for their indexes.
        top: number of results per query.
        batch_size: images embedded at once.
        index: `exact` scores the whole catalogue in blocks; `ivf` and `hnsw` need an inner-product score and faiss.
        effort: search effort of an index, see `Index.search`.

    Raises:
        UserError: if a query or the whole catalogue cannot be read, or the index does not suit the method.
    """
    check_kind(index, method)
    paths = images_in(catalogue)
    asked, templates = embed_queries(method, queries, size=size, batch_size=batch_size)
    with Store(cache) as store:
        readable, embeddings = embed_catalogue(method, paths, store, size=size, batch_size=batch_size)
    if not readable:
        raise UserError(f"{catalogue}: cannot read any of its {len(paths)} images")
    share, judged = None, 0
    if index == "exact":
        found = search_exactly(method, asked, embeddings, top)
    else:
        found = Index(index, embeddings, cache).search(asked, top, effort)
        judged = min(len(asked), JUDGED)
        exact = search_exactly(method, asked[:judged], embeddings, top)
        share = recall(Found(found.scores[:judged], found.places[:judged]), exact)
    hits = [
        [Hit(readable[place], score) for place, score in zip(*row, strict=True) if place >= 0]
        for row in zip(found.places.tolist(), found.scores.tolist(), strict=True)
    ]
    return Ranking(hits, templates, len(readable), share, judged)


def page(queries: Sequence[Path], found: Sequence[Sequence[Hit]], templates: Tensor | None, title: str) -> str:
    """Return a self-contained HTML page: for each query its image, its template, and the ranked bottoms."""
    sections = []
    for index, (query, hits) in enumerate(zip(queries, found, strict=True)):
        figures = [_figure(open_image(query), query.name, "query")]
        if templates is not None:
            drawn = Image.fromarray(to_uint8(templates[index]).permute(1, 2, 0).numpy())
            figures.append(_figure(drawn, "generated template", "template"))
        figures += [_figure(open_image(hit.path), f"{rank}. {hit.path.name}<br>{hit.score:.4f}", "hit") for rank, hit in enumerate(hits, 1)]
        sections.append(f"<section>{''.join(figures)}</section>")
    heading = html.escape(title)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{heading}</title><style>{STYLE}</style></head>'
        f"<body><h1>{heading}</h1>{''.join(sections)}</body></html>\n"
    )


def _figure(image: Image.Image, caption: str, kind: str) -> str:
    shown = image.resize((max(1, round(image.width * SHOWN_HEIGHT / image.height)), SHOWN_HEIGHT), Image.Resampling.BILINEAR)
    data = io.BytesIO()
    shown.save(data, "PNG")
    source = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
    words = "<br>".join(html.escape(part) for part in caption.split("<br>"))
    return f'<figure class="{kind}"><img alt="{kind}" src="{source}"><figcaption>{words}</figcaption></figure>'


def run(
    model: L.LightningModule,
    data: Any,  # noqa: ANN401  a data module
    query: Path,
    catalogue: Path,
    top: int,
    out: Path,
    index: Kind = "exact",
    effort: int = 64,
    cache: Path | None = None,
    settings: object = None,
) -> None:
    """Rank, print the table and write the page.

    Args:
        model: the method.
        data: provides the image size and the batch size.
        query: an image of a top, or a folder of them.
        catalogue: a folder of images of bottoms.
        top: number of results to show.
        out: the page to write.
        index: see `retrieve`.
        effort: see `retrieve`.
        cache: folder for embeddings, with a subfolder per method, weights and settings; by default in the user's cache folder.
        settings: the method's settings other than weights; they determine the subfolder.

    Raises:
        UserError: if the method cannot rank, or there is no query or catalogue image.
    """
    name = getattr(model, "name", "") or type(model).__name__
    if "retrieval" not in tasks.supported(model):
        raise UserError(f"{name} cannot rank bottoms; retrieve takes a method of the task retrieval")
    queries, size = images_in(query), tuple(data.size)
    place = (cache or cache_folder() / "catalogues") / identity(model, settings, size)[:16]
    ranking = retrieve(
        model, queries, catalogue, size=size, cache=place, top=top, batch_size=data.eval_batch_size, index=index, effort=effort
    )
    write_atomically(out, page(queries, ranking.hits, ranking.templates, f"{name}: {catalogue.name} ranked"))
    for path, hits in zip(queries, ranking.hits, strict=True):
        print(f"{path}:")
        for rank, hit in enumerate(hits, 1):
            print(f"  {rank:3d}  {hit.score:10.4f}  {hit.path}")
    if ranking.recall is not None:
        print(f"{index}: recall@{top} {ranking.recall:.3f} against exact, over {ranking.judged} queries; a higher --effort misses less")
    print(f"embeddings of {ranking.size} images are cached in {place}")
    print(f"wrote {out}")
