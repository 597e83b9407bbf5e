"""A task, a dataset and a method from an external package: everything runs on them without changes to fashiongen."""

import json
import re
from pathlib import Path

import pytest
import yaml
from contract import check_contract, class_of
from PIL import Image

from fashiongen.cli import main

# Several images a sample, as many as the sample asks for, each with a caption: what outfits will return.
PACKAGE = """
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fashiongen.batches import Batch, Ragged, to_float, to_uint8
from fashiongen.data.base import FashionData
from fashiongen.methods.base import Method
from fashiongen.metrics.base import PerSample
from fashiongen.tasks import GalleryRow, Task


@dataclass(kw_only=True)
class ShadesBatch(Batch):
    TARGETS: ClassVar[tuple[str, ...]] = ("shades",)
    image: Tensor
    wanted: list[int]
    shades: Ragged | None = None


@dataclass
class Shades:
    images: Ragged
    captions: list[list[str]]


class MakesShades(Protocol):
    def make_shades(self, batch: ShadesBatch) -> Shades: ...


class ShadesTask(Task):
    name = "shades"
    batch = ShadesBatch
    interface = MakesShades
    method = "make_shades"
    gallery = ("input", "truth")

    def check_data(self, data, protocol):
        assert "shades" in data.offers

    def check_prediction(self, method, prediction, batch):
        if not isinstance(prediction, Shades) or prediction.images.lengths.tolist() != batch.wanted:
            raise TypeError("as many shades as are wanted")
        return prediction

    def update(self, method, prediction, batch, protocol):
        for metric in protocol.metrics.values():
            metric.update(prediction.images, batch.shades)
        return 0

    def gallery_rows(self, prediction, batch, indices):
        def strip(images):
            return torch.cat([torch.full((3, 8, 1), 255, dtype=torch.uint8), *to_uint8(to_float(images)).cpu()], dim=2)

        return [
            GalleryRow(id=batch.ids[i], images={
                "input": batch.image[i].cpu(), "prediction": strip(prediction.images[i]), "truth": strip(batch.shades[i])})
            for i in indices
        ]

    def images(self, prediction, batch):
        return [(f"{id_}-{k}", image) for i, id_ in enumerate(batch.ids) for k, image in enumerate(prediction.images[i])]

    def captions(self, prediction, batch):
        return [
            {"image": f"{id_}-{k}.png", "caption": caption}
            for i, id_ in enumerate(batch.ids) for k, caption in enumerate(prediction.captions[i])
        ]

    def reference_info(self, data, protocol):
        return {"dataset": data.name, "split": data.split, "field": "shades", "fingerprint": data.fingerprint()}


class ShadeError(PerSample):
    higher_is_better = False

    def update(self, prediction: Ragged, truth: Ragged) -> None:
        gap = (prediction.values - to_float(truth.values)).abs().mean(dim=(1, 2, 3))
        row, count = truth.row_of, len(truth)
        total = torch.zeros(count, device=gap.device).index_add_(0, row, gap)
        self.scores.append(total / truth.lengths.clamp(min=1))
        self.defined.append((truth.lengths > 0).float())


class Shader(Method):
    name = "shader"

    def __init__(self, optimizer: OptimizerCallable = torch.optim.SGD) -> None:
        super().__init__(optimizer)
        self.dark = nn.Parameter(torch.tensor(0.0))

    def make_shades(self, batch: ShadesBatch) -> Shades:
        rows = [
            torch.stack([to_float(batch.image[i]) - self.dark * (k + 1) for k in range(n)]).clamp(-1, 1) if n else to_float(batch.image[:0])
            for i, n in enumerate(batch.wanted)
        ]
        return Shades(Ragged.of(rows), [[f"shade {k + 1} of {id_}" for k in range(n)] for id_, n in zip(batch.ids, batch.wanted)])

    def training_step(self, batch: ShadesBatch, batch_idx: int) -> Tensor:
        return (self.make_shades(batch).images.values - to_float(batch.shades.values)).abs().mean()

    def validation_step(self, batch: ShadesBatch, batch_idx: int) -> None:
        self.log("val/loss", self.training_step(batch, 0), batch_size=len(batch))


class Walls(FashionData):
    name, split, task = "walls", "test", "shades"
    offers = frozenset({"shades"})
    size = None

    def __init__(self, count: int = 6) -> None:
        super().__init__()
        self.count, self.eval_batch_size, self.num_workers = count, 3, 0  # the last of a batch wants two

    def sample(self, index: int) -> ShadesBatch:
        image = torch.full((1, 3, 8, 6), 100 + 20 * index, dtype=torch.uint8)
        wanted = index % 3
        darker = [(image[0].float() - 30 * (k + 1)).clamp(0, 255).to(torch.uint8) for k in range(wanted)]
        return ShadesBatch(
            ids=[f"wall{index}"], image=image, wanted=[wanted], shades=Ragged.of([torch.stack(darker) if darker else image[:0]])
        )

    def train_dataloader(self):
        return DataLoader([self.sample(i) for i in range(self.count)], batch_size=self.eval_batch_size, collate_fn=ShadesBatch.collate)

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader

    def fingerprint(self) -> str:
        return f"walls-{self.count}"
"""
TASK = "outside_shades.ShadesTask"
PROTOCOL = {
    "evaluate": {
        "task": "shades",
        "protocol": "shades-toy",
        "size": None,
        "reference": None,
        "metrics": {"error": {"class_path": "outside_shades.ShadeError"}},
    }
}
RECIPE = {
    "seed_everything": 0,
    "model": {
        "class_path": "outside_shades.Shader",
        "init_args": {"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.03}}},
    },
    "data": {"class_path": "outside_shades.Walls", "init_args": {"count": 6}},
    "trainer": {
        "accelerator": "cpu",
        "max_epochs": 3,
        "num_sanity_val_steps": 0,
        "enable_model_summary": False,
        "logger": {
            "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
            "init_args": {"save_dir": "logs", "name": "shader", "version": ""},
        },
        "callbacks": [
            {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"dirpath": "logs/shader", "save_last": True}}
        ],
    },
    "evaluate": {"task": "shades", "protocol": "shades-toy"},
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of a user whose own package holds a task, a dataset and a method."""
    (tmp_path / "outside_shades.py").write_text(PACKAGE)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "shades-toy.yaml").write_text(yaml.safe_dump(PROTOCOL))
    (tmp_path / "shades.yaml").write_text(yaml.safe_dump(RECIPE))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_everything_runs_on_a_task_of_another_package(folder, capsys):
    main(["fit", "--config", "shades.yaml"])
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert "val/images" in EventAccumulator("logs/shader").Reload().Tags()["images"]
    out = folder / "board" / "nodes" / "test--shades--seed0--shades-toy--Walls" / "record.json"
    main(["test", "--config", "shades.yaml", "--ckpt_path", "logs/shader/last.ckpt", "--evaluate.out", str(out)])
    record = json.loads(out.read_text())
    assert (record["task"], record["protocol"], record["method"], record["n_samples"]) == ("shades", "shades-toy", "shader", 6)
    assert record["metrics"]["error"]["value"] < 0.1  # without training it is 0.23
    assert record["conditions"]["data"] == "walls-6" and record["reference"]["field"] == "shades"
    assert sorted(record["gallery"]) == ["input", "truth"]
    for name in (record["images"], *record["gallery"].values()):
        assert len(list((out.parent / name).glob("*.png"))) == 6
    with Image.open(out.parent / record["images"] / "wall2.png") as strip:
        assert strip.size == (13, 8)  # two shades side by side

    main(["predict", "--config", "shades.yaml", "--ckpt_path", "logs/shader/last.ckpt", "--out", "made"])
    names = [f"wall{index}-{shade}.png" for index in range(6) for shade in range(index % 3)]
    assert sorted(path.name for path in Path("made").glob("*.png")) == sorted(names)
    lines = [json.loads(line) for line in Path("made/captions.jsonl").read_text().splitlines()]
    assert [line["image"] for line in lines] == sorted(names) and lines[0]["caption"] == "shade 1 of wall1"

    main(["leaderboard", "board", "--html", "page.html", "--markdown", "page.md"])
    assert "shades on walls" in Path("page.md").read_text()
    content = json.loads(re.search(r"<script[^>]*application/json[^>]*>(.*?)</script>", Path("page.html").read_text(), re.DOTALL)[1])
    gallery = content["boards"][0]["gallery"]
    assert gallery["columns"] == ["input", "truth", "shades"] and len(gallery["lines"]) == 6
    assert all(image.startswith("data:image/png;base64,") for line in gallery["lines"] for image in line["images"])


def test_tests_of_a_task_that_is_not_read_from_files_share_nothing(folder):
    """`bench run` asks for it wherever a row has several protocols."""
    for _ in range(2):
        main(["test", "--config", "shades.yaml", "--evaluate.reuse", "shared", "--evaluate.out", "out.json"])
        record = json.loads(Path("out.json").read_text())
        assert record["status"] == "ok" and record["source"] == {} and record["predictions"] is None


def test_the_contract_holds_for_a_task_of_another_package(folder):
    data = class_of("outside_shades.Walls")(count=6)
    check_contract(folder / "shades.yaml", data)


CHEATS = """
from outside_shades import Shader, Shades, to_float, Ragged


class Peeks(Shader):
    def test_step(self, batch, batch_idx):
        return Shades(Ragged(to_float(batch.shades.values), batch.shades.offsets), self.make_shades(batch).captions)


class Counts(Shader):
    def make_shades(self, batch):
        made = super().make_shades(batch)
        return Shades(made.images, [[f"{caption} among {len(batch)}" for caption in row] for row in made.captions])
"""


@pytest.mark.parametrize(("cheat", "words"), [("Peeks", "it saw the truth"), ("Counts", "depend on the batch")])
def test_the_contract_finds_who_breaks_it(folder, cheat, words):
    (folder / "cheating_shades.py").write_text(CHEATS)
    (folder / "cheat.yaml").write_text(yaml.safe_dump({**RECIPE, "model": {"class_path": f"cheating_shades.{cheat}"}}))
    with pytest.raises(AssertionError, match=words):
        check_contract(folder / "cheat.yaml", class_of("outside_shades.Walls")(count=6))


def test_the_task_may_be_named_by_its_path(folder, monkeypatch):
    """Whether or not it was imported."""
    protocol = {"evaluate": {**PROTOCOL["evaluate"], "task": TASK}}
    (folder / "tasks" / "shades-toy.yaml").write_text(yaml.safe_dump(protocol))
    (folder / "shades.yaml").write_text(yaml.safe_dump({**RECIPE, "evaluate": {"task": TASK, "protocol": "shades-toy"}}))
    main(["fit", "--config", "shades.yaml", "--trainer.max_epochs", "1"])
    main(["test", "--config", "shades.yaml", "--ckpt_path", "logs/shader/last.ckpt", "--evaluate.out", "out.json"])
    assert json.loads(Path("out.json").read_text())["task"] == "shades"


def test_a_protocol_of_another_task_is_refused(folder, capsys):
    recipe = {**RECIPE, "evaluate": {"task": "vtoff", "protocol": "shades-toy"}}
    (folder / "wrong.yaml").write_text(yaml.safe_dump(recipe))
    for command in ("fit", "test"):
        with pytest.raises(SystemExit) as stop:
            main([command, "--config", "wrong.yaml"])
        assert stop.value.code == 2
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert "shades-toy" in line and "shades" in line and "vtoff" in line
