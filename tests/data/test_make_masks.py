"""`data masks` on the wardrobe, whose true regions are known, and what its output needs of the readers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tryon_folders import SIZE, TEST, data, samples

from fashiongen.data import Photos
from fashiongen.data.images import read_mask
from fashiongen.data.make_masks import MaskOptions, make_masks
from fashiongen.data.mask_record import read_record
from fashiongen.errors import UserError
from fashiongen.wardrobe import make_person, render_person


def made(tmp_path, source, out="out", **options):
    make_masks(MaskOptions(source=Path(source), out=tmp_path / out, **options))
    return tmp_path / out / "test"


def masks_in(folder, name="agnostic-mask"):
    return {path.stem.removesuffix("_mask"): np.asarray(Image.open(path)) > 127 for path in sorted((folder / name).iterdir())}


def overlap(one, other):
    return (one & other).sum() / (one | other).sum()


def drawn(id_):
    return render_person(make_person(0, "test", int(id_.split("_")[0])), *SIZE)


@pytest.mark.parametrize(("keypoints", "least"), [(True, 0.6), (False, 0.7)])
def test_a_parse_gives_nearly_the_true_region(keypoints, least, rendered, tmp_path):
    """VITON-HD's procedure is not the wardrobe's: it adds a square at the neck, and covers hands."""
    root = rendered("viton_hd") / "test"
    pose = root / "openpose_json" if keypoints else None
    folder = made(tmp_path, root / "image", parse=root / "image-parse-v3", labels="lip", pose=pose)
    masks, worn = masks_in(folder), masks_in(folder, "masks")
    assert len(masks) == len(worn) == TEST
    scores = {}
    for id_, mask in masks.items():
        truth = drawn(id_)
        scores[id_] = overlap(mask, truth.agnostic_mask)
        assert mask[truth.garment_mask].mean() > 0.97 and overlap(worn[id_], truth.garment_mask) > 0.97
        # Not the garment's own outline, which would leak its shape.
        assert scores[id_] > overlap(truth.garment_mask, truth.agnostic_mask) - 0.2 and mask.sum() > 1.2 * truth.garment_mask.sum()
    assert np.mean(list(scores.values())) > least


@pytest.mark.parametrize("layout", ["viton_hd", "dress_code", "street_tryon"])
def test_a_datasets_folder_gives_the_masks_that_its_reader_derives(layout, copied, tmp_path):
    root = copied(layout)
    for name in ("agnostic-mask", "agnostic-v3.2"):
        shutil.rmtree(root / "test" / name, ignore_errors=True)
    folder = made(tmp_path, root, layout=layout)
    derived = samples(data(layout, root))
    assert read_record(tmp_path / "out").settings["layout"] == layout
    again = samples(data("viton_hd", tmp_path / "out"))
    assert list(again) == list(derived) and len(derived) == TEST
    for id_, sample in derived.items():
        assert torch.equal(read_mask(folder / "agnostic-mask" / f"{id_}_mask.png", SIZE), sample.mask[0]), id_
        assert torch.equal(again[id_].person, sample.person) and again[id_].category == sample.category


def test_the_training_half_of_a_dataset_can_be_masked(rendered, tmp_path):
    assert len(masks_in(made(tmp_path, rendered("viton_hd"), layout="viton_hd", split="train"))) == 14


def test_palettes_and_skeletons_are_translated(rendered, tmp_path):
    """The same people with LIP labels and 25 keypoints, and with ATR labels and 18; LIP's label 10 covers the neck."""
    root = tmp_path / "people"
    for name in ("image", "atr", "coco"):
        (root / name).mkdir(parents=True)
    test = rendered("viton_hd") / "test"
    for path in sorted((test / "image").iterdir())[:3]:
        shutil.copy(path, root / "image")
        Image.fromarray(drawn(path.stem).parse_atr).save(root / "atr" / f"{path.stem}.png")
        flat = json.loads((test / "openpose_json" / f"{path.stem}_keypoints.json").read_text())["people"][0]["pose_keypoints_2d"]
        points = [flat[3 * joint : 3 * joint + 3] for joint in range(25) if joint not in (8, *range(19, 25))]
        people = [{"pose_keypoints_2d": [value for point in points for value in point]}]
        (root / "coco" / f"{path.stem}.json").write_text(json.dumps({"people": people}))
    body = {"parse": test / "image-parse-v3", "labels": "lip", "pose": test / "openpose_json"}
    coco = {"parse": root / "atr", "labels": "atr", "pose": root / "coco"}
    for category, least in (("lower", 0.97), ("full", 0.85)):
        one = masks_in(made(tmp_path, root / "image", out=f"lip-{category}", category=category, **body))
        two = masks_in(made(tmp_path, root / "image", out=f"atr-{category}", category=category, **coco))
        assert len(one) == 3 and min(overlap(one[id_], two[id_]) for id_ in one) > least


def test_a_layouts_own_procedure_is_not_used_for_what_it_does_not_draw(rendered, tmp_path):
    with pytest.raises(UserError, match=r"draws upper-body garments: give --parse and --pose instead of a layout \(5 more of 6 photos"):
        made(tmp_path, rendered("viton_hd"), layout="viton_hd", category="lower")


def test_the_reader_takes_people_with_several_garments(copied):
    root = copied("viton_hd")
    lines = (root / "test_pairs.txt").read_text().splitlines()
    names = [line.split()[0] for line in lines]
    (root / "test_pairs.txt").write_text("\n".join(f"{one} {two}" for two in names for one in names if one != two))
    assert list(samples(data("viton_hd", root))) == [Path(name).stem for name in [*names[1:], names[0]]]
    unpaired = data("viton_hd", root, task="vton", pairing="unpaired")
    found = samples(unpaired)
    assert len(found) == TEST * (TEST - 1) and all(sample.person is None for sample in found.values())
    first = Path(names[1]).stem
    assert unpaired.sample_names()[f"{first}_{Path(names[0]).stem}"] == {"input": first, "own": Path(names[0]).stem, "other": first}
    for id_, sample in found.items():  # the truth of another garment is not taken for that of this one
        (root / "test" / "image-unpaired" / f"{id_}.jpg").write_bytes(unpaired.datasets["test"].rows[0].person.read_bytes())
        assert sample.person is None
    assert all(sample.person is not None for sample in samples(data("viton_hd", root, task="vton", pairing="unpaired")).values())
    with (root / "test_pairs.txt").open("a") as file:
        file.write(f"\n{names[0]} {names[1]}")
    with pytest.raises(UserError, match="is listed more than once; ids must be unique"):
        data("viton_hd", root, task="vton", pairing="unpaired")


def test_boxes_of_photos_may_be_shares(tmp_path):
    Image.new("RGB", (48, 64)).save(tmp_path / "a.png")
    (tmp_path / "boxes.csv").write_text("name,left,top,right,bottom\na.png,0.25,0,1,0.5\n")
    photos = Photos(str(tmp_path), size=(64, 48))
    photos.setup("predict")
    assert photos.datasets["predict"].photos[0].box == (12, 0, 48, 32)
