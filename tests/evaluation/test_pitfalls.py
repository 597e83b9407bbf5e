"""Eleven ways in which published evaluations of try-on went wrong or cannot be compared; each test fails if ours falls into one.

What other files test already is named and not repeated.
"""

import json
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import AutoencoderKL, DDPMScheduler
from judged import Copier, Gallery, N, trainer
from PIL import Image
from torch import nn

from fashiongen.batches import TryOnBatch, to_float, to_uint8
from fashiongen.benchmark.arrange import read
from fashiongen.data import VITONHD, DressCode
from fashiongen.errors import UserError
from fashiongen.evaluation import Evaluate, FromFiles, Reference, WritePredictions
from fashiongen.evaluation.folder import find_images, match
from fashiongen.evaluation.judge import Request
from fashiongen.methods.base import Method
from fashiongen.methods.baselines import PasteGarment
from fashiongen.metrics import FID, KID, SSIM
from fashiongen.metrics.base import PairMetric, SetMetric
from fashiongen.nn.parts.autoencoder import LatentCodec
from fashiongen.nn.sampling import Sampling, sample
from fashiongen.records import Record
from fashiongen.wardrobe import write_dress_code, write_viton_hd

SIZE = (64, 48)
OWN = {"data": None, "split": "test", "field": "person", "size": None}


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    root, settings = tmp_path_factory.mktemp("pitfalls"), {"size": SIZE, "seed": 0, "test_fraction": 0.5, "workers": 1}
    return {
        VITONHD: write_viton_hd(root / "viton_hd", people=16, **settings),
        DressCode: write_dress_code(root / "dress_code", people=24, **settings),
    }


def people(roots, reader=VITONHD, **options):
    return reader(str(roots[reader]), **{"size": SIZE, "validation": 0, "num_workers": 0, "eval_batch_size": 3, "task": "vton", **options})


def judge(out, data, method=None, **options):
    """Test a method, by default one that pastes the shop image, and return its record and the evaluation."""
    evaluate = Evaluate(**{"protocol": "toy", "metrics": {"ssim": SSIM()}, "out": str(out), "images": 2, **options})
    trainer(out.parent, evaluate).test(method or PasteGarment(), datamodule=data, verbose=False)
    return Record.read(out), evaluate


def judge_folder(out, data, folder, **options):
    method = FromFiles()
    method.request = Request(folder=folder)
    return judge(out, data, method, **options)[0]


class Faint(Method):
    """Predicts images of little contrast; remembers what it was given."""

    def __init__(self):
        super().__init__()
        self.given = []

    def try_on(self, batch):
        self.given.append(batch)
        return to_float(batch.agnostic) * 0.1 + 0.2


class Seen(PairMetric):
    """Remembers the predictions that a metric of pairs is given."""

    higher_is_better = None

    def __init__(self):
        super().__init__()
        self.images = []

    def score(self, prediction, target, mask):
        self.images.append(prediction)
        return prediction.mean(dim=(1, 2, 3))


class SeenAsSet(SetMetric):
    """The same for a metric of a set."""

    higher_is_better = None

    def __init__(self):
        super().__init__()
        self.images = []

    def features(self, images):
        self.images.append(images)
        return images.mean(dim=(2, 3))

    def distance(self, predictions, targets):
        return (predictions.mean(dim=0) - targets.mean(dim=0)).norm()


def test_1_a_test_without_duplicates_is_another_test(roots, tmp_path):
    """TryOffDiff judges 1,990 of VITON-HD's 2,032 pairs. `data.duplicates` itself: tests/data/test_viton_hd_variants.py."""
    names = [path.name for path in sorted((roots[VITONHD] / "test" / "image").iterdir())]
    listed = tmp_path / "duplicates.json"
    listed.write_text(json.dumps({"test": {"duplicates": names[:2], "leaked": names[2:3]}}))
    for pairing in ("paired", "unpaired"):
        whole, _ = judge(tmp_path / "nodes" / f"{pairing}-whole" / "record.json", people(roots, pairing=pairing))
        clean, _ = judge(tmp_path / "nodes" / f"{pairing}-clean" / "record.json", people(roots, pairing=pairing, duplicates=str(listed)))
        assert (clean.n_samples, clean.dataset) == (whole.n_samples - 3, f"{whole.dataset}-clean")
    assert len(read(tmp_path).boards) == 4


def test_2_predictions_are_not_stretched(roots, tmp_path):
    """TryOffDiff writes them by `make_grid(normalize=True, scale_each=True)`: each image from its own minimum to its own maximum."""
    data, method = people(roots), Faint()
    trainer(tmp_path, WritePredictions(str(tmp_path / "written"))).predict(method, datamodule=data, return_predictions=False)
    judge(tmp_path / "out.json", people(roots), method, keep=str(tmp_path / "kept"))
    for one in data.datasets["test"]:
        expected = to_uint8(to_float(one.agnostic) * 0.1 + 0.2)[0]
        assert expected.max() - expected.min() < 40
        for folder in ("written", "kept"):
            with Image.open(tmp_path / folder / f"{one.ids[0]}.png") as image:
                assert torch.equal(torch.tensor(list(image.getdata()), dtype=torch.uint8).T.reshape(3, *SIZE), expected)


def test_2_all_metrics_judge_the_same_images(roots, tmp_path):
    """TryOffDiff's IQA metrics read square predictions that were cropped to 3:4, its FID the squares themselves."""
    (tmp_path / "made").mkdir()
    data = people(roots)
    data.setup("test")
    for index, row in enumerate(data.datasets["test"].rows):
        square = Image.new("RGB", (64, 64), (10 * index, 200, 30))
        square.paste((0, 0, 0), (0, 0, 6, 64))  # cropped away
        square.save(tmp_path / "made" / f"{row.id}.png")
    pairs, sets = Seen(), SeenAsSet()
    judge_folder(tmp_path / "out.json", people(roots), tmp_path / "made", metrics={"pairs": pairs, "sets": sets}, size=SIZE, resize="cover")
    # A set metric is given the targets too, after each batch's predictions.
    assert all(torch.equal(one, other) for one, other in zip(pairs.images, sets.images[::2], strict=True))
    assert torch.cat(pairs.images).shape == (8, 3, *SIZE) and torch.cat(pairs.images)[:, 1].min() > 0.7


def test_3_predictions_are_png_whatever_their_names(tmp_path):
    """IDM-VTON, CatVTON and StableVITON write JPEG, some under the name of the photo. That `judge` tells JPEG: test_judge.py."""
    data = Gallery()
    for one in data.samples:
        one.ids = [f"{one.ids[0]}.jpg"]
    trainer(tmp_path, WritePredictions(str(tmp_path / "written"))).predict(Copier(), datamodule=data, return_predictions=False)
    judge(tmp_path / "out.json", data, Copier(), keep=str(tmp_path / "kept"))
    for folder in ("written", "kept"):
        files = sorted((tmp_path / folder).glob("*.jpg*"))
        assert [file.name for file in files] == [f"id{index}.jpg.png" for index in range(N)]
        for file in files:
            with Image.open(file) as image:
                assert image.format == "PNG"


@pytest.mark.parametrize("reader", [VITONHD, DressCode])
@pytest.mark.parametrize("pairing", ["paired", "unpaired"])
def test_4_nothing_of_the_photo_inside_the_mask_reaches_a_method(reader, pairing, roots, tmp_path):
    """StableVITON starts from the noised photo, whose share is not 0 even at the last timestep.

    That a result does not change with the truth: tests/methods/test_contract.py, for every recipe.
    """
    method, data = Faint(), people(roots, reader, pairing=pairing)
    judge(tmp_path / "out.json", data, method)
    for batch in method.given:
        assert batch.person is None and batch.encoded is None
        inside = batch.mask.expand_as(batch.agnostic)
        assert (batch.agnostic[inside] == 128).all() and not batch.parse[batch.mask[:, 0]].any()
    assert DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").alphas_cumprod[-1] > 0.004


def test_5_the_record_says_whether_the_photo_was_pasted_and_keeps_such_numbers_apart(roots, tmp_path):
    """CatVTON's and StableVITON's numbers need `--repaint`.

    What is pasted, and that no truth shines through: tests/tasks/test_try_on.py.
    """
    values = {}
    for repaint in (None, "hard", "soft"):
        record, _ = judge(tmp_path / "nodes" / str(repaint) / "record.json", people(roots), Faint(), repaint=repaint)
        assert record.conditions["repaint"] == (repaint or "none")
        values[repaint] = record.metrics["ssim"]["value"]
    assert values["hard"] > values["soft"] > values[None] + 0.1
    assert len(read(tmp_path).boards) == 3


@pytest.mark.parametrize("pairing", ["paired", "unpaired"])
def test_6_the_reference_set_holds_the_tested_people_alone(pairing, roots, tmp_path):
    """CatVTON's script copies Dress Code's `images`: people and garments, training and test.

    That the number of all categories is over their union: test_groups.py and test_try_on_protocols.py.
    """
    folder = list(roots[DressCode].glob("*/images/*.jpg"))
    data = people(roots, DressCode, pairing=pairing)
    seen = SeenAsSet()
    judge(tmp_path / "out.json", data, metrics={"gap": seen}, reference=Reference(**OWN), by="category")
    tested = len(data.datasets["test"])
    assert (int(seen.n_targets), tested) == (12, 12) and len(folder) > 3 * tested
    photos = TryOnBatch.collate(list(_paired(roots))).person.float() / 255
    assert torch.equal(torch.cat(seen.images[:4]), photos)  # four batches of three, before any prediction


def _paired(roots):
    data = people(roots, DressCode)
    data.setup("test")
    return data.datasets["test"]


def test_7_predictions_and_photos_have_one_size_or_the_record_states_both(roots, tmp_path):
    """Photos of 1024x768 against predictions of 512x384 change FID, even clean-fid's. Data of another size: test_try_on_protocols.py."""
    (tmp_path / "made").mkdir()
    data = people(roots)
    data.setup("test")
    for row in data.datasets["test"].rows:
        Image.new("RGB", (96, 128)).save(tmp_path / "made" / f"{row.id}.png")
    with pytest.raises(UserError, match=r"8 of 8 images are not 64x48 .* but 128x96, first .*; toy states no resizing: make them at 64x48"):
        judge_folder(tmp_path / "out.json", people(roots), tmp_path / "made", size=SIZE)
    sizes = {None: "64x48", (32, 24): "32x24"}
    for size, told in sizes.items():
        seen = SeenAsSet()
        node = tmp_path / "nodes" / told / "record.json"
        record, _ = judge(node, people(roots), metrics={"gap": seen}, reference=Reference(**OWN | {"size": size}))
        assert record.reference["size"] == told and record.conditions["reference"].endswith(told) and record.conditions["size"] == "64x48"
        assert {tuple(images.shape[2:]) for images in seen.images} == {SIZE, size or SIZE}
    assert len(read(tmp_path).boards) == 2


def test_8_paired_and_unpaired_numbers_share_no_table(roots, tmp_path):
    """And an FID carries its features' name: TryOffAnyone's, of 64 features, is on another scale.

    That numbers do not depend on the last batch: test_evaluate.py; that Inception's features are clean-fid's: test_extractors.py.
    """
    for pairing in ("paired", "unpaired"):
        record, _ = judge(
            tmp_path / "nodes" / pairing / "record.json", people(roots, pairing=pairing), metrics={"fid": FID()}, reference=Reference(**OWN)
        )
        assert list(record.metrics) == ["fid[tiny-classifier]"]
    assert [board.dataset for board in read(tmp_path).boards] == ["viton_hd", "viton_hd-unpaired"]


def test_8_an_empty_list_is_an_error_and_no_mean(tmp_path):
    """TryOffAnyone's pattern matches no file, and its scores are NaN."""
    (tmp_path / "cloth").mkdir()
    with pytest.raises(UserError, match=r"holds no \.png"):
        find_images(tmp_path)
    assert FID().compute().isnan() and SSIM().compute().isnan()  # and no 0, which would be the best


def test_9_names_are_matched_whole():
    """CatVTON matches the eight characters from the first digit on; the last of several images silently wins.

    That one name of several samples is refused: test_folder.py.
    """
    ids = ["person-00012345_front", "person-00012345_back", "model7-a", "model7-b"]
    names = {id_: {"input": id_} for id_ in ids}
    found = match([Path(f"made/{id_}.png") for id_ in ids], names)
    assert {id_: file.stem for id_, file in found.files.items()} == {id_: id_ for id_ in ids}
    assert match([Path("made/person-00012345_side.png"), Path("made/model7-a.png")], names).missing == ids[:2] + ids[3:]


def test_10_kid_is_fixed_by_its_seed_and_its_scale_stands_in_its_name():
    """clean-fid draws from numpy's global state; CatVTON prints KID times 1000, Dress Code's paper times 100, others as it is."""

    class Mean(nn.Module):
        def features(self, images):
            return images.mean(dim=(2, 3))

    images = torch.rand(40, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    values = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        metric = KID(network=Mean(), subsets=5, subset_size=7)
        metric.update(images[:20], images[20:])
        values.append(metric.compute().item())
    assert values[0] == values[1]
    stated = 0
    for file in (Path(__file__).parents[2] / "recipes" / "tasks").glob("*.yaml"):
        for name, metric in yaml.safe_load(file.read_text(encoding="utf-8"))["evaluate"]["metrics"].items():
            if metric["class_path"].endswith(".KID"):
                options, stated = metric["init_args"], stated + 1
                assert name == {1: "kid", 100: "kid_x100", 1000: "kid_x1e3"}[options.get("scale", 1)], file
                assert {"subsets", "subset_size", "seed"} <= set(options), file
    assert stated >= 7


def test_11_a_result_depends_neither_on_the_batch_nor_on_the_global_generator():
    """CatVTON and TryOffAnyone sample by DDIM with eta = 1 and encode by `latent_dist.sample()`, both unseeded.

    That a sample's noise belongs to it: tests/nn/test_sampling.py; for every method: tests/methods/test_contract.py.
    """
    torch.manual_seed(0)
    codec = LatentCodec(AutoencoderKL(block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
                                      up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4))  # fmt: skip
    images, noise = torch.rand(3, 3, 16, 16) * 2 - 1, torch.randn(3, 4, 8, 8)
    schedule = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1)

    def made(chosen, seed):
        torch.manual_seed(seed)
        ids = [f"person{index}" for index in chosen]
        latents = codec.encode(images[chosen])
        return sample(Sampling(steps=4, eta=1.0), schedule, lambda z, t, doubled: 0.3 * z + 0.1 * latents, noise[chosen], ids, 0)

    whole = made([0, 1, 2], seed=1)
    torch.testing.assert_close(made([2, 0], seed=2), whole[[2, 0]], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(codec.encode(images), made([0, 1, 2], seed=1), atol=0.1)
