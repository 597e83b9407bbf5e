"""The contract, on every dataset that is found, rendered small."""

import shutil

import pytest
from data_contract import FolderContract

from fashiongen import data, wardrobe
from fashiongen.data.embedded import EMBEDDED
from fashiongen.errors import UserError

SIZE = (32, 24)
SETTINGS = {"size": SIZE, "batch_size": 4, "eval_batch_size": 3, "num_workers": 0, "seed": 5}


@pytest.fixture(scope="module", params=list(data.layouts()))
def world(request, tmp_path_factory):
    """A dataset, and the smallest world in its layout that its writer agrees to."""
    write = wardrobe.writers()[request.param]
    for people in (20, 40, 200):
        try:
            root = write(tmp_path_factory.mktemp("world") / request.param, people=people, size=SIZE, seed=0, workers=1)
        except UserError:  # it has to fill every split
            continue
        return data.layouts()[request.param], root
    raise AssertionError(f"{request.param}: 200 people are not enough for its writer")


class TestLayouts(FolderContract):
    """Every layout of the package."""

    @pytest.fixture
    def make(self, world):
        cls, root = world
        # Where a share of the training samples is held out, a small one.
        small = {"validation": 3} if hasattr(cls(str(root), **SETTINGS), "validation") else {}
        return lambda **options: cls(**{"root": str(root), **SETTINGS, **small, **options})

    @pytest.fixture
    def changeable(self, world, tmp_path):
        return shutil.copytree(world[1], tmp_path / "copy")


def test_every_layout_is_read_written_and_named_after_its_class():
    found = data.layouts()
    assert found.keys() == wardrobe.writers().keys() and len(found) >= 6
    for layout, cls in found.items():
        assert cls.layout == layout and getattr(data, cls.__name__) is cls and cls.__doc__
        assert cls(EMBEDDED).root.name.startswith(f"{layout}-world")
    with pytest.raises(AttributeError, match="has no attribute 'Nonsense'"):
        data.Nonsense  # noqa: B018  the access is what is tested
