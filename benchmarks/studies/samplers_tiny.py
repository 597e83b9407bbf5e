"""Measure quality against cost: each sampler at several numbers of steps, for trained tiny methods on the embedded wardrobe.

    python benchmarks/studies/samplers_tiny.py OUT --checkpoints DIR [--methods igr catvton twgtm] [--samplers ddim ...] [--samples 128]

`DIR/METHOD/last.ckpt` is a training of `recipes/tiny/METHOD.yaml`. Each run is the public command `test` with another sampler, all in this
process; a run with a record is not repeated, and `--table-only` does none. Guidance, weights, samples and initial noise (keyed by sample)
are those of the method, the same in all runs. Runs with few steps come first, so that the time that is left is soon known. Prints the
table as Markdown and writes the plot to OUT/quality.png.

The relative difference of LPIPS to the paper's sampler is the ratio of the two means over the samples, less 1, with Fieller's interval:
all ratios r for which the 95 % interval of the mean paired difference x - r * reference, over clusters, holds 0. It counts that the
reference's mean is itself estimated, and that both runs share samples and noise.
"""

import argparse
import contextlib
import gc
import io
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from plot import Line, Panel, Point, draw
from scipy.optimize import brentq
from study import OVERLAYS, ROOT, TINY, per_sample, row, value

from fashiongen.intervals import Interval, interval

SAMPLERS = {
    "ddim": ("ddim", False),
    "dpm++": ("dpm++", False),
    "dpm++-karras": ("dpm++", True),
    "unipc": ("unipc", False),
    "euler": ("euler", False),
}
"""By label: the settings `sampler` and `karras`."""
STEPS = (4, 8, 12, 25, 50)
MARGIN = 0.02
"""By how much LPIPS may be worse than with the paper's sampler, as a share of its mean."""
PASSES = 2
"""Evaluations of the UNet in a step: all of these methods are guided."""
BATCH = 64
FAST = OVERLAYS / "fast.yaml"
CHANGE = "change recipes/overlays/fast.yaml"


class Run(NamedTuple):
    """One test: a method with a sampler."""

    method: str
    sampler: str
    steps: int
    eta: float = 0.0
    karras: bool = False

    @property
    def name(self) -> str:
        """The name of its record."""
        return f"{self.method}-{self.label}-{self.steps}"

    @property
    def label(self) -> str:
        """The sampler, with what is not usual of it."""
        return self.sampler + (f"-eta{self.eta:g}" if self.eta else "") + ("-karras" if self.karras else "")


class Studied(NamedTuple):
    """A method: its name in text, the sampler of its paper (that of the full recipe), and the columns of its protocol."""

    title: str
    paper: Run
    lpips: str
    attributes: str


WORN = "attributes[tiny-worn-classifier]"
METHODS = {
    "igr": Studied("IGR (try-off)", Run("igr", "ddim", 25), "lpips[tiny]", "attributes[tiny-classifier]"),
    "catvton": Studied("CatVTON (try-on)", Run("catvton", "ddim", 50, 1.0), "lpips_mask[tiny]", WORN),
    "twgtm": Studied("TWGTM (try-on)", Run("twgtm", "ddim", 50), "lpips_mask[tiny]", WORN),
}
FID = "fid[tiny-classifier]"


class Found(NamedTuple):
    """What a run has measured; `relative` is the relative difference of LPIPS to the paper's sampler with its interval's ends."""

    run: Run
    lpips: Interval
    relative: tuple[float, float, float]
    fid: float
    attributes: Interval

    @property
    def evaluations(self) -> int:
        """The cost: evaluations of the UNet for one image."""
        return PASSES * self.run.steps

    @property
    def good(self) -> bool:
        """Whether the interval lies wholly below the margin."""
        return self.relative[2] < MARGIN


def runs_of(method: str) -> list[Run]:
    """Return all runs of a method, the cheapest first; the paper's sampler is one of them."""
    grid = [Run(method, sampler, steps, karras=karras) for steps in STEPS for sampler, karras in SAMPLERS.values()]
    paper = METHODS[method].paper
    return grid if paper in grid else [*grid, paper]


def command(run: Run, out: Path, checkpoint: Path, samples: int) -> list[str]:
    """Return the arguments of a run's test of the first `samples` pairs."""
    settings = {
        "--model.init_args.sampler": run.sampler,
        "--model.init_args.steps": str(run.steps),
        "--model.init_args.eta": str(run.eta),
        "--model.init_args.karras": str(run.karras).lower(),
        "--data.init_args.eval_batch_size": str(min(samples, BATCH)),
        "--trainer.limit_test_batches": str(max(1, samples // BATCH)),
        "--trainer.enable_progress_bar": "false",
        "--trainer.logger": "false",
        "--evaluate.out": str(out / f"{run.name}.json"),
    }
    keys = [argument for pair in settings.items() for argument in pair]
    return ["test", "--config", str(TINY / f"{run.method}.yaml"), "--ckpt_path", str(checkpoint), *keys]


def measure(out: Path, checkpoints: Path, methods: list[str], labels: list[str], samples: int) -> None:
    """Do the missing runs of some methods and samplers, those with few steps first; the papers' samplers are always among them."""
    from fashiongen.cli import main as fashiongen  # heavy

    missing = sorted((run for method in methods for run in runs_of(method)), key=lambda run: run.steps)
    missing = [run for run in missing if run.label in labels or run == METHODS[run.method].paper]
    missing = [run for run in missing if not (out / f"{run.name}.json").exists()]
    seconds: dict[str, list[float]] = {}
    for done, run in enumerate(missing, 1):
        arguments = command(run, out, checkpoints / run.method / "last.ckpt", samples)
        sys.argv = [str(ROOT / "fashiongen" / "__main__.py"), *arguments]  # the record holds the command that repeats it
        started = time.monotonic()
        with contextlib.redirect_stdout(io.StringIO()):
            fashiongen(arguments)
        gc.collect()  # the method, its trainer and the data refer to each other
        seconds.setdefault(run.method, []).append((time.monotonic() - started) / run.steps)
        # The last time of a step has the least of the loading in it.
        pace = {method: times[-1] for method, times in seconds.items()}
        usual = float(np.mean([*pace.values()]))
        left = sum(pace.get(other.method, usual) * other.steps for other in missing[done:])
        print(f"{run.name}: {time.monotonic() - started:.0f} s; {done} of {len(missing)}, about {left / 60:.0f} min left", flush=True)


def ratio(values: np.ndarray, reference: np.ndarray, clusters: list[str]) -> tuple[float, float, float]:
    """Return mean(values) / mean(reference) with Fieller's 95 % interval.

    Args:
        values: of the samples, (N,).
        reference: of the same samples, (N,), with a positive mean.
        clusters: of the samples.

    Raises:
        SystemExit: if nothing can be said of the ratio: fewer than two clusters, or the reference's mean is not told from 0.
    """
    known = np.isfinite(values) & np.isfinite(reference)
    centre = float(values[known].mean() / reference[known].mean())

    def end_at(candidate: float, end: str) -> float:
        found = interval(values[None], clusters, candidate * reference[None])
        if found is None:
            raise SystemExit("a ratio needs samples of two clusters")
        return float(getattr(found, end))

    ends = []
    for end, sign in (("low", -1), ("high", 1)):
        span = 0.05
        while sign * end_at(centre + sign * span, end) > 0:
            span *= 2
            if span > 1e3:
                raise SystemExit("the reference's mean is not told from 0: its ratio has no interval")
        ends.append(float(brentq(end_at, centre, centre + sign * span, args=(end,), xtol=1e-6)))
    return centre, ends[0], ends[1]


def read(out: Path, method: str) -> list[Found]:
    """Return the results of a method's runs that have a record, the cheapest first; none without that of the paper's sampler."""
    studied = METHODS[method]
    if not (out / f"{studied.paper.name}.json").is_file():
        return []
    reference = per_sample(out, [studied.paper.name], studied.lpips)
    found = []
    for run in runs_of(method):
        if not (out / f"{run.name}.json").is_file():
            continue
        per_sample(out, [studied.paper.name, run.name], studied.lpips)  # refuses other samples
        lpips, attributes = (per_sample(out, [run.name], column) for column in (studied.lpips, studied.attributes))
        intervals = [interval(runs.values, runs.clusters) for runs in (lpips, attributes)]
        assert None not in intervals, f"{run.name}: one cluster"
        centre, low, high = ratio(lpips.values[0], reference.values[0], reference.clusters)
        relative = (centre - 1.0, low - 1.0, high - 1.0)
        found.append(Found(run, intervals[0], relative, value(out, run.name, FID), intervals[1]))
    return found


def cheapest(found: list[Found]) -> Found | None:
    """Return the run with the smallest cost whose interval lies wholly below the margin; of several the one with the lowest LPIPS."""
    return min((one for one in found if one.good), key=lambda one: (one.evaluations, one.relative[0]), default=None)


def fast(results: dict[str, list[Found]]) -> dict[str, str | int | float] | None:
    """Return the settings of the cheapest sampler that is good enough for every method; None if there is none.

    Of several with as many steps it is the one whose worst relative difference is the smallest.
    """
    good = [{one.run[1:]: one.relative[0] for one in found if one.good} for found in results.values()]
    common = set.intersection(*(set(settings) for settings in good)) if good else set()
    best = min(common, key=lambda settings: (settings[1], max(of_method[settings] for of_method in good)), default=None)
    return None if best is None else dict(zip(Run._fields[1:], best, strict=True))


def overlay() -> dict[str, str | int | float]:
    """Return the settings of the overlay `fast`."""
    return dict(yaml.safe_load(FAST.read_text(encoding="utf-8"))["model"]["init_args"])


def percent(share: float) -> str:
    """Return a share as percent with its sign."""
    return f"{100 * share:+.1f} %"


def table(out: Path) -> str:
    """Return the tables of all methods that have records, and what they name."""
    results = {method: found for method in METHODS if (found := read(out, method))}
    if not results:
        return "No run yet."
    lines = []
    for method, found in results.items():
        studied = METHODS[method]
        heading = ["sampler", "steps", "evaluations", studied.lpips, "relative difference", FID, studied.attributes]
        lines += ["", f"**{studied.title}**", "", row(heading), row(["---", *["---:"] * 6])]
        for one in found:
            lpips, attributes = (
                f"{measured.mean:.3f} ({measured.low:.3f} to {measured.high:.3f})" for measured in (one.lpips, one.attributes)
            )
            middle, *ends = map(percent, one.relative)
            relative = "the paper's" if one.run == studied.paper else f"{middle} ({' to '.join(ends)})" + (" ✓" if one.good else "")
            lines += [row([one.run.label, str(one.run.steps), str(one.evaluations), lpips, relative, f"{one.fid:.1f}", attributes])]
    samples = next(iter(results.values()))[0].lpips.samples
    lines += ["", f"{samples} pairs; in brackets the 95 % interval of one checkpoint, over the samples that share no input."]
    lines += [f"✓: the interval of the relative difference lies wholly below {percent(MARGIN)}.", ""]
    for method, found in results.items():
        best = cheapest(found)
        named = f"{best.run.label}, {best.run.steps} steps, {best.evaluations} evaluations" if best else "none"
        lines += [f"- Smallest cost for {METHODS[method].title}: **{named}** (the paper's: {PASSES * METHODS[method].paper.steps})."]
    if set(results) == set(METHODS):
        chosen, has = fast(results), overlay()
        lines += [f"- Smallest cost that is good enough for all of them: {settings(chosen)}."]
        lines += ["- The overlay `fast` uses it." if has == chosen else f"- **The overlay `fast` has {settings(has)}: {CHANGE}.**"]
    return "\n".join(lines[1:])


def settings(found: dict[str, str | int | float] | None) -> str:
    """Return a sampler's settings in words."""
    return ", ".join(f"`{key}: {value}`" for key, value in found.items()) if found else "none"


def _ends(found: Interval) -> tuple[float, float, float]:
    return found.mean, found.low, found.high


def plot(out: Path, to: Path) -> None:
    """Draw LPIPS' relative difference, FID and attributes against the cost, a column for each method that has records."""
    results = {method: found for method in METHODS if (found := read(out, method))}
    panels = []
    for method, found in results.items():
        paper = METHODS[method].paper
        columns = {
            "LPIPS, % above the paper's sampler": lambda one: tuple(100 * share for share in one.relative),
            "FID": lambda one: (one.fid, one.fid, one.fid),
            "attribute agreement": lambda one: _ends(one.attributes),
        }
        column = []
        for name, values in columns.items():
            # The paper's run is drawn apart; if it is one of the grid's, it is also a point of its sampler's line.
            lines = [Line(label, [Point(one.evaluations, *values(one)) for one in found if one.run.label == label]) for label in SAMPLERS]
            lines.append(Line("the paper's", [Point(one.evaluations, *values(one)) for one in found if one.run == paper]))
            level, top = (100 * MARGIN, 30.0) if name.startswith("LPIPS") else (None, None)
            column.append(Panel(f"{METHODS[method].title}: {name}", lines, level=level, top=top))
        panels.append(column)
    draw(to, panels, "evaluations of the UNet for one image")


def main() -> None:
    """Do the missing runs, print the table and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--checkpoints", type=Path, metavar="DIR", help="holds METHOD/last.ckpt")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--samplers", nargs="+", choices=list(SAMPLERS), default=list(SAMPLERS))
    parser.add_argument("--samples", type=int, default=128, help=f"held-out pairs, fewer than {BATCH} or a multiple of it")
    parser.add_argument("--table-only", action="store_true")
    given = parser.parse_args()
    out = given.out.resolve()
    if not given.table_only:
        if given.checkpoints is None:
            parser.error("--checkpoints is needed to measure")
        if given.samples < 2 or (given.samples > BATCH and given.samples % BATCH):
            parser.error(f"--samples {given.samples}: must be 2 to {BATCH} or a multiple of {BATCH}")
        measure(out, given.checkpoints.resolve(), given.methods, given.samplers, given.samples)
    print(table(out))
    if any((out / f"{studied.paper.name}.json").is_file() for studied in METHODS.values()):
        plot(out, out / "quality.png")


if __name__ == "__main__":
    main()
