"""One small rendered folder per layout for all tests of the readers; a test that changes one works on a copy."""

import shutil

import pytest

from fashiongen import wardrobe

PEOPLE, TESTS, SIZE = 20, 6, (128, 96)


@pytest.fixture(scope="session")
def rendered(tmp_path_factory):
    """By layout, a folder of 14 training and 6 test people."""
    folders = {}

    def folder(layout):
        if layout not in folders:
            place = tmp_path_factory.mktemp("rendered") / layout
            folders[layout] = wardrobe.writers()[layout](place, PEOPLE, SIZE, seed=0, test_fraction=TESTS / PEOPLE, workers=1)
        return folders[layout]

    return folder


@pytest.fixture
def copied(rendered, tmp_path):
    """A copy of the rendered folder of a layout, to be changed."""
    return lambda layout: shutil.copytree(rendered(layout), tmp_path / "data" / layout)
