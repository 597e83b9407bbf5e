import pytest
import torch

from fashiongen.errors import UserError
from fashiongen.metrics import AgreementByChance, AttributeAgreement


def read_means(images):
    """A judge that reads brightness and redness off the mean colour."""
    mean = images.mean(dim=(2, 3))
    return {"bright": (mean.mean(dim=1) > 0.5).long(), "red": (mean[:, 0] > 0.5).long()}


def plain(*colours):
    return torch.tensor(colours)[:, :, None, None].expand(-1, -1, 48, 40)


TARGET = plain([0.9, 0.9, 0.9], [0.9, 0.0, 0.0], [0.1, 0.1, 0.1])
PREDICTION = plain([0.9, 0.8, 0.9], [0.1, 0.1, 0.0], [0.9, 0.9, 0.9])  # both agree, bright agrees, none agrees


def test_share_of_attributes_that_agree():
    mean, bright, red = (AttributeAgreement(judge=read_means, attribute=name) for name in ("mean", "bright", "red"))
    for metric in (mean, bright, red):
        metric.update(PREDICTION, TARGET)
    assert bright.values().tolist() == [1, 1, 0]
    assert red.values().tolist() == [1, 0, 0]
    assert mean.values().tolist() == [1, 0.5, 0]
    assert mean.compute().item() == pytest.approx(0.5)


def test_unknown_attribute_is_refused_with_the_list():
    with pytest.raises(UserError, match=r"sleeve.*bright, red"):
        AttributeAgreement(judge=read_means, attribute="sleeve").update(PREDICTION, TARGET)


def test_judge_and_network_exclude_each_other(network):
    with pytest.raises(UserError, match="not both"):
        AttributeAgreement(judge=read_means, network=network)


def test_a_constant_prediction_gets_the_share_of_the_commonest_value(network):
    colours = torch.rand(60, 3, generator=torch.Generator().manual_seed(0)).tolist()
    target = plain(*colours)
    read = network.read(target)
    shares = {name: torch.bincount(values, minlength=3).float() / 60 for name, values in read.items()}
    for name, share in shares.items():
        assert 0.3 < share.max() < 1
        commonest = read[name].tolist().index(int(share.argmax()))
        metric = AttributeAgreement(network=network, attribute=name)
        metric.update(target[[commonest] * 60], target)
        assert metric.compute().item() == pytest.approx(share.max().item(), abs=1e-5)


def test_network_is_read_like_its_own_method(network, images):
    prediction, target, _ = images
    by_network, by_judge = AttributeAgreement(network=network), AttributeAgreement(judge=network.read)
    for metric in (by_network, by_judge):
        metric.update(1 - target, target)
        metric.update(prediction, target)
    torch.testing.assert_close(by_network.values(), by_judge.values())
    assert 0 < by_network.compute() < 1


def test_a_judge_that_is_a_module_stays_out_of_the_metric():
    class Judge(torch.nn.Linear):
        def forward(self, images):
            return {"any": super().forward(images.mean(dim=(2, 3))).argmax(dim=1)}

    metric = AttributeAgreement(judge=Judge(3, 2))
    metric.update(TARGET, TARGET)
    assert metric.compute() == 1
    assert list(metric.parameters()) == []


def test_agreement_by_chance_is_the_mean_over_other_samples(network):
    predictions, targets = torch.rand(7, 3, 64, 48), torch.rand(7, 3, 64, 48)
    metric = AgreementByChance(network=network)
    metric.update(predictions[:3], targets[:3])
    metric.update(predictions[3:], targets[3:])
    read = [torch.stack(list(network.read(images).values()), dim=1) for images in (predictions, targets)]
    pairs = [(read[0][i] == read[1][j]).float().mean() for i in range(7) for j in range(7) if i != j]
    torch.testing.assert_close(metric.compute(), torch.stack(pairs).mean())
