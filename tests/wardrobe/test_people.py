import dataclasses
from collections import Counter

import numpy as np
import pytest

from fashiongen.wardrobe import make_person, render_item, render_item_mask, render_person
from fashiongen.wardrobe.people import VITON_CATEGORIES, Person
from fashiongen.wardrobe.portrait import GREY, LIP

PEOPLE = [make_person(0, "val", index) for index in range(40)]


def first_with(condition) -> Person:
    return next(person for index in range(400) if condition(person := make_person(0, "val", index)))


def test_qualities_have_the_stated_shares():
    people = [make_person(0, "train", index) for index in range(1000)]
    counts = Counter(person.quality for person in people)
    assert 0.2 < counts["good"] / 1000 < 0.28
    assert counts["hard"] > 250 and counts["bad"] > 300
    assert {person.garment.category for person in people} == set(VITON_CATEGORIES)
    assert {person.occlusion for person in people} == {"none", "arm", "hair", "bag"}
    for flag in ("truncated", "side_view", "extreme_proportion"):
        assert sum(getattr(person, flag) for person in people) > 50


def test_pixels_are_the_same_twice():
    first, second = render_person(PEOPLE[0], 64, 48), render_person(make_person(0, "val", 0), 64, 48)
    for field in dataclasses.fields(first):
        assert np.array_equal(getattr(first, field.name), getattr(second, field.name)), field.name


@pytest.mark.parametrize("size", [(64, 48), (128, 96), (96, 96)])
def test_shapes_and_kinds(size):
    images = render_person(PEOPLE[1], *size)
    for name in ("image", "densepose", "agnostic", "openpose"):
        assert getattr(images, name).shape == (*size, 3) and getattr(images, name).dtype == np.uint8
    for name in ("parse", "parse_agnostic"):
        assert getattr(images, name).shape == size and getattr(images, name).dtype == np.uint8
    for name in ("agnostic_mask", "garment_mask"):
        assert getattr(images, name).shape == size and getattr(images, name).dtype == bool
    assert images.keypoints.shape == (25, 3)


def test_masks_labels_and_images_agree():
    for person in PEOPLE:
        images = render_person(person, 64, 48)
        assert images.garment_mask.any()
        assert (images.parse[images.garment_mask] == LIP["upper"]).all()
        assert np.array_equal(images.parse == LIP["upper"], images.garment_mask)
        assert images.agnostic_mask[images.garment_mask].all()
        assert (images.agnostic[images.agnostic_mask] == GREY).all()
        assert np.array_equal(images.agnostic[~images.agnostic_mask], images.image[~images.agnostic_mask])
        assert not np.isin(LIP["upper"], images.parse_agnostic)
        assert not images.agnostic_mask[images.parse == LIP["face"]].any()
        inside = images.keypoints[images.keypoints[:, 2] > 0]
        assert ((inside[:, :2] >= 0) & (inside[:, :2] < (48, 64))).all()


def test_the_agnostic_mask_does_not_reveal_the_garment():
    for person in PEOPLE[:12]:
        other = dataclasses.replace(person, garment=make_person(1, "val", int(person.id[-2:])).garment)
        first, second = render_person(person, 64, 48).agnostic_mask, render_person(other, 64, 48).agnostic_mask
        assert (first & second).sum() / (first | second).sum() > 0.96


def test_the_worn_garment_is_the_shop_images():
    for person in PEOPLE:
        if person.quality == "good":
            images = render_person(person, 128, 96)
            worn = images.image[images.garment_mask].astype(float)
            shop = render_item(person.garment, 128, 96)[render_item_mask(person.garment, 128, 96)].astype(float)
            assert np.abs(np.median(worn, axis=0) - np.median(shop, axis=0)).max() < 60, person.id
            assert np.abs(worn.mean(axis=0) - shop.mean(axis=0)).max() < 40, person.id


@pytest.mark.parametrize(("name", "value"), [("Color", "purple"), ("Material", "leather"), ("Design features", "checks")])
def test_a_changed_attribute_changes_the_worn_garment(name, value):
    person = first_with(lambda p: p.quality == "good" and p.garment.attributes[name] != value)
    changed = dataclasses.replace(person.garment, attributes={**person.garment.attributes, name: value})
    before, after = render_person(person, 64, 48), render_person(dataclasses.replace(person, garment=changed), 64, 48)
    seen = before.garment_mask & after.garment_mask
    assert np.abs(before.image.astype(float) - after.image)[seen].mean() > 8.0


def test_a_good_photo_shows_the_whole_garment_large_and_a_truncated_one_does_not():
    for index in range(60):
        person = make_person(0, "test", index)
        mask = render_person(person, 64, 48).garment_mask
        rows = np.nonzero(mask.any(axis=1))[0]
        at_edge = mask[-1].any() or mask[:, 0].any() or mask[:, -1].any()
        if person.quality == "good":
            assert not at_edge and 64 * 0.3 < rows[-1] - rows[0] < 64 * 0.65, person.id
        if person.truncated:
            assert at_edge, person.id


def test_a_side_view_hides_one_arm():
    person = first_with(lambda p: p.side_view and not p.truncated and not p.extreme_proportion)
    keypoints = render_person(person, 64, 48).keypoints
    assert (keypoints[[3, 4, 6, 7], 2] == 0).sum() == 2


def test_hair_arm_and_bag_hide_part_of_the_garment():
    for occlusion in ("arm", "hair", "bag"):
        person = first_with(lambda p, kind=occlusion: p.occlusion == kind and not (p.truncated or p.side_view or p.extreme_proportion))
        figure = dataclasses.replace(person.figure, right_arm=(0.3, 0.2), left_arm=(0.3, 0.2)) if occlusion == "arm" else person.figure
        free = dataclasses.replace(person, occlusion="none", figure=figure)
        torso = render_person(free, 64, 48).garment_mask[:, 17:32].sum()
        # An arm in the sleeve of the same garment hides cloth with cloth: only its image changes.
        if occlusion == "arm":
            difference = np.abs(render_person(free, 64, 48).image.astype(float) - render_person(person, 64, 48).image)[:, 14:34]
            assert difference.mean() > 1.0
        else:
            assert render_person(person, 64, 48).garment_mask[:, 17:32].sum() < torso * 0.95


@pytest.mark.parametrize(
    ("categories", "labels"),
    [
        (("dress", "jumpsuit"), {LIP["full"]}),
        (("trousers", "shorts"), {LIP["lower"]}),
        (("skirt",), {LIP["skirt"]}),
        (("coat",), {LIP["upper"]}),
    ],
)
def test_lower_and_whole_garments_are_worn_too(categories, labels):
    for index in range(6):
        images = render_person(make_person(2, "train", index, categories), 64, 48)
        assert images.garment_mask.any() and set(np.unique(images.parse[images.garment_mask])) == labels
        assert images.agnostic_mask[images.garment_mask].all()


def test_half_of_the_large_photo_is_the_small_one():
    large, small = render_person(PEOPLE[2], 128, 96), render_person(PEOPLE[2], 64, 48)
    halved = large.image.astype(float).reshape(64, 2, 48, 2, 3).mean(axis=(1, 3))
    assert np.abs(halved - small.image).mean() < 3.0
    assert np.allclose(large.keypoints[:, :2] / 2, small.keypoints[:, :2], atol=0.5)
    assert (large.parse[::2, ::2] == small.parse).mean() > 0.9
