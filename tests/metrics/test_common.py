"""Tests for all metrics: batch splits, hostile input, copies, checkpoints, YAML."""

import copy
import math
import pickle
from functools import cache

import lpips as lpips_library
import pytest
import torch
from jsonargparse import ArgumentParser
from torchmetrics import Metric
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, Dinov2Config, Dinov2Model

from fashiongen import metrics
from fashiongen.errors import UserError
from fashiongen.metrics import CWSSIM, DISTS, FID, KID, LPIPS, MSSSIM, SSIM, AttributeAgreement, ColourError, DINOSimilarity
from fashiongen.metrics.base import exact_arithmetic
from fashiongen.metrics.clip import CLIPFeatures
from fashiongen.metrics.extractors import DINOFeatures


@cache
def library_network():
    torch.manual_seed(0)
    return lpips_library.LPIPS(net="alex", pnet_rand=True, verbose=False)


@cache
def dino():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return DINOFeatures(Dinov2Model(Dinov2Config(**sizes, image_size=28, patch_size=14, initializer_range=0.5)))


@cache
def clip():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return CLIPFeatures(CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes, image_size=16, patch_size=8, projection_dim=8)))


PAIR = {
    "ssim": lambda network: SSIM(),
    "ssim-foreground": lambda network: SSIM(region="foreground"),
    "ms-ssim": lambda network: MSSSIM(),
    "lpips": lambda network: LPIPS(network=network),
    "dists": lambda network: DISTS(network=network),
    "ssim-luma": lambda network: SSIM(channels="luma"),
    "ms-ssim-luma": lambda network: MSSSIM(channels="luma"),
    "cw-ssim": lambda network: CWSSIM(levels=2),
    "lpips-library": lambda network: LPIPS(network=library_network()),
    "dino": lambda network: DINOSimilarity(resize=28, crop=28, network=dino()),
    "colour": lambda network: ColourError(),
    "colour-mean": lambda network: ColourError(reduction="mean"),
    "colour-whole": lambda network: ColourError(region="whole"),
    "agreement": lambda network: AttributeAgreement(network=network),
}
SET = {
    "fid": lambda network: FID(network=network),
    "kid": lambda network: KID(subsets=10, subset_size=4, network=network),
    "clip-fid": lambda network: FID(network=clip()),
}
FOREGROUND = ("ssim-foreground", "colour", "colour-mean")
ALL = PAIR | SET


def test_every_metric_is_among_those_tested(network):
    """The metrics of outfits are in test_outfit_common.py, those of rankings in test_ranking.py."""
    from metrics.test_outfit_common import METRICS

    exported = {value for name in metrics.__all__ if isinstance(value := getattr(metrics, name), type)}
    bases = {metrics.PairMetric, metrics.PerSample, metrics.SetMetric, metrics.RankingMetric, metrics.OutfitMetric, metrics.OutfitSetMetric}
    rankings = {value for value in exported if issubclass(value, metrics.RankingMetric)}
    tested = {type(make(network)) for make in ALL.values()} | {type(make()) for make in METRICS.values()}
    assert exported - bases - rankings - {metrics.AgreementByChance} == tested


def feed(metric, images, sizes):
    for batch in zip(*(part.split(sizes) for part in images), strict=True):
        metric.update(*batch)
    return metric


@pytest.mark.parametrize("key", ALL)
@pytest.mark.parametrize("sizes", [[3, 4], [1] * 7])
def test_result_does_not_depend_on_the_split_into_batches(key, sizes, network, images):
    whole, split = (feed(ALL[key](network), images, size) for size in ([7], sizes))
    torch.testing.assert_close(split.compute(), whole.compute(), rtol=1e-4, atol=1e-6)
    if key in PAIR:
        torch.testing.assert_close(split.values(), whole.values(), rtol=1e-4, atol=1e-6)
        assert whole.values().shape == (7,)
        torch.testing.assert_close(whole.compute(), whole.values().mean())


@pytest.mark.parametrize("key", ALL)
def test_perfect_prediction_is_best_and_worse_is_worse(key, network, images):
    prediction, target, mask = images
    perfect, noisy, inverted = (ALL[key](network) for _ in range(3))
    perfect.update(target, target, mask)
    noisy.update(prediction, target, mask)
    inverted.update(1 - target, target, mask)
    if key != "kid":  # an unbiased estimate, never exactly 0
        assert perfect.compute().item() == pytest.approx(1.0 if perfect.higher_is_better else 0.0, abs=1e-4)
    sign = 1 if perfect.higher_is_better else -1
    if key == "cw-ssim":  # which does not detect an inverted image
        assert perfect.compute() > noisy.compute()
        return
    assert sign * perfect.compute() > sign * inverted.compute()
    if key not in ("dino", "clip-fid"):  # in random features noise may be worse than a negative
        assert sign * perfect.compute() >= sign * noisy.compute() >= sign * inverted.compute()


@pytest.mark.parametrize("key", ALL)
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["one-pixel", "everywhere"])
def test_prediction_that_is_not_finite_makes_the_whole_metric_nan(key, value, where, network, images):
    prediction, target, mask = (part.clone() for part in images)
    prediction[2, 0, 0, 0] = value
    if where == "everywhere":
        prediction[2] = value
    metric = feed(ALL[key](network), (prediction, target, mask), [7])
    assert metric.compute().isnan()
    if key in PAIR:
        assert metric.values().isnan().tolist() == [False, False, True, False, False, False, False]
        assert metric.n_undefined == 0


@pytest.mark.parametrize("key", PAIR)
def test_empty_mask_is_left_out_and_counted_by_foreground_metrics_only(key, network, images):
    prediction, target, mask = (part.clone() for part in images)
    mask[1] = False
    metric = feed(PAIR[key](network), (prediction, target, mask), [7])
    assert metric.n_undefined == (key in FOREGROUND)
    assert metric.values()[1].isnan() == (key in FOREGROUND)
    torch.testing.assert_close(metric.compute(), metric.values().nanmean())
    # A non-finite prediction stays in the mean with the others.
    prediction[0, 0, 0, 0] = math.nan
    assert feed(PAIR[key](network), (prediction, target, mask), [7]).compute().isnan()


@pytest.mark.parametrize("key", FOREGROUND)
def test_nothing_but_empty_masks_gives_nan(key, network, images):
    prediction, target, mask = images
    metric = feed(PAIR[key](network), (prediction, target, torch.zeros_like(mask)), [7])
    assert metric.compute().isnan()
    assert metric.n_undefined == 7


@pytest.mark.parametrize("key", FOREGROUND)
def test_foreground_metric_without_mask_is_refused(key, network, images):
    with pytest.raises(UserError, match="mask"):
        PAIR[key](network).update(*images[:2])


@pytest.mark.parametrize("key", FOREGROUND)
def test_background_does_not_count_in_the_foreground(key, network, images):
    prediction, target, mask = images
    far = ~torch.nn.functional.max_pool2d(mask.float(), 11, stride=1, padding=5).bool()  # out of reach of SSIM's window
    assert far.any()
    painted = torch.where(far, torch.zeros(3, 1, 1), prediction)
    first, second = (feed(PAIR[key](network), (images, target, mask), [7]).values() for images in (prediction, painted))
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("key", ALL)
def test_one_sample_has_a_value_in_pair_metrics_and_none_in_set_metrics(key, network, images):
    metric = ALL[key](network)
    metric.update(*(part[:1] for part in images))
    assert metric.compute().isnan() == (key in SET)
    metric.reset()
    metric.update(*images)
    assert metric.compute().isfinite()


@pytest.mark.parametrize("key", ALL)
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_no_sample_gives_nan(key, network):
    assert ALL[key](network).compute().isnan()


@pytest.mark.parametrize("key", ALL)
def test_constant_images(key, network, images):
    mask = images[2]
    grey, white = torch.full((7, 3, 48, 40), 0.5), torch.ones(7, 3, 48, 40)
    same, different = ALL[key](network), ALL[key](network)
    same.update(white, white, mask)
    different.update(grey, white, mask)
    assert same.compute().item() == pytest.approx(1.0 if same.higher_is_better else 0.0, abs=1e-4)
    assert different.compute().isfinite()
    if key not in ("agreement", "cw-ssim"):
        assert abs(different.compute() - same.compute()) > 1e-3


@pytest.mark.parametrize("key", ALL)
def test_nothing_lands_in_checkpoints_or_parameters(key, network, images):
    metric = ALL[key](network)
    metric.update(*images)
    assert metric.state_dict() == {}
    assert list(metric.parameters()) == list(metric.buffers()) == list(metric.children()) == []
    holder = torch.nn.Module()
    holder.metric = metric
    assert holder.state_dict() == {}


@pytest.mark.parametrize("key", ALL)
def test_copies_and_pickles_carry_state_and_go_on(key, network, images):
    metric = ALL[key](network)
    metric.update(*(part[:4] for part in images))
    for other in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric)), metric.clone()):
        other.update(*(part[4:] for part in images))
        torch.testing.assert_close(other.compute(), feed(ALL[key](network), images, [4, 3]).compute())
    if key in PAIR:
        assert len(metric.values()) == 4


@pytest.mark.parametrize("key", ALL)
def test_reset_forgets(key, network, images):
    metric = feed(ALL[key](network), [1 - part if part.is_floating_point() else part for part in images], [7])
    metric.reset()
    torch.testing.assert_close(feed(metric, images, [7]).compute(), feed(ALL[key](network), images, [7]).compute())


@pytest.mark.parametrize("key", ALL)
def test_forward_returns_the_value_of_the_batch(key, network, images):
    metric = ALL[key](network)
    metric.update(*(part[:4] for part in images))
    batch = metric(*(part[4:] for part in images))
    torch.testing.assert_close(batch, feed(ALL[key](network), [part[4:] for part in images], [3]).compute())
    torch.testing.assert_close(metric.compute(), feed(ALL[key](network), images, [7]).compute())


@pytest.mark.parametrize("key", ALL)
def test_wrong_range_type_and_shape_are_refused(key, network, images):
    prediction, target, mask = images
    metric = ALL[key](network)
    name = type(metric).__name__
    with pytest.raises(ValueError, match=rf"^{name} .*\[0, 1\], the prediction has the value -"):
        metric.update(prediction * 2 - 1, target, mask)
    with pytest.raises(ValueError, match=rf"^{name} .*\[0, 1\], the (target|reference) has the value \d"):
        metric.update(prediction, target * 255, mask)
    with pytest.raises(TypeError, match="uint8"):
        metric.update((prediction * 255).to(torch.uint8), target, mask)
    with pytest.raises(ValueError, match="pairs"):
        metric.update(prediction[:, :, :, :-1], target, mask)
    with pytest.raises(ValueError, match="pairs"):
        metric.update(prediction[:3], target, mask)
    if key in PAIR:
        with pytest.raises(ValueError, match="mask"):
            metric.update(prediction, target, mask[:, 0])


@pytest.mark.parametrize("key", ALL)
def test_autocast_does_not_change_the_result(key, network, images):
    plain = feed(ALL[key](network), images, [7])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = feed(ALL[key](network), images, [7])
    assert torch.equal(plain.compute(), cast.compute())


def test_exact_arithmetic_casts_nothing():
    """Without an autocast outside too: both results of the test above would else be equally coarse."""
    device = torch.device("cpu")
    with exact_arithmetic(device):
        assert not torch.is_autocast_enabled("cpu")
        with torch.autocast("cpu", dtype=torch.bfloat16), exact_arithmetic(device):
            assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(
    ("class_path", "init_args"),
    [
        ("SSIM", {"region": "foreground"}),
        ("MSSSIM", {"betas": [0.5, 0.5]}),
        ("LPIPS", {"extractor": "tiny"}),
        ("LPIPS", {"extractor": "alex"}),
        ("DISTS", {"extractor": "vgg16", "size": [341, 256]}),
        ("CWSSIM", {"levels": 3, "orientations": 6}),
        ("DINOSimilarity", {"extractor": "dinov2-large", "resize": 224, "crop": 224}),
        ("FID", {"extractor": "clip-vit-b-32"}),
        ("KID", {"extractor": "inception-v3", "scale": 1000.0}),
        ("DISTS", {"extractor": "tiny"}),
        ("FID", {"extractor": "tiny-classifier"}),
        ("KID", {"extractor": "tiny-classifier", "subsets": 3, "subset_size": 5, "seed": 1}),
        ("ColourError", {"region": "whole", "reduction": "mean"}),
        ("AttributeAgreement", {"attribute": "colour"}),
        ("InceptionScore", {"prior": "uniform", "extractor": "inception-50"}),
        ("CategoryAccuracy", {"k": 3, "extractor": "inception-50"}),
        ("Personalisation", {"extractor": "clip-vit-h-14"}),
        ("LPIPSDiversity", {"over": "outfit", "extractor": "vgg"}),
        ("CLIPScore", {"extractor": "clip-vit-h-14"}),
        ("CLIPImageScore", {"extractor": "clip-vit-b-32"}),
        ("LPIPSToTruth", {"extractor": "vgg"}),
        ("RetrievalAccuracy", {"extractor": "tiny-clip"}),
        ("Compatibility", {"weights": "evaluator.pth", "extractor": "clip-vit-h-14"}),
        ("TrueCompatibility", {"extractor": "tiny-classifier"}),
        ("TruePreference", {"extractor": "tiny-classifier"}),
        ("TextAlign", {"extractor": "clip-vit-h-14"}),
        ("TextPersonalisation", {"extractor": "clip-vit-h-14"}),
        ("SemanticDistance", {"extractor": "clip-vit-h-14"}),
        ("AttributeEntropy", {"weighting": "values"}),
    ],
)
def test_every_metric_can_be_written_in_a_recipe(class_path, init_args):
    parser = ArgumentParser()
    parser.add_argument("--metrics", type=dict[str, Metric])
    config = parser.parse_object({"metrics": {"it": {"class_path": f"fashiongen.metrics.{class_path}", "init_args": init_args}}})
    metric = parser.instantiate(config).metrics["it"]
    assert type(metric).__name__ == class_path
    for name, value in init_args.items():
        assert getattr(metric, name) == (tuple(value) if isinstance(value, list) else value)
