"""Tests for all try-on layouts: the embedded world, empty lists, empty masks."""

import shutil

import pytest
import torch
from PIL import Image
from tryon_folders import READERS, SIZE, data, no_masks, rewrite

from fashiongen.data.embedded import embedded_folder
from fashiongen.errors import UserError


@pytest.mark.parametrize("layout", ["dress_code", "street_tryon"])
def test_the_embedded_wardrobe_comes_in_every_layout(layout, cache):
    module = READERS[layout]("wardrobe", people=40, size=(64, 48), batch_size=2, num_workers=0, validation=2)
    module.setup("test")
    assert module.root == embedded_folder(layout, 40, (64, 48), 0) and cache in module.root.parents
    batches = list(module.test_dataloader())
    assert sum(len(batch) for batch in batches) == len(module.datasets["test"]) == 6
    assert all(batch.person.shape[1:] == (3, 64, 48) and batch.mask.dtype == torch.bool for batch in batches)


def blank_mask(root):
    Image.new("L", SIZE[::-1]).save(root / "test" / "agnostic-mask" / "00015_00_mask.png")


def blank_paint(root):
    no_masks(root)
    shutil.copy(root / "test" / "image" / "00015_00.jpg", root / "test" / "agnostic-v3.2" / "00015_00.jpg")


def blank_labels(root):
    number = "000015"
    Image.new("L", SIZE[::-1]).save(root / "validation" / "segm_atr_labels" / f"{number}.png")
    Image.new("RGB", SIZE[::-1]).save(root / "validation" / "densepose" / f"{number}_densepose.png")


@pytest.mark.parametrize(
    ("layout", "spoil", "words"),
    [
        ("viton_hd", blank_mask, r"sample 00015_00: \S+00015_00_mask\.png marks no pixel at 128x96"),
        ("viton_hd", blank_paint, r"sample 00015_00: the mask that is made from its painted image \(\S+00015_00\.jpg\) marks no pixel"),
        (
            "street_tryon",
            blank_labels,
            r"sample 000015: the mask that is made from its parse and DensePose .* marks no pixel",
        ),
    ],
)
def test_a_mask_that_marks_nothing_is_refused_not_taken_for_the_whole_image(layout, spoil, words, copied):
    root = copied(layout)
    spoil(root)
    dataset = data(layout, root).datasets["test"]
    with pytest.raises(UserError, match=words) as error:
        list(dataset)
    assert "\n" not in str(error.value)
    assert dataset[0].mask.any()


@pytest.mark.parametrize("layout", READERS)
@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_list_is_an_error(layout, content, copied):
    root = copied(layout)
    lists = {
        "viton_hd": "test_pairs.txt",
        "dress_code": "**/test_pairs_*paired.txt",
        "street_tryon": "annotations/validation_image_list.txt",
    }
    rewrite(root, lists[layout], lambda text: content)
    with pytest.raises(UserError, match=r"(test_pairs|test_pairs_unpaired|validation_image_list)\.txt: no sample .*is listed") as error:
        data(layout, root)
    assert "missing" not in str(error.value)
