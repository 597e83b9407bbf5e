"""Generate the tables of the results' pages and the headline of the README from the committed records.

    python benchmarks/studies/pages.py                              # rewrites every generated block
    python benchmarks/studies/pages.py --check                      # status 1 if a block differs
    python benchmarks/studies/pages.py --keep OUT vtoff-tiny        # first takes over the records of a study's runs
    python benchmarks/studies/pages.py --keep OUT fashionvc-lists --root ROOT
    python benchmarks/studies/pages.py --keep OUT samplers-tiny --root CHECKPOINTS

A block lies between `<!-- generated: NAME -->` and `<!-- end -->`. The records behind `results/NAME` lie in its folder `records`: one JSON
a run, without paths of the machine, and the values of all samples in `per_sample.npz` (float32, compressed).
"""

import argparse
import difflib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import fashionvc_lists
import numpy as np
import retrieval_tiny
import samplers_tiny
import templates_tiny
import tryon_tiny
import vtoff_tiny
from study import ROOT, keep, keep_grid, per_sample, row, value

from fashiongen.intervals import interval

RESULTS = ROOT / "benchmarks" / "results"
WEIGHTS = ROOT / "fashiongen" / "tiny" / "weights"
SEEDS = [0, 1, 2]
SHOWN = 12  # rows of a test's image grid
BLOCK = re.compile(r"(?<=<!-- generated: )(?P<name>[\w -]+) -->\n(?P<text>.*?)(?=<!-- end -->)", re.DOTALL)


def records(name: str) -> Path:
    """Return the folder with the records behind a page."""
    return RESULTS / name / "records"


def mean(folder: Path, runs: list[str], column: str, digits: int) -> str:
    """Return a metric's mean over runs."""
    return f"{np.mean([value(folder, run, column) for run in runs]):.{digits}f}"


def versus(folder: Path, runs: list[str], other: list[str], column: str, digits: int) -> str:
    """Return a metric's mean, and in brackets its difference to another row with the 95 % interval."""
    values, _, clusters = per_sample(folder, runs, column)
    found = interval(values, clusters, per_sample(folder, other, column).values)
    assert found is not None, f"{column}: no value varies"
    difference, low, high = (f"{number:+.{digits}f}" for number in (found.mean, found.low, found.high))
    return f"**{mean(folder, runs, column, digits)}** ({difference}: {low} to {high})"


def try_off() -> str:
    """Return the README's table of virtual try-off."""
    folder, runs = records("vtoff-tiny"), [f"igr-seed{seed}" for seed in SEEDS]
    columns = {"lpips[tiny]": 2, "colour_error_foreground": 1, "attributes[tiny-classifier]": 3}
    people = len(per_sample(folder, runs, "lpips[tiny]").ids)
    lines = [
        f"| try-off, {people} held-out people | lpips[tiny] ↓ | colour error ↓ | attribute agreement ↑ |",
        "| --- | ---: | ---: | ---: |",
    ]
    lines += [row(["IGR", *(versus(folder, runs, ["nearest_garment"], *column) for column in columns.items())])]
    for name, label in (("nearest_garment", "nearest training garment"), ("masked_crop", "the photo's own masked region")):
        lines += [row([label, *(mean(folder, [name], *column) for column in columns.items())])]
    chance = mean(folder, runs, "attributes_by_chance[tiny-classifier]", 3)
    return "\n".join([*lines, f"| another person's garment | | | {chance} |"])


def retrieval() -> str:
    """Return the README's table of retrieval."""
    folder, columns = records("retrieval-tiny"), {"auc": 3, "mrr": 3}
    geco, dae = ([f"{name}-seed{seed}" for seed in SEEDS] for name in ("geco", "bpr_dae"))
    tops = len(per_sample(folder, geco, "auc").ids)
    bottoms = json.loads((folder / "geco-seed0.json").read_text())["reference"]["catalogue"]
    lines = [f"| retrieval, {tops} held-out tops, {bottoms} bottoms | AUC ↑ | MRR ↑ |", "| --- | ---: | ---: |"]
    rows = (("the wardrobe's own rule (ceiling)", ["oracle"]), ("GeCo", geco), ("BPR-DAE", dae), ("nearest colours", ["colour_neighbour"]))
    for label, runs in rows:
        cells = [versus(folder, runs, dae, *column) if runs is geco else mean(folder, runs, *column) for column in columns.items()]
        lines += [row([label, *cells])]
    return "\n".join(lines)


def quality() -> str:
    """Return the quality of the shipped tiny checkpoints as `BUILD.json` states it."""
    lines = ["| part | on held-out items and people | trained |", "| --- | --- | --- |"]
    for part, facts in json.loads((WEIGHTS / "BUILD.json").read_text())["stages"].items():
        said = []
        for name, found in facts.items():
            if name.startswith("held_out"):
                words = name.removeprefix("held_out_").replace("_", " ")
                each = ", ".join(f"{key} {number:.3f}" for key, number in found.items()) if isinstance(found, dict) else f"{found:.3f}"
                said.append(f"{words}: {each}")
        lines.append(f"| `{part}` | {'; '.join(said)} | {facts['seconds'] / 60:.0f} min, {facts['device']}, {facts['precision']} |")
    return "\n".join(lines)


def samplers() -> str:
    """Return the plot and the tables of quality against cost."""
    folder = records("samplers-tiny")
    shown = "![LPIPS, FID and attribute agreement against the evaluations of the UNet, for each method and sampler](quality.png)\n\n"
    return (shown if folder.is_dir() else "") + samplers_tiny.table(folder)


PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"try-off": try_off, "retrieval": retrieval},
    "benchmarks/results/vtoff-tiny/README.md": {"tables": lambda: vtoff_tiny.table(records("vtoff-tiny"), SEEDS)},
    "benchmarks/results/retrieval-tiny/README.md": {
        "tables": lambda: retrieval_tiny.table(records("retrieval-tiny"), SEEDS),
        "templates": lambda: templates_tiny.table(RESULTS / "retrieval-tiny" / "templates.json"),
    },
    "benchmarks/results/tryon-tiny/README.md": {"tables": lambda: tryon_tiny.table(records("tryon-tiny"))},
    "benchmarks/results/samplers-tiny/README.md": {"tables": samplers},
    "benchmarks/results/fashionvc-lists/README.md": {"table": lambda: fashionvc_lists.table(records("fashionvc-lists"))},
    "fashiongen/tiny/README.md": {"quality": quality},
}


def generated(page: str) -> str:
    """Return a page with all of its blocks generated anew.

    Raises:
        SystemExit: if the page lacks a block.
    """
    text = (ROOT / page).read_text()
    if missing := set(PAGES[page]) - {block["name"] for block in BLOCK.finditer(text)}:
        raise SystemExit(f"{page}: no block `<!-- generated: {missing.pop()} -->` ... `<!-- end -->`")
    return BLOCK.sub(lambda block: f"{block['name']} -->\n{PAGES[page][block['name']]()}\n", text)


def main() -> int:
    """Rewrite or check the pages; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    parser.add_argument("--keep", nargs=2, metavar=("OUT", "NAME"), help="first take over the records of OUT for results/NAME")
    parser.add_argument("--root", type=Path, help="with --keep: folder of the dataset or of the checkpoints, named ROOT in the records")
    given = parser.parse_args()
    if given.keep:
        out, name = Path(given.keep[0]).resolve(), given.keep[1]
        keep(out, records(name), given.root and given.root.resolve())
        if name == "vtoff-tiny":
            keep_grid(out / "igr-seed0.grid.png", RESULTS / name / "igr.grid.png", rows=SHOWN)
        if name == "tryon-tiny":
            tryon_tiny.draw_images(out, RESULTS / name)
        if name == "samplers-tiny":
            samplers_tiny.plot(records(name), RESULTS / name / "quality.png")
    differs = 0
    for page in PAGES:
        old, new = (ROOT / page).read_text(), generated(page)
        if old != new:
            differs += 1
            if given.check:
                sys.stdout.writelines(difflib.unified_diff(old.splitlines(True), new.splitlines(True), page, "generated"))
            else:
                (ROOT / page).write_text(new)
                print(page)
    return 1 if given.check and differs else 0


if __name__ == "__main__":
    sys.exit(main())
