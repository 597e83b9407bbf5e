"""Train and test the methods of virtual try-on and try-off on the embedded wardrobe, and print the tables of `results/tryon-tiny`.

    python benchmarks/studies/tryon_tiny.py OUT [--jobs 2] [--table-only]

One seed: every row of a method that learns is one checkpoint. All runs use the public command line; a run with a checkpoint or a record is
not repeated. A test keeps its predictions, and `...-other` judges those of one pairing by the truth of the other one: the same people, the
same model, but given another garment of the same category.
"""

import shutil
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from study import OVERLAYS, TINY, call, configs, differences, in_parallel, options, row, spread

PAIRINGS = ("paired", "unpaired")
VTOFF = "vtoff"


class Row(NamedTuple):
    """One row of the tables: its recipe in `recipes/tiny`, its tests, overlays, and the roles and rows of its parents."""

    recipe: str
    tests: tuple[str, ...]
    overlays: tuple[str, ...] = ()
    parents: tuple[tuple[str, str], ...] = ()
    learns: bool = True


TRIVIAL = {
    "agnostic": Row("agnostic", PAIRINGS, learns=False),
    "paste_garment": Row("paste_garment", PAIRINGS, learns=False),
    "white": Row("white", (VTOFF,), learns=False),
    "masked_crop": Row("masked_crop", (VTOFF,), learns=False),
    "mean_garment": Row("mean_garment", (VTOFF,)),
    "nearest_garment": Row("nearest_garment", (VTOFF,)),
}
BASES = {  # what others start from: not tested
    "twgtm-phase1": Row("twgtm-phase1", ()),
    "twgtm-only-vton-phase1": Row("twgtm-phase1", (), ("twgtm-only-vton",)),
    "twgtm-only-vtoff-phase1": Row("twgtm-phase1", (), ("twgtm-only-vtoff",)),
}
LEARNT = {
    "catvton": Row("catvton", PAIRINGS),
    "igr": Row("igr", (VTOFF,)),
    "tryoffdiff": Row("tryoffdiff", (VTOFF,)),
    "tryoffanyone": Row("tryoffanyone", (VTOFF,)),
    "twgtm": Row("twgtm", (*PAIRINGS, VTOFF), parents=(("phase1", "twgtm-phase1"),)),
    "twgtm-only-vton": Row("twgtm", PAIRINGS, ("twgtm-only-vton",), (("phase1", "twgtm-only-vton-phase1"),)),
    "twgtm-only-vtoff": Row("twgtm", (VTOFF,), ("twgtm-only-vtoff",), (("phase1", "twgtm-only-vtoff-phase1"),)),
}
ROWS = TRIVIAL | BASES | LEARNT
WORN = "attributes[tiny-worn-classifier]"
ON = ["lpips_mask[tiny]", "dists_mask[tiny]", "fid[tiny-classifier]", "kid[tiny-classifier]", "ssim_mask", "colour_error_mask", WORN]
ON_DIFFERENCES = ["lpips_mask[tiny]", "dists_mask[tiny]", "ssim_mask", "colour_error_mask", WORN]
OFF = ["lpips[tiny]", "dists[tiny]", "fid[tiny-classifier]", "kid[tiny-classifier]", "ssim_foreground", "colour_error_foreground"]
OFF += ["attributes[tiny-classifier]", "attributes_by_chance[tiny-classifier]"]
OFF_DIFFERENCES = ["lpips[tiny]", "dists[tiny]", "ssim_foreground", "colour_error_foreground", "attributes[tiny-classifier]"]


def settings(out: Path, name: str) -> list[str]:
    """Return the arguments of a row's recipe, overlays and parents."""
    of = ROWS[name]
    parents = [f"--parents.{role}={out / 'checkpoints' / parent / 'last.ckpt'}" for role, parent in of.parents]
    return [*configs(TINY / f"{of.recipe}.yaml", [OVERLAYS / f"{overlay}.yaml" for overlay in of.overlays]), *parents]


def fit(out: Path, threads: int, name: str) -> None:
    """Train a row's method, and what it starts from, unless they are trained."""
    for _, parent in ROWS[name].parents:
        fit(out, threads, parent)
    folder = out / "checkpoints" / name
    trained = folder / "trained"  # a training that was cut off leaves a checkpoint, but not this file
    if not ROWS[name].learns or trained.exists():
        return
    started = time.monotonic()
    call(threads, "fit", *settings(out, name), "--trainer.logger", "false", "--trainer.callbacks.dirpath", str(folder))
    trained.write_text(f"{time.monotonic() - started:.0f} s\n")
    print(f"{name}: trained in {trained.read_text()}", end="", flush=True)


def test(out: Path, threads: int, name: str, kind: str) -> None:
    """Test a row once, unless its record exists: `kind` is a pairing of try-on, or try-off."""
    record = out / f"{name}-{kind}.json"
    if record.exists():
        return
    task = VTOFF if kind == VTOFF else "vton"
    data = ["--data.init_args.task", task] + ([] if kind == VTOFF else ["--data.init_args.pairing", kind])
    protocol = ["--evaluate.task", task, "--evaluate.protocol", f"{task}-tiny", "--evaluate.keep", str(out / "kept" / record.stem)]
    checkpoint = ["--ckpt_path", str(out / "checkpoints" / name / "last.ckpt")] if ROWS[name].learns else []
    call(threads, "test", *settings(out, name), *data, *protocol, *checkpoint, "--trainer.logger", "false", "--evaluate.out", str(record))
    print(f"{record.stem}: tested", flush=True)


def judge_other(out: Path, threads: int, name: str, kind: str) -> None:
    """Judge what a method painted given the garments of the other pairing by the truth of this one."""
    record = out / f"{name}-{kind}-other.json"
    if record.exists():
        return
    (other,) = set(PAIRINGS) - {kind}
    folder = out / "others" / record.stem  # images alone: kept predictions of other data would be refused
    folder.mkdir(parents=True, exist_ok=True)
    for image in sorted((out / "kept" / f"{name}-{other}").glob("*.png")):
        shutil.copy(image, folder / image.name)
    data = ["--config", str(TINY / "paste_garment.yaml"), "--data.init_args.pairing", kind]
    call(
        threads,
        "judge",
        str(folder),
        "--protocol",
        "vton-tiny",
        *data,
        "--names",
        "id",
        "--name",
        f"{name}, another garment",
        "--out",
        str(record),
    )
    print(f"{record.stem}: judged", flush=True)


def once(out: Path, threads: int, name: str) -> None:
    """Train and test one row."""
    fit(out, threads, name)
    for kind in ROWS[name].tests:
        test(out, threads, name, kind)
    if set(PAIRINGS) <= set(ROWS[name].tests) and ROWS[name].learns:
        for kind in PAIRINGS:
            judge_other(out, threads, name, kind)


def in_test(out: Path, kind: str) -> dict[str, str]:
    """Return the rows of a test that have run, and the names of their records."""
    found = {name: f"{name}-{kind}" for name, of in (TRIVIAL | LEARNT).items() if kind in of.tests}
    return {name: record for name, record in found.items() if (out / f"{record}.json").is_file()}


def metrics(out: Path, rows: dict[str, str], columns: list[str]) -> list[str]:
    """Return the lines of a Markdown table of all rows' metrics."""
    lines = [row(["method", *columns]), row(["---", *["---:"] * len(columns)])]
    return lines + [row([label, *(spread(out, [record], column) for column in columns)]) for label, record in rows.items()]


def less(out: Path, first: str, others: dict[str, str], columns: list[str]) -> list[str]:
    """Return the lines of the paired differences of one record to others, with intervals."""
    cells = [differences(out, [first], [[record] for record in others.values()], column) for column in columns]
    return [row([label, *found]) for label, *found in zip(others, *cells, strict=True)]


def try_on(out: Path, kind: str) -> str:
    """Return the tables of try-on, paired or unpaired."""
    rows = in_test(out, kind)
    learnt = [name for name in rows if name in LEARNT]
    lines = metrics(out, rows | {f"{name}, given another garment": f"{name}-{kind}-other" for name in learnt}, ON)
    lines += ["", row(["difference", *ON_DIFFERENCES]), row(["---", *["---:"] * len(ON_DIFFERENCES)])]
    for name in learnt:
        others = {f"{name} less `paste_garment`": f"paste_garment-{kind}"}
        others |= {f"{name} less itself given another garment": f"{name}-{kind}-other"}
        if name != "twgtm" and name.startswith("twgtm"):
            others |= {f"{name} less twgtm": f"twgtm-{kind}"}
        lines += less(out, f"{name}-{kind}", others, ON_DIFFERENCES)
    return "\n".join(lines)


def try_off(out: Path) -> str:
    """Return the tables of try-off."""
    rows = in_test(out, VTOFF)
    lines = metrics(out, rows, OFF)
    lines += ["", row(["difference", *OFF_DIFFERENCES]), row(["---", *["---:"] * len(OFF_DIFFERENCES)])]
    trivial = [name for name in rows if name in TRIVIAL]
    for name in rows:
        if name in LEARNT:
            others = {f"{name} less {other}": rows[other] for other in trivial}
            if name != "twgtm" and name.startswith("twgtm"):
                others |= {f"{name} less twgtm": rows["twgtm"]}
            lines += less(out, rows[name], others, OFF_DIFFERENCES)
    return "\n".join(lines)


def draw_images(out: Path, folder: Path, people: int = 10) -> None:
    """Write what all rows made of the first people beside input and truth, one image a test: a column per person, a row per method."""
    for kind in (*PAIRINGS, VTOFF):
        rows = in_test(out, kind)
        first = out / f"{next(iter(rows.values()))}.gallery"
        inputs = ("garment", "agnostic") if kind != VTOFF else ("input",)
        shown = [name for name in rows if name not in ("agnostic", "white")]
        sources = [first / name for name in inputs] + [out / "kept" / rows[name] for name in shown] + [first / "truth"]
        names = [path.name for path in sorted(sources[0].glob("*.png"))][:people]
        images = [[Image.open(source / name).convert("RGB") for name in names] for source in sources]
        width, height = images[0][0].size
        sheet = Image.new("RGB", (len(names) * (width + 2), len(images) * (height + 2)), "white")
        for line, of_source in enumerate(images):
            for column, image in enumerate(of_source):
                sheet.paste(image, (column * (width + 2), line * (height + 2)))
        folder.mkdir(parents=True, exist_ok=True)
        sheet.quantize(256, dither=Image.Dither.NONE).save(folder / f"{kind}.png", optimize=True)
        print(f"{kind}.png, from the top: {', '.join([*inputs, *shown, 'truth'])}")


def table(out: Path) -> str:
    """Return all tables."""
    notes = "In brackets: the 95 % interval over clusters (samples that share a garment), of this checkpoint; ≈: not told apart at 5 %"
    notes += "\nby Holm's adjusted p-values of a row's comparisons."
    parts = [f"### Try-on, {kind}\n\n{try_on(out, kind)}" for kind in PAIRINGS]
    return "\n\n".join([*parts, f"### Try-off\n\n{try_off(out)}", notes])


def main() -> None:
    """Do the missing runs and print the tables."""
    given = options(__doc__)
    if not given.table_only:
        for name in TRIVIAL:  # one after the other: the first renders the world
            once(given.out, given.threads, name)
        in_parallel(given.jobs, [partial(once, given.out, given.threads, name) for name in LEARNT])
    print(table(given.out))


if __name__ == "__main__":
    main()
