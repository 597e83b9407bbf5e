import json

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from PIL import Image

from fashiongen.batches import PairBatch, QueryBatch
from fashiongen.data import ExpReduced, FashionTaobaoTB, FashionVC
from fashiongen.data.pair_lists import positives_of, read_rows
from fashiongen.errors import UserError
from fashiongen.wardrobe import write_exp_reduced, write_fashion_taobao_tb, write_fashionvc
from fashiongen.wardrobe.outfits import harmonious

SIZE = (16, 16)
PAIRS = 200
LAYOUTS = [(FashionVC, write_fashionvc), (ExpReduced, write_exp_reduced), (FashionTaobaoTB, write_fashion_taobao_tb)]


@pytest.fixture(scope="module", params=LAYOUTS, ids=lambda layout: layout[0].__name__)
def world(request, tmp_path_factory):
    """Each data class with a folder that its writer has written."""
    data_class, write = request.param
    return data_class, write(tmp_path_factory.mktemp("world") / "copy", people=PAIRS, size=SIZE, seed=0, workers=1)


def read(world, **options):
    data_class, root = world
    return data_class(root=str(root), size=SIZE, **{"batch_size": 8, "num_workers": 0, **options})


def test_all_splits_are_read_and_belong_together(world):
    data = read(world)
    data.setup()
    assert {split: counts["rows"] for split, counts in data.describe()["splits"].items()} == {"train": 150, "val": 20, "test": 30}
    assert data.offers == {"images"}
    batch = next(iter(data.train_dataloader()))
    assert isinstance(batch, PairBatch)
    assert batch.top.shape == batch.bottom.shape == (8, 3, *SIZE)
    assert batch.top.dtype == torch.uint8
    assert all(bottom in positives for bottom, positives in zip(batch.bottom_ids, batch.positives, strict=True))
    rows = {f"{row.top}_{row.bottom}" for row in data.rows["train"]}
    assert all(f"{top}_{bottom}" in rows for top, bottom in zip(batch.top_ids, batch.bottom_ids, strict=True))


def test_queries_and_catalogue_fit_each_other(world):
    data = read(world)
    data.setup("test")
    catalogue = data.catalogue()
    assert len(set(catalogue.ids)) == len(catalogue)
    assert set(catalogue.ids[: catalogue.n_positives]) == {row.bottom for row in data.rows["test"]}
    bottoms = [id_ for batch in data.catalogue_dataloader() for id_ in batch.ids]
    assert bottoms == catalogue.ids
    queries = list(data.test_dataloader())
    assert sum(len(batch) for batch in queries) == 30
    for batch in queries:
        assert isinstance(batch, QueryBatch)
        hidden = batch.without_target()
        assert hidden.positive is hidden.negatives is hidden.others is None
        for positive, negatives, others in zip(batch.positive, batch.negatives, batch.others, strict=True):
            assert len(negatives) == 9
            assert positive not in negatives
            assert not set(others) & set(negatives)
            assert positive not in others


def test_the_worlds_pairs_follow_its_rule_except_for_the_noise(world):
    root = world[1]
    truth = {item["id"]: item["attributes"] for item in map(json.loads, (root / "wardrobe_truth.jsonl").read_text().splitlines())}
    data = read(world)
    data.setup("fit")
    style = "Clothing Fashion Style"
    fits = [
        truth[row.top][style] == truth[row.bottom][style] and harmonious(truth[row.top]["Color"], truth[row.bottom]["Color"])
        for row in data.rows["train"]
    ]
    assert 0.8 < np.mean(fits) < 1.0
    tops = positives_of(data.rows["train"])
    assert 0.6 < len(tops) / 150 < 0.9


def test_splits_share_no_item(world):
    data = read(world)
    data.setup()
    items = {split: {id_ for row in rows for id_ in (row.top, row.bottom, *row.negatives)} for split, rows in data.rows.items()}
    assert not items["train"] & items["test"] and not items["train"] & items["val"] and not items["val"] & items["test"]


def test_the_same_seed_gives_the_same_world(tmp_path):
    worlds = [
        write_fashionvc(tmp_path / name, people=PAIRS, size=SIZE, seed=seed, workers=1) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    prints = [json.loads((root / "wardrobe.json").read_text())["fingerprint"] for root in worlds]
    lists = [(root / "files" / "testdata_tops.csv").read_text() for root in worlds]
    assert prints[0] == prints[1] != prints[2]
    assert lists[0] == lists[1]


def folder(tmp_path, text="tshirt,positive_pant\n1,2\n3,4\n", images=("1", "2", "3", "4"), ending=".jpg"):
    """A folder of four images whose three lists hold the same text."""
    (tmp_path / "files").mkdir()
    (tmp_path / "img").mkdir()
    for name in ("traindata_unique.csv", "devdata_tops.csv", "testdata_tops.csv"):
        (tmp_path / "files" / name).write_text(text)
    for number, name in enumerate(images):
        Image.new("RGB", (20, 30), (40 * number, 0, 0)).save(tmp_path / "img" / f"{name}{ending}")
    return FashionVC(root=str(tmp_path), size=SIZE, batch_size=1, num_workers=0)


@pytest.mark.parametrize("ending", [".png", ".jpeg", ".jpg"])
def test_images_with_any_suffix_are_found(tmp_path, ending):
    data = folder(tmp_path, ending=ending)
    data.setup("fit")
    assert len(list(data.train_dataloader())) == 2


def test_windows_lists_with_blank_lines_are_read(tmp_path):
    (tmp_path / "list.csv").write_bytes("﻿tshirt, positive_pant,neg_1\r\n\r\n1,2,3\r\n\r\n1,2,4\r\n".encode())
    rows = read_rows(tmp_path / "list.csv")
    assert [(row.id, row.top, row.bottom, row.negatives) for row in rows] == [("1_2", "1", "2", ("3",)), ("1_2_2", "1", "2", ("4",))]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no column tshirt and no column positive_pant"),
        ("tshirt,pants\n1,2\n", "no column positive_pant"),
        ("tshirt,positive_pant\n", "contains no pairs"),
        ("tshirt,positive_pant\n1\n", "line 2: has 1 columns instead of 2"),
        ("tshirt,positive_pant\n1,../../2\n", "line 2: '../../2' is not an item id"),
        ("tshirt,positive_pant\n1,\n", "line 2: '' is not an item id"),
    ],
)
def test_damaged_lists_are_one_line_errors(tmp_path, text, told):
    data = folder(tmp_path, text)
    with pytest.raises(UserError, match=told) as error:
        data.setup("fit")
    assert "\n" not in str(error.value)


def test_missing_files_are_named_with_a_remedy(tmp_path):
    data = folder(tmp_path, images=("1", "2", "3"))
    with pytest.raises(UserError, match=r"1 of the 4 images .*4\.jpg.*images=false"):
        data.setup("fit")
    without = FashionVC(root=str(tmp_path), size=SIZE, batch_size=1, num_workers=0, images=False)
    without.setup("fit")
    assert without.offers == frozenset()
    assert next(iter(without.train_dataloader())).top is None
    (tmp_path / "files" / "traindata_unique.csv").unlink()
    with pytest.raises(UserError, match=r"traindata_unique\.csv is missing"):
        without.setup("fit")


class Counts(L.LightningModule):
    """Records the training batches."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen += batch.ids
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trained(data, workers, tmp_path):
    data.num_workers = workers
    module = Counts()
    options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "limit_val_batches": 0}
    L.Trainer(max_epochs=1, default_root_dir=tmp_path, **options).fit(module, datamodule=data)
    return module.seen


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_ends_training_or_is_left_out_and_counted(tmp_path, workers):
    data = folder(tmp_path, "tshirt,positive_pant\n1,2\n3,4\n1,4\n3,2\n")
    (tmp_path / "img" / "4.jpg").write_text("no image")
    data.batch_size = 4
    with pytest.raises(UserError, match=r"4\.jpg"):
        trained(data, workers, tmp_path)
    data.on_error = "skip"
    with pytest.warns(UserWarning, match=r"left out of training \(number 2 so far\).*4\.jpg"):
        seen = trained(data, workers, tmp_path)
    assert sorted(seen) == ["1_2", "3_2"]
    assert len(data.skipped) == 2
    data.batch_size = 1
    with pytest.raises(UserError, match="cannot read any of the 1 samples of a batch"):
        trained(data, workers, tmp_path)


def test_the_public_lists_have_their_published_counts(shared_data):
    data = FashionVC(root=str(shared_data / "fashionvc"), images=False)
    data.setup()
    counts = {split: tuple(found.values()) for split, found in data.describe()["splits"].items()}
    assert counts == {"train": (17140, 12309, 11281), "val": (500, 500, 498), "test": (1000, 1000, 977)}
    catalogue = data.catalogue()
    assert (catalogue.n_positives, len(catalogue)) == (977, len({id_ for row in data.rows["test"] for id_ in (row.bottom, *row.negatives)}))


def test_a_baseline_that_looks_at_no_image_is_tested_on_the_same_data(tmp_path):
    """Otherwise chance and the oracle would be on another board than the methods; a folder with only lists is other data."""
    root = write_fashionvc(tmp_path / "world", people=PAIRS, size=SIZE, seed=0, workers=1)
    prints = []
    for images in (True, False):
        data = FashionVC(root=str(root), images=images)
        data.setup("test")
        prints.append(data.fingerprint())
    assert prints[0] == prints[1]
    (root / "img").rename(root / "elsewhere")
    assert data.fingerprint() != prints[0]
