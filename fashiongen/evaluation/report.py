"""The outputs of a test: images, per-sample values and the printed table."""

import errno
import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fashiongen.errors import UserError
from fashiongen.evaluation.images import file_name, grid, reduced, write_png
from fashiongen.evaluation.results import Results
from fashiongen.records import MetricEntry, Record, write_atomically
from fashiongen.tasks import GalleryRow

BETTER = {True: "higher", False: "lower", None: ""}


class Report:
    """The files next to a record: OUT.images/, OUT.gallery/, OUT.grid.png and OUT.per_sample.jsonl."""

    def __init__(self, out: Path) -> None:
        """Write next to the record `out`."""
        self.out = out
        self.images = out.with_name(f"{out.stem}.images")
        self.gallery = out.with_name(f"{out.stem}.gallery")
        self.grid = out.with_name(f"{out.stem}.grid.png")
        self.per_sample = out.with_name(f"{out.stem}.per_sample.jsonl")

    def check_writable(self) -> None:
        """Check that the record and the files next to it can be written; creates only the folder.

        Raises:
            UserError: if not, with the reason.
        """
        out = self.out
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=out.parent):
                pass
            for file in (out, self.per_sample, self.grid):
                if file.is_dir():
                    raise IsADirectoryError(errno.EISDIR, f"{file} is a folder")
            for folder in (self.images, self.gallery):
                if folder.exists() and not folder.is_dir():
                    raise NotADirectoryError(errno.ENOTDIR, f"{folder} is not a folder")
        except OSError as error:
            raise UserError(f"evaluate.out: cannot write {out}: {error.strerror}; choose another --evaluate.out") from error

    def write_images(self, rows: Sequence[GalleryRow], prediction: str, headings: Sequence[str]) -> tuple[str | None, dict[str, str]]:
        """Write the predictions, the other gallery images and the grid, replacing old ones.

        Args:
            rows: the samples.
            prediction: the heading of the predictions.
            headings: the headings of the other gallery images.

        Returns:
            The folder of the predictions (None without rows) and the folders of the other images by heading, relative to the record.
        """
        if not rows:
            return None, {}
        with _replacing(self.images) as part:
            for row in rows:
                write_png(part / file_name(row.id), row.images[prediction])
        with _replacing(self.gallery) as part:
            for heading in headings:
                (part / heading).mkdir()
                for row in rows:
                    write_png(part / heading / file_name(row.id), reduced(row.images[heading]))
        write_png(self.grid, grid(rows))
        return self.images.name, {heading: f"{self.gallery.name}/{heading}" for heading in headings}

    def write_per_sample(self, results: Results) -> str:
        """Write one JSON line per sample with its cluster, its group if there are any, and its value for each metric.

        Returns:
            The file's name.
        """
        groups = [{"group": group} for group in results.groups] or [{}] * len(results.ids)
        rows = [
            {"id": id_, "cluster": cluster, **group, **{name: _number(of_all[index]) for name, of_all in results.per_sample.items()}}
            for index, (id_, cluster, group) in enumerate(zip(results.ids, results.clusters, groups, strict=True))
        ]
        write_atomically(self.per_sample, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return self.per_sample.name


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces `folder` once it is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield part
        part.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def print_table(record: Record, out: Path | None) -> None:
    """Print a record's metrics as a table, after those of its groups, with the doubts about them."""
    title = f"{record.method}: {record.task} on {record.dataset} ({record.split}), {record.n_samples} samples"
    for group, found in record.groups.items():
        Console().print(_table(found["metrics"], f"{record.by} {group}, {found['n_samples']} samples"))
    Console().print(_table(record.metrics, title, None if out is None else str(out)))
    if record.reason:
        Console().print(record.reason)


def _table(metrics: dict[str, MetricEntry], title: str, caption: str | None = None) -> Table:
    table = Table(title=title, caption=caption)
    for heading in ("metric", "better", "value", "95 % interval, this checkpoint"):
        table.add_column(heading, justify="left" if heading == "metric" else "right")
    for name, result in metrics.items():
        interval = "" if result["ci95"] is None else "{:.4f} to {:.4f}".format(*result["ci95"])
        # Rich interprets square brackets as markup.
        table.add_row(name.replace("[", r"\["), BETTER[result["higher_is_better"]], f"{result['value']:.4f}", interval)
    return table


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
