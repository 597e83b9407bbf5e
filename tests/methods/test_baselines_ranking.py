"""Rankings without learning: chance, popularity, colours, and the wardrobe's rule."""

import io
import itertools
import math
import random

import numpy as np
import pytest
import torch
from pair_batches import candidates, pairs, queries
from skimage.color import rgb2lab

from fashiongen.batches import CandidateBatch, QueryBatch
from fashiongen.errors import UserError
from fashiongen.methods.baselines import ColourNeighbour, Popularity, RandomRanking, TrueRule
from fashiongen.nn import noise
from fashiongen.wardrobe.outfits import compatible, make_outfit

WORD = 2**64


def scores(method, query, candidate):
    return method.score(method.embed_query(query), method.embed_candidate(candidate))


def tops(names):
    return QueryBatch(ids=[f"row{index}" for index in range(len(names))], top_ids=list(names))


def bottoms(names):
    return CandidateBatch(ids=list(names))


def test_random_scores_depend_only_on_seed_top_and_bottom(monkeypatch):
    method = RandomRanking()
    whole = scores(method, tops("abcd"), bottoms("uvwxyz"))
    assert whole.shape == (4, 6) and whole.dtype == torch.float32
    assert torch.equal(scores(method, tops("ca"), bottoms("zv")), whole[[2, 0]][:, [5, 1]])
    renamed = QueryBatch(ids=["another row"], top_ids=["a"])
    assert torch.equal(scores(method, renamed, bottoms("uvwxyz")), whole[:1])
    assert not torch.equal(scores(method, tops("x"), bottoms("y")), scores(method, tops("y"), bottoms("x")))
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    assert not (scores(method, tops("abcd"), bottoms("uvwxyz")) == whole).any()


def test_random_scores_equal_a_plain_loop_over_pairs():
    """SplitMix64 in Python's own integers."""

    def plain(top, bottom):
        key = sum(int(noise.keys([name], 0, "random", kind)) for name, kind in ((top, "top"), (bottom, "bottom"))) % WORD
        mixed = (key + 0x9E3779B97F4A7C15) % WORD
        mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 % WORD
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % WORD
        return ((mixed ^ mixed >> 31) >> 40) / 2**24

    found = scores(RandomRanking(), tops("abcde"), bottoms("uvwxyz"))
    assert found.tolist() == [[plain(top, bottom) for bottom in "uvwxyz"] for top in "abcde"]


def test_random_scores_are_uniform_and_independent():
    names = [str(number) for number in range(400)]
    found = scores(RandomRanking(), tops(names), bottoms(names))
    assert abs(found.mean() - 0.5) < 5 * (1 / 12 / 160_000) ** 0.5
    ranks = found.argsort(dim=1, descending=True).argsort(dim=1)[:, 0] + 1
    expected = sum(1 / rank for rank in range(1, 401)) / 400  # H_n / n
    error = (sum(1 / rank**2 for rank in range(1, 401)) / 400 - expected**2) ** 0.5 / 400**0.5
    assert abs((1 / ranks.double()).mean() - expected) < 3 * error
    for rows in (found, found.T):
        assert torch.corrcoef(rows[:60]).fill_diagonal_(0).abs().max() < 5 / 400**0.5


def test_random_keys_survive_a_float_round_trip():
    ids = [str(number) for number in range(500)]
    embedded = RandomRanking().embed_query(tops(ids))
    assert embedded.dtype == torch.float32 and embedded.shape == (500, 4)
    whole = [sum(int(part) << 16 * place for place, part in enumerate(row)) for row in embedded.tolist()]
    assert whole == [int(key) % WORD for key in noise.keys(ids, 0, "random", "top")]


def counted(*batches):
    method = Popularity()
    for index, batch in enumerate(batches):
        method.training_step(batch, index)
    return method


def test_popularity_counts_the_pairs_of_each_bottom():
    drawn = random.Random(0).choices("abcdefgh", weights=range(8), k=60)
    method = counted(*(pairs(drawn[start : start + 7], images=False) for start in range(0, 60, 7)))
    found = scores(method, tops("xyz"), bottoms("hgfedcba!"))
    assert found.tolist() == [[drawn.count(name) for name in "hgfedcba!"]] * 3
    assert found[0, -2] == 0 == found[0, -1], "a was never drawn, ! is unknown"


def test_popularity_survives_a_checkpoint_that_holds_tensors_alone():
    method = counted(pairs(list("aab"), images=False))
    file = io.BytesIO()
    torch.save(method.state_dict(), file)
    file.seek(0)
    again = Popularity()
    again.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(scores(again, tops("x"), bottoms("abc")), torch.tensor([[2.0, 1.0, 0.0]]))
    again.training_step(pairs(["b", "c"], images=False), 0)
    assert torch.equal(scores(again, tops("x"), bottoms("abc")), torch.tensor([[2.0, 2.0, 1.0]])), "a resumed run goes on counting"
    with pytest.raises(UserError, match="missing: counts"):
        Popularity().load_state_dict({"bottoms": torch.zeros(1, dtype=torch.int64)})
    with pytest.raises(UserError, match="Popularity has counted no pair: run `fit` first"):
        Popularity().embed_candidate(bottoms("a"))


def painted(*rows):
    """Images 8 pixels a side, each of equal stripes of its colours."""
    images = torch.full((len(rows), 3, 8, 8), 255, dtype=torch.uint8)
    for index, colours in enumerate(rows):
        for place, colour in enumerate(colours):
            step = 8 // len(colours)
            images[index, :, place * step : (place + 1) * step] = torch.tensor(colour, dtype=torch.uint8)[:, None, None]
    return images


RED, DARK_RED, BLUE, WHITE, GREY = (212, 32, 40), (200, 30, 44), (38, 84, 200), (255, 255, 255), (142, 144, 148)


def looks(images):
    names = [str(index) for index in range(len(images))]
    return QueryBatch(ids=names, top_ids=names, top=images), CandidateBatch(ids=names, bottom=images)


def test_the_most_similar_colours_rank_first_and_the_background_does_not_count():
    query, _ = looks(painted([RED, WHITE, WHITE, WHITE], [BLUE, GREY]))
    _, candidate = looks(painted([BLUE], [RED], [DARK_RED, BLUE], [GREY, BLUE, WHITE, WHITE], [WHITE], [RED, RED, RED, WHITE]))
    found = scores(ColourNeighbour(), query, candidate)
    torch.testing.assert_close(found[0, [1, 5]], torch.ones(2))
    assert found[0, 0] < 0.05 < 0.4 < found[0, 2] < 1, "paper is not counted, so that a quarter of red is all red"
    torch.testing.assert_close(found[1, 3], torch.tensor(1.0))
    assert (found[:, 4] == 0).all(), "nothing but paper is like nothing"


def test_histograms_equal_a_plain_loop_over_pixels():
    images = torch.randint(256, (3, 3, 6, 6), dtype=torch.uint8)
    images[:, :, :2] = 252
    images[1, 0, 0, 0] = 249
    query, candidate = looks(images)
    method = ColourNeighbour(bins=5)

    def plain(image):
        counts = {}
        lab = rgb2lab(np.moveaxis(image.numpy(), 0, -1))
        for row, column in itertools.product(range(6), range(6)):
            if not (image[:, row, column] < 250).any():
                continue
            places = [
                (value - low) / (high - low) * 5 - 0.5
                for value, low, high in zip(lab[row, column], (0, -110, -110), (100, 110, 110), strict=True)
            ]
            for bins in itertools.product(range(-1, 6), repeat=3):
                near = math.prod(max(0.0, 1 - abs(place - bin_)) for place, bin_ in zip(places, bins, strict=True))
                kept = tuple(min(max(bin_, 0), 4) for bin_ in bins)  # values beyond the last bin's centre stay in it
                counts[kept] = counts.get(kept, 0) + near
        return {place: count / sum(counts.values()) for place, count in counts.items()}

    histograms = [plain(image) for image in images]
    assert len(histograms[1]) > 3
    expected = [[sum((one[k] * other[k]) ** 0.5 for k in one.keys() & other.keys()) for other in histograms] for one in histograms]
    torch.testing.assert_close(scores(method, query, candidate), torch.tensor(expected, dtype=torch.float32), atol=1e-5, rtol=0)
    embedded = method.embed_query(query)
    assert embedded.shape == (3, 125)
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(3))


def test_colours_need_images():
    with pytest.raises(UserError, match="ColourNeighbour needs images"):
        ColourNeighbour().embed_query(tops("a"))
    with pytest.raises(UserError, match="bins: 0"):
        ColourNeighbour(bins=0)


def test_the_oracle_is_the_wardrobes_rule():
    outfits = [make_outfit(0, "test", index) for index in range(40)]
    first, second = ([outfit.items[slot] for outfit in outfits] for slot in ("top", "bottom"))
    names = [outfit.id for outfit in outfits]
    query = QueryBatch(ids=names, top_ids=names, attributes=[item.attributes for item in first])
    candidate = CandidateBatch(ids=names, attributes=[item.attributes for item in second])
    found = scores(TrueRule(), query, candidate)
    assert found.tolist() == [[float(compatible(top, bottom)) for bottom in second] for top in first]
    assert 0 < found.mean() < 1 and found.diag().mean() > 0.8
    assert TrueRule.needs == {"attributes"}
    with pytest.raises(UserError, match="TrueRule needs the attributes of each item"):
        TrueRule().embed_query(tops("a"))


@pytest.mark.parametrize("kind", [RandomRanking, Popularity, ColourNeighbour, TrueRule])
def test_a_score_that_is_an_inner_product_says_so(kind):
    query, candidate = torch.rand(3, 4), torch.rand(5, 4)
    assert torch.equal(kind().score(query, candidate), query @ candidate.T) == kind.inner_product


def test_real_batches_of_pairs_fit_both_methods():
    batch = pairs(list("abc"), size=16)
    assert scores(ColourNeighbour(), queries(batch), candidates(batch)).shape == (3, 3)
