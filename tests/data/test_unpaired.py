"""Try-on batches: what is hidden of the person, the garment of an unpaired test, and its truth in the embedded world."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tryon_folders import DRESS_CODE_CATEGORIES, FIRST_PERSON, STREET_CATEGORIES, data, samples

from fashiongen.batches import TryOnBatch
from fashiongen.data.images import read_image
from fashiongen.errors import UserError
from fashiongen.wardrobe import make_person, render_dressed

SIZE = (128, 96)
STREET = {"pairs": "street2street_test_pairs_top.csv"}
LAYOUTS = {"viton_hd": {}, "dress_code": {}, "street_tryon": STREET}


def unpaired(layout, root, **options):
    return data(layout, root, task="vton", pairing="unpaired", **{**LAYOUTS[layout], **options})


@pytest.mark.parametrize("layout", ["viton_hd", "dress_code"])
def test_nothing_of_the_garment_is_left_on_the_person(layout, rendered):
    plain, module = data(layout, rendered(layout)), data(layout, rendered(layout), task="vton")
    assert module.offers == {"garment", "garment_mask", "mask", "parse", "person", "pose"} and module.name == layout
    for id_, taken in samples(plain).items():
        worn = samples(module)[id_]
        assert type(worn) is TryOnBatch and worn.ids == taken.ids and worn.category == taken.category
        for part in ("person", "mask", "garment", "garment_mask", "pose"):
            assert torch.equal(getattr(worn, part), getattr(taken, part)), part
        inside = worn.mask[:, 0]
        assert (worn.agnostic.movedim(1, -1)[inside] == 128).all() and torch.equal(
            worn.agnostic.movedim(1, -1)[~inside], taken.person.movedim(1, -1)[~inside]
        )
        assert not worn.parse[inside].any() and torch.equal(worn.parse[~inside], taken.parse[~inside]) and taken.parse[inside].any()
        assert worn.without_target().person is None and worn.without_target().agnostic is not None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_unpaired_test_has_the_other_garment_and_its_truth(layout, rendered):
    root = rendered(layout)
    module = unpaired(layout, root)
    assert module.name.startswith(f"{layout}-unpaired") and "person" in module.offers
    for row in module.datasets["test"].rows:
        sample = samples(module)[row.id]
        if layout == "viton_hd":
            numbers = int(row.person.stem[:5]), int(row.garment.stem[:5])
            person, other = (make_person(0, "test", number) for number in numbers)
        elif layout == "dress_code":
            kinds = DRESS_CODE_CATEGORIES[row.person.parents[1].name]
            person, other = (make_person(0, "test", int(path.stem[:6]), kinds) for path in (row.person, row.garment))
        else:
            top = STREET_CATEGORIES["top"]
            person, other = (make_person(0, "test", FIRST_PERSON + int(path.stem), top) for path in (row.person, row.garment))
        assert person.garment != other.garment
        drawn = render_dressed(person, other.garment, *SIZE)
        assert np.abs(sample.person[0].permute(1, 2, 0).numpy().astype(int) - drawn).mean() < 4
        if layout != "street_tryon":
            assert torch.equal(sample.garment[0], read_image(row.garment, SIZE)) and row.garment != row.other
            assert (sample.garment[0].amin(dim=0)[sample.garment_mask[0, 0]] < 250).float().mean() > 0.3
        else:  # what the other person wears, on white
            worn = (sample.garment[0] != 255).any(dim=0)
            assert 0.02 < worn.float().mean() < 0.6
    names = module.sample_names()
    assert all(named["own"] != named.get("other") for named in names.values())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_whole_photo_is_seen_beside_another_garment_alone(layout, rendered):
    """Beside the own garment it is the truth: no split and no setting offers it then."""
    root = rendered(layout)
    module = unpaired(layout, root)
    assert "photo" in module.offers and "photo" not in TryOnBatch.TARGETS
    for row in module.datasets["test"].rows:
        sample = samples(module)[row.id]
        assert torch.equal(sample.photo[0], read_image(row.person, SIZE)) and sample.without_target().photo is not None
        inside = sample.mask.expand_as(sample.photo)
        assert (sample.photo[inside].float() - sample.person[inside].float()).abs().mean() > 4, "it shows the result"
    if layout == "street_tryon":  # has no paired try-on
        return
    for options in ({}, {"pairing": "unpaired"}):  # training is paired in any case
        module = data(layout, root, "fit", task="vton", **options)
        assert "photo" not in module.offers and "photo" not in data(layout, root, task="vton").offers
        for split in ("train", "val"):
            assert len(module.datasets[split]) and all(sample.photo is None for sample in samples(module, split).values())
    assert all(sample.photo is None for sample in samples(data(layout, root, task="vton")).values())


def test_only_the_test_half_is_unpaired(rendered):
    module = data("viton_hd", rendered("viton_hd"), None, task="vton", pairing="unpaired")
    assert all(row.garment.name == row.person.name for split in ("train", "val") for row in module.datasets[split].rows)
    assert all(row.garment.name != row.person.name for row in module.datasets["test"].rows)
    photos = module.images_of("test", "person")
    assert torch.equal(photos[0], read_image(module.datasets["test"].rows[0].person, SIZE))  # the reference set is of true photos


def test_without_the_wardrobes_truth_there_is_no_target(copied):
    root = copied("viton_hd")
    own = unpaired("viton_hd", root).fingerprint()
    for path in (root / "test" / "image-unpaired").iterdir():
        path.unlink()
    module = unpaired("viton_hd", root)
    assert "person" not in module.offers and all(sample.person is None for sample in samples(module).values())
    assert module.fingerprint() != own
    assert data("viton_hd", root).fingerprint() == data("viton_hd", root, task="vton").fingerprint()


def test_paired_data_do_not_depend_on_what_an_unpaired_test_reads(copied):
    root = copied("viton_hd")
    before = data("viton_hd", root, task="vton").fingerprint(), unpaired("viton_hd", root).fingerprint()
    for path in (root / "test" / "image-unpaired").iterdir():
        path.write_bytes(path.read_bytes() + b"\0")
    after = data("viton_hd", root, task="vton").fingerprint(), unpaired("viton_hd", root).fingerprint()
    assert after[0] == before[0] and after[1] != before[1]


def test_street_garments_are_cut_out_by_their_own_labels(rendered):
    module = unpaired("street_tryon", rendered("street_tryon"))
    for row in module.datasets["test"].rows:
        sample, photo = samples(module)[row.id], read_image(row.garment, SIZE)
        with Image.open(row.other_parse) as labels:
            worn = torch.from_numpy(np.asarray(labels) == 4)  # ATR's upper clothes
        assert torch.equal(sample.garment[0][:, worn], photo[:, worn]) and (sample.garment[0][:, ~worn] == 255).all()


@pytest.mark.parametrize(
    ("layout", "options", "says"),
    [
        (
            "viton_hd",
            {"task": "vtoff"},
            r"data.pairing=unpaired puts other garments on people, which vtoff does not: leave it out",
        ),
        ("viton_hd", {"pairing": "both"}, r"viton_hd: data.pairing=both: choose paired or unpaired"),
        ("viton_hd", {"filter": "box"}, r"viton_hd: data.filter=box: choose bilinear or lanczos"),
        ("street_tryon", {"pairing": "paired"}, r"street_tryon: has no shop images, so a try-on is unpaired: set data.pairing=unpaired"),
        ("street_tryon", {"pairs": None}, r"names no other garment for 6 of 6 people, first .*; set data.pairs, such as street2street"),
        ("street_tryon", {"pairs": "shop2street_test_pairs_top.csv"}, r"4 of 4 samples of .* lack their other, first .*zalando/test/cloth"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(layout, options, says, rendered):
    with pytest.raises(UserError, match=says):
        data(layout, rendered(layout), **{"task": "vton", "pairing": "unpaired", **LAYOUTS[layout], **options})
    with pytest.raises(UserError, match=r"\A[^\n]*\Z"):
        data(layout, rendered(layout), **{"task": "vton", "pairing": "unpaired", **LAYOUTS[layout], **options})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_images_of_a_sample_are_read_by_the_filter(layout, rendered):
    """And no mask or label: in whatever way images are resized, the same pixels are masked."""
    usual, lanczos = (unpaired(layout, rendered(layout), size=(64, 48), filter=filter) for filter in ("bilinear", "lanczos"))
    for plain, sample, row in zip(usual.datasets["test"], lanczos.datasets["test"], lanczos.datasets["test"].rows, strict=True):
        photo = read_image(row.person, (64, 48), "lanczos")
        assert torch.equal(sample.agnostic[0], photo.masked_fill(sample.mask[0], 128)) and torch.equal(plain.mask, sample.mask)
        assert torch.equal(sample.person[0], read_image(row.dressed, (64, 48), "lanczos")) and not torch.equal(plain.person, sample.person)
        garment, known = read_image(row.garment, (64, 48), "lanczos"), sample.garment[0]
        assert torch.equal(torch.where(known == 255, known, garment), known) and not torch.equal(plain.garment, sample.garment)
    photos = lanczos.images_of("test", "person")
    assert torch.equal(photos[0], read_image(lanczos.datasets["test"].rows[0].person, (64, 48), "lanczos"))
    assert lanczos.images_of("test", "person", (32, 24))[0].shape == (3, 32, 24) and photos[0].shape == (3, 64, 48)
    assert photos.groups("category") == [one.category[0] for one in lanczos.datasets["test"]]
    with pytest.raises(UserError, match=r"evaluate.by=ids: the images of .* can be grouped by their category alone"):
        photos.groups("ids")
    assert lanczos.fingerprint() == usual.fingerprint() and lanczos.describe()["filter"] == "lanczos"


def test_a_missing_other_garment_is_named(copied):
    root = copied("dress_code")
    line = (root / "test_pairs_unpaired.txt").read_text().splitlines()[0].split("\t")
    (root / "upper_body" / "images" / line[1]).unlink()
    with pytest.raises(UserError, match=r"1 of 6 samples of .* lack their other, first .*_1.jpg"):
        unpaired("dress_code", root)


def test_a_garment_that_was_taken_off_is_put_on_again(rendered, tmp_path):
    """`vton-cycle`: another program's images, or kept predictions, in place of the shop images; the photo stays the truth."""
    root = rendered("viton_hd")
    plain = data("viton_hd", root, task="vton")
    ids = [row.id for row in plain.datasets["test"].rows]
    for number, id_ in enumerate(ids):
        Image.new("RGB", SIZE[::-1], (number % 256, 9, 200)).save(tmp_path / f"{id_}.png")
    cycle = data("viton_hd", root, task="vton", garments=str(tmp_path))
    assert cycle.name == "viton_hd-cycle" and "garment_mask" not in cycle.offers
    for number, id_ in enumerate(ids):
        sample, own = samples(cycle)[id_], samples(plain)[id_]
        assert (sample.garment[0, 0] == number % 256).all() and (sample.garment[0, 2] == 200).all()
        assert torch.equal(sample.person, own.person) and torch.equal(sample.agnostic, own.agnostic)
    before = cycle.fingerprint()
    assert before != plain.fingerprint()
    first = tmp_path / f"{ids[0]}.png"
    size = first.stat().st_size
    Image.new("RGB", SIZE[::-1], (7, 9, 200)).save(first)
    assert abs(first.stat().st_size - size) <= 2
    changed = data("viton_hd", root, task="vton", garments=str(tmp_path))
    assert changed.fingerprint() != before and changed.fingerprint_of_people() == cycle.fingerprint_of_people()
    assert (cycle.garments_name, plain.garments_name) == (tmp_path.name, None)
    assert cycle.describe()["garments"] == "images of another program" and plain.describe()["garments"] is None
    for kept, told in (
        ({"task": "vton"}, "of the task vton, not vtoff"),
        ({"task": "vtoff", "dataset": "dress_code"}, "dataset dress_code"),
    ):
        (tmp_path / "manifest.json").write_text(json.dumps(kept))
        with pytest.raises(UserError, match=told):
            data("viton_hd", root, task="vton", garments=str(tmp_path))
    (tmp_path / "manifest.json").write_text(json.dumps({"task": "vtoff", "dataset": "viton_hd", "method": "igr"}))
    of_igr = data("viton_hd", root, task="vton", garments=str(tmp_path))
    assert (of_igr.describe()["garments"], of_igr.garments_name) == ("igr", "igr")
    made_with = {"recipe": "recipes/tiny/igr.yaml", "overlays": ["recipes/overlays/igr-no-garmnet.yaml", "recipes/tasks/vtoff-tiny.yaml"]}
    (tmp_path / "manifest.json").write_text(json.dumps({"task": "vtoff", "dataset": "viton_hd", "method": "igr", **made_with}))
    assert data("viton_hd", root, task="vton", garments=str(tmp_path)).garments_name == "igr+igr-no-garmnet"
    Image.new("RGB", (48, 64)).save(first)
    with pytest.raises(UserError, match=r"is 64x48, and data.size 128x96: take garments off at the same size"):
        data("viton_hd", root, task="vton", garments=str(tmp_path))
    first.unlink()
    with pytest.raises(UserError, match=rf"data.garments: 1 of {len(ids)} people have no garment there, first .*{ids[0]}.png"):
        data("viton_hd", root, task="vton", garments=str(tmp_path))
    for wrong in ({"task": "vtoff"}, {"task": "vton", "pairing": "unpaired"}):
        with pytest.raises(UserError, match=r"data.garments=.*only for paired try-on"):
            data("viton_hd", root, garments=str(tmp_path), **wrong)
