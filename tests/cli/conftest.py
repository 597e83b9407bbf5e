"""A small folder of people, rendered once, and a copy of it to damage."""

import shutil
from pathlib import Path

import diffusers  # noqa: F401  here, since its log handler keeps the stderr of the moment of its import: a test's would be closed
import pytest
import yaml
from drawn_people import HEIGHT, WIDTH, write_people, write_segformer
from PIL import Image
from spoilt import PREDICT, World

from fashiongen.cli import main
from fashiongen.wardrobe import write_viton_hd


@pytest.fixture(scope="session")
def rendered(tmp_path_factory):
    """The folder, and the commands' outputs for it before it is damaged."""
    folder = tmp_path_factory.mktemp("rendered")
    write_viton_hd(folder / "viton", people=4, size=(64, 48), seed=0, test_fraction=0.5, workers=1)
    data = {"class_path": "fashiongen.data.VITONHD"}
    data["init_args"] = {"root": "viton", "size": [64, 48], "batch_size": 2, "num_workers": 0, "validation": 0}
    trainer = {"accelerator": "cpu", "logger": False, "max_epochs": 1, "enable_model_summary": False, "enable_checkpointing": False}
    crop = {"model": {"class_path": "fashiongen.methods.baselines.MaskedCrop"}, "data": data, "trainer": trainer}
    (folder / "crop.yaml").write_text(yaml.safe_dump(crop))
    igr = {"class_path": "fashiongen.methods.igr.IGR", "init_args": {"steps": 1}}
    (folder / "igr.yaml").write_text(yaml.safe_dump({**crop, "model": igr}))
    mean = {"class_path": "fashiongen.methods.baselines.MeanGarment", "init_args": {"size": [64, 48]}}
    keep = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"dirpath": "checkpoints", "save_last": True}}
    keep["init_args"] |= {"save_top_k": 0, "enable_version_counter": False}
    trainer = {**trainer, "enable_checkpointing": True, "callbacks": [keep]}
    (folder / "mean.yaml").write_text(yaml.safe_dump({**crop, "model": mean, "trainer": trainer}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(PREDICT)
        baseline = World(patch, {}).images()
    shutil.rmtree(folder / "out")
    return folder, baseline


@pytest.fixture
def world(rendered, tmp_path, monkeypatch):
    """A copy of the folder, in the current folder."""
    folder, baseline = rendered
    shutil.copytree(folder, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return World(monkeypatch, baseline)


@pytest.fixture(scope="session")
def segformer(tmp_path_factory):
    """A tiny SegFormer that labels drawn people."""
    return write_segformer(tmp_path_factory.mktemp("networks") / "clothes")


@pytest.fixture
def people(tmp_path, monkeypatch):
    """Three drawn photos, and two shop images, in the current folder."""
    monkeypatch.chdir(tmp_path)
    write_people(Path("photos"))
    Path("shirts").mkdir()
    for name, colour in (("red", (200, 0, 0)), ("blue", (0, 0, 200))):
        Image.new("RGB", (WIDTH, HEIGHT), colour).save(f"shirts/{name}.png")
