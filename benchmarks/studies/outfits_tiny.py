"""Train and test the methods of outfits for a person on the embedded wardrobe, and print the tables of `results/outfits-tiny`.

    python benchmarks/studies/outfits_tiny.py OUT [--seeds 0 1 2] [--jobs 2] [--table-only]

All runs use the public command line; a run with a record is not repeated. DiFashion with and without the user's history is trained with
every seed, all others with the first one alone. Rows named `-pretrained` are the tiny checkpoint as it is. Prints the tables as Markdown,
and how far the learned metrics rank the methods as the true values do.
"""

import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr
from study import OVERLAYS, TINY, call, configs, differences, in_parallel, options, row, spread, value

TASKS = ("pfitb", "gor")
TRUE = ["true_compatibility[tiny-classifier]", "true_preference[tiny-classifier]"]
LEARNED = ["is[tiny-classifier]", "is_uniform[tiny-classifier]", "is_acc[tiny-classifier]", "personalisation[tiny-clip]", "diversity[tiny]"]
LEARNED += ["lpips[tiny]", "clip_score[tiny-clip]", "clip_image_score[tiny-clip]", "fid[tiny-classifier]"]
RETRIEVAL = "retrieval[tiny-clip]"
LOWER = ("lpips[tiny]", "fid[tiny-classifier]")


class Row(NamedTuple):
    """One row of the tables: its recipe in `recipes/tiny`, overlays, whether `fit` comes first, and whether it is run with every seed."""

    recipe: str
    overlays: tuple[str, ...] = ()
    learns: bool = True
    every_seed: bool = False


BASELINES = {
    "mean_history": Row("mean_history", learns=False),
    "random_item": Row("random_item"),
    "popular_item": Row("popular_item"),
    "nearest_item": Row("nearest_item"),
    "true_outfit": Row("true_outfit"),
}
METHODS = {
    "sd_v15-pretrained": Row("sd_v15", learns=False),
    "sd_v2-pretrained": Row("sd_v2", learns=False),
    "sd_v15": Row("sd_v15"),
    "sd_v2": Row("sd_v2"),
    "sd_naive": Row("sd_naive"),
    "controlnet": Row("controlnet"),
    "difashion": Row("difashion", every_seed=True),
    "difashion-no-history": Row("difashion", ("difashion-no-history",), every_seed=True),
}
ROWS = BASELINES | METHODS
ORACLE = "true_outfit"
EQUAL = ("sd_v2-pretrained", "sd_v2")  # equal to version 1.5 by construction: they would count it twice


def runs_of(name: str, seeds: list[int]) -> list[str]:
    """Return the names of a row's runs."""
    return [f"{name}-seed{seed}" for seed in (seeds if ROWS[name].every_seed else seeds[:1])]


def run(out: Path, threads: int, name: str, seed: int) -> None:
    """Train once, and test both tasks, unless there are records."""
    of = ROWS[name]
    run_name = f"{name}-seed{seed}"
    folder = out / "checkpoints" / run_name
    recipe = configs(TINY / f"{of.recipe}.yaml", [OVERLAYS / f"{overlay}.yaml" for overlay in of.overlays])
    common = [*recipe, "--seed_everything", str(seed), "--data.init_args.seed", str(seed), "--trainer.logger", "false"]
    trained = folder / "trained"  # a training that was cut off leaves a checkpoint, but not this file
    if of.learns and not trained.exists():
        started = time.monotonic()
        call(threads, "fit", *common, "--trainer.callbacks.dirpath", str(folder))
        trained.write_text(f"{time.monotonic() - started:.0f} s\n")
        print(f"{run_name}: trained in {trained.read_text()}", end="", flush=True)
    for task in TASKS:
        record = out / f"{run_name}-{task}.json"
        if record.exists():
            continue
        checkpoint = ["--ckpt_path", str(folder / "last.ckpt")] if of.learns else []
        protocol = ["--data.init_args.task", task, "--evaluate.task", task, "--evaluate.protocol", f"{task}-tiny"]
        call(threads, "test", *common, *protocol, *checkpoint, "--evaluate.out", str(record))
        print(f"{record.stem}: tested", flush=True)


def present(out: Path, task: str, seeds: list[int]) -> dict[str, list[str]]:
    """Return the rows whose runs have all been tested, with the names of their records."""
    found = {name: [f"{run_name}-{task}" for run_name in runs_of(name, seeds)] for name in ROWS}
    return {name: runs for name, runs in found.items() if all((out / f"{run_name}.json").is_file() for run_name in runs)}


def values(out: Path, task: str, seeds: list[int]) -> str:
    """Return the table of a task: true values first, then the learned metrics."""
    rows, columns = present(out, task, seeds), [*TRUE, *LEARNED, *([RETRIEVAL] if task == "pfitb" else [])]
    lines = [row(["method", *columns]), row(["---", *["---:"] * len(columns)])]
    return "\n".join([*lines, *(row([name, *(spread(out, records, column) for column in columns)]) for name, records in rows.items())])


def compared(out: Path, task: str, seeds: list[int]) -> str:
    """Return the differences of trained methods to the pre-trained one and the baselines, and of DiFashion to itself without history."""
    rows = present(out, task, seeds)
    lines = [row(["difference", *TRUE]), row(["---", *["---:"] * len(TRUE)])]
    others = [name for name in ("sd_v15-pretrained", *BASELINES) if name in rows and name != ORACLE]
    for name in METHODS:
        if name in rows and ROWS[name].learns:
            against = {**{other: rows[other] for other in others}}
            if name == "difashion" and "difashion-no-history" in rows:
                against["difashion-no-history"] = rows["difashion-no-history"]
            cells = [differences(out, rows[name], list(against.values()), column) for column in TRUE]
            lines += [row([f"{name} less {other}", *found]) for other, *found in zip(against, *cells, strict=True)]
    return "\n".join(lines)


def trusted(out: Path, task: str, seeds: list[int]) -> str:
    """Return the rank correlation of each learned metric with each true value, over the methods that generate images."""
    rows = {name: records for name, records in present(out, task, seeds).items() if name in METHODS and name not in EQUAL}
    if len(rows) < 3:
        return ""
    lines = [row(["metric", *(f"rank correlation with {column.partition('[')[0]}" for column in TRUE)]), row(["---", "---:", "---:"])]
    for column in [*LEARNED, *([RETRIEVAL] if task == "pfitb" else [])]:
        sign = -1 if column in LOWER else 1
        learned = [sign * np.mean([value(out, record, column) for record in records]) for records in rows.values()]
        found = [
            spearmanr(learned, [np.mean([value(out, record, true) for record in records]) for records in rows.values()]) for true in TRUE
        ]
        lines.append(row([column, *(f"{one.statistic:+.2f}" for one in found)]))
    return "\n".join(
        [*lines, "", f"Over {len(rows)} rows of methods that generate, which decides little; better is higher in every column."]
    )


def table(out: Path, seeds: list[int]) -> str:
    """Return all tables."""
    parts = []
    for task in TASKS:
        parts += [f"### {task}", values(out, task, seeds), compared(out, task, seeds), trusted(out, task, seeds)]
    notes = (
        "In brackets: the 95 % interval over seeds and clusters (outfits that share a user); rows with one run are about this checkpoint; "
    )
    return "\n\n".join([*filter(None, parts), notes + "≈: not told apart\nat 5 % by Holm's adjusted p-values of a row's comparisons."])


def main() -> None:
    """Do the missing runs and print the tables."""
    given = options(__doc__)
    if not given.table_only:
        once = partial(run, given.out, given.threads)
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "checkpoints").mkdir(exist_ok=True)
        for name in BASELINES:  # one after the other: the first renders the world
            once(name, given.seeds[0])
        rows = [(name, seed) for name, of in METHODS.items() for seed in (given.seeds if of.every_seed else given.seeds[:1])]
        in_parallel(given.jobs, [partial(once, name, seed) for name, seed in rows])
    print(table(given.out, given.seeds))


if __name__ == "__main__":
    main()
