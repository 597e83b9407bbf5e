"""Rendered folders of the try-on layouts: reading them, and changing them into the variants found in practice."""

import shutil

import torch

from fashiongen.data import VITONHD, DressCode, StreetTryOn
from fashiongen.wardrobe import make_person, render_person
from fashiongen.wardrobe.dress_code import CATEGORIES as DRESS_CODE_CATEGORIES
from fashiongen.wardrobe.street_tryon import CATEGORIES as STREET_CATEGORIES
from fashiongen.wardrobe.street_tryon import FIRST_PERSON

SIZE = (128, 96)
TRAIN, TEST, HELD_OUT = 14, 6, 2
READERS = {"viton_hd": VITONHD, "dress_code": DressCode, "street_tryon": StreetTryOn}


def data(layout, root, stage="test", **options):
    module = READERS[layout](str(root), **{"size": SIZE, "batch_size": 4, "num_workers": 0, "validation": HELD_OUT, **options})
    module.setup(stage)
    return module


def samples(module, split="test"):
    dataset = module.datasets[split]
    return {row.id: dataset[index] for index, row in enumerate(dataset.rows)}


def worn(layout, sample_id, namespace="test"):
    """The world's ground truth: where the worn garment is visible, (H, W) bool."""
    if layout == "viton_hd":
        person = make_person(0, namespace, int(sample_id.split("_")[0]))
    elif layout == "dress_code":
        folder, _, rest = sample_id.rpartition("_")[0].rpartition("_")
        person = make_person(0, namespace, int(rest), DRESS_CODE_CATEGORIES[folder])
    else:
        number = int(sample_id.split("_")[0])
        person = make_person(0, namespace, FIRST_PERSON + number, STREET_CATEGORIES["dress" if number % 3 == 2 else "top"])
    return torch.from_numpy(render_person(person, *SIZE).garment_mask)


def rename(root, pattern, change):
    for path in sorted(root.glob(pattern), reverse=True):
        path.rename(path.with_name(change(path.name)))


def rewrite(root, pattern, change):
    paths = list(root.glob(pattern))
    assert paths
    for path in paths:
        path.write_bytes(change(path.read_text(encoding="utf-8")).encode())


def into_archive(root):
    """Like an extracted archive with a top folder of some name."""
    inner = root.parent / "unpacked" / "some name (1)"
    inner.parent.mkdir()
    root.rename(inner)
    return inner.parent


def no_masks(root):
    for split in ("train", "test"):
        shutil.rmtree(root / split / "agnostic-mask")
