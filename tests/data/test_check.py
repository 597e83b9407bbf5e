"""`data check`: all faults of a folder are reported at once, and usable samples are counted."""

import json
import shutil

import pytest
from PIL import Image

from fashiongen.cli import main
from fashiongen.data import layouts
from fashiongen.data.check import check
from fashiongen.data.listing import NotListed
from fashiongen.errors import UserError

TRAIN, TEST = 14, 6


def status(*args):
    """The exit status of the command."""
    try:
        main(["data", "check", *map(str, args)])
    except SystemExit as stop:
        return stop.code
    return 0


def kinds(report):
    return sorted((finding.kind, finding.half) for finding in report.findings)


def message(report, part):
    """The one finding that names `part`."""
    (found,) = [finding.message for finding in report.findings if part in finding.path]
    return found


@pytest.mark.parametrize("layout", ["viton_hd", "dress_code", "street_tryon"])
def test_a_whole_folder_has_no_findings(layout, rendered, capsys, tmp_path):
    assert status(layout, rendered(layout), "--strict", "--json", tmp_path / "out" / "report.json") == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    shops = layout != "street_tryon"
    masks = {"viton_hd": "file", "dress_code": "parse and key points", "street_tryon": "parse and DensePose"}[layout]
    for half, count in (("train", TRAIN), ("test", TEST)):
        unpaired = count if layout == "viton_hd" or (shops and half == "test") else 0
        expected = {
            "listed": count,
            "people": count,
            "paired": count if shops else 0,
            "unpaired": unpaired,
            "masked": count,
            "masks": masks,
            # People without shop images cannot be used for training, which is not a fault of the folder.
            "refused": "" if shops or half == "test" else report["halves"]["train"]["refused"],
        }
        assert report["halves"][half] == expected
    assert shops or "no shop images" in report["halves"]["train"]["refused"]
    assert report["usable"] is True and report["findings"] == [] and report["layout"] == layout
    out = capsys.readouterr().out
    assert f"test: {TEST} listed, {TEST} people readable" in out and "findings: none" in out and out.endswith(": usable\n")


def test_everything_that_is_wrong_is_named_at_once(copied, capsys):
    root = copied("viton_hd")
    train, test = root / "train", root / "test"
    (train / "cloth" / "00001_00.jpg").unlink()
    (train / "image" / "00002_00.jpg").write_bytes((train / "image" / "00002_00.jpg").read_bytes()[:400])
    (train / "agnostic-mask" / "00003_00_mask.png").write_text("no image")
    Image.open(train / "image-parse-v3" / "00004_00.png").resize((48, 64), Image.Resampling.NEAREST).save(
        train / "image-parse-v3" / "00004_00.png"
    )
    (train / "openpose_json" / "00005_00_keypoints.json").write_text("{}")
    shutil.copy(train / "image" / "00006_00.jpg", train / "image" / "00007_00.jpg")
    shutil.copy(train / "cloth" / "00008_00.jpg", test / "cloth" / "00014_00.jpg")
    Image.new("RGB", (30, 40)).save(test / "cloth" / "00015_00.jpg")
    Image.open(test / "cloth-mask" / "00016_00.jpg").resize((48, 64)).save(test / "cloth-mask" / "00016_00.jpg")
    Image.new("RGB", (96, 128)).save(test / "image-parse-v3" / "00017_00.png")
    pairs = (root / "test_pairs.txt").read_text()
    (root / "test_pairs.txt").write_text(pairs + pairs.splitlines()[0] + "\n")
    report = check("viton_hd", root)
    assert kinds(report) == sorted(
        [
            *[("missing", "train"), ("unreadable", "train"), ("unreadable", "train"), ("mis-sized", "train"), ("unreadable", "train")],
            *[("duplicate", "train"), ("duplicate", "test"), ("mis-sized", "test"), ("mis-sized", "test"), ("mis-sized", "test")],
            *[("unreadable", "test"), ("duplicate", "test")],
        ]
    )
    assert message(report, "train/cloth/00001_00") == f"train: the garment of 00001_00: {train / 'cloth' / '00001_00.jpg'} is missing"
    assert "the person of 00002_00" in message(report, "image/00002_00") and "truncated" in message(report, "image/00002_00")
    assert "the mask of 00003_00" in message(report, "00003_00_mask")
    assert "has 64 x 48 pixels (height x width), but its image has 128 x 96" in message(report, "00004_00.png")
    assert "not an OpenPose file" in message(report, "00005_00_keypoints")
    assert f"is the same image as {train / 'image' / '00006_00.jpg'}" in message(report, "image/00007_00")
    assert "cloth/00008_00.jpg (a leak: it is trained on)" in message(report, "cloth/00014_00")
    assert "but the other garments have 128 x 96" in message(report, "test/cloth/00015_00")
    assert "index per pixel" in message(report, "00017_00.png")
    assert "is listed more than once" in message(report, "test_pairs.txt")
    train_half, test_half = report.halves["train"], report.halves["test"]
    assert (train_half.listed, train_half.people, train_half.paired, train_half.masked) == (TRAIN, TRAIN - 1, TRAIN - 2, TRAIN - 2)
    assert (test_half.listed, test_half.people, test_half.paired) == (TEST + 1, TEST + 1, TEST + 1)
    assert not report.usable and report.some_usable
    assert (status("viton_hd", root), status("viton_hd", root, "--strict")) == (0, 1)
    out = capsys.readouterr().out
    assert out.count("unreadable: ") == 2 * 4 and "train: the reader stops: viton_hd: 1 of 14 samples" in out
    assert "test: the reader stops: " in out and "is listed more than once; ids must be unique" in out


def test_masks_that_cannot_be_made_are_not_counted(copied):
    root = copied("dress_code")
    next(root.glob("*/keypoints/000014_2.json")).write_text("{}")
    next(root.glob("*/label_maps/000015_4.png")).unlink()
    report = check("dress_code", root)
    assert kinds(report) == [("missing", "test"), ("unreadable", "test")] and report.halves["test"].masked == TEST - 2


def test_uncut_street_photos_are_not_mis_sized(copied):
    root = copied("street_tryon")
    for folder in ("train", "validation"):
        (root / "deepfashion2" / folder).mkdir(parents=True)
        shutil.move(root / folder / "image", root / "deepfashion2" / folder / "image")
        for path in (root / "deepfashion2" / folder / "image").iterdir():
            photo = Image.new("RGB", (300, 400))
            photo.paste(Image.open(path))
            photo.putpixel((299, 399), (int(path.stem), 0, 0))
            photo.save(path, quality=95)
    (root / "train" / "raw_bbox" / "000003.jpg.json").write_text('{"human_bbox": "none"}')
    assert kinds(check("street_tryon", root)) == [("unreadable", "train")]


def pairs_of_boxes(root, box):
    """Uncut photos, one of which has `box`."""
    for folder in ("train", "validation"):
        (root / "deepfashion2" / folder).mkdir(parents=True)
        shutil.move(root / folder / "image", root / "deepfashion2" / folder / "image")
    photo = Image.open(root / "deepfashion2" / "validation" / "image" / "000015.jpg")
    for path in root.glob("*/raw_bbox/*.json"):
        path.write_text(json.dumps({"human_bbox": [0, photo.height, 0, photo.width]}))
    (root / "validation" / "raw_bbox" / "000015.jpg.json").write_text(json.dumps({"human_bbox": box}))


def blank(*paths):
    for path in paths:
        image = Image.open(path)
        Image.new(image.mode, image.size).save(path)


def remove(root, *patterns):
    for pattern in patterns:
        found = list(root.glob(pattern))
        assert found
        for path in found:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


# How a folder is damaged, and the kinds of findings in the affected half.
FOLDERS = {
    "whole": ("viton_hd", lambda root: None, set()),
    "nothing to make masks from": ("viton_hd", lambda root: remove(root, "test/agnostic*", "test/image-parse-v3"), {"absent"}),
    "masks of key points": ("viton_hd", lambda root: remove(root, "*/agnostic*"), set()),
    "no garments to train on": ("viton_hd", lambda root: remove(root, "train/cloth"), {"absent"}),
    "no garments in the test": ("viton_hd", lambda root: remove(root, "test/cloth"), {"absent"}),
    "no people": ("viton_hd", lambda root: remove(root, "test/image"), {"list"}),
    "a blank mask": ("viton_hd", lambda root: blank(root / "test" / "agnostic-mask" / "00015_00_mask.png"), {"empty"}),
    "a missing pose": ("viton_hd", lambda root: remove(root, "test/openpose_json/00015*"), {"missing"}),
    "an empty list": ("viton_hd", lambda root: (root / "test_pairs.txt").write_text("\n"), {"list"}),
    "a training half alone": ("viton_hd", lambda root: remove(root, "test_pairs.txt"), {"list"}),
    "masks that cannot be made": ("dress_code", lambda root: remove(root, "dresses/keypoints"), {"absent"}),
    "a blank parse and DensePose": (
        "street_tryon",
        lambda root: blank(root / "validation/segm_atr_labels/000015.png", root / "validation/densepose/000015_densepose.png"),
        {"empty"},
    ),
    "a box that reaches out": ("street_tryon", lambda root: pairs_of_boxes(root, [-3, 900, 5, 900]), set()),
    "a box beside the photo": ("street_tryon", lambda root: pairs_of_boxes(root, [0, 20, 900, 999]), {"outside"}),
}


def reads(layout, root):
    """Whether the reader reads all samples of each half that is listed."""
    read = 0
    for stage in ("test",) if layout == "street_tryon" else ("fit", "test"):
        module = layouts()[layout](str(root), size=(128, 96), num_workers=0, validation=0)
        try:
            module.setup(stage)
            read += sum(len(list(dataset)) for dataset in module.datasets.values())
        except NotListed:
            continue
        except UserError:
            return False
    return read > 0


@pytest.mark.parametrize("folder", FOLDERS)
def test_usable_is_what_the_reader_reads(folder, copied):
    layout, spoil, found = FOLDERS[folder]
    root = copied(layout)
    spoil(root)
    report = check(layout, root)
    assert report.usable == reads(layout, root)
    assert {finding.kind for finding in report.findings} == found
    if "empty" in found or "outside" in found:
        assert message(report, "00015").startswith("test: ") and report.halves["test"].masked == TEST - 1
        assert report.halves["test"].refused and report.halves["test"].refused in "".join(report.lines())


def test_a_list_that_cannot_be_used_makes_its_half_unusable(copied):
    root = copied("viton_hd")
    (root / "train_pairs.txt").write_text("../a.jpg b.jpg\n")
    report = check("viton_hd", root)
    assert kinds(report) == [("list", "train")] and not report.usable and report.halves["test"].people == TEST
    (root / "train_pairs.txt").unlink()
    assert check("viton_hd", root).usable and status("viton_hd", root, "--strict") == 1


def test_nothing_usable_is_status_1_and_a_wrong_command_status_2(tmp_path, capsys):
    assert status("viton_hd", tmp_path) == 1
    assert "not usable" in capsys.readouterr().out
    assert status("vton", tmp_path) == 2 and status("viton_hd", tmp_path / "none") == 2
    errors = capsys.readouterr().err.splitlines()
    assert f"no reader of layout 'vton'; there are: {', '.join(layouts())}" in errors[0] and "is not a folder" in errors[1]
    with pytest.raises(UserError):
        check("vton", tmp_path)


def test_the_real_photos_are_one_pair_and_four_people_without_their_garment(shared_data, capsys):
    root = shared_data / "viton_hd_sample"
    report = check("viton_hd", root)
    test = report.halves["test"]
    assert (test.listed, test.people, test.paired, test.unpaired, test.masked) == (5, 5, 1, 5, 0) and "train" not in report.halves
    assert kinds(report) == [("absent", "test"), ("list", "train"), *[("missing", "test")] * 4]
    lacking = {finding.path.split("/")[-1] for finding in report.findings if finding.kind == "missing"}
    assert lacking == {"00034_00.jpg", "00035_00.jpg", "00121_00.jpg", "01992_00.jpg"}
    assert (status("viton_hd", root), status("viton_hd", root, "--strict")) == (0, 1)
    out = capsys.readouterr().out
    assert out.endswith(": usable in part\n") and "1 paired (with their own garment), 5 unpaired" in out
    assert "test: the reader stops: viton_hd: 4 of 5 samples of" in out and "lack their garment" in out
