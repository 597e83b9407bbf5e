"""The protocol files: the names of their metrics, and their use with the real command line."""

import json
import math
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from torchmetrics import Metric

from fashiongen.batches import TryOffBatch, to_uint8
from fashiongen.cli import main
from fashiongen.data import VITONHD, StreetTryOn
from fashiongen.evaluation import Reference
from fashiongen.evaluation.evaluate import _reported
from fashiongen.methods.baselines import MaskedCrop
from fashiongen.metrics import FID
from fashiongen.metrics.features import extractor

TASKS = Path(__file__).parents[2] / "recipes" / "tasks"
SETS = {"fid[inception-v3]", "clip_fid[clip-vit-b-32]", "kid_x1e3[inception-v3]"}
PAIRS = {"ssim", "lpips[alex]", "dists[vgg16]"}
REPORTED = {
    "vtoff-igr": PAIRS | SETS,
    "vtoff-igr-street": SETS,
    "vtoff-tryoffdiff": PAIRS | SETS | {"ms_ssim", "cw_ssim"},
    "vtoff-twgtm": PAIRS | SETS | {"ms_ssim", "cw_ssim", "dino[dinov2-base]"},
    "vton-catvton": {"ssim", "ssim_mask", "lpips[squeeze]", "lpips_mask[squeeze]", "fid[inception-v3]", "kid_x1e3[inception-v3]"},
    "vton-ladi": {"ssim", "ssim_mask", "lpips[alex]", "lpips_mask[alex]", "fid[inception-v3]", "kid[inception-v3]"},
    "vton-twgtm": {
        "ssim", "ssim_mask", "lpips[alex]", "lpips_mask[alex]", "dino[dinov2-base]", "fid[inception-v3]", "kid_x1e3[inception-v3]",
    },
}  # fmt: skip
VTON = [name for name in REPORTED if name.startswith("vton-")]
TRY_ON_WORDS = (
    "size|filter|repaint|[-1, 1]|photos of the test's people|clean-fid's mode `clean`|times|256 levels|unpaired|data.pairing|by category"
    "|union|*_mask|mid-grey|ne draw per person"
)


def read(protocol):
    text = (TASKS / f"{protocol}.yaml").read_text(encoding="utf-8")
    return text, yaml.safe_load(text)["evaluate"]


@pytest.mark.parametrize("protocol", REPORTED)
def test_names_carry_the_extractor_and_the_scale(protocol):
    text, evaluate = read(protocol)
    assert evaluate["protocol"] == protocol and text.startswith(f"# Protocol {protocol}: ")
    parser = ArgumentParser()
    parser.add_argument("--metrics", type=dict[str, Metric])
    metrics = parser.instantiate(parser.parse_object({"metrics": evaluate["metrics"]})).metrics
    assert {_reported(name, metric) for name, metric in metrics.items()} == REPORTED[protocol]
    assert {name: metric.scale for name, metric in metrics.items() if name.startswith("kid")} in ({"kid_x1e3": 1000}, {"kid": 1})
    if evaluate["reference"] is not None and evaluate["task"] == "vtoff":
        assert not [name for name, metric in metrics.items() if metric.pairs]
        assert evaluate["reference"]["data"]["init_args"]["size"] == evaluate["size"]


@pytest.mark.parametrize("protocol", [file.stem for file in TASKS.glob("*.yaml")])
def test_a_protocol_leaves_nothing_to_the_one_before(protocol):
    """Files on the command line are merged key by key: what a protocol does not state it would take over from the recipe's own."""
    _, evaluate = read(protocol)
    of_images = {"filter"} if evaluate["task"] in ("vton", "vtoff") else set()
    of_try_on = {"repaint", "unpaired", "by"} if evaluate["task"] == "vton" else set()
    of_outfits = {"filter", "repaint", "unpaired", "by", "draws"} if evaluate["task"] in ("pfitb", "gor") else set()
    assert set(evaluate) == {"task", "protocol", "size", "resize", "reference", "metrics"} | of_images | of_try_on | of_outfits
    if protocol in VTON:
        assert set(evaluate["reference"]) == {field.name for field in fields(Reference)}


@pytest.mark.parametrize("protocol", REPORTED)
def test_the_header_states_the_protocol(protocol):
    text, evaluate = read(protocol)
    header = " ".join(line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#"))
    words = ["arXiv", "ours", "reference", "x".join(map(str, evaluate["size"]))]
    if protocol != "vtoff-igr-street":  # which refers to vtoff-igr for the rest
        words += "RGB|whole images|seed 0|subsets of 1000|float32|.pth".split("|")
        words += TRY_ON_WORDS.split("|") if protocol in VTON else ["no repainting"]
    words += ["DINOv2 base", "224x224"] if protocol == "vton-twgtm" else []
    assert [word for word in words if word not in header] == []


def test_a_protocol_without_its_weights_ends_in_one_line_before_any_sampling(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nothing"))
    monkeypatch.setattr("toy.Painter.take_off", lambda self, batch: pytest.fail("sampled"))
    extractor.cache_clear()
    with pytest.raises(SystemExit) as stop:
        main(["test", "--config", recipe, "--config", str(TASKS / "vtoff-twgtm.yaml"), "--evaluate.out", "out.json"])
    error = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and not Path("out.json").exists()
    assert error[-1].startswith("fashiongen: alex: its weights are not at") and "alexnet-owt-7be5be79.pth" in error[-1]


def test_the_street_protocol_runs_on_street_photos_against_the_garments_of_another_dataset(tmp_path, monkeypatch, cache):
    """The unchanged file, except for the size and the published networks, which are replaced by tiny ones."""
    monkeypatch.chdir(tmp_path)
    _, protocol = read("vtoff-igr-street")
    metrics = {
        name: {**metric, "init_args": {**metric["init_args"], "extractor": "tiny-classifier"}}
        for name, metric in protocol["metrics"].items()
    }
    metrics["kid_x1e3"]["init_args"] |= {"subsets": 5, "subset_size": 4}
    small = {"root": "wardrobe", "people": 40, "size": [64, 48], "eval_batch_size": 4, "num_workers": 0}
    overlay = {
        "data": {"class_path": "fashiongen.data.StreetTryOn", "init_args": small},
        "evaluate": {"size": [64, 48], "reference": {"data": {"init_args": small}}, "metrics": metrics},
    }
    Path("overlay.yaml").write_text(yaml.safe_dump(overlay))
    recipe = str(TASKS.parent / "tiny" / "masked_crop.yaml")
    main(
        [
            "test",
            "--config",
            recipe,
            "--config",
            str(TASKS / "vtoff-igr-street.yaml"),
            "--config",
            "overlay.yaml",
            "--evaluate.out",
            "out.json",
        ]
    )
    record = json.loads(Path("out.json").read_text())
    assert (record["dataset"], record["protocol"], record["status"]) == ("street_tryon", "vtoff-igr-street", "ok")
    street, shop = (data("wardrobe", people=40, size=(64, 48), num_workers=0, validation=0) for data in (StreetTryOn, VITONHD))
    street.setup("test")
    shop.setup("test")
    assert record["n_samples"] == len(street.datasets["test"]) == 6
    assert record["data"] == {"fingerprint": street.fingerprint(), "size": "64x48", "masks": "parse and DensePose", "world": "wardrobe"}
    garments = shop.images_of("test", "garment")
    assert record["reference"] == {
        **{"dataset": "viton_hd", "split": "test", "field": "garment", "fingerprint": garments.fingerprint(), "size": "64x48"}
    }
    by_hand = FID()
    crops = MaskedCrop().take_off(TryOffBatch.collate(list(street.datasets["test"])))
    by_hand.update(to_uint8(crops).float() / 255, None)
    by_hand.update(None, torch.stack(list(garments)).float() / 255)
    assert record["metrics"].keys() == {"fid[tiny-classifier]", "clip_fid[tiny-classifier]", "kid_x1e3[tiny-classifier]"}
    assert record["metrics"]["fid[tiny-classifier]"]["value"] == pytest.approx(by_hand.compute().item(), rel=1e-4)
    assert math.isfinite(record["metrics"]["kid_x1e3[tiny-classifier]"]["value"])


def test_a_reference_is_named_in_a_file_and_on_the_command_line(recipe, tmp_path):
    overlay = {
        "evaluate": {
            "task": "vtoff",
            "protocol": "toy-street",
            "reference": {"data": {"class_path": "toy.Gallery", "init_args": {"count": 3}}, "split": "test", "field": "garment"},
            "metrics": {"fid": {"class_path": "fashiongen.metrics.FID"}},
        }
    }
    (tmp_path / "street.yaml").write_text(yaml.safe_dump(overlay))
    count = ["--evaluate.reference.data.init_args.count", "6"]
    main(["test", "--config", recipe, "--config", "street.yaml", *count, "--evaluate.out", "out.json"])
    record = json.loads(Path("out.json").read_text())
    assert record["protocol"] == "toy-street"
    assert record["reference"] == {"dataset": "gallery", "split": "test", "field": "garment", "fingerprint": "garments of noise"}
    value = torch.tensor(record["metrics"]["fid[tiny-classifier]"]["value"])
    assert value > 0 and list(record["extractors"]) == ["fid[tiny-classifier]"]
