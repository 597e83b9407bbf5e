"""The published networks on random weights: equal to the libraries' own numbers, read safely, with an error if missing."""

import math
import shutil
import warnings
from pathlib import Path

import lpips as lpips_library
import numpy as np
import pytest
import torch
import torchvision
from cleanfid.inception_pytorch import InceptionV3
from cleanfid.resize import build_resizer
from PIL import Image
from torchmetrics.functional.image import dists as torchmetrics_dists
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, Dinov2Config, Dinov2Model
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from fashiongen.errors import UserError
from fashiongen.metrics import DISTS, FID, KID, LPIPS, SSIM, DINOSimilarity, extractors
from fashiongen.metrics import features as module
from fashiongen.metrics.extractors import InceptionFeatures, middle_square, resized_for_inception
from fashiongen.metrics.features import EXTRACTORS, extractor, find

FILES = {"alexnet": "alexnet-owt-7be5be79.pth", "vgg16": "vgg16-397923af.pth", "squeezenet1_1": "squeezenet1_1-b8a52dc0.pth"}
INCEPTION = "pt_inception-2015-12-05-6726825d.pth"


def random_state(network, used=""):
    """Return weights of plausible size for the layers that are used; the others take one number in the file."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, value in network.state_dict().items():
        if not key.startswith(used) or not value.is_floating_point():
            state[key] = torch.zeros((), dtype=value.dtype).expand(value.shape)
        elif value.ndim > 1:
            state[key] = torch.randn(value.shape, generator=generator) * math.sqrt(2 / value[0].numel())
        else:
            state[key] = torch.rand(value.shape, generator=generator) * 0.2 + (0.9 if "running_var" in key or "bn.weight" in key else 0.0)
    return state


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A TORCH_HOME with random files under the published names."""
    home = tmp_path_factory.mktemp("torch_home")
    folder = home / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    for name, file in FILES.items():
        with torch.device("meta"):
            network = getattr(torchvision.models, name)(weights=None)
        torch.save(random_state(network, "features"), folder / file)
    torch.save(random_state(InceptionFeatures().network), folder / INCEPTION)
    return home


@pytest.fixture
def torch_home(published, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(published))
    extractor.cache_clear()
    yield published / "hub" / "checkpoints"
    extractor.cache_clear()


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """A machine without weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    extractor.cache_clear()
    yield tmp_path
    extractor.cache_clear()


def pair(height=80, width=64, count=3):
    generator = torch.Generator().manual_seed(3)
    target = torch.nn.functional.interpolate(torch.rand(count, 3, 8, 6, generator=generator), (height, width), mode="bilinear")
    prediction = (target + 0.1 * torch.randn(target.shape, generator=generator)).clamp(0, 1)
    return prediction, target


def values(metric, prediction, target):
    metric.update(prediction[:1], target[:1])
    metric.update(prediction[1:], target[1:])
    return metric.values()


@pytest.mark.parametrize("net", ["alex", "vgg", "squeeze"])
def test_lpips_is_the_library_s_own_number(net, torch_home):
    prediction, target = pair()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = lpips_library.LPIPS(net=net, version="0.1", verbose=False)  # finds the files under TORCH_HOME
    with torch.no_grad():
        expected = library(2 * prediction - 1, 2 * target - 1).flatten()
    metric = LPIPS(net)
    torch.testing.assert_close(values(metric, prediction, target), expected, rtol=1e-5, atol=1e-7)
    assert metric.extractor == net and expected.min() > 1e-3


def test_dists_is_the_library_s_own_number(torch_home):
    prediction, target = pair()
    library = torchmetrics_dists.DISTSNetwork()  # finds the file under TORCH_HOME
    with torch.no_grad():
        expected = library(prediction, target)
        resized = [torch.nn.functional.interpolate(x, (40, 32), mode="bilinear", antialias=True) for x in (prediction, target)]
        expected_small = library(*resized)
    torch.testing.assert_close(values(DISTS("vgg16"), prediction, target), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(values(DISTS("vgg16", size=(40, 32)), prediction, target), expected_small, rtol=1e-5, atol=1e-6)
    assert expected.min() > 1e-3 and not torch.allclose(expected, expected_small, rtol=1e-2)


def test_inception_features_are_clean_fid_s(torch_home):
    """clean-fid's resizer and network on the same file, with the normalisation of its mode `clean`."""
    prediction, _ = pair(96, 72, count=2)
    uint8 = (prediction * 255).round().to(torch.uint8)
    resize = build_resizer("clean")
    resized = torch.stack([torch.from_numpy(resize(image.permute(1, 2, 0).numpy())).permute(2, 0, 1) for image in uint8])
    torch.testing.assert_close(resized_for_inception(prediction), resized, rtol=0, atol=5e-4)
    library = InceptionV3(output_blocks=[3], resize_input=False, normalize_input=False).eval()
    with torch.no_grad():
        expected = library((resized - 128) / 128)[0].flatten(1)
        ours = extractor("inception-v3", find("inception-v3")).features(prediction)
    assert ours.shape == (2, 2048) and expected.std(dim=0).mean() > 1e-3
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


def test_a_large_image_is_reduced_as_pillow_does():
    image = torch.randint(0, 256, (1, 3, 400, 300), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    expected = build_resizer("clean")(image[0].permute(1, 2, 0).numpy())
    ours = resized_for_inception(image / 255)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(ours, expected, rtol=0, atol=5e-4)


def tiny_clip(seed=0):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes, image_size=32, patch_size=8, projection_dim=12)).eval()


def tiny_dino(seed=0):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return Dinov2Model(Dinov2Config(**sizes, image_size=28, patch_size=14)).eval()


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("clip-vit-b-32", 87_849_216), ("dinov2-small", 22_056_576), ("dinov2-base", 86_580_480), ("dinov2-large", 304_368_640)],
)
def test_an_architecture_is_the_published_one(name, parameters):
    """Counted on the meta device: the published counts."""
    sizes = extractors.ARCHITECTURES[name]
    with torch.device("meta"):
        if name == "clip-vit-b-32":
            network = CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes))
        else:
            network = Dinov2Model(Dinov2Config(**sizes, image_size=518, num_attention_heads=sizes["hidden_size"] // 64))
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    if name == "clip-vit-b-32":  # transformers' defaults are its configuration
        assert {key: getattr(CLIPVisionConfig(), key) for key in sizes} == sizes


@pytest.fixture
def tiny_names(monkeypatch):
    """Make the tiny checkpoints pass as the published architectures."""
    for name, patch in (("clip-vit-b-32", 8), ("dinov2-base", 14)):
        monkeypatch.setitem(extractors.ARCHITECTURES, name, {"hidden_size": 16, "num_hidden_layers": 2, "patch_size": patch})
    extractor.cache_clear()
    yield
    extractor.cache_clear()


def by_hand(image, resize, crop):
    """Pillow's bicubic resize of the shorter side, then the middle square: (3, crop, crop) in [0, 1]."""
    image = Image.fromarray((image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
    width, height = image.size
    size = (resize, int(resize * height / width)) if width <= height else (int(resize * width / height), resize)
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = round((size[0] - crop) / 2), round((size[1] - crop) / 2)
    return torch.from_numpy(np.array(image.crop((left, top, left + crop, top + crop)))).permute(2, 0, 1) / 255


@pytest.mark.parametrize("size", [(80, 64), (64, 80), (20, 16)])
def test_the_middle_square_is_pillow_s(size):
    prediction, _ = pair(*size)
    expected = torch.stack([by_hand(image, 36, 28) for image in prediction])
    assert torch.equal(middle_square(prediction, 36, 28), expected)


@pytest.mark.parametrize("file", ["safetensors", "bin"])
def test_clip_fid_on_a_checkpoint_of_the_real_class(file, tmp_path, tiny_names):
    model = tiny_clip()
    model.save_pretrained(tmp_path)
    if file == "bin":
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
        (tmp_path / "model.safetensors").unlink()
    prediction, target = pair(count=6)
    metric = FID("clip-vit-b-32", weights=str(tmp_path))
    metric.prepare()
    metric.update(prediction, target)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    with torch.no_grad():
        embeddings = [
            model(pixel_values=torch.stack([(by_hand(image, 32, 32) - mean) / std for image in images])).image_embeds
            for images in (prediction, target)
        ]
    kept = [torch.cat(state).reshape(6, 12) for state in (metric.prediction_features, metric.target_features)]
    torch.testing.assert_close(kept, embeddings, rtol=1e-5, atol=1e-5)
    assert metric.extractor == "clip-vit-b-32" and metric.compute() > 0
    assert metric.provenance()["weights"] == ("model.safetensors" if file == "safetensors" else "pytorch_model.bin")


def test_dino_similarity_on_a_checkpoint_of_the_real_class(tmp_path, tiny_names):
    model = tiny_dino()
    model.save_pretrained(tmp_path)
    prediction, target = pair()
    metric = DINOSimilarity("dinov2-base", resize=36, crop=28, weights=str(tmp_path))
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (extractors.IMAGENET_MEAN, extractors.IMAGENET_STD))
    with torch.no_grad():
        tokens = [
            model(pixel_values=torch.stack([(by_hand(image, 36, 28) - mean) / std for image in images])).last_hidden_state[:, 0]
            for images in (prediction, target)
        ]
    expected = torch.nn.functional.cosine_similarity(*tokens)
    torch.testing.assert_close(values(metric, prediction, target), expected, rtol=1e-5, atol=1e-5)
    other = values(DINOSimilarity("dinov2-base", resize=28, crop=28, weights=str(tmp_path)), prediction, target)
    assert not torch.allclose(other, expected, rtol=0, atol=1e-4)
    perfect = values(DINOSimilarity("dinov2-base", weights=str(tmp_path)), target, target)
    torch.testing.assert_close(perfect, torch.ones(3))
    with pytest.raises(UserError, match="must not be larger"):
        DINOSimilarity(resize=200)


def test_another_architecture_does_not_get_the_name(tmp_path):
    tiny_clip().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"clip-vit-b-32: .* another architecture \(hidden_size 16 for 768") as error:
        FID("clip-vit-b-32", weights=str(tmp_path)).prepare()
    assert "\n" not in str(error.value)


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path, tiny_names):
    from safetensors.torch import save_file

    model = tiny_dino()
    model.save_pretrained(tmp_path)
    save_file({key: value for key, value in model.state_dict().items() if "layernorm" not in key}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"lacks weights of a Dinov2Model: layernorm"):
        DINOSimilarity("dinov2-base", weights=str(tmp_path)).prepare()


class Code:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize("metric", [LPIPS("alex"), DISTS("vgg16"), FID("inception-v3")], ids=lambda metric: metric.extractor)
def test_a_file_that_holds_code_is_not_run(metric, empty):
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(EXTRACTORS[metric.extractor].url).name
    file.parent.mkdir(parents=True)
    torch.save({"features.0.weight": Code(empty / "ran")}, file)
    with pytest.raises(UserError, match="not a weights file that can be read safely"):
        metric.prepare()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), file)
    with pytest.raises(UserError, match="not a weights file that can be read safely"):
        metric.prepare()
    assert not (empty / "ran").exists()


def test_a_folder_that_holds_code_is_not_run(tmp_path, tiny_names):
    tiny_clip().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"visual_projection.weight": Code(tmp_path / "ran")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot load a CLIPVisionModelWithProjection"):
        FID("clip-vit-b-32", weights=str(tmp_path)).prepare()
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_network_are_refused_by_key(torch_home, tmp_path):
    shutil.copy(torch_home / FILES["vgg16"], tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth does not fit AlexNet: .*features\.3\.weight"):
        LPIPS("alex", weights=str(tmp_path / "other.pth")).prepare()


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (LPIPS("alex"), ("alexnet-owt-7be5be79.pth", "torch/hub/checkpoints", "https://download.pytorch.org/models/alexnet")),
        (LPIPS("vgg"), ("vgg16-397923af.pth", "torch/hub/checkpoints")),
        (LPIPS("squeeze"), ("squeezenet1_1-b8a52dc0.pth", "torch/hub/checkpoints")),
        (DISTS("vgg16"), ("vgg16-397923af.pth", "torch/hub/checkpoints", "https://")),
        (FID("inception-v3"), (INCEPTION, "torch/hub/checkpoints", "https://github.com/mseitzer/pytorch-fid")),
        (KID("inception-v3"), (INCEPTION,)),
        (FID("clip-vit-b-32"), ("hf download openai/clip-vit-base-patch32", "hub")),
        (DINOSimilarity("dinov2-small"), ("hf download facebook/dinov2-small",)),
        (FID("clip-vit-b-32", weights="owner/other"), ("hf download owner/other",)),
        (FID("clip-vit-b-32", weights="/nowhere/clip"), ("no folder /nowhere/clip",)),
        (LPIPS("alex", weights="/nowhere/alex.pth"), ("no weights file /nowhere/alex.pth",)),
    ],
    ids=lambda value: getattr(value, "extractor", None),
)
def test_absent_weights_give_one_line_that_says_which_and_where(metric, words, empty):
    with pytest.raises(UserError) as error:
        metric.prepare()
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_the_record_names_the_file_and_that_it_is_not_the_published_one(torch_home, tmp_path, monkeypatch):
    import hashlib

    metric = LPIPS("alex")
    digest = hashlib.sha256((torch_home / FILES["alexnet"]).read_bytes()).hexdigest()
    assert metric.provenance() == {"weights": "alexnet-owt-7be5be79.pth", "sha256": digest}
    assert metric.doubt() == "the weights of alex (alexnet-owt-7be5be79.pth) are not the published alexnet-owt-7be5be79.pth"
    genuine = module.Extractor(EXTRACTORS["alex"].load, url=f"https://x.org/alexnet-owt-{digest[:8]}.pth")
    shutil.copy(torch_home / FILES["alexnet"], tmp_path / "renamed.pth")
    monkeypatch.setitem(EXTRACTORS, "alex", genuine)
    assert LPIPS("alex", weights=str(tmp_path / "renamed.pth")).doubt() is None
    assert SSIM().provenance() is SSIM().doubt() is None
    assert FID("x", network=torch.nn.Identity()).provenance() is None


def test_a_hub_id_is_found_in_the_cache_without_asking_the_hub(empty, tiny_names):
    snapshots = empty / "hub" / "models--openai--clip-vit-base-patch32" / "snapshots"
    tiny_clip().save_pretrained(snapshots / ("0" * 40))
    (snapshots.parent / "refs").mkdir()
    (snapshots.parent / "refs" / "main").write_text("0" * 40)
    with pytest.raises(UserError, match="hf download openai/clip-vit-base-patch32 --revision 3d74acf"):
        FID("clip-vit-b-32").prepare()  # another revision than the pinned one
    assert (
        FID("clip-vit-b-32", weights="openai/clip-vit-base-patch32").provenance()["weights"].startswith("openai/clip-vit-base-patch32@000")
    )
    pinned = "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268"
    tiny_clip().save_pretrained(snapshots / pinned)
    metric = FID("clip-vit-b-32")
    metric.prepare()
    assert metric.provenance()["weights"] == f"openai/clip-vit-base-patch32@{pinned}/model.safetensors"


def test_models_are_read_from_this_machine_alone(tmp_path, monkeypatch):
    asked = {}

    def refuse(folder, **options):
        asked.update(options)
        raise OSError("stop")

    monkeypatch.setattr(Dinov2Model, "from_pretrained", refuse)
    with pytest.raises(UserError, match="stop"):
        extractors.DINOFeatures.from_pretrained("dinov2-base", tmp_path)
    assert asked["local_files_only"] is True


def test_dino_sees_224_pixels_of_256_by_default(monkeypatch):
    asked = []

    def square(images, resize, crop):
        asked.append((resize, crop))
        return images

    monkeypatch.setattr(extractors, "middle_square", square)
    model = Dinov2Model(Dinov2Config(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14))
    extractors.DINOFeatures(model).features(torch.rand(1, 3, 28, 28))
    assert asked == [(256, 224)]
