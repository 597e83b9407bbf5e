"""Images of items in DiFashion's layout: where they are found, how they are read, and what is refused."""

import shutil

import numpy as np
import pytest
from outfit_folders import CATEGORY_OF, draw, save, write_images, write_lists
from PIL import Image

from fashiongen.data import IFashion, PolyvoreU
from fashiongen.data.check import check
from fashiongen.data.outfit_images import ImageFinder, pad
from fashiongen.data.outfit_lists import OutfitLists
from fashiongen.errors import UserError

SIZE = (8, 8)


def read(root, stage="test", cls=IFashion, **options):
    data = cls(str(root), **{"size": SIZE, "batch_size": 2, "num_workers": 0, **options})
    data.setup(stage)
    return data


@pytest.fixture
def lists(tmp_path):
    return write_lists(tmp_path / "lists")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write_images(write_lists(tmp_path_factory.mktemp("outfits") / "sound"))


@pytest.fixture
def folder(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "folder")


def colors(images):
    """The colour of each image in one colour."""
    return [tuple(image[:, 0, 0].tolist()) for image in images]


def test_images_are_found_in_the_stated_order(lists, tmp_path):
    (tmp_path / "own.csv").write_text("path, id\n\nmine/one.jpg, 1\n")
    places = ["mine/one.jpg", "paths/a.png", "shoes/o77.png", "skirt/1.png", "291x291/1.jpg"]
    save(lists / "all_item_image_paths.npy", ["empty_image.png", "paths/a.png"])
    save(lists / "item_info.npy", {1: {"original iid": "o77", "category": "shoes", "url": ""}})
    for place in places:
        draw(lists / place, 1)
    for place in places:
        finder = ImageFinder(OutfitLists(lists, "polyvore_u"), lists, tmp_path / "own.csv", PolyvoreU.flat)
        assert finder.find(1) == lists / place and finder.find(2) is None
        (lists / place).unlink()
    assert ImageFinder(OutfitLists(lists, "polyvore_u"), lists, flat=PolyvoreU.flat).find(1) is None


@pytest.mark.parametrize("paths", [{1: "a/1.jpg"}, ["", "a/1.jpg"], np.array(["", "a/1.jpg"])])
def test_paths_are_read_as_a_list_an_array_or_a_dictionary(lists, paths):
    if isinstance(paths, np.ndarray):
        np.save(lists / "all_item_image_paths.npy", paths)
    else:
        save(lists / "new_all_item_image_paths.npy", paths)
    draw(lists / "semantic_category" / "a" / "1.jpg", 1)
    assert ImageFinder(OutfitLists(lists, "ifashion"), lists).find(1) == lists / "semantic_category" / "a" / "1.jpg"


def test_a_folder_of_images_elsewhere_and_a_list_of_ones_own(folder, tmp_path):
    """The open wish of DiFashion's users: images of Polyvore-U that they have found themselves."""
    for item in CATEGORY_OF:
        draw(tmp_path / "elsewhere" / f"image-{item}.jpg", item)
    (tmp_path / "own.csv").write_text("id,path\n" + "".join(f"{item},image-{item}.jpg\n" for item in CATEGORY_OF))
    for name in ("skirt", "women's shoe", "bag"):
        shutil.rmtree(folder / name)
    with pytest.raises(
        UserError, match=r"polyvore_u: \d+ of the \d+ images of the test outfits are missing, first .*mapping.*images=false"
    ):
        read(folder, cls=PolyvoreU)
    data = read(folder, cls=PolyvoreU, mapping=str(tmp_path / "own.csv"), image_folder=str(tmp_path / "elsewhere"))
    assert data.datasets["test"][0].true_images.values.shape == (3, 3, *SIZE)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has no column id and no column path"),
        ("id,file\n1,a\n", "has no column path"),
        ("id,path\nx,a.jpg\n", "line 2: 'x' is no item's number"),
        ("id,path\n1,a.jpg\n1,b.jpg\n", "line 3: '1' is listed twice"),
        ("id,path\n1,../a.jpg\n", r"line 2: '\.\./a\.jpg' is no path below"),
        ("id,path\n1,/etc/a.jpg\n", "line 2: '/etc/a.jpg' is no path below"),
        ("id,path\n1\n", "line 2: '' is no path below"),
    ],
)
def test_a_bad_list_of_ones_own_is_told_with_its_line(folder, tmp_path, text, told):
    (tmp_path / "own.csv").write_text(text)
    with pytest.raises(UserError, match=told):
        read(folder, mapping=str(tmp_path / "own.csv"))


@pytest.mark.parametrize("name", ["../outside.png", "/outside.png", "a/../../outside.png", "..\\outside.png"])
def test_a_path_that_leaves_the_folder_is_refused(folder, name):
    draw(folder.parent / "outside.png", 10)
    save(folder / "all_item_image_paths.npy", {10: name})
    with pytest.raises(UserError, match=r"the image of item 10 is given as .* outside of the image folder"):
        read(folder)
    save(folder / "all_item_image_paths.npy", {})
    save(folder / "item_info.npy", {10: {"original iid": "x", "category": f"{name}/.."}})
    with pytest.raises(UserError, match="outside of the image folder"):
        read(folder)
    assert any("outside of the image folder" in finding.message for finding in check("ifashion", folder).findings)


def test_images_are_padded_with_white_or_stretched(folder):
    tall = Image.new("RGBA", (4, 8), (200, 0, 0, 255))
    tall.paste((0, 0, 0, 0), (0, 0, 4, 4))  # the upper half is transparent
    tall.save(folder / "skirt" / "10.png")
    padded, stretched = (read(folder, fit=fit).datasets["test"][0].true_images.values[0] for fit in ("pad", "stretch"))
    assert (padded[:, :, [0, 1, -2, -1]] == 255).all() and padded[:, 6, 3].tolist() == [200, 0, 0] and (padded[:, 2] == 255).all()
    assert stretched[:, 6, 0].tolist() == stretched[:, 6, 7].tolist() == [200, 0, 0] and (stretched[:, 2] == 255).all()


@pytest.mark.parametrize(
    ("image", "size", "found"),
    [
        ((3, 3), (8, 8), (3, 3)),
        ((4, 8), (64, 64), (8, 8)),
        ((9, 5), (7, 7), (9, 9)),
        ((48, 64), (128, 96), (48, 64)),
        ((64, 64), (64, 48), (64, 86)),
    ],
)
def test_padding_gives_the_aspect_ratio_and_no_more(image, size, found):
    assert pad(Image.new("RGB", image), size).size == found


def test_missing_images_are_told_unless_none_are_read(folder):
    (folder / "bag" / "12.png").unlink()
    (folder / "bag" / "18.png").unlink()
    with pytest.raises(UserError, match=r"ifashion: 2 of the 15 images of the test outfits are missing, first .*bag/12\.png"):
        read(folder)
    data = read(folder, images=False)
    batch = next(iter(data.test_dataloader()))
    assert batch.images is batch.true_images is batch.history is batch.candidate_images is None
    assert data.offers == {"history_items", "candidates"} and batch.candidates is not None
    report = check("ifashion", folder)
    assert {(finding.kind, finding.split) for finding in report.findings} == {("missing", "val"), ("missing", "test")}
    assert report.splits["test"].readable == 1 and not report.usable
    draw(folder / "bag" / "12.png", 12)
    assert "images" in read(folder, "fit").offers  # validation shows no images of candidates


def test_a_damaged_image_ends_a_test_and_may_be_skipped_in_training(folder):
    (folder / "skirt" / "4.png").write_text("no image")
    with pytest.raises(UserError, match=r"4\.png"):
        next(iter(read(folder, on_error="skip").test_dataloader()))  # it is in a history
    with pytest.raises(UserError, match=r"4\.png"):
        list(read(folder, "fit", batch_size=3).train_dataloader())
    data = read(folder, "fit", batch_size=3, history=0, on_error="skip")
    (batch,) = data.train_dataloader()
    assert sorted(batch.ids) == ["0_10", "1_12"] and "4.png" in batch.skipped[0]
    with pytest.warns(UserWarning, match="left out of training"):
        data.on_before_batch_transfer(batch, 0)
    assert len(data.skipped) == 1
    assert {finding.kind for finding in check("ifashion", folder).findings} == {"unreadable"}


def test_each_image_is_decoded_once_in_memory(sound, monkeypatch):
    from fashiongen.data import outfit_images

    opened, open_image = [], outfit_images.open_image
    monkeypatch.setattr(outfit_images, "open_image", lambda path: opened.append(path) or open_image(path))
    data = read(sound, None, in_memory=True)
    first = [next(iter(loader)) for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())]
    for loader in (data.train_dataloader, data.val_dataloader, data.test_dataloader) * 2:
        list(loader())
    assert len(opened) == len(set(opened)) and first
    opened.clear()
    read(sound).datasets["test"][0]  # its history names an item twice
    assert len(opened) == len(set(opened))
