"""The variants of StreetTryOn found in practice, and damaged copies of it."""

import json
import shutil

import pytest
import torch
from PIL import Image
from tryon_folders import SIZE, TEST, TRAIN, data, into_archive, rewrite, samples, worn

from fashiongen.data.streettryon import read_csv_pairs
from fashiongen.errors import UserError


def uncut(root, raw):
    """The photos as DeepFashion2 has them: what the box cuts out lies somewhere in a larger image."""
    for folder in ("train", "validation"):
        (raw / folder / "image").mkdir(parents=True)
        for path in (root / folder / "image").iterdir():
            top, bottom, left, right = json.loads((root / folder / "raw_bbox" / f"{path.name}.json").read_text())["human_bbox"]
            photo = Image.new("RGB", (right + 9, bottom + 17), (0, 255, 0))
            photo.paste(Image.open(path), (left, top))
            photo.save(raw / folder / "image" / path.name, format="PNG")
        shutil.rmtree(root / folder / "image")


def uncut_beside(root):
    uncut(root, root.parent / "deepfashion2")


def uncut_inside(root):
    uncut(root, root / "deepfashion2")


def paths_in_lists(root):
    rewrite(root, "annotations/*_image_list.txt", lambda text: text.replace("0", "some/folder/0", 1))


def parts_alone(root):
    for path in root.glob("*/densepose/*.png"):
        Image.open(path).getchannel("B").save(path)


STREET = {
    "as published": lambda root: None,
    "data folder": into_archive,
    "uncut photos beside": uncut_beside,
    "uncut photos inside": uncut_inside,
    "paths in lists": paths_in_lists,
    "parts alone": parts_alone,
}


@pytest.mark.parametrize("variant", STREET)
def test_street_tryon(variant, rendered, copied):
    plain = samples(data("street_tryon", rendered("street_tryon")))
    root = copied("street_tryon")
    module = data("street_tryon", STREET[variant](root) or root)
    assert module.offers == {"mask", "parse"} and module.name == "street_tryon"
    described = module.describe()
    assert (described["samples"], described["paired"], described["unpaired"]) == ({"test": TEST}, {"test": 0}, {"test": 0})
    assert described["masks"] == {"test": ["parse and DensePose"]}
    assert set(samples(module)) == set(plain) == {f"{number:06d}" for number in range(TRAIN, TRAIN + TEST)}
    for id_, sample in samples(module).items():
        assert torch.equal(sample.person, plain[id_].person) and torch.equal(sample.mask, plain[id_].mask)
        assert sample.category == ["full" if int(id_) % 3 == 2 else "upper"] and sample.garment is sample.pose is None
        assert sample.mask[0, 0][worn("street_tryon", id_)].float().mean() > 0.97 and sample.mask.float().mean() < 0.8
    assert len(module.fingerprint()) == 64


def test_the_pair_files_do_not_match_training_people_with_the_same_number(copied):
    """DeepFashion2 numbers the photos of each half from 1; the pair files are of the test half."""
    root = copied("street_tryon")
    trained = (root / "annotations" / "train_image_list.txt").read_text().split()[0]
    rewrite(root, "annotations/street2street_test_pairs_dress.csv", lambda text: f"{text}9,{trained},{trained}\n")
    module = data("street_tryon", root)
    assert {row.category for row in module.listing("train").rows} == {None}
    assert {row.category for row in module.listing("test").rows} == {"upper", "full"}


def test_an_empty_pair_file_is_an_error(copied):
    root = copied("street_tryon")
    rewrite(root, "annotations/street2street_test_pairs_top.csv", lambda text: text.splitlines()[0] + "\n")
    with pytest.raises(UserError, match=r"street2street_test_pairs_top\.csv: no sample is listed"):
        data("street_tryon", root, pairs="street2street_test_pairs_top.csv")


@pytest.mark.parametrize(("category", "expected"), [("top", "upper"), ("dress", "full")])
def test_street_pairs_have_the_garment_before_the_person(category, expected, rendered):
    root = rendered("street_tryon")
    module = data("street_tryon", root, pairs=f"street2street_test_pairs_{category}.csv")
    lines = (root / "annotations" / f"street2street_test_pairs_{category}.csv").read_text().splitlines()
    rows = module.datasets["test"].rows
    assert module.name == f"street_tryon-street2street_{category}" and len(rows) == len(lines) - 1 == {"top": 4, "dress": 2}[category]
    assert module.describe()["unpaired"] == {"test": len(rows)}
    for row, line in zip(rows, lines[1:], strict=True):
        _, garment, person = line.split(",")
        assert (row.person.name, row.other.name) == (person, garment) and row.other.is_file() and row.category == expected
        assert row.id == f"{person[:-4]}_{garment[:-4]}"


def test_shop_pairs_have_viton_hds_garments(rendered, tmp_path):
    (tmp_path / "street_tryon").symlink_to(rendered("street_tryon"))
    (tmp_path / "zalando").symlink_to(rendered("viton_hd"))
    module = data("street_tryon", tmp_path / "street_tryon", pairs="shop2street_test_pairs_top.csv")
    assert all(row.other.is_file() and row.other.parts[-4:-1] == ("zalando", "test", "cloth") for row in module.datasets["test"].rows)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "idx,garment,person\n0,g.jpg,p.jpg\n1,h.jpg,q.jpg\n"),
        ("a.csv", "0,g.jpg,p.jpg\n1,h.jpg,q.jpg\n"),
        ("a.csv", "\ufeff,from,to\r\n0,some/g.jpg,p.jpg\r\n\r\n1,h.jpg, q.jpg\r\n"),
        ("a.txt", "g.jpg p.jpg\nh.jpg\tq.jpg\n"),
    ],
)
def test_pair_files_with_and_without_a_header_are_read(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    assert read_csv_pairs(tmp_path / name) == [("g.jpg", "p.jpg"), ("h.jpg", "q.jpg")]


def test_boxes_count_rows_first(copied):
    root = copied("street_tryon")
    uncut_inside(root)
    box = root / "validation" / "raw_bbox" / "000015.jpg.json"
    top, bottom, left, right = json.loads(box.read_text())["human_bbox"]
    assert (bottom - top, right - left) == SIZE
    # What reaches beyond the photo is cut off, as an array's slice is; a box that holds nothing of it is refused.
    dataset = data("street_tryon", root).datasets["test"]
    row = next(row for row in dataset.rows if row.id == "000015")
    whole = dataset.open_person(row)
    box.write_text(json.dumps({"human_bbox": [top, bottom + 400, left, right + 400]}))
    assert dataset.open_person(row).size == (whole.width + 9, whole.height + 17)
    box.write_text(json.dumps({"human_bbox": [-7, bottom, -5, right]}))
    assert dataset.open_person(row).size == (right, bottom)
    for nothing in ([bottom, top, left, right], [top + 400, bottom + 400, left, right], [top, bottom, -right, -left]):
        box.write_text(json.dumps({"human_bbox": nothing}))
        with pytest.raises(UserError, match=r"000015\.jpg\.json: rows -?\d+ to -?\d+ and columns .* contain no part of the photo"):
            dataset.open_person(row)


def drop_images(root):
    for folder in ("train", "validation"):
        shutil.rmtree(root / folder / "image")


def drop_boxes(root):
    uncut_inside(root)
    shutil.rmtree(root / "validation" / "raw_bbox")


def drop_densepose(root):
    shutil.rmtree(root / "validation" / "densepose")


def draw_densepose(root):
    for path in root.glob("validation/densepose/*.png"):
        Image.new("RGB", SIZE[::-1], (0, 0, 200)).save(path)


def spoil_box(root):
    uncut_inside(root)
    (root / "validation" / "raw_bbox" / "000015.jpg.json").write_text('{"human_bbox": [1, 2]}')


def climb(root):
    rewrite(root, "annotations/validation_image_list.txt", lambda text: text + "../../x.jpg\n")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (drop_images, r"validation/image is missing .* make it with the dataset's script from DeepFashion2"),
        (drop_boxes, "raw_bbox is missing: the photos of .* are uncut"),
        (drop_densepose, "lacks segm_atr_labels or densepose, which masks are made from"),
        (draw_densepose, "has the value 200, but DensePose's part numbers end at 24"),
        (spoil_box, r"000015\.jpg\.json: not a file with human_bbox of four numbers"),
        (climb, "line 7: '../../x.jpg' points outside"),
        (shutil.rmtree, r"validation_image_list\.txt is missing: data\.root must be"),
    ],
)
def test_a_damaged_street_tryon_is_a_one_line_error(spoil, words, copied):
    root = copied("street_tryon")
    spoil(root)
    with pytest.raises(UserError, match=words) as error:
        samples(data("street_tryon", root))
    assert "\n" not in str(error.value)


def test_street_tryon_trains_nothing_and_names_its_pair_files(rendered):
    with pytest.raises(UserError, match="has no shop images; it supports `test`"):
        data("street_tryon", rendered("street_tryon"), "fit")
    with pytest.raises(
        UserError, match=r"data\.pairs can be: shop2street_test_pairs_top\.csv, street2street_test_pairs_dress\.csv, street"
    ):
        data("street_tryon", rendered("street_tryon"), pairs="none.csv")
