"""The speed of retrieval compared with the plain loop, with equal results asserted, and of searches in growing catalogues.

    python benchmarks/speed/retrieval.py OUT.json [--device cpu|cuda] [--size tiny|full] [--people 6664] [--mgcm-rows N] [--rows 5]
        [--score-rows N] [--queries 1000] [--items 1000 10000 100000 1000000] [--graph-up-to N] [--threads N] [--note TEXT]

First, GECo with random weights on rendered test rows of FashionVC (1,000 with 6,664 people): `tiny` uses the tiny recipe's networks at
64x64, `full` the paper's ResNet-18 at 128x128. The plain loop embeds the top for each row and the bottom for each row and candidate, and
scores pair by pair; ours is the callback `Evaluate` as `fashiongen test` runs it. With protocol `mgcm` (10 candidates per row) the loop
processes all rows, or the first --mgcm-rows. With `strict` (the whole catalogue) it would take hours, so it processes the first --rows.
Times are then extrapolated, and results compared on those rows. One thread; times are CPU times, which a busy machine changes less, and
with a GPU wall times.

Second, catalogues of random embeddings of 128 numbers on disk. Each step runs in its own process; its memory is the peak of resident memory
minus its use before, including pages of memory-mapped files. Wall times, --threads threads.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
import yaml
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor

from fashiongen import metrics
from fashiongen.data import FashionVC
from fashiongen.evaluation import Evaluate
from fashiongen.evaluation.provenance import device_name, versions
from fashiongen.methods.geco import GECo
from fashiongen.retrieval.embeddings import Embeddings
from fashiongen.retrieval.index import Found, Index, recall, search_exactly

PEOPLE = 6664  # pairs of the embedded world: 1,000 of them for testing
IMAGES = {"tiny": 64, "full": 128}
NETWORKS: dict[str, dict[str, Any]] = {
    "tiny": {"backbone_options": {"channels": [16, 32, 64, 128]}, "features": 16, "noise_channels": 256},
    "full": {},
}
TASKS = Path(__file__).parents[2] / "recipes" / "tasks"
WIDTH, TOP, EFFORTS = 128, 10, (16, 64, 256)
GROUPED = 100_000  # items of the catalogue with groups, like learnt embeddings
GROUPS, SPREAD = 1000, 0.5


TOLERANCE = {"cpu": 1e-6, "cuda": 1e-3}  # of mean AUC and MRR: on a GPU the sums of a batch are in another order than those of a sample


def now(device: torch.device) -> float:
    """Return CPU time or, with a GPU, wall time once it has finished, in seconds."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def protocol(name: str) -> dict[str, Any]:
    """Return the metrics of a protocol."""
    settings = yaml.safe_load((TASKS / f"{name}.yaml").read_text())["evaluate"]["metrics"]
    return {key: getattr(metrics, entry["class_path"].rpartition(".")[2])(**entry["init_args"]) for key, entry in settings.items()}


def ours(method: GECo, data: FashionVC, name: str, out: Path) -> list[dict[str, float]]:
    """Test like the command line, and return the values of each row."""
    evaluate = Evaluate("retrieval", name, protocol(name), out=str(out / f"{name}.json"))
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "devices": 1}
    device = method.device
    options |= {"accelerator": "cpu" if device.type == "cpu" else "gpu"}
    L.Trainer(callbacks=[evaluate], **options).test(method, datamodule=data, verbose=False)
    method.to(device)  # Lightning leaves it on the CPU
    found = {row["id"]: row for row in map(json.loads, (out / f"{name}.per_sample.jsonl").read_text().splitlines())}
    return [found[row.id] for row in data.rows["test"]]


@torch.no_grad()
def plain_loop(method: GECo, data: FashionVC, name: str, rows: int) -> list[dict[str, float]]:
    """Process the first rows one by one, and return the AUC and MRR of each."""
    queries, catalogue = data.test_dataloader().dataset, data.catalogue()
    place = {id_: index for index, id_ in enumerate(catalogue.ids)}
    values = []
    for number in range(rows):
        row = queries[number]
        query = method.embed_query(move_data_to_device(row.without_target(), method.device))

        def score(id_: str, query: Tensor = query) -> float:
            candidate = move_data_to_device(catalogue[place[id_]], method.device)
            return float(method.score(query, method.embed_candidate(candidate)))

        own, taken = row.positive[0], {*row.others[0], row.positive[0]}
        if name == "mgcm":
            scores = [score(id_) for id_ in row.negatives[0]]
            judged = {"auc": scores[:3], "mrr": scores[:9]}
        else:
            scores = [score(id_) for id_ in catalogue.ids if id_ not in taken]
            judged = {"auc": scores, "mrr": scores}
        positive = score(own)
        counts = {key: (sum(s > positive for s in found), sum(s == positive for s in found), len(found)) for key, found in judged.items()}
        above, ties, count = counts["auc"]
        auc = 1 - (above + ties / 2) / count
        above, ties, _ = counts["mrr"]
        values.append({"auc": auc, "mrr": sum(1 / rank for rank in range(above + 1, above + ties + 2)) / (ties + 1)})
    return values


def compare(method: GECo, data: FashionVC, name: str, rows: int, scratch: Path) -> dict[str, Any]:
    """Time a whole evaluation both ways; the time of the loop over the first rows is extrapolated."""
    started = now(method.device)
    found = ours(method, data, name, scratch)
    short = now(method.device) - started
    started = now(method.device)
    wanted = plain_loop(method, data, name, rows)
    long = (now(method.device) - started) * len(found) / rows
    means = {key: [float(np.mean([row[key] for row in values[:rows]])) for values in (found, wanted)] for key in ("auc", "mrr")}
    difference = max(abs(one - other) for one, other in means.values())
    assert difference < TOLERANCE[method.device.type], f"{name}: {means}"
    told = {"rows": len(found), "rows of the loop": rows, "AUC and MRR of these": [round(means[key][1], 6) for key in means]}
    return {"ours, s": short, "loop, s": long, "loop / ours": long / short, "difference": difference, **told}


@torch.no_grad()
def compare_scores(method: GECo, data: FashionVC, rows: int | None) -> dict[str, dict[str, Any]]:
    """Time the scoring of all pairs of embeddings: one product, and pair by pair by the method's own `score` and by a bare dot product.

    With `rows`, only those of the first `rows` tops.
    """
    device = method.device
    tops = (move_data_to_device(batch.without_target(), device) for batch in data.test_dataloader())
    bottoms = (move_data_to_device(batch, device) for batch in data.catalogue_dataloader())
    queries = torch.cat([method.embed_query(batch) for batch in tops])[:rows]
    candidates = torch.cat([method.embed_candidate(batch) for batch in bottoms])
    times = []
    for _ in range(6):
        started = now(device)
        product = method.score(queries, candidates)
        times.append(now(device) - started)
    short = sorted(times[1:])[2]
    rows: dict[str, dict[str, Any]] = {}
    ways = {"method.score": lambda query, candidate: method.score(query[None], candidate[None])[0, 0], "torch.dot": torch.dot}
    for name, way in ways.items():
        pairs = torch.empty_like(product)
        started = now(device)
        for i, query in enumerate(queries):
            for j, candidate in enumerate(candidates):
                pairs[i, j] = way(query, candidate)
        long = now(device) - started
        difference = float((pairs - product).abs().max() / product.abs().max())
        assert difference < 1e-5, name
        told = {"pairs": product.numel()}
        rows[f"scoring alone, pair by pair by {name}"] = {
            "ours, s": short,
            "loop, s": long,
            "loop / ours": long / short,
            "difference": difference,
            **told,
        }
    return rows


def write_embeddings(file: Path, items: int, groups: int, seed: int) -> None:
    """Write random embeddings in blocks; with `groups`, each lies around one of that many centres."""
    draw = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((groups, WIDTH), dtype=np.float32) if groups else None
    with file.open("wb") as out:
        for start in range(0, items, 10_000):
            values = draw.standard_normal((min(10_000, items - start), WIDTH), dtype=np.float32)
            if centres is not None:
                values = centres[draw.integers(groups, size=len(values))] + SPREAD * values
            values.tofile(out)


class Product:
    """What the exact search must know about a method whose score is an inner product."""

    @staticmethod
    def score(query: Tensor, candidate: Tensor) -> Tensor:
        """Return all dot products."""
        return query @ candidate.T


def peak_over(before: int) -> float:
    """Return the peak of resident memory since the last reset minus `before`, in MB."""
    return round(resident("VmHWM") - before) / 1024


def resident(what: str) -> int:
    """Return a line of this process's status, in KB."""
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))


def step(what: str, folder: Path, items: int, threads: int) -> dict[str, Any]:
    """Run one step in this process: search a catalogue exactly, build an index, or search with one."""
    torch.set_num_threads(threads)
    catalogue = Embeddings(folder / "rows.f32", np.arange(items), WIDTH)
    queries = torch.from_numpy(np.fromfile(folder / "queries.f32", np.float32).reshape(-1, WIDTH))
    action, _, kind = what.partition(" ")
    if action == "search":
        exact = Found(*(torch.from_numpy(array) for array in np.load(folder / "exact.npz").values()))
    import faiss  # noqa: F401  so that its libraries are loaded before memory is measured

    Path("/proc/self/clear_refs").write_text("5")
    before, started = resident("VmRSS"), time.perf_counter()
    if action == "exact":
        found = search_exactly(Product(), queries, catalogue, TOP)
        told = {"search, s": time.perf_counter() - started, "recall@10": 1.0, "peak, MB": peak_over(before)}
        np.savez(folder / "exact.npz", scores=found.scores.numpy(), places=found.places.numpy())
        return told
    index = Index(kind, catalogue, folder)
    if action == "build":
        size = sum(file.stat().st_size for file in folder.glob(f"{kind}-*"))
        return {"build, s": time.perf_counter() - started, "build's peak, MB": peak_over(before), "file, MB": size / 1e6}
    told = {"open, s": time.perf_counter() - started}
    for effort in EFFORTS:
        started = time.perf_counter()
        found = index.search(queries, TOP, effort)
        told[f"search at {effort}, s"] = time.perf_counter() - started
        told[f"recall@10 at {effort}"] = recall(found, exact)
    return {**told, "peak, MB": peak_over(before)}


def grow(sizes: list[int], queries: int, threads: int, graph_up_to: int) -> list[dict[str, Any]]:
    """Search catalogues of all sizes in all ways, each step in its own process; `hnsw` only up to a number of items."""
    rows = []
    for items, groups in [*((items, 0) for items in sizes), *([(GROUPED, GROUPS)] if sizes else [])]:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            write_embeddings(folder / "rows.f32", items, groups, seed=0)
            write_embeddings(folder / "queries.f32", queries, groups, seed=1)
            told: dict[str, dict[str, Any]] = {"exact": {}, "ivf": {}, "hnsw": {}}
            if items > graph_up_to:
                del told["hnsw"]
            for what in ("exact", *(f"{action} {kind}" for kind in list(told)[1:] for action in ("build", "search"))):
                print(f"{items} items{', grouped' if groups else ''}: {what}", file=sys.stderr, flush=True)
                command = [sys.executable, __file__, "-", "--step", what, "--folder", scratch, "--items", str(items)]
                done = subprocess.run([*command, "--threads", str(threads)], stdout=subprocess.PIPE, text=True, check=True)
                told[what.split()[-1]] |= json.loads(done.stdout.splitlines()[-1])
            for kind, values in told.items():
                rows.append({"items": items, "embeddings": f"{groups} groups" if groups else "normal", "index": kind, **values})
    return rows


def number(value: object) -> str:
    """Return a table's cell."""
    return f"{value:.3g}" if isinstance(value, float) and value < 1000 else f"{value:,.0f}" if isinstance(value, float) else str(value)


def table(rows: list[dict[str, Any]]) -> str:
    """Return rows with the same or fewer keys as a Markdown table."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    lines = [keys, ["---"] * len(keys), *([number(row.get(key, "")) for key in keys] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(args: list[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("--size", choices=list(IMAGES), default="tiny")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="for the evaluation")
    parser.add_argument("--people", type=int, default=PEOPLE, help="pairs of the embedded world; 15 %% are for testing")
    parser.add_argument("--mgcm-rows", type=int, help="rows that the plain loop processes with protocol mgcm (default: all)")
    parser.add_argument("--score-rows", type=int, help="tops whose pairs are scored one by one (default: all)")
    parser.add_argument("--rows", type=int, default=5, help="rows that the plain loop processes with protocol strict")
    parser.add_argument("--queries", type=int, default=1000, help="queries for the growing catalogues")
    parser.add_argument("--items", type=int, nargs="*", default=[1000, 10_000, 100_000, 1_000_000], help="sizes of catalogues")
    parser.add_argument("--graph-up-to", type=int, default=1_000_000, help="maximum number of items for hnsw: a million take long")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads for the growing catalogues (default: all cores)")
    parser.add_argument("--note", default="", help="stored with the conditions, such as what else the machine was doing")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(args)
    if options.step:
        print(json.dumps(step(options.step, options.folder, options.items[0], options.threads)))
        return
    load_before = os.getloadavg()[0]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    side = IMAGES[options.size]
    data = FashionVC(root="wardrobe", people=options.people, size=(side, side), batch_size=50, num_workers=0, in_memory=True)
    data.setup("test")
    torch.backends.cudnn.allow_tf32 = False  # equal results are asserted
    method = GECo(image_size=side, **NETWORKS[options.size]).eval().to(options.device)
    evaluated: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, rows in (("mgcm", options.mgcm_rows or len(data.rows["test"])), ("strict", options.rows)):
            print(f"evaluation by {name}", file=sys.stderr, flush=True)
            evaluated[f"whole evaluation, {name}"] = compare(method, data, name, rows, Path(scratch))
    print("scoring alone", file=sys.stderr, flush=True)
    evaluated |= compare_scores(method, data, options.score_rows)
    grown = grow(options.items, options.queries, options.threads, options.graph_up_to)
    conditions = {
        "method": f"GECo, {options.size}, random weights, {side}x{side}",
        "device": device_name(method.device, 1),
        "seconds": "of the processor" if options.device == "cpu" else "on the wall",
        "rows": len(data.rows["test"]),
        "catalogue": len(data.catalogue()),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores; evaluation on 1 thread, growing catalogues on {options.threads}",
        "load": [load_before, os.getloadavg()[0]],
        "queries": options.queries,
        "scores of all queries with 1,000,000 items, MB": 4 * options.queries,
        "note": options.note,
        **versions(),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    content = {"conditions": conditions, "evaluation": evaluated, "catalogues": grown}
    options.out.write_text(json.dumps(content, indent=2) + "\n")
    print(f"{', '.join(f'{key}: {value}' for key, value in conditions.items())}\n")
    print(table([{"": name, **row} for name, row in evaluated.items()]) + "\n")
    for kind in ("exact", "ivf", "hnsw") if grown else ():
        print(table([{key: value for key, value in row.items()} for row in grown if row["index"] == kind]) + "\n")


if __name__ == "__main__":
    main()
