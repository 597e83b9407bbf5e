import json

import numpy as np
import pytest
from PIL import Image

from fashiongen.errors import UserError
from fashiongen.wardrobe import make_person, render_person, write_street_tryon
from fashiongen.wardrobe.street_tryon import CATEGORIES, FIRST_PERSON

SIZE = (64, 48)
PEOPLE, TESTS = 20, 6
NAMES = ("image/{}.jpg", "densepose/{}_densepose.png", "segm_atr_labels/{}.png", "raw_bbox/{}.jpg.json")
CSV = ("street2street_test_pairs_top.csv", "street2street_test_pairs_dress.csv", "shop2street_test_pairs_top.csv")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("wardrobe") / "street_tryon"
    return write_street_tryon(root, PEOPLE, SIZE, seed=0, test_fraction=TESTS / PEOPLE, workers=1)


def names(world, folder):
    return (world / "annotations" / f"{folder}_image_list.txt").read_text().splitlines()


def pairs(world, name):
    head, *lines = (world / "annotations" / name).read_text().splitlines()
    assert head == "idx,garment,person"
    return [tuple(line.split(",")) for line in lines]


def person(stem, split):
    number = int(stem)
    return make_person(0, split, FIRST_PERSON + number, CATEGORIES["dress" if number % 3 == 2 else "top"])


def test_every_file_of_the_layout_is_there_and_no_other(world):
    assert len(names(world, "train")) == PEOPLE - TESTS and len(names(world, "validation")) == TESTS
    expected = {"wardrobe.json", "wardrobe_truth.jsonl", *(f"annotations/{name}" for name in CSV)}
    expected |= {f"annotations/{folder}_image_list.txt" for folder in ("train", "validation")}
    for folder in ("train", "validation"):
        expected |= {f"{folder}/{name.format(one[:-4])}" for name in NAMES for one in names(world, folder)}
    # The truth of an unpaired try-on, which the dataset does not have.
    unpaired = [pair for name in CSV for pair in pairs(world, name)]
    expected |= {f"validation/image-unpaired/{person[:-4]}_{garment[:-4]}.jpg" for _, garment, person in unpaired}
    assert {str(path.relative_to(world)) for path in world.rglob("*") if path.is_file()} == expected


def test_pairs_put_another_persons_garment_first(world):
    listed = set(names(world, "validation"))
    tops, dresses, shop = (pairs(world, name) for name in CSV)
    for lines in (tops, dresses):
        assert [index for index, _, _ in lines] == [str(index) for index in range(len(lines))]
        assert all(garment != wearer for _, garment, wearer in lines)
        assert {garment for _, garment, _ in lines} == {wearer for _, _, wearer in lines} <= listed
    assert {wearer for _, _, wearer in tops} | {wearer for _, _, wearer in dresses} == listed
    for stems, category in ((tops, "top"), (dresses, "dress")):
        assert all(person(wearer[:-4], "test").garment.category in CATEGORIES[category] for _, _, wearer in stems)
    assert {wearer for _, _, wearer in shop} == {wearer for _, _, wearer in tops}
    assert {garment for _, garment, _ in shop} <= {f"{number:05d}_00.jpg" for number in range(PEOPLE - TESTS, PEOPLE)}


def test_images_are_what_the_world_draws(world):
    for folder, split in (("train", "train"), ("validation", "test")):
        for name in names(world, folder)[::3]:
            stem = name[:-4]
            images = render_person(person(stem, split), *SIZE)
            image = np.asarray(Image.open(world / folder / "image" / name)).astype(float)
            assert np.abs(image - images.image).mean() < 4.0
            assert np.array_equal(np.asarray(Image.open(world / folder / "segm_atr_labels" / f"{stem}.png")), images.parse_atr)
            red, green, blue = Image.open(world / folder / "densepose" / f"{stem}_densepose.png").split()
            parts = np.asarray(blue)
            assert {1, 23} <= set(np.unique(parts)) <= set(range(25)) and np.asarray(red).max() == np.asarray(green).max() == 255
            # DensePose sees the same body as the rendering in colours.
            assert np.array_equal(parts > 0, images.densepose.any(axis=2))
            # V grows downwards on the trunk.
            trunk = parts == 1
            assert (np.diff(np.where(trunk, np.asarray(red), 0).astype(int).max(axis=1)[trunk.any(axis=1)]) > 0).all()


def test_boxes_have_the_rows_first(world):
    for name in names(world, "train"):
        top, bottom, left, right = json.loads((world / "train" / "raw_bbox" / f"{name}.json").read_text())["human_bbox"]
        assert (bottom - top, right - left) == SIZE and top >= 0 and left >= 0


def test_street_people_differ_from_viton_hds(world):
    truths = [json.loads(line) for line in (world / "wardrobe_truth.jsonl").read_text().splitlines()]
    assert [truth["stem"] for truth in truths] == [name[:-4] for folder in ("train", "validation") for name in names(world, folder)]
    assert all(int(truth["id"].split("-")[1]) >= FIRST_PERSON and truth["id"].startswith(truth["split"]) for truth in truths)
    assert json.loads((world / "wardrobe.json").read_text())["layout"] == "street_tryon"


def test_too_few_people(tmp_path):
    with pytest.raises(UserError, match="fewer than 6"):
        write_street_tryon(tmp_path / "world", 20, SIZE, seed=0, workers=1)
