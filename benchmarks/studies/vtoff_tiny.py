"""Train and test all virtual try-off methods on the embedded wardrobe, and print the table of `results/vtoff-tiny`.

    python benchmarks/studies/vtoff_tiny.py OUT [--seeds 0 1 2] [--jobs 2] [--table-only]

All runs use the public command line; a run with a record is not repeated. Prints the table as Markdown.
"""

import time
from functools import partial
from pathlib import Path

from study import OVERLAYS, TINY, call, configs, in_parallel, options, tables

TRIVIAL = ["white", "masked_crop", "mean_garment", "nearest_garment"]
LEARNT = {"igr": [], "igr-no-garmnet": [OVERLAYS / "igr-no-garmnet.yaml"]}
COLUMNS = ["lpips[tiny]", "dists[tiny]", "fid[tiny-classifier]", "kid[tiny-classifier]", "ssim", "ssim_foreground", "ms_ssim"]
COLUMNS += ["colour_error_foreground", "attributes[tiny-classifier]", "attributes_by_chance[tiny-classifier]"]
PAIRED = ["lpips[tiny]", "dists[tiny]", "ssim_foreground", "colour_error_foreground", "attributes[tiny-classifier]"]


def run(out: Path, threads: int, name: str, recipe: Path, overlays: list[Path], seed: int, learns: bool) -> None:
    """Train and test once on `threads` cores, unless the record exists."""
    record = out / f"{name}.json"
    if record.exists():
        return
    common = [*configs(recipe, overlays), "--seed_everything", str(seed), "--data.init_args.seed", str(seed), "--trainer.logger", "false"]
    checkpoint = []
    started = time.monotonic()
    if learns:
        call(threads, "fit", *common, "--trainer.callbacks.dirpath", str(out / "checkpoints" / name))
        checkpoint = ["--ckpt_path", str(out / "checkpoints" / name / "last.ckpt")]
    print(f"{name}: trained in {time.monotonic() - started:.0f} s", flush=True)
    call(threads, "test", *common, *checkpoint, "--evaluate.out", str(record))


def table(out: Path, seeds: list[int]) -> str:
    """Return the table of all methods and the paired differences."""
    runs = {name: [name] for name in TRIVIAL} | {name: [f"{name}-seed{seed}" for seed in seeds] for name in LEARNT}
    return tables(out, runs, COLUMNS, "igr", PAIRED)


def main() -> None:
    """Do the missing runs and print the table."""
    given = options(__doc__)
    if not given.table_only:
        once = partial(run, given.out, given.threads)
        for name in TRIVIAL:  # one after the other: the first renders the world
            once(name, TINY / f"{name}.yaml", [], 0, learns=name in ("mean_garment", "nearest_garment"))
        runs = [
            partial(once, f"{name}-seed{seed}", TINY / "igr.yaml", overlays, seed, learns=True)
            for seed in given.seeds
            for name, overlays in LEARNT.items()
        ]
        in_parallel(given.jobs, runs)
    print(table(given.out, given.seeds))


if __name__ == "__main__":
    main()
