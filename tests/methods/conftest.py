import pytest
import torch

from fashiongen.data import VITONHD


@pytest.fixture(scope="session")
def world(cache):
    """A small embedded world as the tiny recipes read it."""
    data = VITONHD(root="wardrobe", people=40, size=(64, 48), batch_size=8, num_workers=0, validation=4, in_memory=True)
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    return data


@pytest.fixture(scope="session")
def people(world):
    """Six people with their garments."""
    return type(world.datasets["test"][0]).collate([world.datasets["test"][index] for index in range(6)])


@pytest.fixture
def steady():
    """Keep the number of threads and draw the same weights."""
    torch.manual_seed(0)
