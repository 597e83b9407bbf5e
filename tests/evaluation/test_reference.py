"""Set metrics against the true images of another dataset, the size of a protocol, and what the record says about both."""

import json
import shutil

import lightning.pytorch as L
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from toy import Gallery, Painter

from fashiongen.batches import TryOffBatch, to_float
from fashiongen.data import VITONHD, DressCode, Photos, StreetTryOn
from fashiongen.data.loading import ShardSampler, share
from fashiongen.errors import UserError
from fashiongen.evaluation import Evaluate, Reference
from fashiongen.metrics import FID, SSIM, AgreementByChance
from fashiongen.metrics.base import SetMetric
from fashiongen.wardrobe import write_dress_code, write_street_tryon, write_viton_hd

SIZE = (64, 48)


class MeanGap(SetMetric):
    """Distance of the mean colours."""

    higher_is_better = False

    def features(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))

    def distance(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return (predictions.mean(dim=0) - targets.mean(dim=0)).norm()


class Count(MeanGap):
    """How many true images there were."""

    def distance(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return torch.tensor(float(len(targets)))


class Copier(Painter):
    """Returns the person as the garment."""

    def take_off(self, batch: TryOffBatch) -> Tensor:
        return to_float(batch.person)


class Street(Gallery):
    """People without garments."""

    name = "street"
    offers = frozenset({"mask"})

    def __init__(self, count=5, size=None):
        super().__init__(count)
        if size is not None:
            self.size = size

    def test_dataloader(self):
        def bare(samples):
            return TryOffBatch.collate(samples).without_target()

        return DataLoader(self.images, batch_size=2, collate_fn=bare, sampler=ShardSampler(self.images, **share(self.trainer)))


class Shop(Gallery):
    """Garments."""

    name = "shop"

    def test_dataloader(self):
        raise AssertionError("whole samples were read")


def judge(tmp_path, data, method=None, trainer_options=None, **options):
    evaluate = Evaluate(**{"protocol": "toy", "metrics": {"gap": MeanGap()}, "out": str(tmp_path / "out.json"), **options})
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = L.Trainer(accelerator="cpu", default_root_dir=tmp_path, callbacks=[evaluate], **quiet, **(trainer_options or {}))
    trainer.test(method or Copier(), datamodule=data, verbose=False)
    return evaluate, json.loads((tmp_path / "out.json").read_text())


def mean_colour(images, field):
    return torch.cat([getattr(images[index], field) for index in range(len(images))]).double().mean(dim=(0, 2, 3)) / 255


def test_predictions_are_compared_with_the_other_set(tmp_path):
    street, shop = Street(5), Shop(9)
    _, record = judge(tmp_path, street, reference=Reference(data=shop))
    expected = (mean_colour(street.images, "person") - mean_colour(shop.images, "garment")).norm().item()
    assert record["metrics"]["gap"]["value"] == pytest.approx(expected, rel=1e-4)
    assert record["reference"] == {"dataset": "shop", "split": "test", "field": "garment", "fingerprint": "garments of noise"}
    assert (record["dataset"], record["n_samples"], record["reason"]) == ("street", 5, None)


def test_the_data_s_own_truth_is_not_mixed_in(tmp_path):
    own, shop = Gallery(4), Shop(9)
    evaluate, record = judge(tmp_path, own, reference=Reference(data=shop))
    expected = (mean_colour(own.images, "person") - mean_colour(shop.images, "garment")).norm().item()
    assert record["metrics"]["gap"]["value"] == pytest.approx(expected, rel=1e-4)
    assert int(evaluate.metrics["gap"].n_targets) == 9


def test_without_a_reference_the_record_names_the_data_s_own_truth(tmp_path):
    _, record = judge(tmp_path, Gallery(4))
    assert record["reference"] == {"dataset": "gallery", "split": "test", "field": "garment", "fingerprint": "noise"}


def test_a_second_test_does_not_count_the_reference_twice(tmp_path):
    evaluate, first = judge(tmp_path, Street(5), reference=Reference(data=Shop(9)))
    _, second = judge(tmp_path, Street(5), metrics=evaluate.metrics, reference=evaluate.protocol.reference)
    assert int(evaluate.metrics["gap"].n_targets) == 9
    assert first["metrics"] == second["metrics"]


def test_two_processes_share_the_reference(tmp_path):
    for folder, options in (("one", {}), ("two", {"devices": 2, "strategy": "ddp_fork"})):
        (tmp_path / folder).mkdir()
        metrics = {"gap": MeanGap(), "count": Count()}
        judge(tmp_path / folder, Street(5), trainer_options=options, metrics=metrics, reference=Reference(data=Shop(9)), images=2)
    one, two = (json.loads((tmp_path / folder / "out.json").read_text()) for folder in ("one", "two"))
    assert two["metrics"]["gap"]["value"] == pytest.approx(one["metrics"]["gap"]["value"], rel=1e-5)
    assert one["metrics"]["count"]["value"] == two["metrics"]["count"]["value"] == 9
    assert (one["n_samples"], two["n_samples"]) == (5, 5)


class Unwilling(Copier):
    def take_off(self, batch):
        raise AssertionError("sampled before it was refused")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (lambda: {"metrics": {"ssim": SSIM(), "gap": MeanGap()}}, "evaluate.metrics: ssim: compare each image with its own ground truth"),
        (lambda: {"metrics": {"chance": AgreementByChance()}}, "evaluate.metrics: chance: compare each image with its own ground truth"),
        (lambda: {"reference": Reference(data=Street(3))}, "evaluate.reference: street has no garment"),
        (lambda: {"reference": Reference(data=Photos(root="."))}, "evaluate.reference: photos has no true images; choose a dataset"),
        (lambda: {"reference": None}, "which street does not offer here; use `predict` instead, or a protocol whose evaluate.reference"),
        (
            lambda: {"size": (512, 384)},
            r"protocol toy uses size \[512, 384\], but data.init_args.size is \[64, 48\]: set --data.init_args.size",
        ),
    ],
)
def test_what_cannot_be_judged_is_refused_before_sampling(options, words, tmp_path):
    with pytest.raises(UserError, match=words) as error:
        judge(tmp_path, Street(5, size=SIZE), Unwilling(), **{"reference": Reference(data=Shop(9)), **options()})
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out.json").exists()


def test_the_reference_has_the_protocol_s_size_too(tmp_path):
    shop = Shop(9)
    shop.size = (32, 24)
    with pytest.raises(UserError, match=r"evaluate.reference.data.init_args.size is \[32, 24\]"):
        judge(tmp_path, Street(5, size=SIZE), Unwilling(), size=SIZE, reference=Reference(data=shop))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of people without test garments, as in StreetTryOn, a complete one of other people, and only the garments of that one."""
    root = tmp_path_factory.mktemp("reference")
    for name, seed in (("street", 0), ("shop", 1)):
        write_viton_hd(root / name, people=12, size=SIZE, seed=seed, test_fraction=0.5, workers=1)
    shutil.rmtree(root / "street" / "test" / "cloth")
    shutil.rmtree(root / "street" / "test" / "cloth-mask")
    (root / "garments" / "test").mkdir(parents=True)
    shutil.copy(root / "shop" / "test_pairs.txt", root / "garments")
    shutil.copytree(root / "shop" / "test" / "cloth", root / "garments" / "test" / "cloth")
    return root


def test_fid_of_a_folder_without_garments_against_another_s(folders, tmp_path):
    settings = {"size": SIZE, "num_workers": 0, "validation": 2}
    street = VITONHD(root=str(folders / "street"), eval_batch_size=3, **settings)
    # Of the reference there are the pair file and the garments, no people and no masks.
    garments = VITONHD(root=str(folders / "garments"), eval_batch_size=2, **settings)
    _, record = judge(tmp_path, street, metrics={"fid": FID()}, size=SIZE, reference=Reference(data=garments), images=2)
    shop = VITONHD(root=str(folders / "shop"), **settings)
    shop.setup("test")
    by_hand = FID()
    for dataset, field in ((street.datasets["test"], "person"), (shop.datasets["test"], "garment")):
        images = torch.cat([getattr(dataset[index], field) for index in range(len(dataset))]).float() / 255
        by_hand.update(*((images, None) if field == "person" else (None, images)))
    assert record["metrics"]["fid[tiny-classifier]"]["value"] == pytest.approx(by_hand.compute().item(), rel=1e-4)
    assert record["reference"] == {
        "dataset": "viton_hd",
        "split": "test",
        "field": "garment",
        "fingerprint": shop.images_of("test", "garment").fingerprint(),
        "size": "64x48",
    }
    assert record["data"] == {"fingerprint": street.fingerprint(), "size": "64x48", "masks": "file"}
    extractor = record["extractors"]["fid[tiny-classifier]"]
    assert extractor["weights"] == "model.safetensors" and len(extractor["sha256"]) == 64
    assert len(list((tmp_path / "out.images").iterdir())) == 2 and (tmp_path / "out.grid.png").is_file()


def given(data, split="test", field="garment", trainer=None):
    """The images of a reference, one after another."""
    reference = Reference(data=data, split=split, field=field)
    reference.setup()
    return torch.cat(list(reference.batches(trainer or L.Trainer(accelerator="cpu", logger=False), torch.device("cpu"))))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_images_are_those_of_the_samples(workers, folders):
    settings = {"root": str(folders / "shop"), "size": SIZE, "validation": 2, "eval_batch_size": 4, "num_workers": workers}
    data = VITONHD(**settings)
    data.setup(None)
    for split in ("test", "val"):
        for field in ("garment", "person"):
            expected = torch.cat([getattr(sample, field) for sample in data.datasets[split]]).float() / 255
            assert torch.equal(given(VITONHD(**settings), split, field), expected)


def test_an_unreadable_reference_is_an_error(folders, tmp_path):
    settings = {"size": SIZE, "num_workers": 2, "validation": 0, "eval_batch_size": 2}
    root = shutil.copytree(folders / "garments", tmp_path / "garments")
    data = VITONHD(root=str(root), **settings)
    names = [line.split()[0] for line in (root / "test_pairs.txt").read_text().splitlines()]
    first, last = (root / "test" / "cloth" / name for name in (names[0], names[-1]))
    last.write_text("no image")
    with pytest.raises(UserError, match=rf"^{last} is truncated, damaged or not an image"):
        given(data)
    first.unlink()
    with pytest.raises(UserError, match=rf"^evaluate.reference: viton_hd: 1 of 6 samples of .* lack their garment, first {first}"):
        given(data)
    shutil.rmtree(root / "test")
    with pytest.raises(UserError, match=r"test/cloth is missing or holds none of the garments of"):
        given(data)
    with pytest.raises(UserError, match=r"train_pairs\.txt is missing"):
        given(data, "val")


def test_the_garments_or_people_of_every_layout_can_be_the_reference(tmp_path):
    settings = {"size": SIZE, "num_workers": 0, "validation": 0}
    shops = write_dress_code(tmp_path / "dress_code", people=12, size=SIZE, seed=0, test_fraction=0.5, workers=1)
    whole = DressCode(root=str(shops), **settings)
    whole.setup("test")
    expected = torch.cat([sample.garment for sample in whole.datasets["test"]]).float() / 255
    for folder in shops.glob("*/*/"):
        if folder.name != "images":
            shutil.rmtree(folder)
    for person in shops.glob("*/images/*_0.jpg"):
        person.unlink()
    assert torch.equal(given(DressCode(root=str(shops), **settings)), expected)
    people = write_street_tryon(tmp_path / "street_tryon", people=12, size=SIZE, seed=0, test_fraction=0.5, workers=1)
    street = StreetTryOn(root=str(people), **settings)
    assert given(street, field="person").shape == (6, 3, *SIZE)
    with pytest.raises(UserError, match=r"evaluate\.reference: street_tryon: the dataset has no shop images"):
        given(street)
    with pytest.raises(UserError, match="'mask' is not an image of a sample; choose garment or person"):
        given(street, field="mask")
