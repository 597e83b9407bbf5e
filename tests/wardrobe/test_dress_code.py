import json

import numpy as np
import pytest
from PIL import Image

from fashiongen.errors import UserError
from fashiongen.wardrobe import make_person, render_item, render_item_mask, render_person, write_dress_code
from fashiongen.wardrobe.dress_code import CATEGORIES

SIZE = (64, 48)
PEOPLE, TESTS = 20, 6
NAMES = ("images/{}_0.jpg", "images/{}_1.jpg", "keypoints/{}_2.json", "skeletons/{}_5.jpg", "label_maps/{}_4.png", "dense/{}_5.png")
NAMES += ("dense/{}_5_uv.npz", "masks/{}_1.png")
LISTS = ("train_pairs.txt", "test_pairs_paired.txt", "test_pairs_unpaired.txt")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_dress_code(
        tmp_path_factory.mktemp("wardrobe") / "dress_code", PEOPLE, SIZE, seed=0, test_fraction=TESTS / PEOPLE, workers=1
    )


def lines(path):
    return [tuple(line.split("\t")) for line in path.read_text().splitlines()]


def people(world):
    """Each person's folder, stem and split."""
    return [
        (list(CATEGORIES)[int(category)], person.removesuffix("_0.jpg"), split)
        for split, name in (("train", "train_pairs.txt"), ("test", "test_pairs_paired.txt"))
        for person, _, category in lines(world / name)
    ]


def test_every_file_of_the_layout_is_there_and_no_other(world):
    expected = {*LISTS, "wardrobe.json", "wardrobe_truth.jsonl"} | {f"{folder}/{name}" for folder in CATEGORIES for name in LISTS}
    expected |= {f"{folder}/{name.format(stem)}" for folder, stem, _ in people(world) for name in NAMES}
    # The truth of an unpaired try-on, which the dataset does not have.
    expected |= {f"{folder}/images-unpaired/{stem}_0.jpg" for folder, stem, split in people(world) if split == "test"}
    assert {str(path.relative_to(world)) for path in world.rglob("*") if path.is_file()} == expected
    splits = [split for _, _, split in people(world)]
    assert (splits.count("train"), splits.count("test")) == (PEOPLE - TESTS, TESTS)
    assert {len([1 for folder, _, split in people(world) if (folder, split) == (name, "test")]) for name in CATEGORIES} == {2}


def test_root_and_folder_lists_say_the_same(world):
    for name in LISTS:
        inner = {(*pair, str(number)) for number, folder in enumerate(CATEGORIES) for pair in lines(world / folder / name)}
        assert set(lines(world / name)) == inner and len(lines(world / name)) == len(inner)
    for person, garment, _ in lines(world / "train_pairs.txt") + lines(world / "test_pairs_paired.txt"):
        assert garment == person.replace("_0.", "_1.")
    unpaired, paired = lines(world / "test_pairs_unpaired.txt"), lines(world / "test_pairs_paired.txt")
    assert all(garment != person.replace("_0.", "_1.") for person, garment, _ in unpaired)
    assert sorted(column[::2] for column in unpaired) == sorted(column[::2] for column in paired)
    assert sorted(column[1:] for column in unpaired) == sorted(column[1:] for column in paired)


def test_images_are_what_the_world_draws(world):
    for folder, stem, split in people(world)[::5]:
        person = make_person(0, split, int(stem), CATEGORIES[folder])
        images, place = render_person(person, *SIZE), world / folder
        assert person.garment.category in CATEGORIES[folder]
        for name, truth in (("0", images.image), ("1", render_item(person.garment, *SIZE))):
            drawn = np.asarray(Image.open(place / "images" / f"{stem}_{name}.jpg")).astype(float)
            assert np.abs(drawn - truth).mean() < 4.0
        labels = Image.open(place / "label_maps" / f"{stem}_4.png")
        assert labels.mode == "L" and np.array_equal(np.asarray(labels), images.parse_atr)
        background = np.asarray(Image.open(place / "masks" / f"{stem}_1.png"))
        assert np.array_equal(background == 0, render_item_mask(person.garment, *SIZE)) and set(np.unique(background)) == {0, 255}
        parts = np.asarray(Image.open(place / "dense" / f"{stem}_5.png"))
        uv = np.load(place / "dense" / f"{stem}_5_uv.npz", allow_pickle=False)["uv"]
        assert parts.shape == SIZE and set(np.unique(parts)) <= set(range(25)) and {1, 23} <= set(np.unique(parts))
        assert uv.shape == (2, *SIZE) and 0 <= uv.min() and uv.max() == 1 and not uv[:, parts == 0].any()


def test_atr_labels_what_lip_labels_and_the_bag(world):
    bags = 0
    for number in range(40):
        images = render_person(make_person(0, "train", number), *SIZE)
        labels, atr = images.parse, images.parse_atr
        bag = atr == 16
        bags += bag.any()
        for lip, same in ((5, 4), (9, 6), (12, 5), (2, 2), (14, 14), (15, 15), (16, 12), (17, 13), (18, 9), (19, 10)):
            assert np.array_equal(labels == lip, atr == same), (lip, same)
        assert np.array_equal(np.isin(labels, (10, 13)), atr == 11) and np.array_equal(labels == 0, (atr == 0) | bag)
        assert bool(bag.any()) == (make_person(0, "train", number).occlusion == "bag")
    assert bags > 1


def test_keypoints_have_four_columns_in_the_frame_of_384_by_512(world):
    for folder, stem, split in people(world):
        points = json.loads((world / folder / "keypoints" / f"{stem}_2.json").read_text())["keypoints"]
        assert len(points) == 18 and all(len(point) == 4 for point in points)
        truth = render_person(make_person(0, split, int(stem), CATEGORIES[folder]), *SIZE).keypoints
        for number, source in ((0, 0), (4, 4), (8, 9), (13, 14), (17, 18)):
            x, y, confidence = truth[source]
            assert points[number] == (pytest.approx([x * 8, y * 8, 0.9, number], abs=2e-3) if confidence else [-1, -1, 0, -1])


def test_too_few_people_for_three_folders(tmp_path):
    with pytest.raises(UserError, match="fewer than 6"):
        write_dress_code(tmp_path / "world", 20, SIZE, seed=0, workers=1)
    assert list(tmp_path.iterdir()) == []
