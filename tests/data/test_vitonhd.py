"""The VITON-HD reader, on a drawn folder that can be damaged and on the embedded wardrobe."""

import json
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from fashiongen.batches import TryOffBatch
from fashiongen.data import VITONHD
from fashiongen.data.embedded import embedded_folder, render_once
from fashiongen.data.quality import QualityFilter
from fashiongen.errors import UserError

SIZE = (64, 48)
TRAIN, TEST = 10, 5


def draw(root, stem, split, colour):
    """One person in a garment of one colour, at 128 x 96, in the public layout."""
    places = {name: root / split / name for name in ("image", "cloth", "cloth-mask", "agnostic-mask", "image-parse-v3", "openpose_json")}
    for place in places.values():
        place.mkdir(parents=True, exist_ok=True)
    box = (28, 40, 68, 90)
    for name, size_box in (("image", box), ("cloth", (16, 20, 80, 110))):
        image = Image.new("RGB", (96, 128), "white")
        ImageDraw.Draw(image).rectangle(size_box, fill=colour)
        image.save(places[name] / f"{stem}.jpg", quality=95)
    for name, ending, size_box in (("cloth-mask", ".jpg", (16, 20, 80, 110)), ("agnostic-mask", "_mask.png", (24, 36, 72, 94))):
        mask = Image.new("L", (96, 128))
        ImageDraw.Draw(mask).rectangle(size_box, fill=255)
        mask.save(places[name] / f"{stem}{ending}")
    parse = Image.new("P", (96, 128))
    parse.putpalette([value for index in range(256) for value in (index, 255 - index, 0)])
    ImageDraw.Draw(parse).rectangle(box, fill=5)
    parse.save(places["image-parse-v3"] / f"{stem}.png")
    points = np.zeros((25, 3))
    points[[2, 5, 9, 12]] = [(30, 42, 0.9), (66, 42, 0.9), (34, 88, 0.9), (62, 88, 0.9)]
    people = {"people": [{"pose_keypoints_2d": points.flatten().tolist()}]}
    (places["openpose_json"] / f"{stem}_keypoints.json").write_text(json.dumps(people))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("viton")
    for split, count, first in (("train", TRAIN, 0), ("test", TEST, 100)):
        stems = [f"{first + index:05d}_00" for index in range(count)]
        for index, stem in enumerate(stems):
            draw(root, stem, split, (20 * index, 200, 50))
        pairs = zip(stems, stems[1:] + stems[:1], strict=True)
        (root / f"{split}_pairs.txt").write_text("".join(f"{person}.jpg {cloth}.jpg\n" for person, cloth in pairs))
    return root


@pytest.fixture
def root(drawn, tmp_path):
    """The drawn folder, for a test to damage."""
    return shutil.copytree(drawn, tmp_path / "viton")


def data(root, stage="fit", **options):
    module = VITONHD(str(root), **{"size": SIZE, "batch_size": 4, "num_workers": 0, "validation": 2, **options})
    module.setup(stage)
    return module


def test_a_sample_is_the_person_and_the_garment_they_wear(drawn):
    module = data(drawn)
    for index, row in enumerate(module.datasets["train"].rows):
        sample = module.datasets["train"][index]
        shade = 20 * int(row.id[:5])
        assert sample.ids == [row.id] and sample.category == ["upper"] and len(sample) == 1
        assert sample.person.shape == sample.garment.shape == (1, 3, *SIZE) and sample.person.dtype == torch.uint8
        for image in (sample.person, sample.garment):
            assert abs(int(image[0, 0, 32, 24]) - shade) <= 6
        assert sample.mask.shape == sample.garment_mask.shape == (1, 1, *SIZE) and sample.mask.dtype == torch.bool
        assert sample.mask[0, 0, 32, 24] and not sample.mask[0, 0, 2, 2] and sample.garment_mask[0, 0, 32, 24]
        assert sample.parse.shape == (1, *SIZE) and set(sample.parse.unique().tolist()) == {0, 5}
        assert torch.allclose(sample.pose[0, 2], torch.tensor([15.0, 21.0, 0.9])) and sample.pose.shape == (1, 25, 3)


def test_splits_are_disjoint_and_the_held_out_pairs_depend_on_names_alone(drawn, root):
    module = data(drawn, None)
    ids = {split: [row.id for row in dataset.rows] for split, dataset in module.datasets.items()}
    assert [len(ids[split]) for split in ("train", "val", "test")] == [TRAIN - 2, 2, TEST]
    assert len(set(ids["train"] + ids["val"])) == TRAIN
    pairs = (root / "train_pairs.txt").read_text().splitlines()
    (root / "train_pairs.txt").write_text("\n".join(reversed(pairs)))
    again = data(root, "fit", seed=7)
    assert {row.id for row in again.datasets["val"].rows} == set(ids["val"])
    assert module.offers == {"mask", "garment", "garment_mask", "parse", "pose"}
    assert module.describe()["samples"] == {"train": 8, "val": 2, "test": 5}


def test_batches_are_collated_and_evaluation_covers_the_split(drawn):
    module = data(drawn, "test")
    batches = list(module.test_dataloader())
    assert [len(batch) for batch in batches] == [4, 1] and all(type(batch) is TryOffBatch for batch in batches)
    assert [id_ for batch in batches for id_ in batch.ids] == [f"{100 + index:05d}_00" for index in range(TEST)]
    train = list(data(drawn).train_dataloader())
    assert [len(batch) for batch in train] == [4, 4]


@pytest.mark.parametrize("workers", [0, 2])
def test_memory_and_workers_change_nothing(drawn, workers):
    plain, kept = data(drawn), data(drawn, in_memory=True, num_workers=workers)
    assert kept.num_workers == 0
    other = data(drawn, num_workers=workers)
    for _ in range(2):
        for one, two, three in zip(plain.train_dataloader(), kept.train_dataloader(), other.train_dataloader(), strict=True):
            assert one.ids == two.ids == three.ids
            assert torch.equal(one.person, two.person) and torch.equal(one.person, three.person)
    assert kept.datasets["train"][0] is kept.datasets["train"][0]


class Reads(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen += batch.ids
        return self.weight * batch.person.float().mean()

    def test_step(self, batch, batch_idx):
        self.seen += batch.ids

    validation_step = test_step

    def predict_step(self, batch, batch_idx):
        self.seen += batch.ids
        return batch.person

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("workers", [0, 1])
def test_under_a_trainer_all_stages_run(drawn, tmp_path, workers):
    module = VITONHD(str(drawn), size=SIZE, batch_size=4, num_workers=workers, validation=0 if workers else 2)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False
    )
    reader = Reads()
    trainer.fit(reader, datamodule=module)
    assert module.split == "train"
    for stage in (trainer.test, trainer.predict):
        reader.seen.clear()
        stage(reader, datamodule=module)
        assert reader.seen == [f"{100 + index:05d}_00" for index in range(TEST)] and module.split == "test"


def test_other_copies_folder_names_are_found(root):
    for split in ("train", "test"):
        (root / split / "image-parse-v3").rename(root / split / "image-parse")
        (root / split / "openpose_json").rename(root / split / "openpose-json")
        for mask in (root / split / "agnostic-mask").iterdir():
            mask.rename(mask.with_name(mask.name.replace("_mask", "")))
    assert data(root).offers == {"mask", "garment", "garment_mask", "parse", "pose"}


def test_what_is_absent_is_not_offered(root):
    shutil.rmtree(root / "train" / "image-parse-v3")
    shutil.rmtree(root / "test" / "cloth")
    assert data(root).offers == {"mask", "garment", "garment_mask", "pose"}
    predicted = data(root, "predict")
    assert predicted.offers == {"mask", "garment_mask", "parse", "pose"} and predicted.datasets["test"][0].garment is None


def damage_pairs(root):
    (root / "train_pairs.txt").unlink()


def damage_mask(root):
    """Without a parse no mask can be made either."""
    shutil.rmtree(root / "train" / "agnostic-mask")
    shutil.rmtree(root / "train" / "image-parse-v3")


def damage_one(root):
    (root / "train" / "cloth" / "00003_00.jpg").unlink()


def damage_people(root):
    shutil.rmtree(root / "train" / "image")


def damage_repeat(root):
    (root / "train_pairs.txt").write_text("00003_00.jpg 00001_00.jpg\n" * 2)


def damage_cloth(root):
    shutil.rmtree(root / "train" / "cloth")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (shutil.rmtree, r"train_pairs\.txt is missing: data\.root must be a folder"),
        (damage_pairs, r"viton_hd: .*train_pairs\.txt is missing"),
        (damage_mask, "train/agnostic-mask is missing .* add the agnostic masks"),
        (damage_one, r"1 of 10 samples of .*train lack their garment, first .*cloth/00003_00\.jpg; restore"),
        (damage_people, "train/image is missing"),
        (damage_repeat, "the person 00003_00 is listed more than once"),
        (damage_cloth, "has no folder cloth"),
    ],
)
def test_a_damaged_folder_is_a_one_line_error_at_setup(root, damage, words):
    damage(root)
    with pytest.raises(UserError, match=words) as error:
        data(root)
    assert "\n" not in str(error.value)


def test_settings_that_leave_no_sample_are_an_error(drawn):
    with pytest.raises(UserError, match=r"data\.validation=10 leaves nothing of the 10 pairs"):
        data(drawn, validation=10)
    with pytest.raises(UserError, match="8 training samples do not fill one step of 1 x 9"):
        data(drawn, batch_size=9).train_dataloader()
    with pytest.raises(UserError, match="at least 1"):
        VITONHD(str(drawn), size=(0, 4))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_a_one_line_error_from_a_worker_too(root, workers):
    (root / "test" / "cloth" / "00102_00.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(UserError, match=r"cloth/00102_00\.jpg is truncated, damaged or not an image") as error:
        list(data(root, "test", num_workers=workers).test_dataloader())
    assert "\n" not in str(error.value)


def test_the_fingerprint_depends_only_on_the_data(drawn, root):
    whole = data(root, "test").fingerprint()
    assert whole == data(drawn, "test", batch_size=2, seed=3).fingerprint()
    assert whole != data(root, "fit").fingerprint()
    with (root / "train" / "cloth" / "00001_00.jpg").open("ab") as file:
        file.write(b"x")
    assert whole == data(root, "test").fingerprint()
    with (root / "test" / "cloth" / "00101_00.jpg").open("ab") as file:
        file.write(b"x")
    changed = data(root, "test").fingerprint()
    assert changed != whole
    (root / "test_pairs.txt").write_text((root / "test_pairs.txt").read_text() + "\n")
    assert data(root, "test").fingerprint() not in (whole, changed)


def test_the_quality_filter_trains_on_the_selected_people(drawn, tmp_path):
    decisions = tmp_path / "decisions.csv"
    module = data(drawn, quality=QualityFilter(keep=0.5, decisions=str(decisions)), batch_size=1)
    kept = [line.split(",")[0] for line in decisions.read_text().splitlines()[1:] if line.split(",")[1] == "1"]
    assert len(kept) == 5
    held_out = {row.id for row in module.datasets["val"].rows}
    assert {row.id for row in module.datasets["train"].rows} == set(kept) - held_out and len(held_out) == 2
    assert data(drawn, "test", quality=QualityFilter(decisions=str(tmp_path / "none.csv"))).datasets["test"]
    assert not (tmp_path / "none.csv").exists()


def slow_render(folder):
    """Log each rendering outside of the cache."""
    with (folder.parents[2] / "renderings.txt").open("a") as file:
        file.write("x")
    folder.mkdir()
    time.sleep(0.3)
    (folder / "whole.txt").write_text("whole")


@pytest.fixture
def place(tmp_path):
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache" / "world"


def test_processes_that_race_render_once(place):
    context = multiprocessing.get_context("fork")
    racers = [context.Process(target=render_once, args=(place, slow_render)) for _ in range(3)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert (place / "whole.txt").read_text() == "whole" and (place.parents[1] / "renderings.txt").read_text() == "x"


def test_an_unwritable_cache_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to the folder .*file: .* FASHIONGEN_CACHE"):
        render_once(tmp_path / "file" / "world", slow_render)


def killed_render(folder):
    folder.mkdir()
    (folder / "half.txt").write_text("half")
    os._exit(9)


def test_a_killed_rendering_leaves_nothing_in_its_place(place):
    racer = multiprocessing.get_context("fork").Process(target=render_once, args=(place, killed_render))
    racer.start()
    racer.join()
    assert racer.exitcode == 9 and not place.exists()
    render_once(place, slow_render)
    assert {path.name for path in place.parent.iterdir()} == {"world", ".world.lock"} and (place / "whole.txt").exists()


def test_the_embedded_wardrobe_is_rendered_once_and_read_like_the_real_one(cache):
    settings = {"people": 24, "size": SIZE, "batch_size": 4, "num_workers": 0, "validation": 2}
    module = VITONHD("wardrobe", **settings)
    assert module.root == embedded_folder("viton_hd", 24, SIZE, 0) and cache in module.root.parents
    module.prepare_data()
    before = sorted((path, path.stat().st_mtime_ns) for path in Path(module.root).rglob("*"))
    module.setup("fit")
    assert module.offers == {"mask", "garment", "garment_mask", "parse", "pose"}
    assert sorted((path, path.stat().st_mtime_ns) for path in Path(module.root).rglob("*")) == before
    for batch in module.train_dataloader():
        for index in range(len(batch)):
            assert 0.05 < batch.mask[index].float().mean() < 0.95 and 0.05 < batch.garment_mask[index].float().mean() < 0.95
            # The garment of the parse lies under the agnostic mask.
            assert batch.mask[index, 0][batch.parse[index] == 5].float().mean() > 0.95
            # The shop image shows what is worn: the colours agree where neither is background.
            worn = batch.person[index][:, batch.parse[index] == 5].float().mean(dim=1)
            shop = batch.garment[index][:, batch.garment_mask[index, 0]].float().mean(dim=1)
            assert (worn - shop).abs().max() < 60
    assert VITONHD("wardrobe", **settings, world_seed=1).root != module.root != VITONHD("wardrobe", **{**settings, "people": 25}).root


def test_validation_without_validation_samples_says_so(drawn):
    with pytest.raises(UserError, match=r"no sample for val; set data\.validation above 0"):
        VITONHD(str(drawn), size=SIZE, validation=0).setup("validate")
