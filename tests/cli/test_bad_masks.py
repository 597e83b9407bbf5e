"""Bad input of `data masks`: each ends in one line with status 2, and loses nothing."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_people import BOX, CLOTHES, HEIGHT, WIDTH, change_config, config, masks, refused, write_parses
from PIL import Image
from transformers import SegformerForImageClassification

from fashiongen.checkpoints import tiny_weights
from fashiongen.cli import main

pytestmark = pytest.mark.usefixtures("people")


def spoil_parse(change):
    """Label maps of which bert's is changed."""
    parse, pose = write_parses(Path("labelled"))
    path = parse / "bert.png"
    change(path, pose / "bert_keypoints.json")
    return ("--parse", parse, "--labels", "atr", "--pose", pose)


def resize(path, _):
    Image.open(path).resize((HEIGHT, WIDTH), 0).save(path)


def blank(path, _):
    Image.new("L", (WIDTH, HEIGHT)).save(path)


def too_many(path, _):
    Image.new("L", (WIDTH, HEIGHT), 30).save(path)


def no_top(path, pose):
    parse = np.asarray(Image.open(path)).copy()
    parse[parse != 2] = 0
    Image.fromarray(parse).save(path)
    people = json.loads(pose.read_text())
    people["people"][0]["pose_keypoints_2d"][3 * 2 :] = [0.0] * (3 * 16)
    people["people"][0]["pose_keypoints_2d"][:3] = [1.0, 1.0, 0.9]
    pose.write_text(json.dumps(people))


BAD_PARSES = {
    "another proportion": (resize, r"parse/bert\.png is 128x96, with another aspect ratio than bert\.png \(96x128\)"),
    "empty": (blank, r"parse/bert\.png: no person found: the label map is empty"),
    "labels of another palette": (too_many, r"parse/bert\.png: has the label 30, but ATR labels end at 17: see --labels"),
    "in colour": (lambda parse, _: Image.new("RGB", (WIDTH, HEIGHT)).save(parse), r"bert\.png: label maps hold one index per pixel"),
    "damaged": (lambda parse, _: parse.write_bytes(b"no"), r"parse/bert\.png is truncated, damaged or not an image"),
    "missing": (lambda parse, _: parse.unlink(), r"parse/bert\.png is missing"),
    "keypoints of nobody": (lambda _, pose: pose.write_text('{"people": []}'), r"bert_keypoints\.json: no person found: no keypoint"),
    "keypoints of another form": (
        lambda _, pose: pose.write_text("{}"),
        r"bert_keypoints\.json: not an OpenPose file .* of 25 or 18 points",
    ),
    "no keypoints": (lambda _, pose: pose.unlink(), r"bert_keypoints\.json: not an OpenPose file .*FileNotFoundError"),
    "no garment": (no_top, r"photos/bert\.png: no upper-body garment found: the mask is empty"),
}


@pytest.mark.parametrize("kind", BAD_PARSES)
def test_a_bad_parse_is_told_and_the_others_are_masked(kind, capsys):
    change, words = BAD_PARSES[kind]
    line = refused(capsys, *spoil_parse(change))
    assert re.search(words, line) and "the masks of the other photos are made" in line
    assert sorted(path.name for path in Path("out/test/agnostic-mask").iterdir()) == ["anna_mask.png", "cleo_mask.png"]
    assert not Path("out/test_pairs.txt").exists()


def bad_checkpoint(kind, segformer):
    folder = Path("network")
    if kind == "classifier":
        SegformerForImageClassification(config()).save_pretrained(folder)
        shutil.copy(segformer / "preprocessor_config.json", folder)
    elif kind == "clip":
        return tiny_weights() / "clip"
    elif kind != "absent":
        shutil.copytree(segformer, folder)
    if kind == "other labels":
        change_config(folder, id2label={**{str(number): label for number, label in enumerate(CLOTHES)}, "3": "wall"})
    if kind == "repeated labels":
        change_config(folder, id2label={**{str(number): label for number, label in enumerate(CLOTHES)}, "3": "Hat"})
    if kind == "pickled":
        (folder / "model.safetensors").unlink()
        torch.save({"weight": Path("code")}, folder / "pytorch_model.bin")  # anything but tensors
    if kind == "damaged":
        (folder / "model.safetensors").write_bytes(b"no weights")
    if kind == "no processor":
        (folder / "preprocessor_config.json").unlink()
    return folder


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("absent", "--checkpoint network: no such folder; download one first"),
        ("clip", "clip: a clip checkpoint is no semantic segmentation network"),
        ("classifier", "lacks weights of a SegformerForSemanticSegmentation: decode_head"),
        ("other labels", r"its 18 labels are not the clothes labels \(Background, .*\): unknown wall"),
        ("repeated labels", "are not the clothes labels .*: some are missing or repeated"),
        ("pickled", "--checkpoint network: cannot load a SegformerForSemanticSegmentation from there"),
        ("damaged", "--checkpoint network: cannot load a SegformerForSemanticSegmentation from there"),
        ("no processor", "--checkpoint network: cannot load a AutoImageProcessor from there"),
    ],
)
def test_a_bad_checkpoint_is_told_before_anything_is_written(kind, words, segformer, capsys):
    line = refused(capsys, "--checkpoint", bad_checkpoint(kind, segformer))
    assert line.startswith("fashiongen: --checkpoint ") and re.search(words, line) and not Path("out").exists()


def test_a_network_that_sees_nobody_is_told(segformer, capsys):
    Image.new("RGB", (WIDTH, HEIGHT), (200, 210, 200)).save("photos/bert.png")
    assert re.search(r"photos/bert\.png: \S*clothes finds no person there", refused(capsys, "--checkpoint", segformer))
    assert "--device nowhere: torch cannot use it here" in refused(capsys, "--checkpoint", segformer, "--device", "nowhere", out="other")


BAD_INPUT = {
    "nothing to make masks from": ((), r"photos: nothing to make masks from: give --parse and --labels, .*; or --checkpoint; or --box"),
    "the named source is not given": (("--from", "box"), r"nothing to make masks from by --from box: give --box or --boxes"),
    "box outside": (("--box", "100,0,120,10"), r"--box: the box of anna\.png \(100, 0, 120, 10\) lies outside of the photo, which is 96"),
    "a mask that is too small": (("--box", "1,1,2,2", "--size", "8x6"), r"anna\.png: its mask is less than a pixel of --size"),
    "empty box": (("--box", "20,20,10,40"), r"--box: the box of anna\.png is empty .*\(2 more of 3 photos have such faults\)"),
    "box of words": (("--box", "a,b,c,d"), r"--box: 'a,b,c,d' is not LEFT,TOP,RIGHT,BOTTOM|--box 'a,b,c,d' is not LEFT"),
    "endless box": (("--box", "0,0,inf,9"), r"is not LEFT,TOP,RIGHT,BOTTOM"),
    "no file of boxes": (("--boxes", "none.csv"), r"--boxes none\.csv: no such file"),
    "no palette": (("--parse", "photos"), r"--parse photos: add --labels lip or --labels atr"),
    "nothing matches": (("--parse", "shirts", "--labels", "lip"), r"shirts has nothing for any of the 3 photos: it must hold anna\.png"),
    "no garments": ((*BOX, "--garments", "none"), r"--garments none: no such folder"),
    "unreadable garment": ((*BOX, "--garments", "broken"), r"broken/x\.jpg is truncated, damaged or not an image"),
    "negative dilation": ((*BOX, "--dilate", "-1"), r"--dilate.*-1"),
    "a folder of something else": ((*BOX, "--out", "photos"), r"--out photos: exists and was not made by `fashiongen data masks`"),
}


@pytest.mark.parametrize("kind", BAD_INPUT)
def test_bad_input_is_told_in_one_line(kind, capsys):
    args, words = BAD_INPUT[kind]
    Path("broken").mkdir()
    Path("broken/x.jpg").write_text("hello")
    assert re.search(words, refused(capsys, *args)), words
    assert not list(Path().glob("out/test/agnostic-mask/*"))
    masks(*BOX, "--replace")  # nothing is left that would be in its way


def test_bad_photos_and_boxes_are_told(capsys):
    assert "nowhere: no such photo or folder of photos" in refused(capsys, *BOX, source="nowhere")
    assert "contains no photo" in refused(capsys, *BOX, source=str(Path("empty").mkdir() or "empty"))
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["data", "masks", "fashionvc", "photos", "--out", "out", *BOX])
    assert "no layout 'fashionvc' of people; there are: dress_code, street_tryon, viton_hd" in capsys.readouterr().err
    for content, words in (
        ("{", r"boxes\.json: not of the form"),
        ("[1]", r"boxes\.json: not of the form"),
        ('{"anna.png": 3}', r"boxes\.json: not of the form"),
        ('{"zoe.png": [1, 2, 3, 4]}', r"boxes\.json, zoe\.png: no photo 'zoe\.png' in this folder"),
        ('{"anna.png": [1, 2, 3]}', r"boxes\.json, anna\.png: left, top, right, bottom must be numbers"),
        ('{"anna.png": [1, 2, 3, NaN]}', r"must be numbers"),
        ('{"anna.png": {"box": [1, 2, 3, 4], "category": "hat"}}', r"category 'hat': unknown"),
        ('{"anna.png": [1, 2, 3, 4]}', r"boxes\.json has no box for bert\.png; add it, or remove the photo \(1 more of 3"),
    ):
        Path("boxes.json").write_text(content)
        assert re.search(words, refused(capsys, "--boxes", "boxes.json", out=f"out{len(content)}")), content
    shutil.copytree("photos", "spaces")
    for name in ("a b.png", "a_b.png"):
        shutil.copy("photos/anna.png", f"spaces/{name}")
    assert "a b.png, a_b.png would share a name in the output" in refused(capsys, *BOX, source="spaces", out="spaced")
    Path("photos/bert.png").write_bytes(b"\x89PNG")
    line = refused(capsys, *BOX)
    assert "photos/bert.png is truncated, damaged or not an image" in line and Path("out/test/agnostic-mask/cleo_mask.png").exists()
