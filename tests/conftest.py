"""What all tests share: no network, one thread, a cache of their own, fixed seeds."""

import os
import random
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_DATASETS_OFFLINE="1")  # before anything imports these libraries

import lightning.pytorch  # noqa: F401  here, since its log handler keeps the stderr of the moment of its import: a test's would be closed
import numpy as np
import pytest
import torch
import yaml

ROOT = Path(__file__).parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"

torch.set_num_threads(1)
if not torch.cuda.is_available():
    os.environ["DS_ACCELERATOR"] = "cpu"  # else DeepSpeed says on stdout that it found nothing better


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """The folder of what is rendered, once a session."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASHIONGEN_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def seeds():
    """Start every test from the same seeds, and forget those that a command has set."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        os.environ.pop(name, None)


@pytest.fixture
def shared_data():
    """The folder of public samples beside the checkout."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the public samples are not here: {SHARED_DATA}")
    return SHARED_DATA


def pytest_collection_modifyitems(items):
    """Skip tests marked `gpu` where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe of a toy method, in the current folder."""
    monkeypatch.chdir(tmp_path)
    logger = {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": {"save_dir": "logs", "name": "toy", "version": ""}}
    checkpoint = {
        "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
        "init_args": {"dirpath": "logs/toy", "save_last": True, "save_top_k": 0},
    }
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}}
    settings = {
        "model": {"class_path": "toy.Painter", "init_args": {"optimizer": optimizer}},
        "data": {"class_path": "toy.Gallery"},
        "trainer": {"accelerator": "cpu", "max_epochs": 1, "logger": logger, "callbacks": [checkpoint], "enable_model_summary": False},
    }
    Path("toy.yaml").write_text(yaml.safe_dump(settings))
    return "toy.yaml"
