"""The protocols of try-on on the embedded world: the files' own settings, with small images and tiny extractors."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from judged import trainer
from torchmetrics import Metric

from fashiongen.batches import TryOnBatch, to_float, to_uint8
from fashiongen.data import VITONHD, DressCode
from fashiongen.errors import UserError
from fashiongen.evaluation import Evaluate, Reference
from fashiongen.methods.baselines import PasteGarment
from fashiongen.metrics import FID, KID, LPIPS, SSIM
from fashiongen.records import Record
from fashiongen.tasks.one_image import paste
from fashiongen.wardrobe import write_dress_code, write_viton_hd

TASKS = Path(__file__).parents[2] / "recipes" / "tasks"
ORIGINAL, SIZE = (128, 96), (64, 48)
TINY = {"squeeze": "tiny", "alex": "tiny", "inception-v3": "tiny-classifier"}
FILTERS = {"vton-catvton": "lanczos", "vton-ladi": "bilinear", "vton-twgtm": "bilinear"}


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Both layouts, at twice the size of the tests; Dress Code's test has four people of each category, with and without the truth."""
    root, settings = tmp_path_factory.mktemp("try_on"), {"size": ORIGINAL, "seed": 0, "test_fraction": 0.5, "workers": 1}
    folders = {
        "viton_hd": write_viton_hd(root / "viton_hd", people=16, **settings),
        "dress_code": write_dress_code(root / "dress_code", people=24, **settings),
    }
    folders["public"] = shutil.copytree(folders["dress_code"], root / "public")
    for folder in folders["public"].glob("*/images-unpaired"):
        shutil.rmtree(folder)
    return folders


def people(roots, layout, filter="bilinear", **options):
    reader = VITONHD if layout == "viton_hd" else DressCode
    settings = {"size": SIZE, "validation": 0, "num_workers": 0, "eval_batch_size": 5, "task": "vton", "filter": filter}
    return reader(str(roots[layout]), **settings | options)


def evaluation(protocol, out, **changes):
    """Evaluate as the file states, but for the size and the published networks; DINOv2 has no tiny one."""
    stated = yaml.safe_load((TASKS / f"{protocol}.yaml").read_text(encoding="utf-8"))["evaluate"]
    metrics = {name: metric for name, metric in stated.pop("metrics").items() if name != "dino"}
    for metric in metrics.values():
        options = metric["init_args"]
        options |= {"extractor": TINY[options["extractor"]]} if "extractor" in options else {}
    parser = ArgumentParser()
    parser.add_argument("--metrics", type=dict[str, Metric])
    reference = stated.pop("reference")
    assert reference["size"] in (None, [1024, 768])
    settings = {
        **stated,
        "size": SIZE,
        "metrics": parser.instantiate(parser.parse_object({"metrics": metrics})).metrics,
        "reference": Reference(**reference | {"size": reference["size"] and ORIGINAL}),
    }
    return Evaluate(out=str(out), images=2, **settings | changes)


def judge(protocol, data, tmp_path, **changes):
    evaluate = evaluation(protocol, tmp_path / "out.json", **changes)
    trainer(tmp_path, evaluate).test(PasteGarment(), datamodule=data, verbose=False)
    return Record.read(tmp_path / "out.json")


def by_hand(data, repaint):
    """The samples with their predictions, as written to PNG files, and the test's photos at a size."""
    batch = TryOnBatch.collate(list(data.datasets["test"]))
    prediction = PasteGarment().try_on(batch)
    if repaint is not None:
        prediction = paste(prediction, to_float(batch.agnostic), batch.mask, repaint)
    return batch, to_uint8(prediction).float() / 255


def photos(roots, layout, size, filter):
    plain = people(roots, layout, filter, size=size)
    plain.setup("test")
    return TryOnBatch.collate(list(plain.datasets["test"])).person.float() / 255


def distance(metric, predictions, targets):
    metric.update(predictions, None)
    metric.update(None, targets)
    return pytest.approx(metric.compute().item(), rel=2e-3, abs=1e-6)


@pytest.mark.parametrize(("protocol", "layout"), [*((protocol, "dress_code") for protocol in FILTERS), ("vton-catvton", "viton_hd")])
def test_paired(protocol, layout, roots, tmp_path):
    data = people(roots, layout, FILTERS[protocol])
    record = judge(protocol, data, tmp_path)
    repaint = {"vton-catvton": "soft"}.get(protocol)
    batch, predictions = by_hand(data, repaint)
    size = ORIGINAL if protocol == "vton-ladi" else SIZE
    targets, truth = photos(roots, layout, size, FILTERS[protocol]), batch.person.float() / 255
    scale = 1 if protocol == "vton-ladi" else 1000
    kid = "kid[tiny-classifier]" if scale == 1 else "kid_x1e3[tiny-classifier]"
    names = {"ssim", "ssim_mask", "lpips[tiny]", "lpips_mask[tiny]", "fid[tiny-classifier]", kid}
    kinds = batch.category
    if layout == "dress_code":
        assert {group: found["n_samples"] for group, found in record.groups.items()} == {"full": 4, "lower": 4, "upper": 4}
    else:
        assert (record.by, record.groups, set(kinds)) == (None, {}, {"upper"})
    for group, entries in {"": record.metrics, **{group: found["metrics"] for group, found in record.groups.items()}}.items():
        inside = torch.tensor([group in ("", kind) for kind in kinds])
        assert set(entries) == names
        assert entries["fid[tiny-classifier]"]["value"] == distance(FID(), predictions[inside], targets[inside]), group
        assert entries[kid]["value"] == distance(KID(scale=scale), predictions[inside], targets[inside])
        for name, metric in {
            "ssim": SSIM(),
            "ssim_mask": SSIM(region="foreground"),
            "lpips[tiny]": LPIPS(),
            "lpips_mask[tiny]": LPIPS(region="foreground"),
        }.items():
            metric.update(predictions[inside], truth[inside], batch.mask[inside])
            assert entries[name]["value"] == pytest.approx(metric.compute().item(), abs=1e-5)
    where = f"{layout} test person {size[0]}x{size[1]}"
    stated = {"reference": where, "size": "64x48", "repaint": repaint or "none", "filter": FILTERS[protocol]}
    assert {name: record.conditions.get(name, "bilinear") for name in stated} == stated


@pytest.mark.parametrize("root", ["dress_code", "public"])
@pytest.mark.parametrize("protocol", FILTERS)
def test_unpaired(protocol, root, roots, tmp_path):
    """FID and KID alone, against the photos of the people in their own garments: not even the world's truth changes that."""
    data = people(roots, root, FILTERS[protocol], pairing="unpaired")
    record = judge(protocol, data, tmp_path)
    batch, predictions = by_hand(data, {"vton-catvton": "soft"}.get(protocol))
    size = ORIGINAL if protocol == "vton-ladi" else SIZE
    targets = photos(roots, root, size, FILTERS[protocol])
    assert ("person" in data.offers) == (root == "dress_code")
    kid = "kid[tiny-classifier]" if protocol == "vton-ladi" else "kid_x1e3[tiny-classifier]"
    assert set(record.metrics) == {"fid[tiny-classifier]", kid} and record.dataset == "dress_code-unpaired"
    assert record.metrics["fid[tiny-classifier]"]["value"] == distance(FID(), predictions, targets)
    upper = torch.tensor([kind == "upper" for kind in batch.category])
    assert record.groups["upper"]["metrics"]["fid[tiny-classifier]"]["value"] == distance(FID(), predictions[upper], targets[upper])
    assert record.conditions["reference"] == f"dress_code-unpaired test person {size[0]}x{size[1]}"


@pytest.mark.parametrize(
    ("changes", "options", "says"),
    [
        ({}, {"filter": "bilinear"}, "protocol vton-catvton uses filter lanczos, but data.init_args.filter is bilinear: set --data.init"),
        ({}, {"size": ORIGINAL}, r"protocol vton-catvton uses size \[64, 48\], but data.init_args.size is \[128, 96\]: set --data"),
        ({"unpaired": ["fid", "clip"]}, {}, "evaluate.unpaired: clip: evaluate.metrics has no such name"),
        ({"by": "garment"}, {}, "evaluate.by=garment: samples of vton can be grouped by category"),
    ],
)
def test_what_differs_from_the_protocol_is_told_in_one_line(changes, options, says, roots, tmp_path):
    with pytest.raises(UserError, match=rf"\A{says}[^\n]*\Z"):
        judge("vton-catvton", people(roots, "viton_hd", **{"filter": "lanczos", **options}), tmp_path, **changes)
    assert not (tmp_path / "out.json").exists()
