"""A rendered folder in VITON-HD's layout that tests damage in one place, and the expected result of the command line."""

import builtins
import errno
import io
import json
import os
import re
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from fashiongen.checkpoints import tiny_weights
from fashiongen.cli import main

PREDICT = ["predict", "--config", "crop.yaml", "--out", "out"]
TEST = ["test", "--config", "crop.yaml", "--evaluate.out", "record.json"]
FIT = ["fit", "--config", "crop.yaml"]
IGR = ["predict", "--config", "igr.yaml", "--out", "out"]
TRAIN = ["fit", "--config", "mean.yaml"]


class World:
    """The folder `viton` in the current folder, with two training and two test people, and methods to damage it."""

    def __init__(self, monkeypatch, baseline):
        self.monkeypatch, self.baseline = monkeypatch, baseline
        self.root = Path("viton")
        self.pairs = self.root / "test_pairs.txt"
        self.names = [line.split()[0] for line in self.pairs.read_text().splitlines()]
        self.stem = Path(self.names[0]).stem
        test = self.root / "test"
        self.person = test / "image" / f"{self.stem}.jpg"
        self.garment = test / "cloth" / f"{self.stem}.jpg"
        self.mask = test / "agnostic-mask" / f"{self.stem}_mask.png"
        self.parse = test / "image-parse-v3" / f"{self.stem}.png"
        self.pose = test / "openpose_json" / f"{self.stem}_keypoints.json"

    def resave(self, change=lambda image: image, path=None, **options):
        """Replace an image, the person's by default, losslessly and under its old name."""
        path = path or self.person
        with Image.open(path) as image:
            changed = change(image.copy())
        changed.save(path, **{"format": "PNG", **options})

    def write_pairs(self, *lines, encoding="utf-8", end="\n"):
        self.pairs.write_bytes("".join(line + end for line in lines).encode(encoding))

    def lines(self):
        return [f"{name} {name}" for name in self.names]

    def rename(self, name):
        """Rename the first person, in all its files."""
        for path in [path for path in (self.root / "test").rglob(f"{self.stem}*") if path.is_file()]:
            path.rename(path.with_name(path.name.replace(self.stem, name)))
        self.write_pairs(f"{name}.jpg {name}.jpg", *self.lines()[1:])

    def weights(self, part="sd"):
        """A copy of the shipped tiny weights, to damage."""
        shutil.copytree(tiny_weights() / part, "weights")
        return Path("weights")

    def change_weights(self, folder, change):
        file = next(folder.glob("*.safetensors"))
        state = load_file(file)
        change(state)
        save_file(state, file, metadata={"format": "pt"})

    def change_config(self, file, **values):
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    def deny(self, folder):
        """Refuse to open or list anything in a folder, also for root."""

        def refusing(function):
            def refuse(path, *args, **kwargs):
                if isinstance(path, str | Path) and folder.absolute() in [Path(path).absolute(), *Path(path).absolute().parents]:
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
                return function(path, *args, **kwargs)

            return refuse

        for module, name in ((builtins, "open"), (io, "open"), (os, "listdir"), (os, "scandir")):
            self.monkeypatch.setattr(module, name, refusing(getattr(module, name)))

    def images(self):
        return {path.name: np.asarray(Image.open(path)).astype(int) for path in Path("out").iterdir()}


class Bomb:
    """An attacker's payload in a pickle."""

    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


def cut(path, share=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def png_that_claims(width, height):
    """An image of a few bytes whose header promises more than fits in memory."""
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)


def on_its_side(world):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    world.resave(lambda image: image.transpose(Image.Transpose.ROTATE_90), exif=exif)


def overlay(**settings):
    Path("overlay.yaml").write_text(yaml.safe_dump(settings))


def same(most=0.0) -> Callable[[World], None]:
    """The images equal those of the undamaged folder, up to a mean difference in grey levels."""

    def check(world):
        images = world.images()
        assert images.keys() == world.baseline.keys()
        for name, image in images.items():
            assert np.abs(image - world.baseline[name]).mean() <= most, name

    return check


def others_same(what: Callable[[np.ndarray], bool]) -> Callable[[World], None]:
    """The damaged sample's image is as `what` says, the others are unchanged."""

    def check(world):
        images = world.images()
        assert images.keys() == world.baseline.keys()
        for name, image in images.items():
            assert what(image) if name == f"{world.stem}.png" else np.array_equal(image, world.baseline[name]), name

    return check


def whole_photo(world):
    """The damaged sample's crop is its whole photo, the others are unchanged."""
    photo = np.asarray(Image.open(world.person).convert("RGB")).astype(int)
    others_same(lambda image: np.abs(image - photo).max() <= 1)(world)


def renamed(name) -> Callable[[World], None]:
    def check(world):
        images = world.images()
        assert np.array_equal(images[f"{name}.png"], world.baseline[f"{world.stem}.png"])

    return check


def made(count: int) -> Callable[[World], None]:
    def check(world):
        assert len(world.images()) == count

    return check


class Kind(NamedTuple):
    """A kind of bad input: its name, how the input is damaged, the command, and what must happen.

    That is a regular expression that the one line on standard error matches, or, where the input is used rightly, a check of the result.
    """

    name: str
    spoil: Callable[[World], object]
    command: list[str]
    then: str | Callable[[World], None]


def complaint(capsys, command):
    """Run a command that must end with one line and status 2; return the line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(command)
    text = capsys.readouterr().err
    assert stop.value.code == 2, text
    assert text.startswith("fashiongen: ") and text.endswith("\n") and text.count("\n") == 1, text
    assert len(text) < 700, text
    return text


def check(kind, world, capsys):
    """Damage the input, run the command, and check the result."""
    kind.spoil(world)
    if callable(kind.then):
        main(kind.command)
        kind.then(world)
    else:
        line = complaint(capsys, kind.command)
        assert re.search(kind.then, line), line
        assert not Path("out").is_dir() or not any(Path("out").glob("*.part"))
    assert not Path("exploded").exists()
