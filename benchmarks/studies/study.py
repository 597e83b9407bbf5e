"""Shared code of the studies: running the public command line and reading its records."""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from fashiongen.intervals import holm, interval

ROOT = Path(__file__).parents[2]
TINY = ROOT / "recipes" / "tiny"
OVERLAYS = ROOT / "recipes" / "overlays"
SAMPLES = "per_sample.npz"


class Runs(NamedTuple):
    """One metric of several runs: `values` (S, N), the ids of the N samples, and the cluster of each."""

    values: np.ndarray
    ids: list[str]
    clusters: list[str]


def options(description: str | None, *, root: bool = False, checkpoints: bool = False) -> argparse.Namespace:
    """Parse the common options: `out`, `seeds`, `jobs`, `table_only`, and `threads`, the cores per job.

    With `root` also `root`, with `checkpoints` also `checkpoints` and `steps`.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="number of parallel runs; they share the cores")
    parser.add_argument("--table-only", action="store_true")
    if root:
        parser.add_argument("--root", type=Path, help="folder of the dataset")
    if checkpoints:
        parser.add_argument("--checkpoints", type=Path, metavar="DIR", help="folder of trained checkpoints, NAME/last.ckpt")
        parser.add_argument("--steps", type=int, help="sampling steps of all diffusion methods (default: their recipes')")
    given = parser.parse_args()
    given.out = given.out.resolve()
    given.threads = max(1, len(os.sched_getaffinity(0)) // given.jobs)  # the cores this process may use, not the machine's
    return given


def in_parallel(jobs: int, runs: list[Callable[[], None]]) -> None:
    """Do some runs, `jobs` at a time; raise the first error."""
    with ThreadPoolExecutor(jobs) as pool:
        for finished in [pool.submit(run) for run in runs]:
            finished.result()


def call(threads: int, *args: str) -> None:
    """Run one command of fashiongen on `threads` cores."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    subprocess.run([sys.executable, "-m", "fashiongen", *args], check=True, cwd=ROOT, stdout=subprocess.DEVNULL, env=environment)


def configs(recipe: Path, overlays: list[Path]) -> list[str]:
    """Return the arguments for a recipe and its overlays."""
    return [argument for path in (recipe, *overlays) for argument in ("--config", str(path))]


def value(out: Path, name: str, column: str) -> float:
    """Read one metric of one record."""
    return float(json.loads((out / f"{name}.json").read_text())["metrics"][column]["value"])


def spread(out: Path, names: list[str], column: str) -> str:
    """Return a metric's mean and standard deviation over several records."""
    values = [value(out, name, column) for name in names]
    return f"{np.mean(values):.4f}" + (f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else "")


def samples(out: Path, name: str) -> tuple[list[str], list[str], dict[str, np.ndarray]]:
    """Return a run's sample ids in order, the cluster of each (its id in older records), and the values of each metric, (N,)."""
    packed = out / SAMPLES
    if packed.is_file():
        with np.load(packed) as file:  # allow_pickle is off: it reads nothing but numbers and text
            ids, clusters, metrics = (file[f"{name}/{part}"].tolist() for part in ("ids", "clusters", "metrics"))
            return ids, clusters, dict(zip(metrics, file[f"{name}/values"].astype(float), strict=True))
    lines = [json.loads(line) for line in (out / f"{name}.per_sample.jsonl").read_text().splitlines()]
    metrics = [key for key in lines[0] if key not in ("id", "cluster", "group")]
    values = {metric: np.array([np.nan if line[metric] is None else line[metric] for line in lines], dtype=float) for metric in metrics}
    return [line["id"] for line in lines], [line.get("cluster", line["id"]) for line in lines], values


def keep(out: Path, folder: Path, root: Path | None = None) -> None:
    """Take over the records of a study's runs to a folder that can be committed.

    Paths of this machine become relative to the project, to OUT, or to ROOT, the dataset's folder; the values per sample of all runs go to
    one compressed file, as float32.

    Raises:
        SystemExit: if a record would still name an absolute path.
    """
    texts: dict[str, str] = {}
    packed: dict[str, np.ndarray] = {}
    for path in sorted(out.glob("*.json")):
        text = path.read_text()
        project = json.loads(text)["command"].partition("fashiongen/__main__.py")[0]  # of the runs, not of this script
        for of_machine, name in ((str(out), "OUT"), (project, ""), (str(root) if root else "", "ROOT")):
            text = text.replace(of_machine, name) if of_machine else text
        if left := re.search(r'["= ](/[^/" ]+/[^" ]*)', text):
            raise SystemExit(f"{path} names {left.group(1)}: such a path must not be committed")
        texts[path.name] = text
        ids, clusters, values = samples(out, path.stem)
        named = {"ids": ids, "clusters": clusters, "metrics": [*values]}
        packed |= {f"{path.stem}/{part}": np.array(content) for part, content in named.items()}
        packed[f"{path.stem}/values"] = np.stack([*values.values()]).astype(np.float32)
    # Only now, when nothing was refused, are the earlier records replaced.
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for name, text in texts.items():
        (folder / name).write_text(text)
    np.savez_compressed(folder / SAMPLES, **packed)


def keep_grid(grid: Path, to: Path, rows: int, limit: int = 200_000) -> None:
    """Copy the image grid of a test with as many of its `rows` rows, from the top, as fit into `limit` bytes."""
    image = Image.open(grid)
    for shown in range(rows, 0, -1):
        image.crop((0, 0, image.width, image.height * shown // rows)).save(to, optimize=True)
        if to.stat().st_size <= limit:
            return
    raise SystemExit(f"{grid}: one row alone is larger than {limit} bytes")


def per_sample(out: Path, names: list[str], column: str) -> Runs:
    """Return a metric's values of several runs of the same samples, in the order of ids."""
    runs = [samples(out, name) for name in names]
    if len({tuple(ids) for ids, _, _ in runs}) > 1:
        raise SystemExit(f"{', '.join(names)}: not the same samples; run their tests again")
    return Runs(np.stack([values[column] for _, _, values in runs]), *runs[0][:2])


def row(cells: list[str]) -> str:
    """Return one line of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def tables(out: Path, runs: dict[str, list[str]], columns: list[str], first: str, paired: list[str]) -> str:
    """Return two Markdown tables: each row's mean and deviation over its runs, and the paired differences of `first` to every other row."""
    lines = [row(["method", *columns]), row(["---", *["---:"] * len(columns)])]
    lines += [row([name, *(spread(out, names, column) for column in columns)]) for name, names in runs.items()]
    others = [name for name in runs if name != first]
    lines += ["", row([f"{first} less", *paired]), row(["---", *["---:"] * len(paired)])]
    cells = [differences(out, runs[first], [runs[name] for name in others], column) for column in paired]
    lines += [row([name + remark(out, runs[name]), *found]) for name, *found in zip(others, *cells, strict=True)]
    lines += [
        "",
        f"In brackets: the 95 % interval over seeds and clusters (samples that share an input). {len(others)} comparisons a column; ≈:",
    ]
    lines += ["not told apart at 5 % by Holm's adjusted p-values of the column. Rows with one run are about that run, not the method."]
    return "\n".join(lines)


def remark(out: Path, names: list[str]) -> str:
    """Return the remark of a row with one run: of what was trained only this checkpoint is compared, of what was not this run."""
    if len(names) > 1:
        return ""
    trained = json.loads((out / f"{names[0]}.json").read_text()).get("checkpoint")
    return " (this checkpoint)" if trained else " (one run)"


def differences(out: Path, first: list[str], others: list[list[str]], column: str) -> list[str]:
    """Return the mean difference of `first` to each other row with its interval, and whether Holm's adjusted p-value is at least 0.05."""
    values, _, clusters = per_sample(out, first, column)
    for names in others:
        per_sample(out, [*first, *names], column)  # refuses other samples
    found = [interval(values, clusters, per_sample(out, names, column).values) for names in others]
    adjusted = holm([1.0 if one is None else one.p for one in found])
    return [
        "-" if one is None else f"{one.mean:+.4f} ({one.low:+.4f} to {one.high:+.4f})" + (" ≈" if p >= 0.05 else "")
        for one, p in zip(found, adjusted, strict=True)
    ]
