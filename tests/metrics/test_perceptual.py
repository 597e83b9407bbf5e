import lpips as published_lpips
import pytest
import torch
from torchmetrics.functional.image import dists as published_dists

from fashiongen.errors import UserError
from fashiongen.metrics import DISTS, LPIPS
from fashiongen.metrics.perceptual import dists, lpips


def maps(seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, channels, size, size, generator=generator).relu() for channels, size in ((8, 16), (12, 8), (20, 4))]


def test_lpips_equals_the_published_distance_with_weights_of_one():
    expected = sum(
        (published_lpips.normalize_tensor(first) - published_lpips.normalize_tensor(second)).square().sum(dim=1).mean(dim=(1, 2))
        for first, second in zip(maps(0), maps(1), strict=True)
    )
    torch.testing.assert_close(lpips(maps(0), maps(1)), expected)


def test_lpips_of_known_directions():
    right, up, none = (torch.tensor(vector).reshape(1, 2, 1, 1) for vector in ([3.0, 0.0], [0.0, 0.5], [0.0, 0.0]))
    assert lpips([right], [7 * right]).item() == pytest.approx(0)
    assert lpips([right], [up]).item() == pytest.approx(2)
    assert lpips([right, right], [up, none]).item() == pytest.approx(3)
    assert lpips([none], [none]).item() == 0


@pytest.mark.parametrize("scale", [1.0, 1e-3])  # at which the constants of the formula count
def test_dists_equals_the_published_formula(scale):
    class Equal(published_dists.DISTSNetwork):
        """The published formula on given feature maps with alpha = beta = 1."""

        def __init__(self):
            torch.nn.Module.__init__(self)
            self.chns = [8, 12, 20]
            self.alpha, self.beta = torch.ones(2, 1, sum(self.chns), 1, 1)

        def forward_once(self, x):
            return scaled(int(x))

    def scaled(seed):
        return [scale * each for each in maps(seed)]

    torch.testing.assert_close(dists(scaled(0), scaled(1)), Equal()(torch.tensor(0), torch.tensor(1)))


def test_dists_of_known_maps():
    checks = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).reshape(1, 1, 2, 2)
    assert dists([checks], [1 - checks]).item() == pytest.approx(1.0, abs=1e-4)  # equal means, opposite variation: (0 + 2) / 2
    assert dists([torch.zeros(1, 1, 2, 2)], [torch.ones(1, 1, 2, 2)]).item() == pytest.approx(0.5, abs=1e-4)  # means alone differ


@pytest.mark.parametrize("metric_class", [LPIPS, DISTS])
def test_equal_images_have_distance_zero_exactly(metric_class, network, images):
    metric = metric_class(network=network)
    metric.update(images[1], images[1])
    assert metric.values().tolist() == [0.0] * 7


@pytest.mark.parametrize("metric_class", [LPIPS, DISTS])
def test_distance_is_symmetric_and_grows_with_noise(metric_class, network, images):
    target = images[1]
    noise = torch.randn(target.shape, generator=torch.Generator().manual_seed(0))
    values = []
    for scale in (0.02, 0.1, 0.4):
        noisy = (target + scale * noise).clamp(0, 1)
        there, back = metric_class(network=network), metric_class(network=network)
        there.update(noisy, target)
        back.update(target, noisy)
        torch.testing.assert_close(there.values(), back.values(), rtol=1e-4, atol=1e-6)
        values.append(there.compute())
    assert 0 < values[0] < values[1] < values[2]


@pytest.mark.parametrize("metric_class", [LPIPS, DISTS])
def test_unknown_extractor_is_refused_with_the_list(metric_class):
    with pytest.raises(UserError, match=r"'inception-v3'.*tiny, (alex, vgg, squeeze|vgg16)$"):
        metric_class(extractor="inception-v3")


def test_every_stage_counts_in_lpips_and_the_image_in_dists(network, images):
    prediction, target, _ = images
    first, second = network.stages(prediction), network.stages(target)
    metric = LPIPS(network=network)
    metric.update(prediction, target)
    torch.testing.assert_close(metric.values(), sum(lpips([a], [b]) for a, b in zip(first, second, strict=True)))
    assert len(first) == 4
    metric = DISTS(network=network)
    metric.update(prediction, target)
    torch.testing.assert_close(metric.values(), dists([prediction, *first], [target, *second]))
    assert not torch.allclose(metric.values(), dists(first, second))
