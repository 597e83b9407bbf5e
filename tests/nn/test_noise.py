import torch

from fashiongen.nn import noise

IDS = [f"person-{number:05d}" for number in range(400)]


def test_normal_numbers_are_normal_and_independent():
    draws = noise.normal(noise.keys(IDS, 0, "noise"), (4, 16, 12))
    assert draws.shape == (400, 4, 16, 12)
    torch.testing.assert_close(draws.mean(), torch.tensor(0.0), atol=0.01, rtol=0)
    torch.testing.assert_close(draws.std(), torch.tensor(1.0), atol=0.01, rtol=0)
    torch.testing.assert_close((draws**4).mean(), torch.tensor(3.0), atol=0.1, rtol=0)
    between_samples = torch.corrcoef(draws.flatten(1)[:60]).fill_diagonal_(0)
    between_places = torch.corrcoef(draws.flatten(1)[:, :60].T).fill_diagonal_(0)
    assert between_samples.abs().max() < 5 / 768**0.5
    assert between_places.abs().max() < 5 / 400**0.5


def test_a_sample_keeps_its_draw_in_any_batch():
    together = noise.normal(noise.keys(IDS[:8], 3, "noise"), (5, 3))
    alone = noise.normal(noise.keys(IDS[5:6], 3, "noise"), (5, 3))
    assert torch.equal(together[5:6], alone)
    longer = noise.normal(noise.keys(IDS[:8], 3, "noise"), (5, 4))
    assert torch.equal(longer.flatten(1)[:, :15], together.flatten(1))


def test_every_name_of_a_key_matters():
    keys = [
        noise.keys(["a"], 0, "noise", 1),
        noise.keys(["a"], 1, "noise", 1),
        noise.keys(["a"], 0, "dropout", 1),
        noise.keys(["a"], 0, "noise", 2),
    ]
    keys += [noise.keys(["b"], 0, "noise", 1)]
    assert len({int(key) for key in keys}) == 5


def test_integers_cover_their_range_evenly():
    drawn = noise.integers(noise.keys([str(number) for number in range(20_000)], "t"), 3, 13)
    counts = torch.bincount(drawn, minlength=14)
    assert counts[:3].sum() == 0 and counts[13:].sum() == 0
    assert ((counts[3:13] - 2000).abs() < 5 * (2000 * 0.9) ** 0.5).all()


def test_uniform_stays_below_one():
    drawn = noise.uniform(noise.keys([str(number) for number in range(20_000)], "u"))
    assert drawn.min() >= 0 and drawn.max() < 1
    assert abs(drawn.mean() - 0.5) < 0.01


def test_coins_have_the_given_probability_and_belong_to_the_sample():
    tossed = noise.coins(noise.keys(IDS, 0, "dropout"), (50, 4), 0.3)
    assert tossed.shape == (400, 50, 4) and tossed.dtype == torch.bool
    assert abs(tossed.float().mean() - 0.3) < 5 * (0.21 / 80_000) ** 0.5
    assert torch.equal(noise.coins(noise.keys(IDS[7:8], 0, "dropout"), (50, 4), 0.3), tossed[7:8])
    assert not torch.equal(tossed[0], tossed[1])
    assert noise.coins(noise.keys(IDS, 0, "dropout"), (9,), 1.0).all() and not noise.coins(noise.keys(IDS, 0, "dropout"), (9,), 0.0).any()
