"""`fashiongen.cli.load`: a recipe's method and data in the user's own process."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fashiongen import tasks
from fashiongen.batches import to_uint8
from fashiongen.cli import load, main
from fashiongen.errors import UserError


def test_it_gives_what_predict_writes(recipe):
    main(["fit", "--config", recipe])
    main(["predict", "--config", recipe, "--ckpt_path", "logs/toy/last.ckpt", "--out", "images"])
    method, data = load(recipe, checkpoint="logs/toy/last.ckpt")
    assert not method.training
    batch = next(iter(data.predict_dataloader()))
    with torch.no_grad():
        images = to_uint8(tasks.run(method, batch))
    for name, image in zip(batch.ids, images, strict=True):
        assert np.array_equal(np.asarray(Image.open(f"images/{name}.png")), image.permute(1, 2, 0).numpy())


def test_overlays_and_keys_win(recipe):
    Path("wide.yaml").write_text("model: {init_args: {width: 5}}")
    method, data = load(recipe, "wide.yaml", keys={"data.init_args.count": 3})
    assert method.eye.out_channels == 5 and len(data.images) == 3


def test_none_is_null(recipe):
    assert load(recipe, keys={"data.init_args.broken": None})[1].images.broken is None


def test_mistakes_are_user_errors(recipe):
    with pytest.raises(UserError, match="did you mean tiny/igr"):
        load("tiny/igrr")
    with pytest.raises(UserError, match=r"lost\.ckpt: no such file"):
        load(recipe, checkpoint="lost.ckpt")
    with pytest.raises(UserError, match="unknown key 'widht'"):
        load(recipe, keys={"model.init_args.widht": 3})
