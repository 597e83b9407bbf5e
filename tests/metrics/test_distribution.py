import copy
import weakref

import numpy as np
import pytest
import scipy
import torch
from cleanfid import fid as cleanfid

from fashiongen.errors import UserError
from fashiongen.metrics import FID, KID
from fashiongen.metrics.distribution import frechet_distance, squared_mmd
from fashiongen.metrics.shared import shared_features
from fashiongen.nn.classifier import AttributeClassifier


def features(samples, width, seed, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return torch.randn(samples, width, generator=generator, dtype=torch.float64) @ mixing + shift


# The published code passes `disp` to scipy's sqrtm, which newer versions do not take.
needs_old_scipy = pytest.mark.skipif(tuple(map(int, scipy.__version__.split(".")[:2])) >= (1, 18), reason="clean-fid needs scipy < 1.18")


@needs_old_scipy
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("n_first", "n_second"), [(200, 200), (300, 130)])
def test_frechet_distance_equals_cleanfid(n_first, n_second):
    first, second = features(n_first, 32, 0), features(n_second, 32, 1, shift=0.3)
    moments = [(part.mean(axis=0), np.cov(part, rowvar=False)) for part in (first.numpy(), second.numpy())]
    assert frechet_distance(first, second).item() == pytest.approx(cleanfid.frechet_distance(*moments[0], *moments[1]), rel=1e-6)


@needs_old_scipy
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fid_equals_cleanfid_on_the_network(network):
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(120, 3, 1, 1, generator=generator) * torch.rand(120, 3, 16, 16, generator=generator)
    prediction = target.flip(0).roll(3, dims=2) * 0.9
    metric = FID(network=network)
    metric.update(prediction, target)
    moments = [
        (part.mean(axis=0), np.cov(part, rowvar=False))
        for part in (network.features(x).detach().double().numpy() for x in (prediction, target))
    ]
    assert metric.compute().item() == pytest.approx(cleanfid.frechet_distance(*moments[0], *moments[1]), rel=1e-4)


def test_frechet_distance_of_known_gaussians():
    # Four points at +-s along each axis have the covariance 2/3 s^2 I: the distance is |shift|^2 + 2 (2/3) (s_1 - s_2)^2.
    points = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]], dtype=torch.float64)
    distance = frechet_distance(3 * points, 1 * points + torch.tensor([1.0, 2.0], dtype=torch.float64))
    assert distance.item() == pytest.approx(5 + 2 * (2 / 3) * 4)


def test_frechet_distance_with_fewer_samples_than_features():
    first = features(10, 40, 0)
    assert frechet_distance(first, first.flip(0)).item() == pytest.approx(0, abs=1e-9)
    assert frechet_distance(first, first + 0.5).item() == pytest.approx(40 * 0.25, rel=1e-6)
    # The general case, in eigenvalues: tr (S1 S2)^(1/2) = sum sqrt(eig(S1 S2)).
    second = features(15, 40, 1)
    covariances = [torch.cov(part.T) for part in (first, second)]
    trace = torch.linalg.eigvals(covariances[0] @ covariances[1]).real.clamp(min=0).sqrt().sum()
    expected = (first.mean(0) - second.mean(0)).square().sum() + covariances[0].trace() + covariances[1].trace() - 2 * trace
    assert frechet_distance(first, second).item() == pytest.approx(expected.item(), rel=1e-5)


def test_frechet_distance_of_one_repeated_image():
    first, second = torch.zeros(5, 3, dtype=torch.float64), torch.full((5, 3), 2.0, dtype=torch.float64)
    assert frechet_distance(first, first) == 0
    assert frechet_distance(first, second).item() == pytest.approx(12)


def plain_mmd(first, second):
    width = len(first[0])

    def kernel(x, y):
        return (sum(a * b for a, b in zip(x, y, strict=True)) / width + 1) ** 3

    def within(rows):
        n = len(rows)
        return sum(kernel(rows[i], rows[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))

    across = sum(kernel(x, y) for x in first for y in second) / (len(first) * len(second))
    return within(first) + within(second) - 2 * across


def test_squared_mmd_equals_a_plain_loop():
    first, second = features(12, 5, 0), features(9, 5, 1, shift=0.5)
    assert squared_mmd(first, second).item() == pytest.approx(plain_mmd(first.tolist(), second.tolist()), rel=1e-6)


def test_kid_of_small_sets_is_the_estimate_over_everything(network, images):
    metric = KID(network=network)
    metric.update(*images)
    prediction, target = (network.features(part).detach().double().tolist() for part in images[:2])
    assert metric.compute().item() == pytest.approx(plain_mmd(prediction, target), rel=1e-5, abs=1e-6)


def test_kid_agrees_with_cleanfid_up_to_its_random_subsets():
    first, second = features(400, 16, 0) / 4, features(400, 16, 1) / 4
    np.random.seed(0)  # clean-fid draws from the global generator
    expected = cleanfid.kernel_distance(first.numpy(), second.numpy(), num_subsets=400, max_subset_size=50)
    ours = KID(subsets=400, subset_size=50).distance(first, second).item()
    assert ours == pytest.approx(expected, rel=0.1)


def test_kid_is_unbiased():
    draws = torch.from_numpy(np.random.default_rng(0).normal(size=(400, 2, 30, 4)))
    values = [squared_mmd(*draw).item() for draw in draws]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 4 * error
    assert min(values) < 0


def test_kid_is_fixed_by_its_seed_and_free_of_sample_order():
    first, second = features(60, 8, 0), features(50, 8, 1)
    value = KID(subsets=5, subset_size=20).distance(first, second)
    assert value == KID(subsets=5, subset_size=20).distance(first, second)
    shuffled = first[torch.randperm(60, generator=torch.Generator().manual_seed(3))]
    torch.testing.assert_close(KID(subsets=5, subset_size=20).distance(shuffled, second.flip(0)), value)
    assert value != KID(subsets=5, subset_size=20, seed=1).distance(first, second)


def test_kid_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    KID(subsets=5, subset_size=20).distance(features(60, 8, 0), features(50, 8, 1))
    assert torch.rand(1) == expected


def test_near_ties_move_kid_less_than_another_seed_would():
    first, second = features(300, 8, 0) / 4, features(300, 8, 1) / 4

    def kid(seed, first, second):
        return KID(subsets=10, subset_size=60, seed=seed).distance(first, second)

    spread = torch.stack([kid(seed, first, second) for seed in range(10)]).std()
    direction = torch.randn(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for seed in range(10):
        noise = torch.randn(2, 300, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        moved = [part * (1 + 1e-3 * change) for part, change in zip((first, second), noise, strict=True)]
        assert (torch.argsort(moved[0] @ direction) != torch.argsort(first @ direction)).any(), "no neighbours changed places"
        assert (kid(0, *moved) - kid(0, first, second)).abs() < spread


def test_metrics_of_one_extractor_run_it_once_over_a_batch(images, monkeypatch):
    """FID and KID of the same images equal their separate values, and no image outlives its step."""
    seen = []
    monkeypatch.setattr(
        AttributeClassifier, "features", lambda self, x, real=AttributeClassifier.features: (seen.append(len(x)), real(self, x))[1]
    )
    together, apart, gone = (FID(), KID(subset_size=4)), (FID(), KID(subset_size=4)), []
    for sizes in ((0, 3), (3, 7)):
        prediction, target = (part[slice(*sizes)].clone() for part in images[:2])
        with shared_features():
            for metric in together:
                metric.update(prediction, target)
            for metric in together:
                metric.update(None, target[:1])  # another tensor, of the same memory
        gone += [weakref.ref(prediction), weakref.ref(target)]
    assert seen == [3, 3, 1, 1, 4, 4, 1, 1]
    del prediction, target
    assert [ref() for ref in gone] == [None] * 4
    for sizes in ((0, 3), (3, 7)):
        for metric in apart:
            metric.update(*(part[slice(*sizes)] for part in images[:2]))
            metric.update(None, images[1][slice(*sizes)][:1])
    assert [metric.compute() for metric in together] == [metric.compute() for metric in apart]


def test_features_are_not_shared_between_networks(network, images):
    other = copy.deepcopy(network)
    with torch.no_grad():
        next(other.parameters()).mul_(-1)
    metrics = FID(network=network), FID(network=other)
    with shared_features():
        for metric in metrics:
            metric.update(*images)
    assert metrics[0].compute() != metrics[1].compute()


@pytest.mark.parametrize("metric_class", [FID, KID])
def test_unknown_extractor_is_refused_with_the_list(metric_class):
    with pytest.raises(UserError, match=r"'alex'.*tiny-classifier, inception-v3, clip-vit-b-32"):
        metric_class(extractor="alex")


def test_kid_with_subsets_equals_a_plain_loop_over_the_same_subsets():
    """The subsets are recovered from the generator; the estimate on them is computed explicitly."""
    first, second = features(14, 5, 0), features(11, 5, 1, shift=0.5)
    generator = torch.Generator().manual_seed(7)
    direction = torch.randn(5, generator=generator, dtype=torch.float64)
    first, second = (
        sorted(part.tolist(), key=lambda row: sum(a * b for a, b in zip(row, direction.tolist(), strict=True))) for part in (first, second)
    )
    total = 0.0
    for _ in range(6):
        drawn = [[part[index] for index in torch.randperm(len(part), generator=generator)[:4]] for part in (first, second)]
        total += plain_mmd(*drawn) / 6
    metric = KID(subsets=6, subset_size=4, seed=7, scale=1000)
    value = metric.distance(torch.tensor(first, dtype=torch.float64).flip(0), torch.tensor(second, dtype=torch.float64)).item()
    assert value == pytest.approx(1000 * total, rel=1e-6)


def test_the_scale_of_kid_multiplies_it(network, images):
    plain, scaled = KID(network=network), KID(network=network, scale=1000)
    for metric in (plain, scaled):
        metric.update(*images)
    assert scaled.compute().item() == pytest.approx(1000 * plain.compute().item(), rel=1e-5)


@pytest.mark.parametrize("metric_class", [FID, KID])
def test_sets_may_be_filled_apart_and_differ_in_size(metric_class, network, images):
    prediction, target, mask = images
    together, apart, larger = (metric_class(network=network) for _ in range(3))
    together.update(prediction, target, mask)
    apart.update(None, target[:3])
    apart.update(prediction[:5], None)
    apart.update(prediction[5:], target[3:5])
    apart.update(None, target[5:])
    torch.testing.assert_close(apart.compute(), together.compute(), rtol=1e-4, atol=1e-6)
    larger.update(prediction[:4], None)
    larger.update(None, target[:, :, :40])  # of another size
    assert larger.compute().isfinite() and larger.compute() != together.compute()
    (small := metric_class(network=network)).update(None, target)
    small.update(prediction[:1], None)
    assert small.compute().isnan()
    with pytest.raises(ValueError, match="the target is"):
        small.update(None, target[0])
    with pytest.raises(ValueError, match=r"the target has the value 2"):
        small.update(None, target * 0 + 2)
