"""Test Random and Popularity on FashionVC's published lists in three protocols, and print the table of `results/fashionvc-lists`.

    python benchmarks/studies/fashionvc_lists.py OUT --root ROOT        # ROOT contains files/testdata_tops.csv; images are not needed
    python benchmarks/studies/fashionvc_lists.py OUT --table-only

All runs use the public command line; a run with a record is not repeated. Prints the table as Markdown, next to the paper's own rows.
"""

import json
from pathlib import Path

import numpy as np
import yaml
from study import ROOT, TINY, call, options, per_sample, row

from fashiongen.intervals import interval

PAPER = ROOT / "benchmarks" / "published" / "geco.yaml"
TABLES = {"geco-all": "2", "mgcm": "3", "strict": None}  # the paper's table in each protocol
METHODS = {"random": "Random", "popularity": "Popularity"}
NEGATIVES = 9  # of protocol mgcm


def published(protocol: str, method: str) -> list[str]:
    """Return the AUC and MRR that the paper prints, or empty cells."""
    tables = {table["table"]: table for table in yaml.safe_load(PAPER.read_text())["tables"]}
    if TABLES[protocol] is None:
        return ["", ""]
    (found,) = [each for each in tables[TABLES[protocol]]["rows"] if each["row"] == METHODS[method]]
    return [found["values"]["fashionvc"][metric] for metric in ("auc", "mrr")]


def candidates(out: Path, protocol: str) -> int:
    """Return the number of bottoms that each test row ranks: ten, the distinct bottoms of the test list, or the whole catalogue."""
    record = json.loads((out / f"random-{protocol}.json").read_text())
    if protocol == "strict":
        return int(record["reference"]["catalogue"])
    ids = per_sample(out, [f"random-{protocol}"], "mrr").ids
    return NEGATIVES + 1 if protocol == "mgcm" else len({id_.rpartition("_")[2] for id_ in ids})


def table(out: Path) -> str:
    """Return the table."""
    lines = [
        row(["protocol", "method", "AUC", "MRR", "chance MRR, H_n / n", "AUC in the paper", "MRR in the paper"]),
        row(["---", "---", *["---:"] * 5]),
    ]
    for protocol in TABLES:
        n = candidates(out, protocol)
        for method in METHODS:
            cells = []
            for metric, digits in (("auc", 3), ("mrr", 4)):
                run = per_sample(out, [f"{method}-{protocol}"], metric)
                found = interval(run.values, run.clusters)
                assert found is not None, f"{method}, {protocol}: no value varies"
                cells.append(f"{found.mean:.{digits}f} ({found.low:.{digits}f} to {found.high:.{digits}f})")
            chance = f"{np.mean(1 / np.arange(1, n + 1)):.4f}, n = {n:,}" if method == "random" else ""
            lines.append(row([f"`{protocol}`", method, *cells, chance, *published(protocol, method)]))
    return "\n".join(lines)


def main() -> None:
    """Do the missing runs and print the table."""
    given = options(__doc__, root=True)
    if not given.table_only:
        if given.root is None:
            raise SystemExit("--root is missing: the folder that contains files/testdata_tops.csv")
        folder = given.out / "checkpoints"
        common = ["--data.init_args.root", str(given.root.resolve()), "--trainer.logger", "false"]
        for method in METHODS:
            recipe, checkpoint = ["--config", str(TINY / f"{method}.yaml"), *common], []
            if method == "popularity":
                if not (folder / "last.ckpt").is_file():
                    call(given.threads, "fit", *recipe, "--trainer.callbacks.dirpath", str(folder))
                checkpoint = ["--ckpt_path", str(folder / "last.ckpt")]
            for protocol in TABLES:
                record = given.out / f"{method}-{protocol}.json"
                if not record.is_file():
                    call(given.threads, "test", *recipe, *checkpoint, "--evaluate.protocol", protocol, "--evaluate.out", str(record))
    print(table(given.out))


if __name__ == "__main__":
    main()
