"""iFashion and Polyvore-U: what the readers make of a folder, and what they refuse."""

import json
import shutil
import time
from dataclasses import fields

import numpy as np
import pytest
import torch
from outfit_folders import CATEGORY_OF, HISTORY, TESTED, TRAIN, color_of, flat, save, write_images, write_lists

from fashiongen.data import IFashion, PolyvoreU
from fashiongen.data.check import check
from fashiongen.data.object_arrays import read_npy
from fashiongen.data.outfit_images import ImageFinder
from fashiongen.data.outfit_lists import OutfitLists
from fashiongen.errors import UserError
from fashiongen.outfit_batches import ComposeBatch, FillBlankBatch
from fashiongen.preference import preference_text

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


def test_a_test_shows_all_items_but_the_missing_one(sound):
    batch = next(iter(read(sound).test_dataloader()))
    assert isinstance(batch, FillBlankBatch) and batch.ids == ["0_20", "1_21"] and (batch.user, batch.outfit) == (["0", "1"], ["20", "21"])
    assert batch.blank.values.tolist() == [False, True, False, True, False, False]
    assert (batch.given.values == ~batch.blank.values).all()
    assert batch.items.values == ["10", "", "12", "", "14", "15"] and batch.true_items.values == ["10", "11", "12", "13", "14", "15"]
    assert batch.category[0] == ["skirt", "women's shoe", "bag"]
    assert colors(batch.true_images.values) == [color_of(item) for item in range(10, 16)]
    white = (255, 255, 255)
    assert colors(batch.images.values) == [color_of(10), white, color_of(12), white, color_of(14), color_of(15)]
    assert [batch.candidates[row] for row in (0, 1)] == [["11", "16", "18"], ["13", "16", "18"]]
    assert colors(batch.candidate_images[1]) == [color_of(item) for item in (13, 16, 18)]
    assert [batch.history_items[0][slot] for slot in range(3)] == [["1", "4", "1", "7"], ["2"], ["3", "6"]]
    assert [batch.history_items[1][slot] for slot in range(3)] == [["7", "4"], [], ["9"]]
    assert colors(batch.history[0][0]) == [color_of(item) for item in (1, 4, 1, 7)] and batch.history[1][1].shape == (0, 3, *SIZE)


def test_without_its_targets_a_test_says_nothing_of_the_missing_item(sound):
    batch = next(iter(read(sound).test_dataloader())).without_target()
    assert all(getattr(batch, name) is None for name in batch.TARGETS)
    for hidden in ("11", "13"):
        texts = [*batch.items.values, *batch.history_items.values.values]
        assert hidden not in texts
    shown = torch.cat([batch.images.values, batch.history.values.values])
    assert not {color_of(11), color_of(13)} & set(colors(shown))


def test_an_outfit_recommendation_shows_nothing_and_training_all(sound):
    data = read(sound, task="gor")
    batch = next(iter(data.test_dataloader()))
    assert isinstance(batch, ComposeBatch) and batch.blank.values.all() and not batch.given.values.any()
    assert set(batch.items.values) == {""} and (batch.images.values == 255).all()
    assert batch.candidates is None and "candidates" not in data.offers
    assert batch.true_items.values == ["10", "11", "12", "13", "14", "15"]
    for task, kind in (("pfitb", FillBlankBatch), ("gor", ComposeBatch)):
        data = read(sound, "fit", task=task)
        batch = next(iter(data.train_dataloader()))
        assert type(batch) is kind and batch.given.values.all() and not batch.blank.values.any()
        assert batch.items.values == batch.true_items.values and torch.equal(batch.images.values, batch.true_images.values)
        assert {id_ for id_ in batch.ids} < {f"{row[0]}_{row[1]}" for row in TRAIN}
    validation = next(iter(read(sound, "validate").val_dataloader()))
    assert validation.blank.values.sum() == 2 and validation.true_images is not None and validation.candidate_images is None
    assert validation.candidates is not None


@pytest.mark.parametrize(("length", "first"), [(2, ["1", "7"]), (1, ["7"]), (100, ["1", "4", "1", "7"]), (None, ["1", "4", "1", "7"])])
def test_a_history_shows_the_latest_items_of_the_slots_category(sound, length, first):
    data = read(sound, history=length)
    batch = next(iter(data.test_dataloader()))
    assert batch.history_items[0][0] == first and batch.history_items[1][1] == []
    assert colors(batch.history[0][0]) == [color_of(int(item)) for item in first]
    assert {"history", "history_items"} <= data.offers


def test_no_history_is_offered_where_none_is_asked_for_or_there_is_none(folder):
    data = read(folder, history=0)
    batch = next(iter(data.test_dataloader()))
    assert batch.history is batch.history_items is None and not {"history", "history_items"} & data.offers
    (folder / "train_history.npy").unlink()
    assert "history" in read(folder).offers  # a test needs only its own
    with pytest.raises(UserError, match=r"train_history\.npy is missing.*history=0"):
        read(folder, "fit")
    assert read(folder, "fit", history=0).offers == {"images"}
    for name in ("valid", "test"):
        (folder / f"{name}_history.npy").unlink()
    assert read(folder).offers == {"images", "candidates"}
    with pytest.raises(UserError, match=r"history=-1 is below 0"):
        read(folder, history=-1)


def same(one, other):
    return all(str(getattr(one, field.name)) == str(getattr(other, field.name)) for field in fields(one))


@pytest.mark.parametrize("place", ["new_{}", "processed/{}", "processed/new_{}"])
def test_both_generations_of_file_names_are_read(lists, place):
    before = {stage: read(lists, stage, images=False) for stage in ("fit", "test")}
    for path in lists.glob("*.npy"):
        renamed = lists / place.format(path.name)
        renamed.parent.mkdir(exist_ok=True)
        path.rename(renamed)
    for stage, data in before.items():
        again = read(lists, stage, images=False)
        assert again.rows == data.rows and same(again.datasets[data.split][0], data.datasets[data.split][0])


def test_the_truth_is_read_from_the_other_list_too(lists):
    before = read(lists, images=False).rows
    (lists / "test_grd_dict.npy").unlink()
    with pytest.raises(UserError, match=r"test_grd\.npy is missing, which holds the complete test outfits"):
        read(lists, images=False)
    save(lists / "test_grd.npy", {row[1]: {"outfits": row[2], "category": [0, 1, 2]} for row in TESTED})
    assert read(lists, images=False).rows == before
    save(lists / "test_grd_dict.npy", flat(TESTED[::-1]))  # in another order
    assert read(lists, images=False).rows == before


@pytest.mark.parametrize("content", [b"\r\n", b"", None])
def test_a_broken_map_of_categories_is_rebuilt(lists, content):
    path = lists / "map" / "iid_cate_dict.npy"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    assert OutfitLists(lists, "ifashion").category_of == CATEGORY_OF
    (lists / "map" / "cate_iid_dict.npy").unlink()
    assert OutfitLists(lists, "ifashion").category_of == {}
    path.write_bytes(b"\x93NUMPY\x01\x00\x46\x00{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(80) + b"cposix\nsystem\n.")
    with pytest.raises(UserError, match="is refused"):  # an attack is not taken for damage
        _ = OutfitLists(lists, "ifashion").category_of


def test_ifashions_missing_training_outfits_are_told_only_when_training(folder):
    (folder / "train.npy").unlink()
    (folder / "train_history.npy").unlink()
    (folder / "map" / "iid_cate_dict.npy").write_bytes(b"\r\n")
    assert len(read(folder).datasets["test"]) == 2 and len(read(folder, "validate").datasets["val"]) == 2
    with pytest.raises(UserError, match=r"^ifashion: .*train\.npy is missing, which holds the train outfits; get it from"):
        read(folder, "fit")
    report = check("ifashion", folder)
    assert (report.usable, report.some_usable, report.verdict) == (False, True, "usable in part")


BAD_ROWS = {
    "its first candidate is 16, but it must be the missing item, 11": ("candidates", [16, 11, 18]),
    "its first candidate is not listed, but": ("candidates", []),
    "a candidate is listed twice": ("candidates", [11, 16, np.int64(16)]),
    "2 of its items are missing": ("items", [0, 0, 12]),
    "0 of its items are missing": ("items", [10, 11, 12]),
    r"its true items \[10, 11, 12\] are not those given \[10, 0, 17\]": ("items", [10, 0, 17]),
    "are not those given": ("truth", [10, 0, 12]),
    "has 4 items and 3 categories": ("items", [10, 0, 12, 13]),
    "has the category 7, which id_cate_dict": ("category", [0, 7, 2]),
}


def spoil(root, part, value):
    """Change a part of the first test row."""
    if part == "candidates":
        path = root / "fitb_test_retrieval_candidates.npy"
        content = read_npy(path)
        content[0][20] = value
    else:
        path = root / ("test_grd_dict.npy" if part == "truth" else "fitb_test.npy")
        content = read_npy(path)
        content["category" if part == "category" else "outfits"][0] = value
    save(path, content)


@pytest.mark.parametrize("told", BAD_ROWS)
def test_lists_that_contradict_each_other_are_told_in_one_line(lists, told):
    spoil(lists, *BAD_ROWS[told])
    with pytest.raises(UserError, match=rf"\.npy: user 0, outfit 20: .*{told}") as error:
        read(lists, images=False)
    assert "\n" not in str(error.value)
    report = check("ifashion", lists)
    (finding,) = [finding for finding in report.findings if finding.kind == "wrong"]
    assert finding.split == "test" and (report.splits["test"].outfits, report.splits["test"].wrong) == (1, 1) and not report.usable


BAD_FILES = {
    "fitb_test.npy": [[], {"uids": [0]}, {**flat(TESTED), "oids": [20]}, {**flat(TESTED), "outfits": [["a"] * 3] * 2}, 7],
    "test_grd_dict.npy": [{"outfits": 3}],
    "fitb_test_retrieval_candidates.npy": [[1, 2], {0: [1]}, {0: {20: ["x"]}}],
    "test_history.npy": [{0: [1, 2]}, {0: {0: [-3]}}, "text"],
    "id_cate_dict.npy": [["skirt"], {0: 5}],
    "item_info.npy": [[1], {1: "skirt"}],
    "all_item_image_paths.npy": [{1: 2}, 5],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD_FILES.items() for value in values])
def test_files_with_another_structure_are_told_in_one_line(folder, name, value):
    save(folder / name, value)
    with pytest.raises(UserError, match=name.replace(".", r"\.")) as error:
        read(folder)
    assert "\n" not in str(error.value)
    assert not check("ifashion", folder).usable


def test_a_blank_in_training_and_an_empty_list_are_told(lists):
    save(lists / "train.npy", flat([(0, 10, [1, 0, 3])]))
    with pytest.raises(UserError, match="its item 2 is missing"):
        read(lists, "fit", images=False)
    save(lists / "train.npy", flat([]))
    with pytest.raises(UserError, match="holds no outfits"):
        read(lists, "fit", images=False)


def test_repeated_rows_have_ids_of_their_own(lists):
    save(lists / "train.npy", flat([TRAIN[0], TRAIN[1], TRAIN[0]]))
    data = read(lists, "fit", images=False)
    assert [row.id for row in data.rows["train"]] == ["0_10", "0_11", "0_10_2"]
    report = check("ifashion", lists)
    assert report.splits["train"].repeated == 1 and report.usable


def test_captions_are_the_json_of_the_four_attributes(folder):
    known = {"Color": ["red", "blue"], "Clothing Fashion Style": " casual ", "else": 3, "Material": []}
    save(folder / "item_info.npy", {10: {"elements": known}, 11: {"elements": {}}, 12: {"url": ""}})
    data = read(folder)
    batch = data.datasets["test"][0]
    unknown = preference_text({})
    first = '{"Color": "red, blue", "Material": "Unknown", "Design features": "Unknown", "Clothing Fashion Style": "casual"}'
    assert batch.captions.values == [first, "", unknown] and batch.true_captions.values == [first, unknown, unknown]
    assert "captions" in data.offers and json.loads(unknown) == dict.fromkeys(json.loads(first), "Unknown")


def test_preferences_are_drawn_by_a_function_from_the_frequencies(folder):
    asked = []

    def sampler(frequency, names, seed):
        asked.append((frequency, names, seed))
        return {name: sorted(values) for name, values in frequency.items()}

    assert "preference" not in read(folder, preference=sampler).offers  # the folder has no frequencies
    counts = {"Color": {"red": 2, "blue": np.int64(1)}}
    save(folder / "test_preference.npy", {0: {0: {"Frequency": counts}, 1: {"frequency": {"Material": {"knit": 3}}}}})
    assert "preference" not in read(folder).offers
    data = read(folder, preference=sampler, seed=4)
    first = data.datasets["test"][0].preference.values
    assert "preference" in data.offers and json.loads(first[0])["Color"] == "blue, red" and json.loads(first[1])["Material"] == "knit"
    assert first[2] == preference_text({}) and asked[0] == ({"Color": {"red": 2.0, "blue": 1.0}}, (0, 0), 4) and asked[2] == ({}, (0, 2), 4)
    assert data.lists.frequencies("test")[0][1] == {"Material": {"knit": 3.0}}
    assert "preference" in read(folder, "validate", preference=sampler).offers  # from the test's file
    assert "preference" not in read(folder, "fit", preference=sampler).offers  # which training has not
    save(folder / "test_preference.npy", {0: {0: {"Counts": counts}}})
    with pytest.raises(UserError, match="does not hold a dictionary of preferences"):
        read(folder, preference=sampler)


def test_the_catalogue_holds_each_item_of_a_split_once(sound):
    data = read(sound)
    catalogue = data.catalogue()  # of training, in a test
    assert catalogue.ids == [str(item) for row in TRAIN for item in row[2]] and catalogue.categories[:2] == ["skirt", "women's shoe"]
    assert colors([catalogue[index] for index in range(len(catalogue))]) == [color_of(int(id_)) for id_ in catalogue.ids]
    assert catalogue.groups("category") == catalogue.categories and catalogue.attributes is None
    images = data.images_of("test", "item", (4, 4))
    assert images[0].shape == (3, 4, 4) and images.fingerprint() != data.images_of("train", "item").fingerprint()
    with pytest.raises(UserError, match="have no user"):
        images.groups("user")
    without = read(sound, images=False)
    assert without.catalogue().ids == catalogue.ids
    with pytest.raises(UserError, match="images=true"):
        without.catalogue()[0]
    with pytest.raises(UserError, match="images=true"):
        without.images_of("test", "item")


def test_a_run_that_reads_less_is_of_the_same_data(folder):
    prints = {
        read(folder, **options).fingerprint() for options in ({}, {"images": False}, {"history": 1}, {"task": "gor"}, {"fit": "stretch"})
    }
    assert len(prints) == 1
    history = {**HISTORY, 1: {0: [7, 1], 2: [9]}}
    save(folder / "test_history.npy", history)
    assert read(folder).fingerprint() not in prints
    with pytest.raises(UserError, match="is of no outfits; choose pfitb or gor"):
        read(folder, task="vton")


def test_the_embedded_world_knows_attributes_and_users():
    data = PolyvoreU("wardrobe", people=60, size=(16, 12), batch_size=2, num_workers=0)
    data.setup("test")
    assert data.offers >= {"attributes", "likes", "captions", "candidates", "history", "images"}
    batch = next(iter(data.test_dataloader()))
    for caption, attributes, category in zip(batch.true_captions.values, batch.attributes.values, batch.category.values, strict=True):
        assert json.loads(caption) == {name: value for name, value in attributes.items() if name != "category"}
        assert attributes["category"] == category
    assert [set(likes) for likes in batch.likes] == [{"Color", "Design features", "Clothing Fashion Style"}] * 2
    assert all(len(values) == 2 for likes in batch.likes for values in likes.values())
    hidden = batch.without_target()
    assert hidden.attributes is None and hidden.likes == batch.likes  # the oracle's; `spoil_truth` hides them from others
    given = [entry != {} for entry in hidden.given_attributes.values]
    assert given == hidden.given.values.tolist()
    assert data.catalogue().attributes[0]["category"] == data.catalogue().categories[0]


def test_the_complete_public_polyvore_u(shared_data):
    data = read(shared_data / "polyvore_u", None, cls=PolyvoreU, images=False)
    assert data.describe()["splits"] == {
        "train": {"outfits": 26921, "users": 517, "items": 69651},
        "val": {"outfits": 3356, "users": 516, "items": 12291},
        "test": {"outfits": 3631, "users": 517, "items": 13254},
    }
    assert len(data.lists.category_of) == 119202 and len(data.lists.categories) == 50
    for split in ("val", "test"):
        for row in data.rows[split]:
            assert row.candidates[0] == row.truth[row.items.index(0)] and len(set(row.candidates)) == 5
    ids = [row.id for row in data.rows["train"]]
    assert len(set(ids)) == 26921 and sum(id_.count("_") == 2 for id_ in ids) == 2
    report = check("polyvore_u", shared_data / "polyvore_u")
    assert report.usable and "need no images" in report.lines()[-1] and report.splits["test"].without_history == 63
    batch = data.datasets["test"][0]
    assert batch.ids == ["0_46"] and batch.category[0] == ["women's sweater", "women's shirt", "skirt", "women's boot"]


def test_many_items_open_fast(lists):
    """iFashion has 344,186 items; a twentieth must take a twentieth of the two seconds that it may take."""
    count = 20_000
    numbers = range(1, count + 1)
    elements = {"Color": "red", "Material": "knit", "Design features": "dots", "Clothing Fashion Style": "casual"}
    save(
        lists / "item_info.npy", {n: {"original iid": f"o{n}", "category": "skirt", "url": f"u{n}", "elements": elements} for n in numbers}
    )
    save(lists / "all_item_image_paths.npy", ["empty_image.png", *(f"skirt/o{n}.png" for n in numbers)])
    save(lists / "map" / "cate_iid_dict.npy", {0: list(numbers)})
    (lists / "map" / "iid_cate_dict.npy").write_bytes(b"\r\n")
    began = time.process_time()
    opened = OutfitLists(lists, "ifashion")
    finder = ImageFinder(opened, lists)
    assert len(opened.category_of) == len(opened.info) == count and opened.has_captions and finder.find(count) is None
    assert time.process_time() - began < 0.5
