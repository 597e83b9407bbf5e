from itertools import combinations, pairwise

from fashiongen.wardrobe import ATTRIBUTES, GARMENT_TYPE, compatible, held_out, make_outfit, make_user
from fashiongen.wardrobe.outfits import HARMONY, NEUTRALS, NOISE, SLOTS, harmonious

OUTFITS = [make_outfit(0, "train", index) for index in range(400)]


def test_the_colour_table_is_symmetric_and_complete():
    colors = ATTRIBUTES["Color"]
    assert set(HARMONY) | NEUTRALS == set(colors)
    assert all(harmonious(a, b) == harmonious(b, a) for a in colors for b in colors)
    share = sum(harmonious(a, b) for a in colors for b in colors) / len(colors) ** 2
    assert 0.3 < share < 0.75  # neither empty nor trivial


def test_slots_hold_their_categories():
    for outfit in OUTFITS:
        assert list(outfit.items) == list(SLOTS)
        assert all(item.category in SLOTS[slot] and item.category in GARMENT_TYPE for slot, item in outfit.items.items())
        assert not any(held_out(item) for item in outfit.items.values())


def test_slots_without_noise_follow_the_rule():
    for outfit in OUTFITS:
        kept = [item for slot, item in outfit.items.items() if slot not in outfit.noisy]
        assert all(compatible(a, b) for a, b in combinations(kept, 2))


def test_noise_is_as_frequent_as_stated_and_breaks_the_rule():
    noisy = sum(len(outfit.noisy) for outfit in OUTFITS) / (len(OUTFITS) * (len(SLOTS) - 1))
    assert abs(noisy - NOISE) < 0.03
    broken = [outfit for outfit in OUTFITS if any(not compatible(a, b) for a, b in combinations(outfit.items.values(), 2))]
    assert all(outfit.noisy for outfit in broken) and len(broken) > 40


def test_outfits_and_users_are_the_same_twice():
    assert make_outfit(4, "test", 9) == make_outfit(4, "test", 9)
    assert make_user(4, "test", 9) == make_user(4, "test", 9)
    assert make_user(4, "test", 9) != make_user(4, "test", 10)


def test_taste_is_independent_of_the_rule():
    users = [make_user(0, "train", index) for index in range(200)]
    assert all(len(user.colors) == len(user.designs) == len(user.styles) == 2 for user in users)
    pairs = [(a.items["top"], b.items["bottom"]) for a, b in pairwise(OUTFITS)]
    fits = [pair for pair in pairs if compatible(*pair)]
    misfits = [pair for pair in pairs if not compatible(*pair)]
    likings = [sum(user.liking(bottom) for user in users for _, bottom in some) / (len(some) * len(users)) for some in (fits, misfits)]
    assert abs(likings[0] - likings[1]) < 0.05
