"""The filter of bad pairs: its measures on drawn parses, its file, its padding, and its precision against the ground truth."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from fashiongen.batches import TryOffBatch, TryOnBatch
from fashiongen.data import VITONHD
from fashiongen.data.quality import LIMITS, QualityFilter, decide, measure, measure_row, read_decisions, write_decisions
from fashiongen.data.reframe import Zooms, foreground, reframe, reframe_garment
from fashiongen.errors import UserError
from fashiongen.wardrobe import write_viton_hd

HEIGHT, WIDTH = 256, 192


def person(top=80, bottom=180, left=60, right=132, cover=None, shoulders=60, confidence=0.9):
    """A parse with one rectangular garment and a trunk under it; `cover` is (label, box) over the garment."""
    parse = np.zeros((HEIGHT, WIDTH), np.uint8)
    parse[max(top, 0) : bottom, max(left, 0) : right] = 5
    if cover:
        label, (y0, x0, y1, x1) = cover
        parse[y0:y1, x0:x1] = label
    middle = (left + right) / 2
    pose = np.zeros((25, 3), np.float32)
    pose[[2, 5]] = [(middle - shoulders / 2, top + 4, 0.9), (middle + shoulders / 2, top + 4, confidence)]
    hips = 0.35 * shoulders
    pose[[9, 12]] = [(middle - hips, bottom - 6, 0.9), (middle + hips, bottom - 6, confidence)]
    return parse, pose


GOOD = person()
FAILED_STATUSES = {
    "truncation": person(top=160, bottom=256),
    "occlusion": person(cover=(14, (110, 60, 140, 132))),
    "side_view": person(left=80, right=112, shoulders=24),
    "proportion": person(top=20, bottom=250, left=2, right=190, shoulders=138),
}


@pytest.mark.parametrize("defect", FAILED_STATUSES)
def test_each_defect_is_found_by_its_own_measure(defect):
    people = [GOOD] * 9 + [FAILED_STATUSES[defect]]
    decisions = decide([measure(*one) for one in people], [str(index) for index in range(10)], 0.9, pad_extreme=False)
    worst = decisions[-1]
    assert worst.id == "9" and not worst.kept and worst.reason == defect and getattr(worst, defect) > LIMITS[defect]
    assert all(decision.kept and decision.reason == "" for decision in decisions[:-1])


@pytest.mark.parametrize("label", [2, 14, 15, 0, 16])
def test_anything_before_the_trunk_occludes_but_the_neckline_does_not(label):
    hidden = measure(*person(cover=(label, (110, 60, 140, 132)))).occlusion
    assert 0.2 < hidden < 0.45
    assert measure(*person(cover=(10, (80, 84, 100, 108)))).occlusion == measure(*GOOD).occlusion < LIMITS["occlusion"]


def test_an_unseen_shoulder_is_no_front_view_and_no_garment_is_the_worst():
    assert measure(*person(confidence=0.0)).shoulders == 0
    nothing = measure(np.zeros((HEIGHT, WIDTH), np.uint8), GOOD[1])
    decisions = decide([nothing, measure(*GOOD), measure(*FAILED_STATUSES["truncation"])], ["a", "b", "c"], 1 / 3, pad_extreme=True)
    assert [decision.id for decision in decisions] == ["b", "c", "a"] and decisions[-1].reason == "no garment"
    assert [decision.kept for decision in decisions] == [True, False, False]


def test_extreme_proportions_are_padded_or_count_as_a_defect():
    people = [measure(*one) for one in [GOOD] * 9 + [FAILED_STATUSES["proportion"]]]
    ids = [str(index) for index in range(10)]
    mended = {decision.id: decision for decision in decide(people, ids, 1.0, pad_extreme=True)}
    strict = {decision.id: decision for decision in decide(people, ids, 1.0, pad_extreme=False)}
    assert mended["9"].zoom == 0.5 and {decision.zoom for decision in mended.values() if decision.id != "9"} == {1.0}
    assert strict["9"].zoom == 1.0 and strict["9"].score < mended["9"].score


def rows_of(tmp_path, people):
    """Write people as files and read them as the reader would."""
    root = tmp_path / "viton"
    for index, (parse, pose) in enumerate(people):
        stem = f"{index:03d}"
        folders = {name: root / "train" / name for name in ("image", "cloth", "agnostic-mask", "image-parse-v3", "openpose_json")}
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        for name in ("image", "cloth"):
            Image.new("RGB", (WIDTH, HEIGHT)).save(folders[name] / f"{stem}.jpg")
        Image.new("L", (WIDTH, HEIGHT), 255).save(folders["agnostic-mask"] / f"{stem}_mask.png")
        Image.fromarray(parse).save(folders["image-parse-v3"] / f"{stem}.png")
        (folders["openpose_json"] / f"{stem}_keypoints.json").write_text(
            json.dumps({"people": [{"pose_keypoints_2d": pose.ravel().tolist()}]})
        )
    (root / "train_pairs.txt").write_text("".join(f"{index:03d}.jpg {index:03d}.jpg\n" for index in range(len(people))))
    module = VITONHD(str(root), size=(64, 48), validation=0)
    module.setup("fit")
    return module.datasets["train"].rows


def test_the_file_is_written_once_and_a_persons_edits_are_obeyed(tmp_path):
    rows = rows_of(tmp_path, [*[GOOD] * 3, *FAILED_STATUSES.values()])
    path = tmp_path / "review" / "decisions.csv"
    quality = QualityFilter(keep=3 / 7, decisions=str(path))
    assert set(quality.select(rows)) <= {"000", "001", "002", "006"}
    lines = list(csv.DictReader(path.open()))
    assert [line["kept"] for line in lines] == ["1"] * 3 + ["0"] * 4
    assert {line["id"]: line["reason"] for line in lines}["004"] == "occlusion"
    content = path.read_text()
    path.write_text(content.replace("004,0", "004,1"))
    assert "004" in QualityFilter(keep=0.01, decisions=str(path)).select(rows)
    assert path.read_text() != content
    assert set(QualityFilter(keep=3 / 7).select(rows)) == {line["id"] for line in lines if line["kept"] == "1"}


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda text: text.replace("\n000,", "\nzzz,"), "does not belong to this training set .2 ids differ, such as 000"),
        (lambda text: text + text.splitlines()[1] + "\n", "an id is listed twice"),
        (lambda text: text.replace(",1,", ",yes,", 1), "line 2: kept must be 1 or 0"),
        (lambda text: text.replace("kept", "take", 1), "has no column kept"),
        (lambda text: "", "has no column id, kept"),
        (lambda text: text.replace("1.0000,1.0000,\n", "7.0000,1.0000,\n", 1), "line 2: zoom=7.0 must be from 0.5 to 2.0"),
        (lambda text: text.replace("1.0000,\n", "7.0000,\n", 1), "line 2: garment_zoom=7.0 must be from 0.5 to 2.0"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, edit, words):
    path = tmp_path / "decisions.csv"
    ids = ["000", "001"]
    write_decisions(path, decide([measure(*GOOD)] * 2, ids, 0.5, pad_extreme=True))
    assert [decision.kept for decision in read_decisions(path, ids)] == [True, False]
    path.write_text(edit(path.read_text()))
    with pytest.raises(UserError, match=words):
        read_decisions(path, ids)


def test_unsupported_settings_of_the_filter_are_an_error(tmp_path):
    with pytest.raises(UserError, match=r"quality\.keep=0"):
        QualityFilter(keep=0)
    rows = rows_of(tmp_path, [GOOD])
    with pytest.raises(UserError, match="has no key points"):
        measure_row(replace(rows[0], pose=None))
    with pytest.raises(UserError, match="has no human parse"):
        QualityFilter().select([replace(rows[0], parse=None)])


def shop_image(height, width, top=0, left=0, size=(HEIGHT, WIDTH)):
    """A dark garment of a height and width on VITON-HD's grey, with a flat border in the middle of the frame by default."""
    image = np.full((*size, 3), 246, np.uint8)
    top, left = top or (size[0] - height) // 2, left or (size[1] - width) // 2
    image[top : top + height, left : left + width] = 40
    return Image.fromarray(image)


EXTREME = {"3": (100, 70), "4": (256, 192), "5": (230, 60)}


def extreme_rows(tmp_path):
    """Ten people alike; the garments of two fill far less and far more of their shop images, and one is only narrow."""
    rows = rows_of(tmp_path, [GOOD] * 10)
    for index, row in enumerate(rows):
        height, width = EXTREME.get(str(index), (180, 130))
        shop_image(height, width).save(row.garment, quality=100)
    shop_image(250, 186, top=6, left=6).save(rows[4].garment, quality=100)
    return rows


def test_shop_images_of_extreme_proportions_are_padded_or_count_as_a_defect(tmp_path):
    rows = extreme_rows(tmp_path)
    zooms = QualityFilter(keep=1.0).select(rows)
    assert {row.id: zooms[row.id].garment for row in rows if zooms[row.id].garment != 1.0} == {
        "003": pytest.approx(1.8, abs=0.02),
        "004": pytest.approx(0.71, abs=0.03),
    }
    assert {zoom.person for zoom in zooms.values()} == {1.0}
    path = tmp_path / "decisions.csv"
    strict = QualityFilter(keep=0.8, pad_extreme=False, decisions=str(path)).select(rows)
    assert set(strict) == {row.id for row in rows} - {"003", "004"} and set(strict.values()) == {Zooms()}
    assert {line["id"]: line["reason"] for line in csv.DictReader(path.open())}["003"] == "garment_proportion"


def test_the_garments_are_reframed_in_training_and_all_others_are_the_same_bit_by_bit(tmp_path):
    rows = extreme_rows(tmp_path)
    module = VITONHD(str(rows[0].person.parents[2]), size=(HEIGHT, WIDTH), validation=0, quality=QualityFilter(keep=1.0))
    module.setup("fit")
    filtered = module.datasets["train"]
    plain = VITONHD(str(rows[0].person.parents[2]), size=(HEIGHT, WIDTH), validation=0)
    plain.setup("fit")
    extents = []
    for before, after in zip(plain.datasets["train"], filtered, strict=True):
        same = torch.equal(before.garment, after.garment)
        assert same == (after.ids[0] not in ("003", "004"))
        assert torch.equal(before.person, after.person) and torch.equal(before.mask, after.mask)
        garment = foreground(after.garment[0]).nonzero()
        extents.append(((garment.amax(dim=0) - garment.amin(dim=0) + 1) / torch.tensor([HEIGHT, WIDTH])).max())
    usual = sorted(extents)[5]
    assert all(abs(np.log(float(extent / usual))) < 0.25 for extent in extents)


def test_a_file_from_before_garments_were_reframed_is_read(tmp_path):
    """An edited file must not be lost."""
    path = tmp_path / "decisions.csv"
    write_decisions(path, decide([measure(*GOOD)] * 2, ["a", "b"], 0.5, pad_extreme=True))
    with path.open() as file:
        lines = [{key: value for key, value in line.items() if not key.startswith("garment_")} for line in csv.DictReader(file)]
    with path.open("w") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    assert [(decision.kept, decision.garment_zoom) for decision in read_decisions(path, ["a", "b"])] == [(True, 1.0), (False, 1.0)]


@pytest.mark.parametrize(("place", "zoom"), [((10, 8), 1.5), ((90, 100), 1.5), ((60, 50), 0.5), ((0, 0), 0.5)])
@pytest.mark.parametrize("masked", [True, False])
def test_a_reframed_garment_stays_whole_on_its_background(place, zoom, masked):
    top, left = place
    garment = torch.from_numpy(np.array(shop_image(120, 80, top or 1, left or 1))).permute(2, 0, 1)[None].contiguous()
    parts = {"person": garment, "mask": torch.ones(1, 1, HEIGHT, WIDTH, dtype=torch.bool), "category": ["upper"], "garment": garment}
    sample = TryOffBatch(ids=["a"], **parts, garment_mask=foreground(garment[0])[None, None] if masked else None)
    after = reframe_garment(sample, zoom)
    found = foreground(after.garment[0]).nonzero()
    height, width = (found.amax(dim=0) - found.amin(dim=0) + 1).tolist()
    assert (height, width) == (pytest.approx(120 * zoom, abs=3), pytest.approx(80 * zoom, abs=3))
    assert after.garment.shape == garment.shape and after.garment.dtype == torch.uint8
    assert (after.garment[0, :, [0, 0, -1, -1], [0, -1, 0, -1]] == 246).all(), "the corners have the background's colour"
    assert after.person is sample.person and after.mask is sample.mask
    if masked:
        assert (after.garment_mask[0, 0] ^ foreground(after.garment[0])).float().mean() < 0.02


def garment_box(mask):
    rows, columns = mask[0, 0].any(dim=1).nonzero(), mask[0, 0].any(dim=0).nonzero()
    return int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1


def framed():
    mask = torch.zeros(1, 1, 64, 48, dtype=torch.bool)
    mask[..., 16:48, 12:28] = True
    pose = torch.tensor([[[12.0, 16.0, 0.9], [28.0, 48.0, 0.9], [1.0, 1.0, 0.9]]])
    colour = torch.where(mask, 30, 200).to(torch.uint8).expand(1, 3, 64, 48)
    return TryOffBatch(ids=["a"], person=colour, mask=mask, category=["upper"], parse=5 * mask[:, 0].byte(), pose=pose, garment=colour)


@pytest.mark.parametrize(("zoom", "box"), [(0.5, (24, 40, 16, 24)), (1.5, (8, 56, 8, 32)), (2.0, (0, 64, 4, 36))])
def test_a_reframed_person_keeps_image_mask_parse_and_pose_together(zoom, box):
    before = framed()
    after = reframe(before, zoom)
    top, bottom, left, right = garment_box(after.mask)
    assert np.abs(np.array([top, bottom, left, right]) - box).max() <= 1
    assert torch.equal(after.parse == 5, after.mask[:, 0])
    inside = after.mask[0, 0, :, :]
    assert (after.person[0, :, inside].float().mean() - 30).abs() < 12
    assert torch.allclose(after.pose[0, 0, :2], torch.tensor([box[2], box[0]]).float(), atol=1)
    assert torch.allclose(after.pose[0, 1, :2], torch.tensor([box[3], box[1]]).float(), atol=1)
    assert after.person.shape == before.person.shape and after.person.dtype == torch.uint8 and after.garment is before.garment
    if zoom < 1:
        assert (after.person[0, :, 0, 0] == 255).all() and after.pose[0, 2, 2] == 0.9
    else:
        assert after.pose[0, 2, 2] == 0  # it has left the frame


@pytest.mark.parametrize("zoom", [0.5, 1.5])
def test_a_reframed_try_on_shows_no_more_of_the_garment_than_a_plain_one(zoom):
    """The agnostic image is the reframed photo outside of the reframed mask, and grey inside."""
    taken = framed()
    parts = {name: getattr(taken, name) for name in ("person", "mask", "category", "pose", "garment")}
    agnostic = taken.person.masked_fill(taken.mask, 128)
    worn = reframe(TryOnBatch(ids=["a"], agnostic=agnostic, parse=taken.parse * ~taken.mask[:, 0], **parts), zoom)
    plain = reframe(taken, zoom)
    for name in ("person", "mask", "pose", "garment"):
        assert torch.equal(getattr(worn, name), getattr(plain, name)), name
    assert torch.equal(worn.agnostic, plain.person.masked_fill(plain.mask, 128)) and not torch.equal(worn.agnostic, agnostic)
    assert not worn.parse.any() and worn.agnostic.dtype == torch.uint8


def test_the_same_pairs_train_both_tasks(tmp_path):
    """`data.quality` with task vton: it selects by the same measures and reframes the same images; the test is untouched."""
    rows = extreme_rows(tmp_path)
    root, taken = rows[0].person.parents[2], {}
    for task in ("vtoff", "vton"):
        module = VITONHD(str(root), size=(HEIGHT, WIDTH), validation=0, task=task, quality=QualityFilter(keep=0.8))
        module.setup("fit")
        taken[task] = {sample.ids[0]: sample for sample in module.datasets["train"]}
    assert len(taken["vton"]) == 8 and taken["vton"].keys() == taken["vtoff"].keys()
    for id_, worn in taken["vton"].items():
        off = taken["vtoff"][id_]
        assert type(worn) is TryOnBatch and torch.equal(worn.garment, off.garment) and torch.equal(worn.person, off.person)
        assert torch.equal(worn.agnostic, off.person.masked_fill(off.mask, 128))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The training people of a rendered world, and its truth by id."""
    root = write_viton_hd(tmp_path_factory.mktemp("world") / "viton", people=110, size=(64, 48), seed=11, test_fraction=0.02, workers=1)
    module = VITONHD(str(root), size=(64, 48), validation=0)
    module.setup("fit")
    truth = [json.loads(line) for line in (root / "wardrobe_truth.jsonl").read_text().splitlines()]
    return module.datasets["train"].rows, {line["stem"]: line for line in truth}


@pytest.mark.parametrize("pad_extreme", [True, False])
def test_what_is_kept_is_good_by_the_worlds_truth(world, pad_extreme):
    rows, truth = world
    kept = [truth[id_] for id_ in QualityFilter(keep=0.2, pad_extreme=pad_extreme).select(rows)]
    flawed = [line["truncated"] or line["side_view"] or line["occlusion"] != "none" for line in kept]
    base = [truth[row.id]["quality"] == "bad" for row in rows]
    good, good_base = [np.mean([line["quality"] == "good" for line in lines]) for lines in (kept, [truth[row.id] for row in rows])]
    print(f"kept {len(kept)}: flawed {np.mean(flawed):.2f} of base {np.mean(base):.2f}, good {good:.2f} of base {good_base:.2f}")
    assert 0.3 < np.mean(base) and np.mean(flawed) <= 0.08
    assert good > 1.5 * good_base
    if not pad_extreme:
        assert np.mean([line["extreme_proportion"] for line in kept]) <= 0.05


def test_the_worlds_people_of_extreme_proportions_are_padded_to_the_usual_one(world):
    rows, truth = world
    zooms = QualityFilter(keep=1.0).select(rows)
    zoomed = {id_ for id_, zoom in zooms.items() if zoom.person != 1.0}
    assert {zoom.garment for zoom in zooms.values()} == {1.0}, "the world's shop images have normal proportions"
    extreme = {row.id for row in rows if truth[row.id]["extreme_proportion"]}
    whole = {id_ for id_ in zoomed if not truth[id_]["truncated"]}
    assert len(extreme & zoomed) >= 0.8 * len(extreme) and len(whole - extreme) <= 0.1 * len(rows)
    heights = {row.id: measure_row(row).height for row in rows}
    usual = np.median(list(heights.values()))
    before = [abs(np.log(heights[id_] / usual)) for id_ in extreme & zoomed]
    after = [abs(np.log(heights[id_] * zooms[id_].person / usual)) for id_ in extreme & zoomed]
    assert np.mean(after) < 0.3 * np.mean(before)
