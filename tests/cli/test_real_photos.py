"""Five real photos get masks from a box, are dressed in five garments and undressed, by the public command line alone.

It needs the public samples next to the checkout. By default the tiny models have their shipped weights alone, and take four steps.
With FASHIONGEN_TINY_CHECKPOINTS=DIR they are those of `DIR/NAME/last.ckpt` and sample as their recipes say, and with FASHIONGEN_DRESSED=DIR
everything is written there to look at:

    FASHIONGEN_TINY_CHECKPOINTS=DIR FASHIONGEN_DRESSED=DIR python -m pytest -m slow tests/cli/test_real_photos.py
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fashiongen.cli import main
from fashiongen.records import file_sha256

ON = ("paste_garment", "catvton", "twgtm")
OFF = ("masked_crop", "igr", "tryoffdiff", "tryoffanyone", "twgtm")
UNTRAINED = ("paste_garment", "masked_crop")
SIZE = (64, 48)
BOX = (150, 250, 620, 900)
"""Of all five photos, which show the upper body at 768x1024."""


def make_masks(samples: Path, out: Path) -> None:
    """Write the masks of the photos, with every person beside every garment."""
    main(
        ["data", "masks", str(samples / "image"), "--out", str(out), "--box", ",".join(map(str, BOX)), "--garments", str(samples / "cloth")]
    )


def predict(name: str, task: str, root: Path, out: Path, checkpoints: Path | None) -> None:
    """Write the images of a tiny recipe for a folder that `make_masks` has written: people in garments (`vton`), or garments (`vtoff`)."""
    data = ["--data.init_args.root", str(root), "--data.init_args.size", str(list(SIZE)), "--data.init_args.task", task]
    data += ["--data.init_args.pairing", "unpaired"] if task == "vton" else []
    keys = ["--evaluate.task", task, "--evaluate.protocol", f"{task}-tiny", "--trainer.logger", "false"]
    if name not in UNTRAINED:
        keys += ["--model.init_args.steps", "4"] if checkpoints is None else ["--ckpt_path", str(checkpoints / name / "last.ckpt")]
    main(["predict", "--config", f"tiny/{name}", *data, *keys, "--out", str(out)])


def images(folder: Path) -> dict[str, np.ndarray]:
    """Return the images of a folder by name."""
    return {path.stem: np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))}


@pytest.mark.slow
def test_real_people_are_dressed_and_undressed(shared_data, tmp_path):
    samples = shared_data / "viton_hd_sample" / "test"
    given = os.environ.get("FASHIONGEN_TINY_CHECKPOINTS")
    out = Path(os.environ.get("FASHIONGEN_DRESSED", tmp_path))
    root, checkpoints = out / "masked", None if given is None else Path(given)
    people, garments = (sorted(path.stem for path in (samples / part).iterdir()) for part in ("image", "cloth"))
    assert len(people) == len(garments) == 5

    make_masks(samples, root)
    record = json.loads((root / "masks.json").read_text())
    assert record["settings"] == {"from": "box", "shape": "region", "dilate": 0, "size": None}
    assert sorted(record["photos"]) == people
    for name, photo in record["photos"].items():
        assert photo["photo"] == file_sha256(samples / "image" / f"{name}.jpg") and photo["category"] == "upper"
        mask = np.asarray(Image.open(root / "test" / "agnostic-mask" / f"{name}_mask.png")) > 127
        left, top, right, bottom = BOX
        assert mask[top:bottom, left:right].all() and mask.sum() == (bottom - top) * (right - left)
        assert photo["covered"] == pytest.approx(mask.mean(), abs=1e-4)

    # The garment of a person's own name has another one in the folder, so that all 25 pairs are unlike.
    pairs = [f"{person}_{garment}" + "_garment" * (garment in people) for person in people for garment in garments]
    for task, methods, names in (("vton", ON, pairs), ("vtoff", OFF, people)):
        for method in methods:
            predict(method, task, root, out / task / method, checkpoints)
            found = images(out / task / method)
            assert sorted(found) == sorted(names), method
            assert {image.shape for image in found.values()} == {(*SIZE, 3)}, method
            assert all(image.std() > 1 for image in found.values()), f"{method} wrote an image without content"
            assert len({image.tobytes() for image in found.values()}) == len(names), f"{method} wrote the same image twice"
