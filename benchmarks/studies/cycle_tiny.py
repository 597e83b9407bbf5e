"""Take garments off with each tiny method and put them on again with each, and print the matrix of `results/cycle-tiny`.

    python benchmarks/studies/cycle_tiny.py OUT [--checkpoints DIR] [--seeds 0] [--steps N] [--jobs 2] [--table-only]

Each try-off test keeps its predictions once; each try-on test reads them instead of the shop images (protocol `vton-cycle`). Checkpoints
are `DIR/NAME/last.ckpt`, of the first of the seeds; what has none there is trained. All runs use the public command line; one with a record
is not repeated. Prints two tables as Markdown: LPIPS inside the mask, and attributes.
"""

from functools import partial
from pathlib import Path

from study import TINY, call, configs, in_parallel, options, per_sample, row, value

from fashiongen.intervals import interval

OFF = ["masked_crop", "nearest_garment", "igr", "tryoffdiff", "tryoffanyone", "twgtm"]
ON = ["paste_garment", "catvton", "twgtm"]
UNTRAINED = ("masked_crop", "paste_garment")
STEPLESS = (*UNTRAINED, "nearest_garment")
PARENTS = {"twgtm": {"phase1": "twgtm-phase1"}}
# The metric after putting on, that of taking off, and decimals.
SHOWN = {
    "LPIPS inside the mask ↓": ("lpips_mask[tiny]", "lpips[tiny]", 3),
    "attribute agreement ↑": ("attributes[tiny-worn-classifier]", "attributes[tiny-classifier]", 3),
}


def checkpoint(out: Path, threads: int, name: str, seed: int, given: Path | None) -> Path:
    """Return a recipe's checkpoint below `out`: linked to the given one, or trained after its parents' unless it is there."""
    file = out / "checkpoints" / name / "last.ckpt"
    done = file.with_name("done")
    theirs = None if given is None else given / name / "last.ckpt"
    if done.exists():
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    if theirs is not None and theirs.is_file():
        file.unlink(missing_ok=True)
        file.symlink_to(theirs.resolve())
    else:
        parents = {role: checkpoint(out, threads, parent, seed, given) for role, parent in PARENTS.get(name, {}).items()}
        arguments = [argument for role, path in parents.items() for argument in (f"--parents.{role}", str(path))]
        place = ["--trainer.callbacks.dirpath", str(file.parent)]
        call(threads, "fit", *configs(TINY / f"{name}.yaml", []), *common(seed), *place, *arguments)
    done.touch()
    return file


def common(seed: int) -> list[str]:
    """Return the arguments of every command."""
    return ["--seed_everything", str(seed), "--data.init_args.seed", str(seed), "--trainer.logger", "false"]


def test(out: Path, threads: int, seed: int, steps: int | None, record: str, name: str, protocol: str, *arguments: str) -> None:
    """Test a recipe's checkpoint by a protocol, unless the record exists."""
    if (out / f"{record}.json").exists():
        return
    task = protocol.partition("-")[0]
    given = ["--evaluate.protocol", protocol, "--evaluate.task", task, "--data.init_args.task", task, *arguments]
    if name not in UNTRAINED:
        given += ["--ckpt_path", str(out / "checkpoints" / name / "last.ckpt")]
    if steps is not None and name not in STEPLESS:
        given += ["--model.init_args.steps", str(steps)]
    call(threads, "test", *configs(TINY / f"{name}.yaml", []), *common(seed), *given, "--evaluate.out", str(out / f"{record}.json"))
    print(record, flush=True)


def cell(out: Path, name: str, direct: str, column: str, digits: int) -> str:
    """Return a metric's mean, and in brackets its difference to the direct try-on with the 95 % interval over people."""
    values, ids, clusters = per_sample(out, [name], column)
    other = per_sample(out, [direct], column)
    if other.ids != ids:
        raise SystemExit(f"{name}, {direct}: not the same samples; run their tests again")
    found = interval(values, clusters, other.values)
    mean = f"{value(out, name, column):.{digits}f}"
    return mean if found is None else f"{mean} ({found.mean:+.{digits}f}: {found.low:+.{digits}f} to {found.high:+.{digits}f})"


def table(out: Path) -> str:
    """Return a table per metric: a row for each try-off method and a column for each try-on method."""
    lines: list[str] = []
    for title, (column, of_off, digits) in SHOWN.items():
        lines += ["", row([f"{title}, taken off by", f"{of_off} of taking off", *(f"put on by {name}" for name in ON)])]
        lines += [row(["---", *["---:"] * (1 + len(ON))])]
        lines += [row(["nothing: the true shop image", "", *(f"{value(out, f'on-{name}', column):.{digits}f}" for name in ON)])]
        for off in OFF:
            cells = [cell(out, f"{off}--{on}", f"on-{on}", column, digits) for on in ON]
            lines += [row([off, f"{value(out, f'off-{off}', of_off):.{digits}f}", *cells])]
    people = len(per_sample(out, [f"on-{ON[0]}"], "lpips_mask[tiny]").ids)
    lines += ["", f"In brackets: the difference to the same try-on with the true shop image, and its 95 % interval over {people} people,"]
    lines += ["for these checkpoints: one training each. Nothing is adjusted for the number of comparisons."]
    return "\n".join(lines[1:])


def main() -> None:
    """Do the missing runs and print the tables."""
    given = options(__doc__, checkpoints=True)
    seed = given.seeds[0]
    if not given.table_only:
        names = [name for name in dict.fromkeys([*OFF, *ON]) if name not in UNTRAINED]
        once = partial(test, given.out, given.threads, seed, given.steps)
        once("on-paste_garment", "paste_garment", "vton-tiny")  # alone: the first renders the world
        in_parallel(given.jobs, [partial(checkpoint, given.out, given.threads, name, seed, given.checkpoints) for name in names])
        kept = {name: str(given.out / "kept" / name) for name in OFF}
        in_parallel(given.jobs, [partial(once, f"off-{name}", name, "vtoff-tiny", "--evaluate.keep", kept[name]) for name in OFF])
        direct = [partial(once, f"on-{name}", name, "vton-tiny") for name in ON]
        cycles = [partial(once, f"{off}--{on}", on, "vton-cycle", "--data.init_args.garments", kept[off]) for on in ON for off in OFF]
        in_parallel(given.jobs, [*direct, *cycles])
    print(table(given.out))


if __name__ == "__main__":
    main()
