import dataclasses
import hashlib
import subprocess
import sys

import numpy as np
import pytest

from fashiongen.wardrobe import ATTRIBUTES, CATEGORIES, make_item, render_item, render_item_mask


def with_value(item, name, value):
    return dataclasses.replace(item, attributes={**item.attributes, name: value})


def test_pixels_are_the_same_twice_and_in_another_process():
    item = make_item(5, "val", 11)
    first = render_item(item, 64, 48)
    assert np.array_equal(first, render_item(make_item(5, "val", 11), 64, 48))
    code = (
        "import hashlib; from fashiongen.wardrobe import make_item, render_item;"
        "print(hashlib.sha256(render_item(make_item(5, 'val', 11), 64, 48).tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert other == hashlib.sha256(first.tobytes()).hexdigest()


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_attribute_can_be_seen(category):
    item = make_item(0, "test", 1, (category,))
    for name, values in ATTRIBUTES.items():
        images = [render_item(with_value(item, name, value), 64, 48).astype(float) for value in values]
        mask = render_item_mask(item, 64, 48)
        for first in range(len(values)):
            for second in range(first + 1, len(values)):
                difference = np.abs(images[first] - images[second])[mask].mean()
                assert difference > 3.0, (category, name, values[first], values[second], difference)


@pytest.mark.parametrize("category", CATEGORIES)
def test_shop_image_is_centred_large_and_on_white(category):
    for index in range(3):
        item = make_item(1, "train", index, (category,))
        image, mask = render_item(item, 64, 48), render_item_mask(item, 64, 48)
        rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
        assert rows[0] > 0 and rows[-1] < 63 and columns[0] > 0 and columns[-1] < 47
        assert abs((rows[0] + rows[-1]) / 2 - 31.5) < 4 and abs((columns[0] + columns[-1]) / 2 - 23.5) < 4
        assert rows[-1] - rows[0] > 50 or columns[-1] - columns[0] > 36
        assert 0.2 < mask.mean() < 0.8
        border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
        assert border.min() > 225


def test_a_white_item_shows_on_white():
    item = with_value(make_item(0, "test", 4, ("tshirt",)), "Color", "white")
    plain = with_value(with_value(item, "Material", "cotton"), "Design features", "solid")
    image, mask = render_item(plain, 64, 48), render_item_mask(plain, 64, 48)
    edge = mask & ~(np.roll(mask, 1, 0) & np.roll(mask, -1, 0) & np.roll(mask, 1, 1) & np.roll(mask, -1, 1))
    assert image[edge].mean() < 215


@pytest.mark.parametrize("size", [(128, 96), (256, 192), (64, 64), (50, 31)])
def test_any_size_shows_the_same_image(size):
    item = make_item(0, "train", 8)
    assert render_item(item, *size).shape == (*size, 3)
    mask = render_item_mask(item, *size)
    assert mask.shape == size and mask.dtype == bool and mask.any() and not mask.all()


def test_half_of_the_large_image_is_the_small_one():
    differences = []
    for index in range(12):
        item = make_item(0, "train", index)
        halved = render_item(item, 128, 96).astype(float).reshape(64, 2, 48, 2, 3).mean(axis=(1, 3))
        differences.append(np.abs(halved - render_item(item, 64, 48)).mean())
    # Edges are smoothed at the size of the image, so a net of lace differs by a few grey levels.
    assert max(differences) < 6.0 and np.mean(differences) < 3.0
