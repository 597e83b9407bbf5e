"""Images of a test and of validation: files, grids, loggers."""

import json

import numpy as np
import pytest
import torch
from judged import Copier, Gallery, N, judge, metrics, sample, trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fashiongen.batches import TryOffBatch, to_float, to_uint8
from fashiongen.evaluation import Evaluate
from fashiongen.evaluation.images import grid
from fashiongen.tasks.one_image import as_written
from fashiongen.tasks.try_off import TryOff


def test_images_are_the_first_by_id_and_exactly_what_was_judged(tmp_path):
    (tmp_path / "out.images").mkdir()
    (tmp_path / "out.images" / "stale.png").write_text("from an earlier run")
    judge(tmp_path, images=4)
    folder = tmp_path / json.loads((tmp_path / "out.json").read_text())["images"]
    assert sorted(path.name for path in folder.iterdir()) == ["id0.png", "id1.png", "id2.png", "id3.png"]
    by_id = {one.ids[0]: one for one in map(sample, range(N))}
    for path in folder.iterdir():
        ours = to_uint8(to_float(by_id[path.stem].person) * 0.9)[0].permute(1, 2, 0).numpy()
        assert np.array_equal(np.array(Image.open(path)), ours)
    with Image.open(tmp_path / "out.grid.png") as image:
        assert image.size == (4 * (8 * 11 + 4), 4 * (12 * 11 + 4))
    assert not list(tmp_path.glob(".*"))


def test_validation_images_leave_no_trace_in_the_random_state(tmp_path):
    methods, images = [], []
    for wanted in (0, 5):
        torch.manual_seed(1)
        method, logger = Copier(), TensorBoardLogger(tmp_path, name=str(wanted))
        evaluate = Evaluate(validation_images=wanted)
        trainer(tmp_path, evaluate, logger=logger, max_epochs=2).fit(method, datamodule=Gallery())
        events = EventAccumulator(logger.log_dir, size_guidance={"images": 0}).Reload()
        images.append(events.Images("val/images") if "val/images" in events.Tags()["images"] else [])
        methods.append(method)
    assert methods[0].random == methods[1].random
    assert not images[0]
    assert [(image.step, image.width, image.height) for image in images[1]] == [(4, 4 * 92, 5 * 136), (8, 4 * 92, 5 * 136)]


def test_tensorboard_gets_numbers_and_images_of_a_test(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="log")
    trainer(tmp_path, Evaluate(metrics=metrics()), logger=logger).test(Copier(), datamodule=Gallery(), verbose=False)
    tags = EventAccumulator(logger.log_dir).Reload().Tags()
    assert "test/images" in tags["images"] and "test/gap" in tags["scalars"]


def test_as_written_is_what_a_png_gives_back():
    images = torch.tensor([-2.0, -1.0, -0.999, 0.0, 0.5, 1.0, 3.0, torch.nan]).reshape(1, 1, 1, 8).expand(1, 3, 1, 8)
    steps = as_written(images)[0, 0, 0] * 255
    assert torch.allclose(steps[:-1], steps[:-1].round()) and steps[-1].isnan()
    assert steps[:-1].round().tolist() == [0, 0, 0, 128, 191, 255, 255]


def test_the_grid_shows_person_mask_prediction_and_truth_at_any_size():
    one = sample(0)
    (row,) = TryOff().gallery_rows(to_float(one.garment), one, [0])
    assert list(row.images) == ["input", "agnostic", "prediction", "truth"]
    assert torch.equal(row.images["agnostic"][:, one.mask[0, 0]], torch.full((3, 24), 128, dtype=torch.uint8))
    assert torch.equal(row.images["prediction"], row.images["truth"]) and grid([row] * 20).shape == (3, 12 * 136, 4 * 92)
    big = TryOffBatch.collate([one])
    big.person = one.person.repeat_interleave(64, dim=2).repeat_interleave(64, dim=3)
    big.mask = torch.zeros(1, 1, 768, 512, dtype=torch.bool)
    big.garment = None
    (row,) = TryOff().gallery_rows(to_float(big.person), big, [0])
    assert (row.images["truth"] == 128).all()
    assert grid([row]).shape == (3, 388, 4 * 260)


class Album(Logger):
    """A logger that accepts images like Weights & Biases'."""

    name, version = "album", 0

    def __init__(self):
        super().__init__()
        self.images = []

    def log_metrics(self, metrics, step=None): ...

    def log_hyperparams(self, params): ...

    def log_image(self, key, images, step=None):
        self.images.append((key, step, [image.shape for image in images]))


def test_images_go_to_every_logger_that_takes_them(tmp_path):
    """CSVLogger accepts no images and is skipped."""
    album, method = Album(), Copier()
    run = trainer(tmp_path, Evaluate(metrics=metrics(), validation_images=2), logger=[CSVLogger(tmp_path), album], max_epochs=1)
    run.fit(method, datamodule=Gallery())
    run.test(method, datamodule=Gallery(), verbose=False)
    row = (12 * 11 + 4, 4 * (8 * 11 + 4), 3)
    assert album.images == [("val/images", 4, [(2 * row[0], *row[1:])]), ("test/images", 4, [(7 * row[0], *row[1:])])]


def test_a_logger_that_fails_loses_no_record(tmp_path):
    class Gone(Album):
        def log_image(self, key, images, step=None):
            raise ConnectionError("the server is gone")

    run = trainer(tmp_path, Evaluate(metrics=metrics(), out=str(tmp_path / "out.json")), logger=[Gone()])
    with pytest.raises(ConnectionError):
        run.test(Copier(), datamodule=Gallery(), verbose=False)
    assert json.loads((tmp_path / "out.json").read_text())["status"] == "ok"
