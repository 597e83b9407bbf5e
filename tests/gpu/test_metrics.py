"""Metrics on a GPU: the CPU's values, and states that stay on the device."""

import dataclasses

import pytest
import torch

from fashiongen.batches import Ranked
from fashiongen.checkpoints import tiny_weights
from fashiongen.metrics import AUC, CWSSIM, DISTS, FID, KID, LPIPS, MRR, MSSSIM, NDCG, SSIM, AttributeAgreement, ColourError, Recall
from fashiongen.nn.classifier import AttributeClassifier

pytestmark = pytest.mark.gpu

IMAGES = {
    "ssim": lambda network: SSIM(),
    "ssim-foreground": lambda network: SSIM(region="foreground"),
    "ms-ssim": lambda network: MSSSIM(),
    "cw-ssim": lambda network: CWSSIM(levels=2),
    "lpips": lambda network: LPIPS(network=network),
    "dists": lambda network: DISTS(network=network),
    "colour": lambda network: ColourError(),
    "agreement": lambda network: AttributeAgreement(network=network),
    "fid": lambda network: FID(network=network),
    "kid": lambda network: KID(subsets=4, subset_size=4, network=network),
}
RANKS = {"auc": AUC, "mrr": MRR, "ndcg": NDCG, "recall": lambda: Recall(k=3), "auc-listed": lambda: AUC("negatives:3")}


@pytest.fixture(scope="module")
def images():
    """Predictions, targets and masks of eight samples: colours in a box on white, with noise."""
    draw = torch.Generator().manual_seed(0)
    mask = torch.zeros(8, 1, 64, 48, dtype=torch.bool)
    mask[..., 12:52, 8:40] = True
    target = torch.where(mask, torch.rand(8, 3, 1, 1, generator=draw), torch.ones(()))
    return (target + 0.1 * torch.randn(8, 3, 64, 48, generator=draw)).clamp(0, 1), target, mask


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_metric_gives_the_cpus_value(name, images, device, tolerance):
    network = AttributeClassifier.from_pretrained(tiny_weights() / "classifier").eval()
    values = []
    for place in (torch.device("cpu"), device):
        metric = IMAGES[name](network).to(place)
        for part in (slice(0, 3), slice(3, 8)):
            metric.update(*(image[part].to(place) for image in images))
        value = metric.compute()
        assert value.device.type == place.type and value.isfinite()
        values.append(value.cpu().double())
        network.to("cpu")
    torch.testing.assert_close(values[1], values[0], rtol=tolerance, atol=1e-5)


@pytest.mark.parametrize("name", RANKS)
def test_a_ranking_metric_gives_the_cpus_value(name, device):
    """Exactly: ranks are counted, not summed up."""
    draw = torch.Generator().manual_seed(0)
    scores = torch.randint(-3, 4, (40, 12), generator=draw).float()  # with ties and negative scores
    positive = torch.randint(8, (40,), generator=draw)
    others = (torch.rand(40, 12, generator=draw) < 0.1) & (torch.arange(12) != positive[:, None]) & (torch.arange(12) < 8)
    ranked = Ranked(scores=scores, positive=positive, negatives=torch.randint(12, (40, 5), generator=draw), others=others, n_positives=8)
    values = []
    for place in (torch.device("cpu"), device):
        metric = RANKS[name]().to(place)
        tensors = {key: value.to(place) for key, value in vars(ranked).items() if isinstance(value, torch.Tensor)}
        metric.update(dataclasses.replace(ranked, **tensors))
        assert metric.compute().device.type == place.type
        values.append(metric.compute().cpu())
    torch.testing.assert_close(values[1], values[0], rtol=1e-9, atol=1e-9)
