"""A full disk or an interruption does not lose earlier results."""

import errno
import os
import re
from pathlib import Path

import pytest
import torch
from spoilt import PREDICT, TEST, TRAIN, complaint

from fashiongen.cli import main
from fashiongen.methods.baselines import MaskedCrop


def full_disk(path):
    """Make the next write of `path` fail with a full disk: its temporary file is the kernel's full device."""
    path.with_name(f".{path.name}.{os.getpid()}.part").symlink_to("/dev/full")


def test_a_full_disk_loses_no_image(world, capsys):
    """An existing one stays unchanged."""
    image = Path("out") / f"{world.stem}.png"
    image.parent.mkdir()
    image.write_text("of an earlier run")
    full_disk(image)
    assert re.search(rf"cannot write {image}: No space left on device", complaint(capsys, PREDICT))
    assert image.read_text() == "of an earlier run"
    assert not list(image.parent.glob(".*"))


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_full_disk_loses_no_record(moment, world, capsys):
    main(TEST)
    before = Path("record.json").read_bytes()

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    world.monkeypatch.setattr(os, moment, full)
    assert "No space left on device" in complaint(capsys, TEST)
    assert Path("record.json").read_bytes() == before
    assert not list(Path().glob(".record.json*"))


def test_a_full_disk_loses_no_checkpoint(world, capsys):
    main(TRAIN)
    last = Path("checkpoints/last.ckpt")
    before = last.read_bytes()
    full_disk(last)
    line = complaint(capsys, TRAIN)
    assert re.search(r"cannot write \S*checkpoints/last\.ckpt: No space left on device", line), line
    assert last.read_bytes() == before
    assert [path.name for path in last.parent.iterdir()] == [last.name]
    main(TRAIN)
    assert torch.load(last, weights_only=True)["state_dict"].keys() == {"total", "count"}


def test_an_interruption_is_distinguished(world, capsys):
    def interrupted(self, batch):
        raise KeyboardInterrupt

    Path("out").mkdir()
    (Path("out") / "earlier.png").write_text("kept")
    world.monkeypatch.setattr(MaskedCrop, "take_off", interrupted)
    with pytest.raises(SystemExit) as stop:
        main(PREDICT)
    assert stop.value.code == 130
    assert capsys.readouterr().err == "fashiongen: interrupted\n"
    assert [path.name for path in Path("out").iterdir()] == ["earlier.png"]
