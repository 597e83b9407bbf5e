"""The protocol files: what they report under which name, and what happens through the true command line."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from torchmetrics import Metric

from fashiongen.cli import main
from fashiongen.evaluation.evaluate import _reported
from fashiongen.metrics.features import extractor

TASKS = Path(__file__).parents[2] / "recipes" / "tasks"
SETS = {"fid[inception-v3]", "clip_fid[clip-vit-b-32]", "kid_x1e3[inception-v3]"}
PAIRS = {"ssim", "lpips[alex]", "dists[vgg16]"}
REPORTED = {
    "vtoff-igr": PAIRS | SETS,
    "vtoff-igr-street": SETS,
    "vtoff-tryoffdiff": PAIRS | SETS | {"ms_ssim", "cw_ssim"},
    "vtoff-twgtm": PAIRS | SETS | {"ms_ssim", "cw_ssim", "dino[dinov2-base]"},
}


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
    assert metrics["kid_x1e3"].scale == 1000
    if evaluate["reference"] is not None:
        assert not [name for name, metric in metrics.items() if metric.pairs]
        assert evaluate["reference"]["data"]["init_args"]["size"] == evaluate["size"]


@pytest.mark.parametrize("protocol", [file.stem for file in TASKS.glob("*.yaml")])
def test_a_protocol_leaves_nothing_to_the_one_before(protocol):
    """Files on the command line are merged key by key: what a protocol does not state it would take over from the recipe's own."""
    _, evaluate = read(protocol)
    assert set(evaluate) == {"task", "protocol", "size", "reference", "metrics"}


@pytest.mark.parametrize("protocol", REPORTED)
def test_the_header_states_the_protocol(protocol):
    text, evaluate = read(protocol)
    header = " ".join(line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#"))
    words = ["arXiv", "ours", "reference", "x".join(map(str, evaluate["size"]))]
    if protocol != "vtoff-igr-street":  # which refers to vtoff-igr for the rest
        words += ["RGB", "whole pictures", "no repainting", "seed 0", "subsets of 1000", "float32", ".pth"]
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
    assert record["reference"] == {"dataset": "gallery", "split": "test", "field": "garment", "fingerprint": "noise"}
    value = torch.tensor(record["metrics"]["fid[tiny-classifier]"]["value"])
    assert value > 0 and list(record["extractors"]) == ["fid[tiny-classifier]"]
