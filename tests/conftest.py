"""Set-up of all tests: no network, one thread, a separate cache, fixed seeds; and the order of the test files."""

import os
import random
import sys
from pathlib import Path

import pytest
import yaml
from long_files import LONG

TESTS = Path(__file__).parent
SHARED_DATA = TESTS.parents[1] / "shared" / "data"
MOST_WORKERS = 4
"""A worker and what it forks take some 2 GB."""

os.environ.setdefault("OMP_NUM_THREADS", "1")  # Lightning would set it to the number of cores, for this process too
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_DATASETS_OFFLINE="1")  # before anything imports these libraries

# With -n the workers run the tests; the main process needs no torch, and so they start sooner.
if "PYTEST_XDIST_WORKER" in os.environ or not any(argument.startswith(("-n", "--numprocesses")) for argument in sys.argv):
    import lightning.pytorch  # noqa: F401  here, since its log handler keeps the stderr of the moment of its import: a test's would be closed
    import torch

    torch.set_num_threads(1)
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"  # otherwise DeepSpeed prints on stdout that it found nothing better


def pytest_xdist_auto_num_workers():
    """Return the number of workers for `-n auto`: this process's number of cores, at most four."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_WORKERS)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """The folder of rendered data, once per session, whichever worker asks first."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASHIONGEN_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def seeds():
    """Start every test from the same seeds, and reset those that a command has set."""
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == threads, "the test changed the number of threads: processes that later tests fork would hang"
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        os.environ.pop(name, None)


@pytest.fixture
def shared_data():
    """The folder of public samples next to the checkout."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the public samples are not here: {SHARED_DATA}")
    return SHARED_DATA


def pytest_collection_modifyitems(items):
    """Run the slowest files first, and skip tests marked `gpu` without a GPU."""
    import torch

    ranks = {TESTS / name: rank for rank, name in enumerate(LONG)}
    items.sort(key=lambda item: ranks.get(item.path, len(LONG)))
    if torch.cuda.is_available():
        return
    rehearsal = "FASHIONGEN_GPU_REHEARSAL" in os.environ  # benchmarks/gpu_check.py --rehearse: those that take any `device` run on the CPU
    for item in items:
        if item.get_closest_marker("gpu") and not (rehearsal and "device" in item.fixturenames):
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
