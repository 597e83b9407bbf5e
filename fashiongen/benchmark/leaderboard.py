"""The command `fashiongen leaderboard`: a pure function of a folder of records and the published numbers."""

from __future__ import annotations

from pathlib import Path

from fashiongen.benchmark.arrange import read
from fashiongen.benchmark.csv_table import csv_text
from fashiongen.benchmark.markdown import markdown
from fashiongen.benchmark.published import default_folder, read_published
from fashiongen.benchmark.webpage import page
from fashiongen.errors import UserError
from fashiongen.records import write_atomically


def run(
    folder: Path,
    *,
    html: Path | None = None,
    markdown_file: Path | None = None,
    csv_file: Path | None = None,
    published: Path | None = None,
) -> None:
    """Write the requested files, or print the Markdown if none is requested.

    Raises:
        UserError: if the folder holds no records, the published numbers cannot be read, or a file cannot be written.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; `fashiongen bench run SUITE --out {folder}` creates it")
    place = published or default_folder()
    found = read(folder, read_published(place) if place else [])
    if html:
        _write(html, page(found, html))
    if markdown_file:
        _write(markdown_file, markdown(found, markdown_file))
    if csv_file:
        _write(csv_file, csv_text(found))
    if not (html or markdown_file or csv_file):
        print(_encodable(markdown(found)))


def _encodable(text: str) -> str:
    """Replace lone surrogates by question marks: JSON and file names may contain them, UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()


def _write(path: Path, text: str) -> None:
    try:
        write_atomically(path, _encodable(text))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another file") from error
    print(f"wrote {path}")
