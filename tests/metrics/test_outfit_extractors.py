"""The extractors of the metrics of outfits: CLIP with its text tower, the shipped tiny CLIP, and the Inception of 50 categories."""

import copy
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from metrics.outfit_inputs import completed
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer, CLIPVisionConfig
from transformers import CLIPVisionModelWithProjection as CLIPVision

from fashiongen.checkpoints import tiny_weights
from fashiongen.errors import UserError
from fashiongen.metrics import CategoryAccuracy, CLIPScore, InceptionScore, Personalisation, TextAlign, extractors
from fashiongen.metrics.features import extractor, find
from fashiongen.metrics.inception50 import CATEGORIES, LABELS, Inception50
from fashiongen.wardrobe import make_item, render_item

DATA = Path(__file__).parents[3] / "shared" / "data" / "polyvore_u"


@pytest.fixture
def clip_folder(tmp_path, monkeypatch):
    """A checkpoint of the real class with both towers and the tiny tokenizer, which passes as ViT-H/14.

    The length of the embeddings stands right only in the configuration of the whole.
    """
    tokenizer = CLIPTokenizer.from_pretrained(tiny_weights() / "clip")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    text = {**sizes, "vocab_size": len(tokenizer), "max_position_embeddings": 32, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    vision = {**sizes, "image_size": 16, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for table in (extractors.ARCHITECTURES, extractors.TEXT_ARCHITECTURES):
        monkeypatch.setitem(table, "clip-vit-h-14", {"hidden_size": 16, "num_hidden_layers": 2, "projection_dim": 12})
    extractor.cache_clear()
    yield tmp_path, model, tokenizer
    extractor.cache_clear()


def test_texts_are_embedded_as_by_the_whole_model(clip_folder):
    folder, model, tokenizer = clip_folder
    texts = ["A photo of a skirt, on white background", "red", "Color: red " * 40]
    network = extractor("clip-vit-h-14", find("clip-vit-h-14", str(folder)))
    with torch.no_grad():
        inputs = tokenizer(texts, padding=True, truncation=True, max_length=32, return_tensors="pt")
        expected = model.get_text_features(**inputs).pooler_output
    found = network.text_features(texts)
    assert found.shape == (3, 12) and not found.requires_grad
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(found[0], found[1], atol=1e-3)


def test_metrics_prepare_what_they_use(clip_folder):
    """Text towers are loaded with the image tower, by the metrics of texts alone."""
    folder = clip_folder[0]
    metric = TextAlign("clip-vit-h-14", weights=str(folder))
    metric.prepare()
    assert extractor("clip-vit-h-14", folder).text is not None
    assert metric.extractor == "clip-vit-h-14" and metric.provenance()["weights"] == "model.safetensors"
    whole = completed()
    metric.update(whole)
    assert metric.compute().isfinite()
    assert len(pickle.dumps(metric._network)) < 500
    extractor.cache_clear()
    (folder / "tokenizer.json").unlink()
    Personalisation("clip-vit-h-14", weights=str(folder)).prepare()
    for metric_class in (CLIPScore, TextAlign):
        with pytest.raises(UserError, match=r"clip-vit-h-14: .* tokenizer") as error:
            metric_class("clip-vit-h-14", weights=str(folder)).prepare()
        assert "\n" not in str(error.value)


def test_another_text_tower_does_not_get_the_name(clip_folder, monkeypatch):
    monkeypatch.setitem(extractors.TEXT_ARCHITECTURES, "clip-vit-h-14", {"hidden_size": 1024})
    with pytest.raises(UserError, match=r"clip-vit-h-14: .* another architecture \(hidden_size 16 for 1024\)"):
        CLIPScore("clip-vit-h-14", weights=str(clip_folder[0])).prepare()


@pytest.mark.parametrize(
    ("name", "vision", "text", "heads"), [("clip-vit-b-32", 87_849_216, 63_428_096, 8), ("clip-vit-h-14", 632_076_800, 354_032_640, 16)]
)
def test_an_architecture_is_the_published_one(name, vision, text, heads):
    """Counted on the meta device: the published counts, 151,277,313 and 986,109,441 in all with the scale of the logits."""
    of_image, of_text = extractors.ARCHITECTURES[name], extractors.TEXT_ARCHITECTURES[name]
    with torch.device("meta"):
        widths = [4 * of["hidden_size"] for of in (of_image, of_text)]
        towers = (
            CLIPVision(CLIPVisionConfig(**of_image, intermediate_size=widths[0], num_attention_heads=16, image_size=224)),
            CLIPTextModelWithProjection(CLIPTextConfig(**of_text, intermediate_size=widths[1], num_attention_heads=heads)),
        )
    assert [sum(parameter.numel() for parameter in tower.parameters()) for tower in towers] == [vision, text]
    assert vision + text + 1 == {"clip-vit-b-32": 151_277_313, "clip-vit-h-14": 986_109_441}[name]


def test_the_tiny_clip_finds_the_caption_of_an_image():
    """On white paper, and with noise that no one sees; 30 items among their captions, of which chance finds one."""
    items = [make_item(3, "val", index) for index in range(30)]
    images = torch.stack([torch.from_numpy(render_item(item, 64, 48).copy()).permute(2, 0, 1) for item in items]) / 255
    noisy = (images + 0.015 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    network = extractor("tiny-clip", find("tiny-clip"))
    captions = [item.caption() for item in items]
    texts = torch.nn.functional.normalize(network.text_features(captions))
    for shown in (images, noisy):
        best = (torch.nn.functional.normalize(network.features(shown)) @ texts.T).argmax(dim=1).tolist()
        assert sum(captions[place] == captions[index] for index, place in enumerate(best)) >= 24
    assert network.features(torch.ones(1, 3, 64, 48)).isfinite().all()  # an empty image


def test_the_record_names_the_tiny_clip():
    metric = CLIPScore()
    assert metric.extractor == "tiny-clip" and metric.provenance()["weights"] == "model.safetensors"


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    """Random weights of plausible size, without the counters that old files lack."""
    with torch.device("meta"):
        network = torchvision.models.inception_v3(weights=None, num_classes=50, init_weights=False)
    draw = torch.Generator().manual_seed(0)
    state = {}
    for key, value in network.state_dict().items():
        if key.startswith("AuxLogits") and "fc" not in key:
            state[key] = torch.zeros((), dtype=value.dtype).expand(value.shape)
        elif value.ndim > 1:
            state[key] = torch.randn(value.shape, generator=draw) * math.sqrt(2 / value[0].numel())
        else:
            state[key] = torch.rand(value.shape, generator=draw) * 0.2 + (0.9 if "running_var" in key or "bn.weight" in key else 0.0)
    file = tmp_path_factory.mktemp("inception") / "Inception-finetune-epoch300"
    torch.save({key: value for key, value in state.items() if "num_batches_tracked" not in key}, file)
    return file


def test_the_inception_of_50_classes_is_the_authors(inception_file):
    """Their preprocessing, and torchvision's own mapping of an input in [-1, 1], written out."""
    images = torch.rand(2, 3, 40, 30, generator=torch.Generator().manual_seed(1))
    images = (images * 255).round() / 255
    with torch.device("meta"):
        plain = torchvision.models.inception_v3(weights=None, num_classes=50, transform_input=False, init_weights=False)
    plain = plain.to_empty(device="cpu").eval()
    plain.load_state_dict(torch.load(inception_file, weights_only=True), strict=False)
    x = 2 * torch.nn.functional.interpolate(images, (299, 299), mode="bilinear", align_corners=False) - 1
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        expected = plain(x * std / 0.5 + (mean - 0.5) / 0.5).softmax(dim=1)
        network = Inception50.from_file(inception_file)
        torch.testing.assert_close(network.probabilities(images), expected, rtol=1e-3, atol=1e-6)
    metric = InceptionScore("uniform", "inception-50", weights=str(inception_file))
    metric.prepare()
    assert metric.extractor == "inception-50" and metric.provenance()["weights"] == inception_file.name
    torch.save({"fc.weight": torch.zeros(50, 2048)}, inception_file.parent / "part.pth")
    with pytest.raises(UserError, match=r"part\.pth does not fit Inception3: missing: Conv2d_1a_3x3\.conv\.weight"):
        CategoryAccuracy(extractor="inception-50", weights=str(inception_file.parent / "part.pth")).prepare()


def test_labels_are_in_the_order_of_numbers_as_text():
    assert len(set(CATEGORIES)) == len(LABELS) == 50
    assert LABELS[:4] == (CATEGORIES[0], CATEGORIES[1], CATEGORIES[10], CATEGORIES[11])
    assert [CATEGORIES.index(label) for label in LABELS] == sorted(range(50), key=str)


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the metadata of Polyvore-U")
def test_categories_are_those_of_the_dataset():
    assert dict(enumerate(CATEGORIES)) == np.load(DATA / "id_cate_dict.npy", allow_pickle=True).item()


def test_missing_weights_say_what_to_do():
    for metric in (InceptionScore(extractor="inception-50"), CategoryAccuracy(extractor="inception-50", weights="/nowhere/x")):
        with pytest.raises(UserError, match=r"inception-50: .*name the file.*`weights`"):
            metric.prepare()


def test_texts_need_a_text_tower():
    network = copy.deepcopy(extractor("tiny-clip", find("tiny-clip")))
    with pytest.raises(ValueError, match="neither a text tower nor a folder"):
        type(network)(network.model).text_features(["red"])
