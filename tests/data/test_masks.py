"""Generated masks: on drawn bodies, and compared with the world's ground truth."""

import numpy as np
import pytest

from fashiongen.data import masks
from fashiongen.wardrobe import make_person, render_person
from fashiongen.wardrobe.dress_code import CATEGORIES, COCO_18
from fashiongen.wardrobe.portrait import render_densepose_iuv

SIZE = (256, 192)


def noisy(image, seed=0):
    """An image with JPEG artefacts."""
    shift = np.random.default_rng(seed).integers(-4, 5, image.shape)
    return np.clip(image.astype(int) + shift, 0, 255).astype(np.uint8)


def test_paint_is_found_and_a_grey_wall_is_not():
    person = np.full((64, 48, 3), 240, np.uint8)
    person[:, :8] = 128  # a grey wall
    person[20:40, 20:30] = 128  # a grey garment, painted over
    painted = person.copy()
    painted[14:46, 14:36] = 128
    mask = masks.from_painted(noisy(painted), noisy(person, 1))
    truth = np.zeros((64, 48), bool)
    truth[14:46, 14:36] = True
    assert (mask != truth).mean() < 0.01 and not mask[:, :8].any() and mask[21:39, 21:29].all()
    assert not masks.from_painted(noisy(person), noisy(person, 1)).any()


def body(confidence=0.9):
    """A trunk with hanging arms at 1024 x 768; the parse is a face over a garment over trousers."""
    points = np.zeros((25, 3), np.float32)
    places = {
        1: (384, 220),
        2: (300, 230),
        3: (260, 420),
        4: (250, 600),
        5: (468, 230),
        6: (508, 420),
        7: (518, 600),
        9: (340, 620),
        12: (428, 620),
    }
    for joint, place in places.items():
        points[joint] = (*place, confidence)
    parse = np.zeros((1024, 768), np.uint8)
    parse[80:200, 330:440] = 13
    parse[230:640, 300:470] = 5
    parse[640:, 310:460] = 9
    return parse, points


def test_viton_hds_region_keeps_face_and_trousers_and_widens_the_hips():
    parse, points = body()
    mask = masks.from_lip(parse, points)
    assert mask[230:640, 300:470].all() and not mask[parse == 13].any() and not mask[parse == 9].any()
    assert mask[500, 160] and not mask[500, 140]  # 100 pixels to each side of the forearm
    assert mask[100:200, 250].any() and not mask[:70].any()  # 140 pixels round the neck, but for the face
    assert mask[620, 500] and not mask[900, 560]
    # Hips as wide as the shoulders: the ellipse reaches 60 pixels from 468, not from 428.
    parse[:] = 0
    without_arms = points.copy()
    without_arms[[3, 4, 6, 7], 2] = 0
    assert masks.from_lip(parse, without_arms)[700, 470:510].all()


def test_the_region_scales_with_the_image():
    parse, points = body()
    half = points.copy()
    half[:, :2] /= 2
    large, small = masks.from_lip(parse, points), masks.from_lip(np.ascontiguousarray(parse[::2, ::2]), half)
    assert (large[::2, ::2] != small).mean() < 0.01


def test_unseen_joints_leave_what_they_hold_out_and_the_garment_in():
    parse, points = body()
    points[[9, 12], 2] = 0
    no_hips = masks.from_lip(parse, points)
    assert no_hips[230:640, 300:470].all() and no_hips[460, 384]
    points[3, 2] = 0
    assert not masks.from_lip(parse, points)[600, 200] and no_hips[600, 200]
    nobody = masks.from_lip(parse, np.zeros((25, 3), np.float32))
    assert np.array_equal(nobody, parse == 5)
    assert not masks.from_lip(np.zeros((64, 48), np.uint8), np.zeros((25, 3), np.float32)).any()


CASES = [(name, number) for name in CATEGORIES for number in range(6)]


def drawn(name, number):
    person = make_person(0, "train", number, CATEGORIES[name])
    return person, render_person(person, *SIZE), {"upper_body": "upper", "lower_body": "lower", "dresses": "full"}[name]


@pytest.mark.parametrize(("name", "number"), CASES)
def test_made_masks_cover_the_worn_garment_and_spare_the_face(name, number):
    person, images, category = drawn(name, number)
    face = images.parse == 13
    made = {
        "points": masks.from_atr_and_points(images.parse_atr, images.keypoints[COCO_18].astype(np.float32), category),
        "densepose": masks.from_atr_and_densepose(images.parse_atr, render_densepose_iuv(person, *SIZE)[:, :, 0], category),
        "labels alone": masks.from_atr(images.parse_atr, category),
    }
    if category == "upper":
        made["lip"] = masks.from_lip(images.parse, images.keypoints.astype(np.float32))
    for how, mask in made.items():
        assert mask.shape == SIZE and mask.dtype == bool
        assert mask[images.garment_mask].mean() > 0.97, how
        assert mask[face].mean() < 0.25, how
        assert 0.01 < mask.mean() < 0.8, how


def test_a_mask_of_nobody_is_empty():
    nobody, unseen = np.zeros((64, 48), np.uint8), np.zeros((18, 3), np.float32)
    for category in ("upper", "lower", "full"):
        assert not masks.from_atr_and_points(nobody, unseen, category).any()
        assert not masks.from_atr_and_densepose(nobody, nobody, category).any()
        assert not masks.from_atr(nobody, category).any()


def test_skirts_are_lower_body_clothes_and_the_top_is_kept():
    parse = np.zeros((512, 384), np.uint8)
    parse[100:300, 100:250] = 4
    parse[300:400, 100:250] = 5
    mask = masks.from_atr_and_points(parse, np.zeros((18, 3), np.float32), "lower")
    assert mask[300:400, 100:250].all() and not mask[parse == 4].any() and mask[409, 150] and not mask[412, 150]
    top = masks.from_atr_and_points(parse, np.zeros((18, 3), np.float32), "upper")
    assert top[parse == 4].all() and not top[parse == 5].any()


def test_hulls_close_what_lies_between_arm_and_body():
    """The garment's outline must not show through, except for protected parts."""
    parse = np.zeros((512, 384), np.uint8)
    parse[100:300, 100:150] = parse[100:300, 250:300] = parse[100:150, 100:300] = 4
    parts = np.zeros_like(parse)
    mask = masks.from_atr_and_densepose(parse, parts, "upper")
    assert mask[250, 200] and not mask[400, 200] and not mask[200, 330]
    parse[240:260, 190:210] = 6
    assert not masks.from_atr_and_densepose(parse, parts, "upper")[250, 200]


def test_lip_labels_have_their_atr_counterparts():
    worn = {category: set(masks.ATR_OF_LIP[list(labels)]) for category, labels in masks.WORN["lip"].items()}
    assert all(worn[category] <= set(masks.WORN["atr"][category]) for category in worn)
    assert masks.ATR_OF_LIP[list(masks.LIP_KEPT)].tolist() == [3, 11, 6, 5, 12, 13, 9, 10] and len(masks.ATR_OF_LIP) == 20
    for number in range(3):
        _, images, _ = drawn("upper_body", number)
        assert (masks.ATR_OF_LIP[images.parse] == images.parse_atr)[~np.isin(images.parse, (3, 10))].mean() > 0.99


def test_a_widened_mask_reaches_further_and_a_box_fills_its_corners():
    mask = np.zeros((64, 48), bool)
    mask[20, 10] = mask[30, 20] = True
    assert np.array_equal(masks.widened(mask, 0), mask) and not masks.widened(mask & False, 9, as_box=True).any()
    wide = masks.widened(mask, 32)  # two of 64 pixels
    assert wide[18:23, 8:13].all() and wide.sum() == 50
    boxed = masks.widened(mask, 32, as_box=True)
    assert boxed[18:33, 8:23].all() and boxed.sum() == 15 * 15


def test_labels_alone_give_limbs_a_margin_and_keep_the_head():
    """The margin of AutoMasker round body parts, 8 of 500 pixels, besides that of smoothing."""
    parse = np.zeros((500, 400), np.uint8)
    for label, columns in ((masks.LEFT_ARM, slice(50, 80)), (masks.LEFT_LEG, slice(200, 230))):
        parse[100:300, columns] = label
    parse[100:130, 300:330] = masks.HEAD
    upper, lower = masks.from_atr(parse, "upper"), masks.from_atr(parse, "lower")
    assert upper[200, 38:92].all() and not upper[200, 32] and not upper[:, 200:].any()
    assert lower[200, 188:242].all() and not lower[200, 182] and not lower[:, :150].any()
