"""Bad images and key points of every kind give a one-line error and exit status 2, or are used correctly."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from spoilt import PREDICT, TEST, Kind, check, cut, on_its_side, others_same, png_that_claims, same, whole_photo

KINDS = [
    # Images
    Kind("a truncated JPEG", lambda w: cut(w.person), PREDICT, r"image/\w+\.jpg is truncated, damaged or not an image"),
    Kind(
        "a text file named .jpg", lambda w: w.person.write_text("hello"), PREDICT, r"image/\w+\.jpg is truncated, damaged or not an image"
    ),
    Kind("an image of zero bytes", lambda w: w.person.write_bytes(b""), PREDICT, r"image/\w+\.jpg is truncated, damaged or not an image"),
    Kind("a folder in an image's place", lambda w: (w.person.unlink(), w.person.mkdir()), PREDICT, r"image/\w+\.jpg is .*[Dd]irectory"),
    Kind(
        "a decompression bomb", lambda w: w.person.write_bytes(png_that_claims(60000, 60000)), PREDICT, r"image/\w+\.jpg .*3600000000 pix"
    ),
    Kind("a PNG named .jpg", lambda w: w.resave(), PREDICT, same()),
    Kind("a CMYK JPEG", lambda w: w.resave(lambda p: p.convert("CMYK"), format="JPEG", quality=100), PREDICT, same(8)),
    Kind("a palette image", lambda w: w.resave(lambda p: p.quantize(256)), PREDICT, same(4)),
    Kind("a grey image", lambda w: w.resave(lambda p: p.convert("L")), PREDICT, others_same(lambda p: np.ptp(p, axis=2).max() == 0)),
    Kind(
        "a 16-bit grey image",
        lambda w: w.resave(lambda p: Image.fromarray(np.asarray(p.convert("L")).astype(np.uint16) * 257)),
        PREDICT,
        others_same(lambda p: np.ptp(p, axis=2).max() == 0 and 60 < p.mean() < 250 and p.std() > 10),
    ),
    Kind(
        "a transparent image",
        lambda w: w.resave(lambda p: Image.new("RGBA", p.size, (0, 0, 0, 0))),
        PREDICT,
        others_same(lambda p: bool((p == 255).all())),
    ),
    Kind(
        "an animated GIF",
        lambda w: w.resave(lambda p: p.quantize(256), format="GIF", save_all=True, append_images=[Image.new("RGB", (48, 64), "red")]),
        PREDICT,
        same(4),
    ),
    Kind("an animated PNG", lambda w: w.resave(save_all=True, append_images=[Image.new("RGB", (48, 64), "red")]), PREDICT, same()),
    Kind("a photo that EXIF turns", on_its_side, PREDICT, same()),
    Kind("a person of another size than its mask", lambda w: w.resave(lambda p: p.resize((144, 192), 0)), PREDICT, same(10)),
    Kind("a truncated mask", lambda w: cut(w.mask), PREDICT, r"agnostic-mask/\w+_mask\.png is truncated"),
    Kind("a mask all black", lambda w: w.resave(lambda m: m.point(lambda _: 0), w.mask), PREDICT, r"sample \w+: \S+ marks no pixel"),
    Kind("a mask all white", lambda w: w.resave(lambda m: m.point(lambda _: 255), w.mask), PREDICT, whole_photo),
    Kind("a mask with grey levels", lambda w: w.resave(lambda m: m.point(lambda v: 140 if v else 90), w.mask), PREDICT, same()),
    Kind(
        "a 16-bit mask with grey levels",
        lambda w: w.resave(lambda m: Image.fromarray(np.where(np.asarray(m) > 0, 40000, 20000).astype(np.uint16)), w.mask),
        PREDICT,
        same(),
    ),
    Kind("labels outside of the palette", lambda w: w.resave(lambda p: p.point(lambda v: v + 200), w.parse), PREDICT, same()),
    Kind(
        "labels in colour",
        lambda w: w.resave(lambda p: p.convert("RGB"), w.parse),
        PREDICT,
        r"parse-v3/\w+\.png: label maps hold one index",
    ),
    # Missing files
    Kind("a missing person", lambda w: w.person.unlink(), PREDICT, r"lack their person, first \S*image/\w+\.jpg"),
    Kind("a missing garment", lambda w: w.garment.unlink(), TEST, r"lack their garment, first \S*cloth/\w+\.jpg"),
    Kind("a missing mask", lambda w: w.mask.unlink(), PREDICT, r"lack their mask, first \S*agnostic-mask/\w+_mask\.png"),
    Kind("a missing parse", lambda w: w.parse.unlink(), PREDICT, r"lack their parse, first \S*image-parse-v3/\w+\.png"),
    Kind("missing key points", lambda w: w.pose.unlink(), PREDICT, r"lack their pose, first \S*openpose_json/\w+_keypoints\.json"),
    Kind(
        "no garments to judge by",
        lambda w: shutil.rmtree(w.garment.parent),
        TEST,
        r"vtoff is evaluated against the true garment.* use `predict`",
    ),
    # Key points
    Kind("key points of nobody", lambda w: w.pose.write_text('{"people": []}'), PREDICT, same()),
    Kind("key points that are no JSON", lambda w: cut(w.pose), PREDICT, r"_keypoints\.json: not an OpenPose file"),
    Kind(
        "key points that are no numbers",
        lambda w: w.pose.write_text(re.sub(r"\[[\d.]+,", "[NaN,", w.pose.read_text())),
        PREDICT,
        r"_keypoints\.json: not an OpenPose file",
    ),
    Kind(
        "key points of another skeleton",
        lambda w: w.pose.write_text(json.dumps({"people": [{"pose_keypoints_2d": [0.0] * 54}]})),
        PREDICT,
        r"_keypoints\.json: not an OpenPose file .* 25 points",
    ),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_bad_images(kind, world, capsys):
    check(kind, world, capsys)


def test_no_kind_is_lost():
    assert len({kind.name for kind in KINDS}) == len(KINDS) >= 32
