"""Shared code of the studies: running the public command line and reading its records."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
TINY = ROOT / "recipes" / "tiny"
OVERLAYS = ROOT / "recipes" / "overlays"


def options(description: str | None) -> argparse.Namespace:
    """Parse the common options: `out`, `seeds`, `jobs`, `table_only`, and `threads`, the number of cores per job."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="number of parallel runs; they share the cores")
    parser.add_argument("--table-only", action="store_true")
    given = parser.parse_args()
    given.out = given.out.resolve()
    given.threads = max(1, (os.cpu_count() or 1) // given.jobs)
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


def per_sample(out: Path, names: list[str], column: str) -> np.ndarray:
    """Return a metric's value for each sample, averaged over runs, in the order of ids."""
    runs = [[json.loads(line)[column] for line in (out / f"{name}.per_sample.jsonl").read_text().splitlines()] for name in names]
    return np.array(runs, dtype=float).mean(axis=0)


def interval(values: np.ndarray) -> str:
    """Return the mean and its 95 % bootstrap interval over samples."""
    generator = np.random.default_rng(0)
    means = np.concatenate([values[generator.integers(len(values), size=(1_000, len(values)))].mean(axis=1) for _ in range(10)])
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{values.mean():+.4f} ({low:+.4f} to {high:+.4f})"


def row(cells: list[str]) -> str:
    """Return one line of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def tables(out: Path, runs: dict[str, list[str]], columns: list[str], first: str, paired: list[str]) -> str:
    """Return two Markdown tables: each row's mean and deviation over its runs, and the paired differences of `first` to every other row."""
    lines = [row(["method", *columns]), row(["---", *["---:"] * len(columns)])]
    lines += [row([name, *(spread(out, names, column) for column in columns)]) for name, names in runs.items()]
    lines += ["", row([f"{first} less", *paired]), row(["---", *["---:"] * len(paired)])]
    for name, names in runs.items():
        if name != first:
            differences = [per_sample(out, runs[first], column) - per_sample(out, names, column) for column in paired]
            lines.append(row([name, *map(interval, differences)]))
    return "\n".join(lines)
