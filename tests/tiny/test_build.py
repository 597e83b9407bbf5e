"""The tiny checkpoints: a build in miniature, and what is shipped."""

import hashlib
import json
import os

import pytest
import torch

from fashiongen.batches import TryOffBatch
from fashiongen.checkpoints import tiny_weights
from fashiongen.errors import UserError
from fashiongen.methods.bpr_dae.network import load_alexnet
from fashiongen.methods.geco.network import load_backbone
from fashiongen.methods.igr import IGR
from fashiongen.nn.classifier import AttributeClassifier
from fashiongen.nn.parts import load_prompt_encoder
from fashiongen.tiny.build import SHIPPED_LIMIT, Plan, _Build, build, shipped_size
from fashiongen.tiny.training import Run, train
from fashiongen.wardrobe import ATTRIBUTES, CATEGORIES, make_item, render_item

SMALL = Plan(
    items=24,
    people=12,
    held_out=50,
    batch=8,
    classifier_steps=3,
    worn_classifier_steps=3,
    vae_steps=3,
    clip_steps=3,
    siglip_steps=3,
    unet_steps=3,
    ip_adapter_steps=3,
    inpainting_steps=3,
    backbone_items=24,
    backbone_steps=3,
)
STAGES = ["classifier", "second/classifier", "worn_classifier", "sd/vae", "clip", "second/clip", "siglip", "sd", "ip_adapter"]
STAGES += ["inpainting", "resnet18", "alexnet"]


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr("fashiongen.tiny.build.DRAWN", 10)
    monkeypatch.setattr("fashiongen.tiny.build.PROMPTED", 5)


def hashes(folder):
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.rglob("*.safetensors"))}


class Killed(BaseException):
    pass


@pytest.mark.slow
def test_a_build_killed_in_every_stage_resumes_to_the_same_files(tmp_path, monkeypatch):
    build(tmp_path / "whole", seed=0, plan=SMALL)
    out, killed, replace = tmp_path / "weights", [], os.replace

    def killed_after_its_first_state(source, target):
        replace(source, target)
        if target.parent.name == "state" and target.name not in killed:
            killed.append(target.name)
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("fashiongen.tiny.training.SAVE_EVERY", 1)
        patch.setattr(os, "replace", killed_after_its_first_state)
        for _ in STAGES:
            with pytest.raises(Killed):
                build(out, seed=0, plan=SMALL)
            assert not out.exists()
    assert len(killed) == len(STAGES)
    assert build(out, seed=0, plan=SMALL) == out
    assert hashes(out) == hashes(tmp_path / "whole")
    assert str(tmp_path) not in "".join(config.read_text() for config in out.rglob("*.json")), "a path of this machine would be shipped"
    facts = json.loads((out / "BUILD.json").read_text())
    assert list(facts["stages"]) == STAGES
    backbone = load_backbone("resnet18", str(out / "resnet18" / "model.safetensors"), False, {"channels": [16, 32, 64, 128]})
    assert backbone(torch.zeros(1, 3, 64, 64)).shape == (1, 128)
    assert load_alexnet(str(out / "alexnet" / "model.safetensors"))(torch.zeros(1, 3, 64, 64)).shape == (1, 256)
    torch.manual_seed(0)
    igr = IGR(pretrained=str(out / "sd"), image_encoder=str(out / "clip"), steps=1).eval()
    mask = torch.ones(1, 1, 64, 48, dtype=torch.bool)
    batch = TryOffBatch(ids=["a"], person=torch.zeros(1, 3, 64, 48, dtype=torch.uint8), mask=mask, category=["upper"])
    assert igr.take_off(batch).shape == (1, 3, 64, 48)
    with pytest.raises(UserError, match="contains a finished build"):
        build(out, seed=0, plan=SMALL)


def test_a_shipped_stage_is_copied_and_another_seed_is_not_mixed_in(tmp_path, monkeypatch):
    monkeypatch.setattr(_Build, "trained", lambda self, name: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        build(tmp_path / "weights", plan=SMALL, reuse=["classifier"])
    begun = _Build(tmp_path / ".clip.build", Run(tmp_path / "state"), SMALL, ["clip"])
    begun.reused("clip")
    assert len(begun.tokenizer()) > 100, "later stages read captions with the tokenizer of the reused CLIP pair"
    copied = tmp_path / ".weights.build" / "weights" / "classifier"
    assert hashes(copied) == hashes(tiny_weights() / "classifier")
    reported = json.loads((tmp_path / ".weights.build" / "report.json").read_text())["classifier"]
    assert reported["reused"]
    assert (
        reported["held_out_accuracy"]
        == json.loads((tiny_weights() / "BUILD.json").read_text())["stages"]["classifier"]["held_out_accuracy"]
    )
    with pytest.raises(UserError, match="unfinished build with --seed 0"):
        build(tmp_path / "weights", seed=1, plan=SMALL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda:99"}, "--device cuda:99"),
        ({"device": "abacus"}, "--device abacus"),
        ({"precision": "8"}, "choose auto, 32 or bf16"),
        ({"reuse": ["vae"]}, "no such stage; the stages are classifier"),
        ({"reuse": ["clip", "sd"]}, "--reuse sd: it was trained with the shipped sd/vae: add sd/vae"),
    ],
)
def test_a_wrong_option_leaves_nothing_behind(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        build(tmp_path / "weights", plan=SMALL, **options)
    assert not any(tmp_path.iterdir())


def test_training_resumes_where_it_was_killed(tmp_path):
    """The weights of a killed and resumed run equal those of an uninterrupted one."""

    def run(folder, killed_at=None):
        torch.manual_seed(0)
        module = torch.nn.Linear(3, 1)
        calls = []

        def loss(draws):
            calls.append(draws)
            if len(calls) == killed_at:
                raise Killed
            return module(draws.normal(8, 3)).square().mean()

        return train(Run(folder), "linear", module, loss, steps=300, learning_rate=1e-2).weight, len(calls)

    whole, _ = run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "broken", killed_at=280)
    resumed, calls = run(tmp_path / "broken")
    assert calls == 50  # from the state of step 250
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0)


def test_what_is_shipped_is_small_safe_and_described():
    files = [file for file in tiny_weights().rglob("*") if file.is_file()]
    assert 5_000_000 < shipped_size(tiny_weights()) < SHIPPED_LIMIT
    assert {file.suffix for file in files} <= {".safetensors", ".json", ".txt"}
    facts = json.loads((tiny_weights() / "BUILD.json").read_text())
    assert facts["command"].startswith("fashiongen tiny build")
    assert facts["namespaces"] == {"trained_on": "pretrain", "judged_on": "val"}


def test_the_shipped_tokenizer_knows_every_word():
    """transformers 5 can build a tokenizer of two tokens without a word: every caption must survive it."""
    tokenizer = load_prompt_encoder(str(tiny_weights() / "sd")).tokenizer
    assert len(tokenizer) > 100
    for index in range(20):
        caption = make_item(0, "test", index).caption()
        ids = tokenizer(caption).input_ids
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == caption
        assert len(ids) <= tokenizer.model_max_length


def test_the_shipped_classifier_reads_the_images_of_this_world():
    """On items of the namespace `test`, on which nothing was trained; a world with changed pixels fails here."""
    classifier = AttributeClassifier.from_pretrained(tiny_weights() / "classifier")
    assert classifier.heads == {"category": CATEGORIES, **ATTRIBUTES}
    items = [make_item(0, "test", index) for index in range(150)]
    rendered = torch.stack([torch.tensor(render_item(item, 64, 48)).permute(2, 0, 1) for item in items]).float() / 255
    read = classifier.read(rendered)
    for name, values in classifier.heads.items():
        true = torch.tensor([values.index(item.category if name == "category" else item.attributes[name]) for item in items])
        assert (read[name] == true).float().mean() >= (0.95 if name in ("category", "Color") else 0.85), name
