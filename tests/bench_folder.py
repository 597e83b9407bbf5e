"""Writes a folder like `fashiongen bench run`, for the tests of the leaderboard: realistic values, small images."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from fashiongen.benchmark.arrange import read
from fashiongen.benchmark.boards import Board, Row
from fashiongen.records import Record

LOWER_IS_BETTER = ("lpips", "fid")
N = 40


def write_test(
    folder: Path, recipe: str, values: dict[str, float | None], *, seed: int | None = 0, overlays=(), images=0, **fields
) -> Path:
    """Write the record of one test; values per sample scatter around the metrics' values, but for FID, which has none.

    `cluster_of` gives the cluster of each sample; without it the files name none, as those of older records. `scatter=False` takes the
    same values for every seed.
    """
    cluster_of, scatter = fields.pop("cluster_of", None), fields.pop("scatter", True)
    ids = fields.pop("ids", [f"{index:05d}_00" for index in range(N)])
    sets = fields.pop("sets", ("fid",))
    label = "+".join([Path(recipe).stem, *(Path(overlay).stem for overlay in overlays)])
    node = fields.pop("node", f"test--{label}--seed{seed}--{fields.get('protocol', 'vtoff-tiny')}--VITONHD")
    place = folder / "nodes" / node
    place.mkdir(parents=True)
    generator = np.random.default_rng(abs(hash_of(label)) + ((seed or 0) if scatter else 0))
    common = np.random.default_rng(7).normal(0, 0.1, len(ids))
    scattered = {
        name: value + common + generator.normal(0, 0.05, len(ids))
        for name, value in values.items()
        if value is not None and not name.startswith(sets)
    }
    means = {name: float(scattered[name].mean()) if name in scattered else value for name, value in values.items()}
    half = 0.1
    defaults = {
        "method": Path(recipe).stem, "task": "vtoff", "dataset": "viton_hd", "split": "test", "protocol": "vtoff-tiny",
        "log": "log.txt", "command": f"fashiongen test --config {recipe} --seed_everything {seed}", "n_samples": len(ids),
        "parameters": {"trainable": 1000, "total": 2000}, "seconds_per_sample": 0.02, "peak_memory_bytes": 2**30, "device": "cpu (x86_64)",
        "data": {"fingerprint": "7c68" * 16, "size": "64x48"}, "source_sha256": "ab" * 32, "seconds": 12.5, "exit_status": 0,
        "extractors": {name: {"weights": "model.safetensors", "sha256": "91f3" * 16} for name in values if "[" in name},
        "checkpoint": {"path": "../fit/last.ckpt", "sha256": "cd" * 32, "weights_sha256": "ef" * 32},
    }  # fmt: skip
    record = Record(
        **{
            "node": node, "recipe": recipe, "overlays": list(overlays), "seed": seed,
            "metrics": {
                name: {
                    "value": value, "higher_is_better": not name.startswith(LOWER_IS_BETTER),
                    "ci95": None if value is None or name not in scattered else [value - half, value + half],
                }
                for name, value in means.items()
            },
            **defaults, **fields,
        }
    )  # fmt: skip
    if record.status == "ok" and "per_sample" not in fields:
        record.per_sample = "record.per_sample.jsonl"
        lines = [
            json.dumps(
                {
                    "id": id_,
                    **({"cluster": cluster_of(index)} if cluster_of else {}),
                    **{name: float(column[index]) for name, column in scattered.items()},
                }
            )
            for index, id_ in enumerate(ids)
        ]
        (place / record.per_sample).write_text("\n".join(lines) + "\n", encoding="utf-8")
    if images:
        record.images = "record.images"
        (place / record.images).mkdir()
        shown = sorted(ids)[:images]
        for index, id_ in enumerate(shown):
            image(hash_of(label) % 200, index).save(place / record.images / f"{id_}.png")
        record.gallery = {"input": "record.gallery/input", "truth": "record.gallery/truth"}
        for folder, shade in zip(record.gallery.values(), (10, 160), strict=True):
            (place / folder).mkdir(parents=True)
            for index, id_ in enumerate(shown):
                image(shade, index).save(place / folder / f"{id_}.png")
    (place / "log.txt").write_text("what it printed\n", encoding="utf-8")
    record.write(place / "record.json")
    return place


def write_fit(folder: Path, recipe: str, *, seed=0, overlays=(), **fields) -> None:
    label = "+".join([Path(recipe).stem, *(Path(overlay).stem for overlay in overlays)])
    node = fields.pop("node", f"fit--{label}--seed{seed}")
    names = {"task": "", "protocol": "", "dataset": "viton_hd", "split": "train", "method": Path(recipe).stem, "kind": "fit"}
    record = Record(**{"node": node, "recipe": recipe, "overlays": list(overlays), "seed": seed, "fit_seconds": 360.0, **names, **fields})
    record.write(folder / "nodes" / node / "record.json")


def image(shade: int, index: int) -> Image.Image:
    """An image (64x48) that is identified by its colour."""
    return Image.new("RGB", (48, 64), (shade, 20 * index, 255 - shade))


def hash_of(text: str) -> int:
    """The same on every run, unlike hash()."""
    return sum(ord(character) * (index + 1) for index, character in enumerate(text))


def write_folder(folder: Path) -> Path:
    """Two boards, three seeds of one method, one seed of two others, and every way a node can end."""
    for seed, lpips in enumerate((2.05, 2.08, 2.02)):
        values = {"lpips[tiny]": lpips, "ssim": 0.52, "fid[tiny-classifier]": 160.0 + seed}
        write_test(folder, "recipes/tiny/igr.yaml", values, seed=seed, images=5, seconds_per_sample=0.5)
        write_fit(folder, "recipes/tiny/igr.yaml", seed=seed)
    overlay = "recipes/overlays/igr-no-garmnet.yaml"
    values = {"lpips[tiny]": 2.12, "ssim": 0.515, "fid[tiny-classifier]": 170.0}
    write_test(folder, "recipes/tiny/igr.yaml", values, overlays=[overlay, "recipes/tasks/vtoff-tiny.yaml"], images=5)
    values = {"lpips[tiny]": 4.4, "ssim": 0.39, "fid[tiny-classifier]": 1212.0}
    write_test(folder, "recipes/tiny/white.yaml", values, images=4, seconds_per_sample=2e-5)
    ranking = {"task": "retrieval", "dataset": "fashionvc", "protocol": "strict", "extractors": {}}
    for recipe, auc in (("random", 0.5), ("geco", 0.76)):
        write_test(folder, f"recipes/tiny/{recipe}.yaml", {"auc": auc, "mrr": auc / 10}, **ranking)
    ends = {"failed": "ValueError: broken", "killed": "killed by signal 9 (out of memory?)", "timeout": "took longer than 60 s"}
    for index, (status, reason) in enumerate({**ends, "skipped": "its parent fit--dci--seed0 failed"}.items()):
        told = {"status": status, "reason": reason, "exit_status": index + 1}
        write_test(folder, f"recipes/tiny/method{index}.yaml", {}, node=f"test--method{index}--seed0", **told)
    plan = {"suite": "tiny", "sha256": "12" * 32, "nodes": [{"id": "test--late--seed0", "kind": "test"}]}
    (folder / "suite.json").write_text(json.dumps(plan), encoding="utf-8")
    return folder


def only(folder: Path) -> tuple[Board, dict[str, Row]]:
    """The one board of a folder, and its rows by name."""
    (board,) = read(folder).boards
    return board, {row.name: row for row in board.rows}
