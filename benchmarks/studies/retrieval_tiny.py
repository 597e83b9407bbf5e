"""Train and test all methods that rank bottoms on the embedded wardrobe, and print the table of `results/retrieval-tiny`.

    python benchmarks/studies/retrieval_tiny.py OUT [--seeds 0 1 2] [--jobs 2] [--table-only]

All runs use the public command line; a run with a record is not repeated. Prints the table as Markdown.
"""

import time
from functools import partial
from pathlib import Path

from study import OVERLAYS, TINY, call, configs, in_parallel, options, tables

TRIVIAL = ["random", "popularity", "colour_neighbour", "oracle"]
COLUMNS = ["auc", "mrr", "recall_at_1", "recall_at_5", "recall_at_10", "recall_at_50", "ndcg"]
PAIRED = ["auc", "mrr"]
CIGM = "geco-cigm"
# What is trained for each seed: recipe and extra arguments.
GECO = {
    "geco": [],
    "geco-untrained": [
        "--trainer.max_steps",
        "1",
        "--trainer.val_check_interval",
        "null",
        "--trainer.callbacks.every_n_train_steps",
        "1",
        "--model.init_args.optimizer.init_args.lr",
        "0",
    ],
    **{name: ["--config", str(OVERLAYS / f"{name}.yaml")] for name in ("geco-no-bpr", "geco-no-infonce", "geco-no-template")},
}
OTHERS = ["bpr_dae"]
SLOW = ["mgcm", "pix2pix_cm"]  # of the first seed only


def run(out: Path, threads: int, name: str, recipe: str, further: list[str], seed: int, learns: bool) -> None:
    """Train and test once on `threads` cores, unless the record exists."""
    record, folder = out / f"{name}.json", out / "checkpoints" / name
    if record.exists():
        return
    common = [*configs(TINY / f"{recipe}.yaml", []), *further]
    common += ["--seed_everything", str(seed), "--data.init_args.seed", str(seed), "--trainer.logger", "false"]
    checkpoint = []
    if learns:
        started = time.monotonic()
        parent = [f"--parents.cigm={out / 'checkpoints' / f'{CIGM}-seed{seed}' / 'last.ckpt'}"] if recipe == "geco" else []
        call(threads, "fit", *common, *parent, "--trainer.callbacks.dirpath", str(folder))
        checkpoint = ["--ckpt_path", str(folder / "last.ckpt")]
        print(f"{name}: trained in {time.monotonic() - started:.0f} s", flush=True)
    call(threads, "test", *common, *checkpoint, "--evaluate.out", str(record))


def table(out: Path, seeds: list[int]) -> str:
    """Return the table of all methods and the paired differences."""
    runs = {name: [name] for name in TRIVIAL} | {name: [f"{name}-seed{seed}" for seed in seeds] for name in (CIGM, *GECO, *OTHERS)}
    runs |= {name: [f"{name}-seed{seeds[0]}"] for name in SLOW}
    return tables(out, runs, COLUMNS, "geco", PAIRED)


def main() -> None:
    """Do the missing runs and print the table."""
    given = options(__doc__)
    if not given.table_only:
        once = partial(run, given.out, given.threads)
        for name in TRIVIAL:  # one after the other: the first renders the world
            once(name, name, [], 0, learns=name == "popularity")
        after = {name: ("geco", further) for name, further in GECO.items()} | {name: (name, []) for name in OTHERS}
        stages = [({CIGM: (CIGM, [])}, given.seeds), (after, given.seeds), ({name: (name, []) for name in SLOW}, given.seeds[:1])]
        for stage, seeds in stages:
            runs = [
                partial(once, f"{name}-seed{seed}", recipe, further, seed, learns=True)
                for seed in seeds
                for name, (recipe, further) in stage.items()
            ]
            in_parallel(given.jobs, runs)
    print(table(given.out, given.seeds))


if __name__ == "__main__":
    main()
