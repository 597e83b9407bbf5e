import json

import numpy as np
import pytest
from PIL import Image

from fashiongen.errors import UserError
from fashiongen.wardrobe import make_person, render_item, render_person, viton_hd, write_viton_hd

SIZE = (64, 48)
NAMES = {
    "image": "{}.jpg",
    "cloth": "{}.jpg",
    "cloth-mask": "{}.jpg",
    "agnostic-v3.2": "{}.jpg",
    "agnostic-mask": "{}_mask.png",
    "image-parse-v3": "{}.png",
    "image-parse-agnostic-v3.2": "{}.png",
    "openpose_img": "{}_rendered.png",
    "openpose_json": "{}_keypoints.json",
    "image-densepose": "{}.jpg",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_viton_hd(tmp_path_factory.mktemp("wardrobe") / "viton_hd", 12, SIZE, seed=0, test_fraction=0.25, workers=1)


def stems(world, split):
    return [line.split()[0].removesuffix(".jpg") for line in (world / f"{split}_pairs.txt").read_text().splitlines()]


def test_every_file_of_the_layout_is_there_and_no_other(world):
    assert len(stems(world, "train")) == 9 and len(stems(world, "test")) == 3
    expected = {"train_pairs.txt", "test_pairs.txt", "wardrobe.json", "wardrobe_truth.jsonl"}
    for split in ("train", "test"):
        expected |= {f"{split}/{folder}/{name.format(stem)}" for folder, name in NAMES.items() for stem in stems(world, split)}
    # The truth of an unpaired try-on, which the dataset does not have.
    expected |= {f"test/image-unpaired/{stem}.jpg" for stem in stems(world, "test")}
    assert {str(path.relative_to(world)) for path in world.rglob("*") if path.is_file()} == expected
    assert stems(world, "train")[6] == "00006_00"


def test_no_pair_is_matched(world):
    for split in ("train", "test"):
        pairs = [line.split(" ") for line in (world / f"{split}_pairs.txt").read_text().splitlines()]
        assert all(person != cloth for person, cloth in pairs)
        assert sorted(person for person, _ in pairs) == sorted(cloth for _, cloth in pairs)


def test_images_are_what_the_world_draws(world):
    for split, stem in (("train", stems(world, "train")[2]), ("test", stems(world, "test")[1])):
        person = make_person(0, split, int(stem[:5]))
        images = render_person(person, *SIZE)
        image = np.asarray(Image.open(world / split / "image" / f"{stem}.jpg")).astype(float)
        cloth = np.asarray(Image.open(world / split / "cloth" / f"{stem}.jpg")).astype(float)
        assert np.abs(image - images.image).mean() < 4.0 and np.abs(cloth - render_item(person.garment, *SIZE)).mean() < 4.0
        parse = Image.open(world / split / "image-parse-v3" / f"{stem}.png")
        assert parse.mode == "P" and np.array_equal(np.asarray(parse), images.parse)
        assert parse.convert("RGB").getpixel((0, 63)) == viton_hd.LIP_PALETTE[int(images.parse[63, 0])]
        mask = np.asarray(Image.open(world / split / "agnostic-mask" / f"{stem}_mask.png"))
        assert np.array_equal(mask == 255, images.agnostic_mask) and set(np.unique(mask)) == {0, 255}
        agnostic = np.asarray(Image.open(world / split / "agnostic-v3.2" / f"{stem}.jpg")).astype(float)
        assert np.abs(agnostic[images.agnostic_mask] - 128).mean() < 6.0


def test_every_image_has_the_size_and_three_colours_where_due(world):
    for folder in NAMES:
        for path in (world / "train" / folder).iterdir():
            if path.suffix != ".json":
                with Image.open(path) as image:
                    assert image.size == (48, 64)
                    grey = folder in ("cloth-mask", "agnostic-mask")
                    assert image.mode == ("L" if grey else "P" if "parse" in folder else "RGB"), path


def test_keypoints_are_openposes(world):
    stem = stems(world, "train")[0]
    people = json.loads((world / "train" / "openpose_json" / f"{stem}_keypoints.json").read_text())["people"]
    points = np.array(people[0]["pose_keypoints_2d"]).reshape(25, 3)
    assert np.allclose(points, render_person(make_person(0, "train", 0), *SIZE).keypoints, atol=1e-3)


def test_truth_and_description(world):
    truths = [json.loads(line) for line in (world / "wardrobe_truth.jsonl").read_text().splitlines()]
    assert [truth["stem"] for truth in truths] == stems(world, "train") + stems(world, "test")
    for truth in truths:
        person = make_person(0, truth["split"], int(truth["stem"][:5]))
        assert truth["attributes"] == person.garment.attributes and truth["caption"] == person.garment.caption()
        assert truth["quality"] == person.quality and truth["category"] == person.garment.category
    about = json.loads((world / "wardrobe.json").read_text())
    assert (about["version"], about["seed"], about["size"], about["people"]) == (1, 0, [64, 48], 12)


def test_processes_do_not_change_a_byte(world, tmp_path):
    other = write_viton_hd(tmp_path / "again", 12, SIZE, seed=0, test_fraction=0.25, workers=2)
    files = [path.relative_to(world) for path in world.rglob("*") if path.is_file()]
    assert all((world / path).read_bytes() == (other / path).read_bytes() for path in files)


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(UserError, match="not an empty folder"):
        write_viton_hd(tmp_path, 12, SIZE, seed=0, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_too_few_people_for_two_splits(tmp_path):
    with pytest.raises(UserError, match="fewer than two"):
        write_viton_hd(tmp_path / "world", 5, SIZE, seed=0, workers=1)


def test_a_broken_run_leaves_nothing(tmp_path, monkeypatch):
    def fail(person, height, width):
        raise KeyboardInterrupt

    monkeypatch.setattr(viton_hd, "render_person", fail)
    with pytest.raises(KeyboardInterrupt):
        write_viton_hd(tmp_path / "world", 12, SIZE, seed=0, test_fraction=0.25, workers=1)
    assert list(tmp_path.iterdir()) == []
