import pickle

import pytest
import torch

from fashiongen.errors import UserError
from fashiongen.metrics import DISTS, FID, KID, LPIPS, SSIM, AttributeAgreement, ColourError
from fashiongen.metrics import features as module
from fashiongen.metrics.features import FrozenNetwork, extractor, find


@pytest.fixture
def weights(tmp_path, monkeypatch, network):
    """A folder of tiny weights that holds the random classifier."""
    monkeypatch.setattr(module, "tiny_weights", lambda: tmp_path)
    network.save_pretrained(tmp_path / "classifier")
    extractor.cache_clear()
    yield tmp_path
    extractor.cache_clear()


@pytest.mark.parametrize("name", ["tiny", "tiny-classifier"])
def test_extractor_is_frozen_and_loaded_once(weights, name):
    network = extractor(name, find(name))
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert extractor(name, find(name)) is network


@pytest.mark.parametrize("metric_class", [LPIPS, DISTS, FID, KID, AttributeAgreement])
def test_named_extractor_gives_what_its_network_gives(weights, network, images, metric_class):
    named, injected = metric_class(), metric_class(network=network)
    for metric in (named, injected):
        metric.update(*images)
    torch.testing.assert_close(named.compute(), injected.compute())
    assert len(pickle.dumps(FrozenNetwork(named.extractor))) < 200


@pytest.mark.parametrize("metric_class", [LPIPS, DISTS, FID, KID, AttributeAgreement])
def test_missing_weights_are_an_error_at_first_use(tmp_path, monkeypatch, images, metric_class):
    monkeypatch.setattr(module, "tiny_weights", lambda: tmp_path / "nowhere")
    extractor.cache_clear()
    metric = metric_class()
    with pytest.raises(UserError, match="nowhere"):
        metric.update(*images)


def test_the_extractor_is_part_of_the_name(network):
    assert (LPIPS().extractor, DISTS().extractor) == ("tiny", "tiny")
    assert (FID().extractor, KID().extractor, AttributeAgreement().extractor) == ("tiny-classifier",) * 3
    assert SSIM().extractor is ColourError().extractor is None
    # Another network never passes as a built-in one.
    assert FID(network=network).extractor == "custom"
    assert FID("seed-2", network=network).extractor == "seed-2"
    assert AttributeAgreement(judge=network.read).extractor == "custom"


def test_injected_network_is_copied_and_left_alone(network, images):
    network.train()
    metric = LPIPS(network=network)
    metric.update(*images)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    network.eval()
    reference = LPIPS(network=network)
    reference.update(*images)
    torch.testing.assert_close(metric.compute(), reference.compute())


def test_unknown_name_is_refused_with_the_list():
    with pytest.raises(UserError, match=r"'vgg19'.*tiny, tiny-classifier, tiny-worn-classifier, alex"):
        FrozenNetwork("vgg19")


@pytest.mark.parametrize("metric_class", [LPIPS, DISTS, FID, KID, AttributeAgreement])
def test_missing_weights_can_be_found_before_any_work(tmp_path, monkeypatch, metric_class):
    monkeypatch.setattr(module, "tiny_weights", lambda: tmp_path)
    extractor.cache_clear()
    with pytest.raises(UserError, match="no attribute classifier"):
        metric_class().prepare()
    extractor.cache_clear()
    SSIM().prepare()  # has none


def test_weights_are_looked_for_on_this_machine_alone(tmp_path, monkeypatch):
    """No metric may reach for the network, whatever the environment says."""
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repository, **options: asked.append((repository, options)) or tmp_path)
    assert find("dinov2-base", "owner/name@v1") == tmp_path
    assert asked == [("owner/name", {"revision": "v1", "local_files_only": True})]
