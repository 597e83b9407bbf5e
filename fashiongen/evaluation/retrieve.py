"""`fashiongen retrieve`: the bottoms of a folder, ranked for a top, as a page with pictures (the picture of GeCo's Figure 10)."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator, Sequence
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
from fashiongen.data.pairs import ENDINGS
from fashiongen.data.pictures import open_picture, picture_to_tensor
from fashiongen.errors import UserError
from fashiongen.evaluation.ranking import Catalogue
from fashiongen.records import write_atomically

SHOWN_HEIGHT = 192
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


def pictures_in(place: Path) -> list[Path]:
    """Return a picture, or all pictures below a folder, in order.

    Raises:
        UserError: if there is none.
    """
    found = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
    if not found:
        raise UserError(f"{place}: no picture there ({', '.join(ENDINGS)})")
    return found


def _batches(paths: Sequence[Path], size: tuple[int, int], batch_size: int) -> Iterator[tuple[list[Path], Tensor]]:
    """Read pictures at `size`; what cannot be read is told and left out."""
    for start in range(0, len(paths), batch_size):
        kept, read = [], []
        for path in paths[start : start + batch_size]:
            try:
                read.append(picture_to_tensor(open_picture(path), size))
                kept.append(path)
            except UserError as error:
                rank_zero_warn(f"left out of the catalogue: {error}")
        if kept:
            yield kept, torch.stack(read)


@torch.no_grad()
def retrieve(
    method: Any,  # noqa: ANN401  a method that ranks bottoms
    queries: Sequence[Path],
    catalogue: Path,
    *,
    size: tuple[int, int],
    top: int = 10,
    batch_size: int = 64,
) -> tuple[list[list[Hit]], Tensor | None]:
    """Rank the pictures of a folder for each query.

    Args:
        method: has the task `retrieval`; embeds each picture once.
        queries: pictures of tops.
        catalogue: a folder of pictures of bottoms, or one picture.
        size: (height, width) at which the method was trained.
        top: how many to return for each query.
        batch_size: pictures embedded at a time.

    Returns:
        For each query its best bottoms, best first; and the templates (Q, 3, H, W) in [-1, 1] where the method draws them.

    Raises:
        UserError: if a query cannot be read, or no picture of the catalogue can.
    """
    method.eval()
    paths = pictures_in(catalogue)
    kept: list[Path] = []
    parts: list[Tensor] = []
    total = -(-len(paths) // batch_size)
    for files, pictures in track(_batches(paths, size, batch_size), "catalogue", total=total, console=Console(stderr=True), transient=True):
        batch = CandidateBatch(ids=[str(path) for path in files], bottom=pictures.to(method.device))
        parts.append(method.embed_candidate(batch))
        kept += files
    if not kept:
        raise UserError(f"{catalogue}: none of its {len(paths)} pictures can be read")
    embedded = Catalogue([str(path) for path in kept], torch.cat(parts), len(kept))
    found: list[list[Hit]] = []
    templates: list[Tensor] = []
    for query in queries:
        picture = picture_to_tensor(open_picture(query), size)[None].to(method.device)
        asked = QueryBatch(ids=[query.stem], top_ids=[query.stem], top=picture)
        scores = embedded.scores(method, tasks.run(method, asked))[0]
        best = scores.topk(min(top, len(kept)))
        found.append([Hit(kept[place], float(score)) for score, place in zip(best.values, best.indices.tolist(), strict=True)])
        if hasattr(method, "draw_template") and getattr(method, "generator", None) is not None:
            templates.append(method.draw_template(asked).float().cpu())
    return found, torch.cat(templates) if templates else None


def page(queries: Sequence[Path], found: Sequence[Sequence[Hit]], templates: Tensor | None, title: str) -> str:
    """Return the page as HTML that needs no other file: for each query its picture, the template drawn for it, and the ranked bottoms."""
    sections = []
    for index, (query, hits) in enumerate(zip(queries, found, strict=True)):
        figures = [_figure(open_picture(query), query.name, "query")]
        if templates is not None:
            drawn = Image.fromarray(to_uint8(templates[index]).permute(1, 2, 0).numpy())
            figures.append(_figure(drawn, "generated template", "template"))
        figures += [
            _figure(open_picture(hit.path), f"{rank}. {hit.path.name}<br>{hit.score:.4f}", "hit") for rank, hit in enumerate(hits, 1)
        ]
        sections.append(f"<section>{''.join(figures)}</section>")
    heading = html.escape(title)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{heading}</title><style>{STYLE}</style></head>'
        f"<body><h1>{heading}</h1>{''.join(sections)}</body></html>\n"
    )


def _figure(picture: Image.Image, caption: str, kind: str) -> str:
    shown = picture.resize((max(1, round(picture.width * SHOWN_HEIGHT / picture.height)), SHOWN_HEIGHT), Image.Resampling.BILINEAR)
    data = io.BytesIO()
    shown.save(data, "PNG")
    source = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
    words = "<br>".join(html.escape(part) for part in caption.split("<br>"))
    return f'<figure class="{kind}"><img alt="{kind}" src="{source}"><figcaption>{words}</figcaption></figure>'


def run(model: L.LightningModule, data: Any, query: Path, catalogue: Path, top: int, out: Path) -> None:  # noqa: ANN401  a data module
    """Rank, print the table and write the page.

    Raises:
        UserError: if the method cannot rank, or a place holds no picture.
    """
    name = getattr(model, "name", "") or type(model).__name__
    if "retrieval" not in tasks.supported(model):
        raise UserError(f"{name} cannot rank bottoms; retrieve takes a method of the task retrieval")
    queries = pictures_in(query)
    found, templates = retrieve(model, queries, catalogue, size=tuple(data.size), top=top, batch_size=data.eval_batch_size)
    write_atomically(out, page(queries, found, templates, f"{name}: {catalogue.name} ranked"))
    for path, hits in zip(queries, found, strict=True):
        print(f"{path}:")
        for rank, hit in enumerate(hits, 1):
            print(f"  {rank:3d}  {hit.score:10.4f}  {hit.path}")
    print(f"wrote {out}")
