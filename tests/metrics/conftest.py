"""Images and a small random network for the tests of metrics."""

import pytest
import torch

from fashiongen.nn.classifier import AttributeClassifier


@pytest.fixture(scope="session")
def network():
    torch.manual_seed(0)
    network = AttributeClassifier({"colour": ("red", "green", "blue"), "sleeve": ("short", "long")}, channels=(8, 12, 16, 24))
    plain = torch.rand(64, 3, 1, 1).expand(-1, -1, 48, 40)
    with torch.no_grad():
        for _ in range(10):  # in training mode, to fill the running statistics
            network(plain)
        network.eval()
        network.head.bias.sub_(network.head(network.features(plain)).mean(dim=0))  # so that every value is read off some image
    return network


@pytest.fixture
def images():
    """Predictions, targets and masks of seven samples: noisy shapes on white."""
    generator = torch.Generator().manual_seed(1)
    target = torch.ones(7, 3, 48, 40)
    mask = torch.zeros(7, 1, 48, 40, dtype=torch.bool)
    for sample in range(7):
        top, left = (int(torch.randint(2, 12, (1,), generator=generator)) for _ in range(2))
        mask[sample, :, top : top + 28, left : left + 24] = True
    colours = torch.rand(7, 3, 1, 1, generator=generator)
    target = torch.where(mask, (colours + 0.1 * torch.randn(7, 3, 48, 40, generator=generator)).clamp(0, 1), target)
    prediction = (target + 0.1 * torch.randn(7, 3, 48, 40, generator=generator)).clamp(0, 1)
    return prediction, target, mask
