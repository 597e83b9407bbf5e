"""The device of the tests marked `gpu`, float32 in full precision, and small worlds."""

import pytest
import torch
import yaml
from contract import small_data
from lightning.fabric.utilities import move_data_to_device


@pytest.fixture(scope="session")
def device():
    """The GPU; in a rehearsal (see the root conftest) the CPU, so that the tests themselves are tried where there is no GPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="session")
def tolerance(device):
    """Of float32 results relative to their scale: the CPU's and the GPU's sums are in different orders."""
    return 1e-3 if device.type == "cuda" else 0.0


@pytest.fixture(autouse=True)
def full_precision():
    """Leave TF32 out: it has ten bits, and the CPU has no such type."""
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn


@pytest.fixture(scope="session")
def worlds(cache):
    """The data of a recipe on a small world, set up for a stage; one for each way of reading it."""
    found = {}

    def world(recipe, stage="test"):
        data = yaml.safe_load(recipe.read_text(encoding="utf-8"))["data"]
        key = (data["class_path"], *(str(data["init_args"].get(name)) for name in ("root", "size", "images", "task")))
        if key not in found:
            found[key] = small_data(recipe)
        found[key].setup(stage)
        return found[key]

    return world


@pytest.fixture
def to_device(device):
    """Move a batch as Lightning does."""
    return lambda batch: move_data_to_device(batch, device)
