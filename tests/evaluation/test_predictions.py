"""WritePredictions with a toy method: what is written, what is refused."""

import numpy as np
import pytest
import torch
from judged import Broken, Copier, Gallery, N, sample, trainer
from PIL import Image

from fashiongen.batches import to_float, to_uint8
from fashiongen.errors import UserError
from fashiongen.evaluation import WritePredictions
from fashiongen.evaluation.images import file_name


@pytest.mark.parametrize("id_", ["../x", "a/b", "a\\b", ".hidden", "", ".."])
def test_ids_that_would_leave_the_folder_are_refused(tmp_path, id_):
    with pytest.raises(UserError, match="cannot be a file name"):
        file_name(id_)
    data = Gallery(count=2)
    data.samples[1].ids = [id_]
    with pytest.raises(UserError, match="cannot be a file name"):
        trainer(tmp_path, WritePredictions(str(tmp_path / "out"))).predict(Copier(), datamodule=data, return_predictions=False)
    assert not [path for path in tmp_path.rglob("*.png") if path.parent != tmp_path / "out"]


def test_predictions_are_written_one_png_a_sample(tmp_path):
    writer = WritePredictions(str(tmp_path / "deep" / "out"))
    trainer(tmp_path, writer).predict(Copier(), datamodule=Gallery(), return_predictions=False)
    assert sorted(path.name for path in writer.out.iterdir()) == [f"id{index}.png" for index in range(N)]
    for one in map(sample, range(N)):
        written = torch.from_numpy(np.array(Image.open(writer.out / f"{one.ids[0]}.png"))).permute(2, 0, 1)
        assert torch.equal(written, to_uint8(to_float(one.person) * 0.9)[0])


def test_a_prediction_that_is_not_finite_is_named(tmp_path):
    with pytest.raises(UserError, match=r"Broken: the image id3\.png is not finite"):
        trainer(tmp_path, WritePredictions(str(tmp_path / "out"))).predict(Broken(), datamodule=Gallery(), return_predictions=False)


def test_a_folder_that_cannot_be_made_or_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot make the folder"):
        trainer(tmp_path, WritePredictions(str(tmp_path / "file" / "out"))).predict(
            Copier(), datamodule=Gallery(), return_predictions=False
        )
    (tmp_path / "out" / "id0.png").mkdir(parents=True)
    with pytest.raises(UserError, match=r"cannot write .*id0\.png"):
        trainer(tmp_path, WritePredictions(str(tmp_path / "out"))).predict(Copier(), datamodule=Gallery(), return_predictions=False)
