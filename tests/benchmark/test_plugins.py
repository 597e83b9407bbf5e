"""Methods, datasets and tasks in the user's own package: which code is hashed, and how the benchmark runs them."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import toys
import yaml

from fashiongen import own_code as plugins
from fashiongen.benchmark.arrange import read
from fashiongen.benchmark.gallery import GALLERY_BYTES, ByteBudget, gallery
from fashiongen.own_code import own_sources
from fashiongen.records import Record

ROOT = Path(__file__).parents[2]
# A user's own package with a task, a method and a dataset.
TASK = """
from dataclasses import dataclass
from typing import Protocol

from fashiongen.batches import TryOffBatch
from fashiongen.tasks.one_image import OneImage


@dataclass(kw_only=True)
class DyeBatch(TryOffBatch):
    pass


class Dyes(Protocol):
    def dye(self, batch): ...


class Dye(OneImage):
    name = "dye"
    batch = DyeBatch
    interface = Dyes
    method = "dye"
    sized_by = "person"
    truth = "garment"
    foreground = "garment_mask"

    def inputs(self, batch):
        return {"input": batch.person}
"""
METHOD = """
from torch import full

from fashiongen.methods.base import Method
from shades import SHADE


class Grey(Method):
    def dye(self, batch):
        return full((len(batch), 3, *batch.person.shape[-2:]), SHADE)
"""
DATA = """
from torch.utils.data import DataLoader
from toy import Gallery, Images

from mine.task import DyeBatch


class Dyed(Images):
    def __getitem__(self, index):
        return DyeBatch(**vars(super().__getitem__(index)))


class Shop(Gallery):
    name = "shop"
    task = "dye"

    def __init__(self):
        super().__init__()
        self.images = Dyed(8, None)

    def test_dataloader(self):
        return DataLoader(self.images, batch_size=2, collate_fn=DyeBatch.collate)
"""


@pytest.fixture
def importable(tmp_path, monkeypatch):
    """A folder on this process's path; its imports are removed at the end, and `refresh` reloads its code."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def refresh(*names):
        plugins._identify.cache_clear()
        importlib.invalidate_caches()
        for name in names:
            importlib.import_module(name)
        return own_sources({"class_path": f"{names[0]}.Mine"} if names else {})

    yield refresh
    for name in set(sys.modules) - before:
        del sys.modules[name]
    plugins._identify.cache_clear()


def write(folder, **files):
    for name, text in files.items():
        file = folder / f"{name.replace('__', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def test_the_whole_package_counts_and_what_it_imports_of_the_user_s_own(tmp_path, importable):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").touch()
    write(tmp_path, mine__method="def lazily():\n    import torch, json, beside.part\n", mine__unused="", beside__part="", other="")
    before = importable("mine.method")
    assert list(before) == ["beside", "mine"] and all(value.startswith("source ") for value in before.values())
    (tmp_path / "mine" / "README.md").touch()
    (tmp_path / "mine" / "__pycache__").mkdir(exist_ok=True)
    (tmp_path / "mine" / "__pycache__" / "x.py").touch()
    write(tmp_path, other="1", mine__venv__lib__x="")
    (tmp_path / "mine" / "venv" / "pyvenv.cfg").touch()
    assert importable("mine.method") == before
    write(tmp_path, mine__unused="1")
    edited = importable("mine.method")
    assert edited["mine"] != before["mine"] and edited["beside"] == before["beside"]
    write(tmp_path, beside__part="1")
    assert importable("mine.method")["beside"] != edited["beside"]
    write(tmp_path, mine__broken="def (")  # nobody imports it
    assert importable("mine.method")["mine"] != edited["mine"]


def test_a_module_that_is_one_file_counts_wherever_it_lies(tmp_path, importable, monkeypatch):
    write(tmp_path, single="import math")
    found = importable("single")
    assert list(found) == ["single"]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "single.py").rename(tmp_path / "elsewhere" / "single.py")
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    del sys.modules["single"]
    assert importable("single") == found


def test_an_installed_package_counts_by_its_version_and_files(tmp_path, monkeypatch, importable):
    site = tmp_path / "site-packages"
    write(site, plugged="")
    info = site / "plugged_methods-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged-methods\nVersion: 1.2\n")
    (info / "RECORD").write_text("plugged.py,sha256=one,0\n")
    monkeypatch.syspath_prepend(site)
    one = importable("plugged")["plugged"]
    (info / "RECORD").write_text("plugged.py,sha256=two,0\n")
    assert one.startswith("source 1.2 ") and importable("plugged")["plugged"] not in (one, "source unknown")


def test_known_libraries_and_non_code_files_are_left_out():
    settings = {
        "model": {"class_path": "fashiongen.methods.igr.IGR", "init_args": {"optimizer": {"class_path": "torch.optim.AdamW"}, "lr": 0.1}},
        "trainer": {"callbacks": [{"class_path": "lightning.pytorch.callbacks.ModelCheckpoint"}, {"class_path": "json.JSONDecoder"}]},
        "data": {"root": "some.folder", "name": "images", "none": None},
    }
    assert own_sources(settings) == {}


def test_an_edit_reruns_what_depends_on_it_and_is_in_the_record(tmp_path, trace):
    def recipes(source):
        return {"white": toys.TRIVIAL, "mine": {**toys.LEARNT, "facts": {"sources": {"mine": source}}}}

    suite = toys.write_suite(tmp_path, recipes("source 1"))
    toys.run(suite, tmp_path / "out")
    old = toys.records(tmp_path / "out")
    assert (
        old["test--mine--seed0--toy--Toys"].versions["mine"] == "source 1" and "mine" not in old["test--white--seed0--toy--Toys"].versions
    )
    toys.write_suite(tmp_path, recipes("source 2"))
    assert "3 done" in toys.run(suite, tmp_path / "out", accept_stale=True)[1]
    assert "1 done, 2 ok" in toys.run(suite, tmp_path / "out")[1]
    assert toys.starts(trace)[3:] == ["fit--mine--seed0", "test--mine--seed0--toy--Toys"]
    assert toys.records(tmp_path / "out")["fit--mine--seed0"].versions["mine"] == "source 2"


def test_a_user_s_package_runs_from_the_user_s_folder_and_an_edit_runs_it_again(tmp_path):
    """The package is not installed, and nodes run in their own folders. The data need a relative entry of PYTHONPATH."""
    (tmp_path / "user" / "mine").mkdir(parents=True)
    (tmp_path / "user" / "mine" / "__init__.py").touch()
    write(tmp_path / "user", mine__task=TASK, mine__method=METHOD, mine__data=DATA, shades="SHADE = 0.5")
    (tmp_path / "user" / "recipes" / "tasks").mkdir(parents=True)
    metrics = {"colour": {"class_path": "fashiongen.metrics.ColourError", "init_args": {"region": "whole"}}}
    evaluate = {"task": "mine.task.Dye", "protocol": "plain"}
    protocol = {"evaluate": {**evaluate, "metrics": metrics}}
    (tmp_path / "user" / "recipes" / "tasks" / "plain.yaml").write_text(yaml.safe_dump(protocol))
    settings = {
        "model": {"class_path": "mine.method.Grey"},
        "data": {"class_path": "mine.data.Shop"},
        "trainer": {"accelerator": "cpu", "logger": False},
        "evaluate": evaluate,
    }
    (tmp_path / "user" / "recipes" / "grey.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "user" / "suite.yaml").write_text(json.dumps({"suite": "mine", "recipes": "recipes", "runs": [{"methods": ["grey"]}]}))

    def run(*options):
        command = [sys.executable, "-m", "fashiongen", "bench", "run", "suite.yaml", "--out", "out", *options]
        relative = os.path.relpath(ROOT / "tests", tmp_path / "user")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), relative])}
        done = subprocess.run(command, cwd=tmp_path / "user", env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "1 ok" in run()
    record = Record.read(tmp_path / "user" / "out" / "nodes" / "test--grey--seed0--plain--Shop" / "record.json")
    assert (record.status, record.task, record.method, record.dataset) == ("ok", "dye", "grey", "shop") and record.metrics["colour"][
        "value"
    ]
    assert set(record.versions) >= {"mine", "shades", "toy", "torch"} and record.versions["shades"].startswith("source ")
    (board,) = read(tmp_path / "user" / "out").boards
    assert (board.task, board.label, [row.name for row in board.rows]) == ("dye", "dye on shop", ["grey"])
    shown = gallery(board.rows, ByteBudget(GALLERY_BYTES))
    assert shown["columns"] == ["input", "truth", "grey"] and len(shown["lines"]) == 8
    write(tmp_path / "user", shades="SHADE = -0.5")
    assert "mine: 1 waiting" in run("--dry-run")
    write(tmp_path / "user", shades="SHADE = 0.5")
    assert "mine: 1 done" in run("--dry-run")
