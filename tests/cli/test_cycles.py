"""`vton-cycle` on the real command line: the garments that are put on are rows of one board, not conditions."""

import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image

from fashiongen.benchmark.arrange import read
from fashiongen.cli import main
from fashiongen.records import Record

METHODS = {"white": "White", "paste": "PasteGarment"}


@pytest.fixture
def recipes(world):
    """Recipes of two try-off methods and one try-on method, and a protocol of each task."""
    content = yaml.safe_load(Path("crop.yaml").read_text())
    for name, method in METHODS.items():
        Path(f"{name}.yaml").write_text(yaml.safe_dump({**content, "model": {"class_path": f"fashiongen.methods.baselines.{method}"}}))
    ssim = {"ssim": {"class_path": "fashiongen.metrics.SSIM"}}
    for task in ("vtoff", "vton"):
        stated = {"task": task, "protocol": task, "size": [64, 48], "resize": None, "reference": None, "metrics": ssim}
        Path(f"{task}.yaml").write_text(yaml.safe_dump({"evaluate": stated}))
    return world


def take_off(recipe, kept, *args):
    main(["test", "--config", f"{recipe}.yaml", "--config", "vtoff.yaml", "--evaluate.keep", kept, *args])


def put_on(node, *args):
    out = Path("results", "nodes", node, "record.json")
    task = ["--data.init_args.task", "vton", "--evaluate.out", str(out)]
    main(["test", "--config", "paste.yaml", "--config", "vton.yaml", *task, *args])
    return Record.read(out)


def test_garments_that_methods_took_off_are_rows_of_one_board(recipes):
    for name in ("crop", "white"):
        take_off(name, f"kept-{name}")
    found = {name: put_on(name, "--data.init_args.garments", f"kept-{name}") for name in ("crop", "white")}
    shutil.copytree("kept-crop", "of-another-training")
    Image.new("RGB", (48, 64), (9, 90, 200)).save(f"of-another-training/{recipes.stem}.png")
    found["again"] = put_on("again", "--data.init_args.garments", "of-another-training", "--seed_everything", "1")
    direct = put_on("direct")
    assert found["crop"].overlays == ["vton.yaml", "garments-crop+vtoff"] and direct.overlays == ["vton.yaml"]
    assert found["crop"].data["fingerprint"] != found["white"].data["fingerprint"]  # for kept predictions, which they decide
    assert found["crop"].conditions == found["white"].conditions == found["again"].conditions
    boards = {board.dataset: board for board in read(Path("results")).boards}
    assert boards.keys() == {"viton_hd", "viton_hd-cycle"}
    rows = {row.name: row for row in boards["viton_hd-cycle"].rows}
    assert list(rows) == ["paste + vton + garments-crop+vtoff", "paste + vton + garments-white+vtoff"]
    both = rows["paste + vton + garments-crop+vtoff"]  # the seeds of a pair of methods, each with garments of its own
    assert [run.record.seed for run in both.runs] == [0, 1] and both.runs[0].record.metrics != both.runs[1].record.metrics
    values = [row.cells["ssim"].value for row in rows.values()]
    assert values[0] == sum(found[name].metrics["ssim"]["value"] for name in ("crop", "again")) / 2 > values[1]


def test_other_people_are_another_board(recipes):
    take_off("crop", "kept")
    garments = ("--data.init_args.garments", "kept")
    first = put_on("first", *garments)
    recipes.resave(lambda image: image.resize((96, 128)))
    take_off("crop", "kept")
    second = put_on("second", *garments)
    differing = {name for name in first.conditions if first.conditions[name] != second.conditions[name]}
    assert differing == {"data", "reference_data"}
    assert len(read(Path("results")).boards) == 2
