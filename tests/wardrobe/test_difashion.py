"""The wardrobe as iFashion and Polyvore-U: outfits that follow the rule and suit their users, and lists that agree."""

import json
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from fashiongen.data.object_arrays import read_npy
from fashiongen.errors import UserError
from fashiongen.wardrobe import compatible, make_outfit, write_ifashion, write_polyvore_u
from fashiongen.wardrobe.difashion import CANDIDATES, DRAWN_OUTFITS, FORMS, HISTORY, _draw
from fashiongen.wardrobe.outfits import SLOTS
from fashiongen.wardrobe.world import CATEGORIES

PEOPLE, SIZE = 60, (12, 10)
WRITERS = {"ifashion": write_ifashion, "polyvore_u": write_polyvore_u}


@pytest.fixture(scope="module")
def large():
    """A world that is drawn and not written."""
    return _draw(400, 0)


@pytest.fixture(scope="module", params=WRITERS)
def written(request, tmp_path_factory):
    return WRITERS[request.param](tmp_path_factory.mktemp("written") / request.param, people=PEOPLE, size=SIZE, seed=0, workers=1)


def outfits(world, split):
    return [(world.users[row.user], [world.items[number] for number in row.items]) for row in world.rows[split]]


def test_outfits_follow_the_rule_far_more_often_than_chance(large):
    rows = [items for split in FORMS for _, items in outfits(large, split)]
    followed = np.mean([all(compatible(*pair) for pair in combinations(items, 2)) for items in rows])
    shuffled = [[rows[(index + 7 * slot) % len(rows)][slot] for slot in range(4)] for index in range(len(rows))]
    chance = np.mean([all(compatible(*pair) for pair in combinations(items, 2)) for items in shuffled])
    drawn = [make_outfit(1, "train", index).items.values() for index in range(400)]
    expected = np.mean([all(compatible(*pair) for pair in combinations(items, 2)) for items in drawn])
    assert followed > 0.6 > 0.1 > chance and abs(followed - expected) < 0.08  # the user's choice neither helps nor hurts


def test_outfits_and_histories_suit_their_users(large):
    for split in FORMS:
        rows = outfits(large, split)
        own = np.mean([user.liking(item) for user, items in rows for item in items])
        others = np.mean(
            [user.liking(item) for (user, _), (_, items) in zip(rows, rows[len(rows) // 2 :] + rows, strict=False) for item in items]
        )
        assert own > others + 0.1
    past = [
        (user, large.items[item]) for number, user in enumerate(large.users) for items in large.history[number].values() for item in items
    ]
    trained = [item for _, items in outfits(large, "train") for item in items]
    liked, by_chance = (
        np.mean([user.liking(item) for user, item in past]),
        np.mean([user.liking(i) for user in large.users for i in trained]),
    )
    assert liked > by_chance + 0.2


def test_each_outfit_is_the_favourite_of_the_first_such_of_eight(large):
    for number in (0, 5):
        row = large.rows["test"][number]
        user = large.users[row.user]
        drawn = [list(make_outfit(0, "test", number * DRAWN_OUTFITS + index).items.values()) for index in range(DRAWN_OUTFITS)]
        assert [large.items[item] for item in row.items] == max(drawn, key=lambda items: sum(map(user.liking, items)))


def test_splits_share_users_and_no_items(large):
    names = {split: {large.items[number].id for row in rows for number in row.items} for split, rows in large.rows.items()}
    for split, found in names.items():
        assert len(found) == 4 * len(large.rows[split]) and all(name.startswith(f"{split}-") for name in found)
        assert {row.user for row in large.rows[split]} == set(range(20))
    assert [len(rows) for rows in large.rows.values()] == [300, 40, 60]
    trained = {number for row in large.rows["train"] for number in row.items}
    assert all(item in trained for of_user in large.history.values() for items in of_user.values() for item in items)
    oids = [row.outfit for rows in large.rows.values() for row in rows]
    assert len(set(oids)) == len(oids) == 400


def test_histories_hold_their_category_and_length(large):
    kinds = {CATEGORIES.index(category) for categories in SLOTS.values() for category in categories}
    lengths = Counter()
    for of_user in large.history.values():
        assert of_user.keys() == kinds
        for kind, items in of_user.items():
            assert {large.category[item] for item in items} == {kind}
            lengths[len(items)] += 1
    assert set(lengths) == set(range(HISTORY[0], HISTORY[1] + 1))


def test_blanks_are_spread_and_candidates_are_of_the_slot(large):
    blanks = Counter(row.blank for split in ("val", "test") for row in large.rows[split])
    assert set(blanks) == {0, 1, 2, 3} and min(blanks.values()) > 12  # of 100
    alike = []
    for split in ("val", "test"):
        of_slot = [{row.items[slot] for row in large.rows[split]} for slot in range(4)]
        for row in large.rows[split]:
            assert row.candidates[0] == row.items[row.blank] and len(set(row.candidates)) == CANDIDATES
            assert set(row.candidates) <= of_slot[row.blank]
            same = [large.category[item] == large.category[row.candidates[0]] for item in row.candidates]
            there = sum(large.category[item] == large.category[row.candidates[0]] for item in of_slot[row.blank])
            assert sum(same) == min(CANDIDATES, there)
            alike += same
    assert np.mean(alike) > 0.6


def test_the_lists_agree(written):
    read = {path.relative_to(written).with_suffix("").as_posix(): read_npy(path) for path in written.rglob("*.npy")}
    assert len(read) == 22
    assert {form: len(read[name]["uids"]) for form, name in (("train", "train"), ("val", "fitb_valid"), ("test", "fitb_test"))} == {
        "train": 45,
        "val": 6,
        "test": 9,
    }
    for name in ("valid", "test"):
        given, whole = read[f"fitb_{name}"], read[f"{name}_grd_dict"]
        for row, (user, outfit) in enumerate(zip(given["uids"], given["oids"], strict=True)):
            assert read[f"fitb_{name}_dict"][user][outfit] == given["outfits"][row]
            assert read[f"{name}_grd"][outfit] == {"outfits": whole["outfits"][row], "category": whole["category"][row]}
            (slot,) = [slot for slot, item in enumerate(given["outfits"][row]) if item == 0]
            assert read[f"fitb_{name}_retrieval_candidates"][user][outfit][0] == whole["outfits"][row][slot]
            assert [read["map/iid_cate_dict"][item] for item in whole["outfits"][row]] == whole["category"][row]
    items = read["map/iid_cate_dict"]
    assert list(items) == list(range(1, 241)) and set(read["id_cate_dict"].values()) == set(CATEGORIES)
    assert {item: kind for kind, of_kind in read["map/cate_iid_dict"].items() for item in of_kind} == items
    frequency = read["test_preference"]
    for user, of_user in read["test_history"].items():
        for kind, past in of_user.items():
            colors = Counter(read["item_info"][item]["elements"]["Color"] for item in past)
            assert frequency[user][kind]["Frequency"]["Color"] == colors


def test_images_and_truth_are_those_of_the_items(written):
    paths = read_npy(written / "all_item_image_paths.npy")
    assert len(paths) == 241 and all((written / path).is_file() for path in paths)
    assert (np.asarray(Image.open(written / paths[0])) == 255).all() and Image.open(written / paths[0]).size == SIZE[::-1]
    assert Image.open(written / paths[1]).size == SIZE[::-1] and len({(written / path).read_bytes() for path in paths[1:]}) > 200
    truth = [json.loads(line) for line in (written / "wardrobe_truth.jsonl").read_text().splitlines()]
    items, users = ([row for row in truth if row["kind"] == kind] for kind in ("item", "user"))
    info, names = read_npy(written / "item_info.npy"), read_npy(written / "id_cate_dict.npy")
    kinds = read_npy(written / "map" / "iid_cate_dict.npy")
    for row in items:
        assert info[int(row["id"])]["elements"] == row["attributes"] and names[kinds[int(row["id"])]] == row["category"]
        assert all(value in row["caption"] for value in row["attributes"].values())
    assert len(items) == 240 and [row["id"] for row in users] == list("012345")
    assert all(len(row[name]) == 2 for row in users for name in ("colors", "designs", "styles"))


def contents(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_the_same_seed_gives_the_same_files(written, tmp_path):
    write = WRITERS[written.name]
    assert contents(write(tmp_path / "again", people=PEOPLE, size=SIZE, seed=0, workers=1)) == contents(written)
    one, other = _draw(PEOPLE, 0), _draw(PEOPLE, 1)
    assert one.rows != other.rows and one.history != other.history and one.items[1] != other.items[1]


def test_too_few_outfits_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"49 outfits leave too few items .*ask for at least 50"):
        write_ifashion(tmp_path / "few", people=49, size=SIZE, seed=0)
    assert not (tmp_path / "few").exists()
