"""Baselines of outfits: what each chooses, and that nothing depends on the order of the training outfits."""

import pytest
import torch
from drawn_outfits import SIZE, outfit_batch

from fashiongen.batches import Ragged, to_float, to_uint8
from fashiongen.errors import UserError
from fashiongen.methods.baselines import MeanHistory, NearestItem, PopularItem, RandomItem, TrueOutfit
from fashiongen.wardrobe.outfits import make_outfit

TRAINING = 30


def collected(cls, order=range(TRAINING), **settings):
    method, batch = cls(**settings), outfit_batch(TRAINING, training=True)
    for index in order:
        method.training_step(batch.select([index]), index)
    method.on_train_epoch_end()
    return method.eval()


def slots_of(task="pfitb"):
    """Return test outfits of other users than those trained on, of categories that have been seen."""
    return outfit_batch(4, task=task)


def items_of_training():
    return {item.id: item for number in range(TRAINING) for item in make_outfit(0, "train", number).items.values()}


def shown(images):
    """Return which training item each image shows."""
    batch = outfit_batch(TRAINING, training=True)
    known = batch.true_images.values
    found = [(known == image).flatten(1).all(dim=1).nonzero().flatten() for image in to_uint8(images)]
    return [batch.true_items.values[int(places[0])] for places in found]


def test_the_mean_of_the_history():
    batch = slots_of()
    result = MeanHistory(draws=2).fill_blank(batch).images
    wanted = to_float(batch.history[0][0]).mean(dim=0)
    torch.testing.assert_close(result[1, 0], wanted, atol=1e-2, rtol=0)
    assert (result[:, 1] == 1).all() and result.shape == (2, 4, 3, *SIZE)  # the second blank's category has no history
    assert MeanHistory().compose_outfit(slots_of("gor")).images.shape == (1, 16, 3, *SIZE)


@pytest.mark.parametrize("cls", [RandomItem, PopularItem, NearestItem, TrueOutfit])
def test_a_catalogue_item_has_the_blank_s_category_and_no_order_matters(cls):
    first, second = collected(cls, draws=2), collected(cls, order=reversed(range(TRAINING)), draws=2)
    known = items_of_training()
    for task in ("pfitb", "gor"):
        batch = slots_of(task)
        result = first.compose_outfit(batch).images if task == "gor" else first.fill_blank(batch).images
        categories = [batch.category.values[slot] for slot in batch.blank_slots().tolist()]
        for draw in range(2):
            assert [known[id_].category for id_ in shown(result[draw])] == categories
        assert torch.equal(second.chosen(batch).images, result)
        torch.testing.assert_close(first.chosen(batch.select([2])).images, result[:, batch.blank_samples() == 2])
    assert collected(cls, draws=2).state_dict()["items"].equal(first.items)


def test_random_items_differ_between_draws_and_are_spread():
    method = collected(RandomItem, draws=200)
    batch = outfit_batch(1)
    fitting = int((method.category == method.category[shown_place(method, batch)]).sum())
    names = shown(method.fill_blank(batch).images[:, 0])
    counts = torch.tensor([names.count(name) for name in set(names)]).float()
    assert len(counts) == fitting and counts.min() > 0.3 * 200 / fitting


def shown_place(method, batch):
    return int((method.category == _hash(batch.category.values[int(batch.blank_slots()[0])])).nonzero()[0])


def _hash(name):
    from fashiongen.nn import noise

    return noise.keys([name], "name")


def test_the_popular_item_is_the_most_frequent_one():
    batch = outfit_batch(TRAINING, training=True)
    often = batch.true_items[5][3]
    category = batch.category[5][3]
    method = PopularItem()
    for index in [*range(TRAINING), 5, 5]:
        method.training_step(batch.select([index]), index)
    method.on_train_epoch_end()
    test = outfit_batch(1)
    test.category = Ragged.of([[category] * 4])
    assert shown(method.fill_blank(test).images[0]) == [often]


def test_the_nearest_item_is_that_of_a_plain_search():
    method, batch = collected(NearestItem), slots_of()
    result = method.fill_blank(batch).images[0]
    for row in range(4):
        given = method._features(batch.images[row][~batch.blank[row]])
        best, least = None, torch.inf
        for place, category in enumerate(method.category.tolist()):
            if category == _hash(batch.category[row][row]).item():
                distance = torch.stack([(method._features(method.images[[place]])[0] - other).norm() for other in given]).sum().item()
                best, least = (place, distance) if distance < least else (best, least)
        assert torch.equal(to_uint8(result[row]), method.images[best])


def test_the_oracle_chooses_what_fits_and_is_liked():
    from fashiongen.wardrobe.outfits import compatible

    method, known = collected(TrueOutfit), items_of_training()
    for task in ("pfitb", "gor"):
        batch = slots_of(task)
        names = iter(shown(method.chosen(batch).images[0]))
        for row in range(4):
            outfit = list(make_outfit(0, "train", row).items.values())
            blanks = batch.blank[row].nonzero().flatten().tolist()
            for slot in blanks:
                if task == "gor" and slot == 0:
                    outfit = []
                others = outfit[:slot] if task == "gor" else outfit[:slot] + outfit[slot + 1 :]
                likes = batch.likes[row]

                def worth(item, others=others, likes=likes):
                    fitting = sum(compatible(other, item) for other in others) / max(1, len(others))
                    return fitting + sum(item.attributes[name] in values for name, values in likes.items()) / 3

                chosen = known[next(names)]
                best = max(worth(item) for item in known.values() if item.category == batch.category[row][slot])
                assert worth(chosen) == pytest.approx(best)
                if task == "gor":
                    outfit.append(chosen)
    with pytest.raises(UserError, match="wardrobe"):
        blind = slots_of()
        blind.likes = None
        method.fill_blank(blind)


def test_what_cannot_be_chosen_is_told():
    with pytest.raises(UserError, match="run `fit` first"):
        RandomItem().fill_blank(slots_of())
    method, batch = collected(RandomItem), outfit_batch(1)
    batch.category = Ragged.of([["hat"] * 4])
    with pytest.raises(UserError, match="'hat'"):
        method.fill_blank(batch)
    with pytest.raises(UserError, match="at least 1"):
        RandomItem(per_category=0)


def test_a_full_category_keeps_the_items_with_the_smallest_hashes():
    whole, part = collected(RandomItem), collected(RandomItem, per_category=2)
    for category in whole.category.unique():
        wanted = whole.items[whole.category == category].sort().values[:2]
        assert part.items[part.category == category].equal(wanted)


def test_a_checkpoint_holds_the_items():
    method, again = collected(NearestItem), NearestItem()
    again.load_state_dict(method.state_dict())
    batch = slots_of()
    assert torch.equal(again.fill_blank(batch).images, method.fill_blank(batch).images)
