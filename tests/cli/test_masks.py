"""`data masks` on drawn people: each source, the folder that comes out and its reader, and what a second run does.

Mistakes are in test_bad_masks.py.
"""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_people import BOX, HEIGHT, NAMES, WIDTH, draw_person, masks, refused, write_parses, write_people
from PIL import Image

from fashiongen.cli import main
from fashiongen.data import VITONHD, make_masks
from fashiongen.data.check import check

pytestmark = pytest.mark.usefixtures("people")
SIZE = (HEIGHT, WIDTH)


def mask_of(name, out="out", folder="agnostic-mask", ending="_mask.png"):
    return np.asarray(Image.open(f"{out}/test/{folder}/{name}{ending}")) > 127


def record(out="out"):
    return json.loads(Path(out, "masks.json").read_text())


def overlap(one, other):
    return (one & other).sum() / (one | other).sum()


def data(task="vtoff", out="out", **options):
    module = VITONHD(out, **{"size": SIZE, "batch_size": 2, "num_workers": 0, "task": task, **options})
    module.setup("predict")
    return module


def samples(module):
    return {batch.ids[0]: batch for batch in module.datasets["test"]}


def check_paint(name, out="out"):
    """The agnostic photo is grey inside the mask, and the photo outside of it."""
    photo = np.asarray(Image.open(next(Path(out, "test", "image").glob(f"{name}.*"))).convert("RGB"))
    painted, mask = np.asarray(Image.open(f"{out}/test/agnostic-v3.2/{name}.png")), mask_of(name, out)
    assert mask.any() and (painted[mask] == 128).all() and np.array_equal(painted[~mask], photo[~mask])


def test_a_box_in_shares_or_pixels_is_the_mask():
    masks(*BOX)
    masks("--box", "24,32,72,80", out="pixels")
    wanted = np.zeros(SIZE, bool)
    wanted[32:80, 24:72] = True
    for name in NAMES:
        assert np.array_equal(mask_of(name), wanted) and np.array_equal(mask_of(name, "pixels"), wanted)
        assert Path(f"out/test/image/{name}.png").read_bytes() == Path(f"photos/{name}.png").read_bytes()
        check_paint(name)
    assert not Path("out/test/masks").exists()
    assert record()["settings"] == {"from": "box", "shape": "region", "dilate": 0, "size": None}
    photo = record()["photos"]["anna"]
    assert (photo["covered"], photo["category"], photo["box"]) == (0.1875, "upper", [0.25, 0.25, 0.75, 0.625])
    assert photo["photo"] == make_masks.file_sha256(Path("photos/anna.png"))


@pytest.mark.parametrize("name", ["boxes.csv", "drawn.json"])
def test_each_photo_has_its_own_box_and_category(name):
    if name == "boxes.csv":  # found without an option
        lines = ["name,left,top,right,bottom,category", "anna.png,0,0,10,20,lower", "bert.png,10,0,200,20,", "cleo.png,0,0.5,1,1,full"]
        Path("photos/boxes.csv").write_text("\n".join(lines))
        masks()
    else:
        boxes = {"anna.png": {"box": [0, 0, 10, 20], "category": "lower"}, "bert.png": [10, 0, 200, 20]}
        Path(name).write_text(json.dumps({**boxes, "cleo.png": {"box": [0, 0.5, 1, 1], "category": "full"}}))
        masks("--boxes", name)
    covered = {name: np.argwhere(mask_of(name)) for name in NAMES}
    assert [tuple(covered[name].max(axis=0)) for name in NAMES] == [(19, 9), (19, 95), (127, 95)]
    assert covered["bert"].min(axis=0).tolist() == [0, 10] and covered["cleo"].min(axis=0).tolist() == [64, 0]
    assert {id_: sample.category for id_, sample in samples(data()).items()} == {"anna": ["lower"], "bert": ["upper"], "cleo": ["full"]}


def test_a_segmentation_network_is_read_by_the_names_of_its_labels(segformer):
    masks("--checkpoint", segformer)
    masks("--checkpoint", segformer, "--category", "lower", out="lower")
    for index, name in enumerate(NAMES):
        parse = draw_person(4 * index - 4)[1]
        assert overlap(mask_of(name, folder="masks", ending=".png"), parse == 4) > 0.75
        assert overlap(mask_of(name, "lower", "masks", ".png"), parse == 6) > 0.9
        upper, lower = mask_of(name), mask_of(name, "lower")
        assert upper[np.isin(parse, (4, 14, 15))].mean() > 0.9 and upper[parse == 6].mean() < 0.1 and upper[parse == 0].mean() < 0.1
        assert lower[parse == 6].mean() > 0.97 and lower[np.isin(parse, (4, 11, 14, 15))].mean() < 0.15
        check_paint(name)
    settings = record()["settings"]
    assert settings["from"] == "segformer"
    assert settings["checkpoint"] == {
        name: make_masks.file_sha256(segformer / name) for name in ("config.json", "model.safetensors", "preprocessor_config.json")
    }
    assert data().describe()["masks"] == {"test": ["made from segformer"]}


def test_a_parse_with_and_without_keypoints():
    parse, pose = write_parses(Path("labelled"))
    masks("--parse", parse, "--labels", "atr", "--pose", pose)
    masks("--parse", parse, "--labels", "atr", out="alone")
    for index, name in enumerate(NAMES):
        labels = draw_person(4 * index - 4)[1]
        for out in ("out", "alone"):
            mask = mask_of(name, out)
            assert mask[labels == 4].all() and not mask[:28][labels[:28] == 11].any() and mask[labels == 6].mean() < 0.05
            assert mask.sum() > 1.3 * (labels == 4).sum()  # not the garment's own outline
            assert overlap(mask_of(name, out, "masks", ".png"), labels == 4) > 0.99
        assert np.isin(labels, (14, 15)).any() and mask_of(name, "alone")[np.isin(labels, (14, 15))].all()
    assert record()["settings"]["keypoints"] is True and record("alone")["settings"]["keypoints"] is False


def test_the_source_is_chosen_in_order_of_preference_or_by_name(segformer):
    parse, _ = write_parses(Path("labelled"))
    everything = ("--parse", parse, "--labels", "atr", "--checkpoint", segformer, *BOX)
    masks(*everything, out="a")
    masks(*everything[4:], out="b")
    masks(*everything, "--from", "box", out="c")
    assert [record(out)["settings"]["from"] for out in "abc"] == ["parse", "segformer", "box"]


def test_the_shape_is_widened_or_boxed_and_recorded():
    parse, _ = write_parses(Path("labelled"))
    given = ("--parse", parse, "--labels", "atr")
    masks(*given)
    masks(*given, "--dilate", "32", out="wide")
    masks(*given, "--shape", "box", out="boxed")
    for name in NAMES:
        plain, wide, boxed = mask_of(name), mask_of(name, "wide"), mask_of(name, "boxed")
        rows, columns = (np.flatnonzero(plain.any(axis=axis)) for axis in (1, 0))
        assert boxed.sum() == (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1) and boxed[plain].all()
        assert wide[plain].all() and np.flatnonzero(wide.any(axis=1))[0] == rows[0] - 4  # 32 of 1024 are 4 of 128
    assert record("wide")["settings"]["dilate"] == 32 and record("boxed")["settings"]["shape"] == "box"


def test_the_folder_is_read_for_try_off_and_try_on():
    masks(*BOX, "--garments", "shirts")
    assert sorted(Path("out/test_pairs.txt").read_text().splitlines()) == [f"{a}.png {b}.png" for a in NAMES for b in ("blue", "red")]
    off = samples(data())
    assert list(off) == list(NAMES) and all(sample.mask.float().mean() == 0.1875 and sample.garment is None for sample in off.values())
    module = data("vton", pairing="unpaired")
    on = samples(module)
    assert list(on) == [f"{a}_{b}" for a in NAMES for b in ("blue", "red")] and module.offers == {"garment", "mask", "photo"}
    for id_, sample in on.items():
        person, shirt = id_.split("_")
        assert torch.equal(sample.mask, off[person].mask) and sample.person is None
        assert torch.equal(sample.agnostic, off[person].person.masked_fill(off[person].mask, 128))
        assert sample.garment[0, :, 0, 0].tolist() == ([200, 0, 0] if shirt == "red" else [0, 0, 200])
    assert module.sample_names()["bert_red"] == {"input": "bert", "own": "red"}
    report = check("viton_hd", "out").halves["test"]
    assert (report.listed, report.people, report.masked, report.refused) == (3, 3, 3, "")
    place = ["--data.init_args.root", "out", "--data.init_args.size", f"[{HEIGHT},{WIDTH}]"]
    main(["predict", "--config", "tiny/paste_garment", *place, "--data.init_args.pairing", "unpaired", "--out", "dressed"])
    main(["predict", "--config", "tiny/masked_crop", *place, "--out", "undressed"])
    assert sorted(path.stem for path in Path("dressed").iterdir()) == sorted(on)
    assert sorted(path.stem for path in Path("undressed").iterdir()) == sorted(NAMES)


def test_people_without_garments_are_read_for_try_off():
    masks(*BOX)
    assert list(samples(data())) == list(NAMES)
    assert Path("out/test_pairs.txt").read_text().split() == [f"{name}.png" for name in NAMES for _ in range(2)]


def test_a_garment_with_a_persons_name_does_not_make_a_damaged_pair():
    shutil.copy("shirts/red.png", "shirts/bert.png")
    masks(*BOX, "--garments", "shirts")
    assert list(samples(data())) == list(NAMES)  # the reader would miss the other two's own garments
    assert "bert_bert_garment" in samples(data("vton", pairing="unpaired"))
    for name in NAMES:
        shutil.copy("shirts/red.png", f"shirts/{name}.png")
    masks(*BOX, "--garments", "shirts", out="paired")
    assert all(sample.garment is not None for sample in samples(data(out="paired")).values())
    assert "anna_anna" not in samples(data("vton", out="paired", pairing="unpaired"))


def test_photos_are_padded_to_a_size_never_distorted():
    draw_person()[0].resize((WIDTH, HEIGHT)).crop((0, 0, 96, 64)).save("photos/wide photo: 1.jpg", quality=95)
    masks("--box", "0.25,0.25,0.75,0.75", "--size", "64x48", "--garments", "shirts")
    ids = ["anna", "bert", "cleo", "wide_photo_1"]
    assert sorted(record()["photos"]) == ids and {sample.person.shape for sample in samples(data(size=(64, 48))).values()} == {
        (1, 3, 64, 48)
    }
    for name in ids:
        assert Image.open(f"out/test/image/{name}.png").size == Image.open(f"out/test/agnostic-v3.2/{name}.png").size == (48, 64)
        check_paint(name)
    box = np.argwhere(mask_of("wide_photo_1"))
    assert (box.max(axis=0) - box.min(axis=0) + 1).tolist() == [16, 24]  # 32 x 48 of 64 x 96, at half the size
    photo = np.asarray(Image.open("out/test/image/wide_photo_1.png"))
    assert (photo[:15] == 255).all() and (photo[-15:] == 255).all() and not (photo[20:40] == 255).all()


def test_a_photo_that_exif_turns_is_masked_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    draw_person()[0].transpose(Image.Transpose.ROTATE_90).save("turned.png", exif=exif)
    masks("--box", "0,0,1,0.25", source="turned.png")
    mask = mask_of("turned")
    assert mask.shape == SIZE and mask[:32].all() and not mask[32:].any() and list(samples(data())) == ["turned"]
    assert samples(data())["turned"].person.shape == (1, 3, *SIZE)


def test_a_second_run_makes_only_what_is_missing(capsys):
    masks(*BOX, "--garments", "shirts")
    whole = data().fingerprint()
    files = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in Path("out/test").rglob("*_mask.png")}
    Path("out/test/agnostic-mask/bert_mask.png").unlink()
    Path("out/test/agnostic-v3.2/cleo.png").unlink()
    capsys.readouterr()
    masks(*BOX, "--garments", "shirts")
    assert "2 masks made from box, 1 already there" in capsys.readouterr().out
    assert {path for path, (time, _) in files.items() if path.stat().st_mtime_ns == time} == {Path("out/test/agnostic-mask/anna_mask.png")}
    assert all(path.read_bytes() == content for path, (_, content) in files.items()) and data().fingerprint() == whole
    write_people(Path("photos"), (*NAMES, "dora"))
    masks(*BOX, "--garments", "shirts")
    assert "1 masks made from box, 3 already there" in capsys.readouterr().out and len(samples(data())) == 4


def test_an_interrupted_run_is_resumed(monkeypatch):
    made, write = [], make_masks._make

    def stop(person, *args):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(person.id)
        write(person, *args)

    monkeypatch.setattr(make_masks, "_make", stop)
    with pytest.raises(SystemExit) as stopped:
        masks(*BOX)
    assert stopped.value.code == 130 and not Path("out/test_pairs.txt").exists()
    monkeypatch.setattr(make_masks, "_make", lambda person, *args: (made.append(person.id), write(person, *args)))
    masks(*BOX)
    assert made == list(NAMES) and list(samples(data())) == list(NAMES)


def test_a_failed_write_leaves_the_old_file(monkeypatch):
    masks(*BOX)
    before = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}

    def full(image, file, **options):
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(SystemExit) as stopped:
        masks("--box", "0,0,1,1", "--replace")
    assert stopped.value.code == 2
    left = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    assert left == {path: content for path, content in before.items() if path.name != "test_pairs.txt"}


def test_masks_that_were_made_otherwise_are_only_replaced_on_request(capsys):
    masks(*BOX)
    old = Path("out/test/agnostic-mask/anna_mask.png").read_bytes()
    assert "dilate 0 instead of 8" in refused(capsys, *BOX, "--dilate", "8")
    assert "anna_mask.png and 2 more: made from another photo, box" in refused(capsys, "--box", "0,0,1,1")
    draw_person(9)[0].save("photos/anna.png")
    assert re.search(r"anna_mask\.png: made from another photo", refused(capsys, *BOX))
    assert Path("out/test/agnostic-mask/anna_mask.png").read_bytes() == old and Path("out/test_pairs.txt").exists()
    masks(*BOX, "--replace")
    changed = np.zeros(SIZE, np.uint8)
    changed[:9] = 255
    Image.fromarray(changed).save("out/test/agnostic-mask/anna_mask.png")
    assert "changed by hand" in refused(capsys, *BOX)
    assert mask_of("anna").sum() == 9 * WIDTH
    masks(*BOX, "--dilate", "8", "--replace")
    assert record()["settings"]["dilate"] == 8 and {mask_of(name).sum() for name in NAMES} == {50 * 50}


def test_a_worn_mask_of_an_earlier_source_does_not_stay():
    parse, _ = write_parses(Path("labelled"))
    masks("--parse", parse, "--labels", "atr")
    assert len(list(Path("out/test/masks").iterdir())) == 3
    masks(*BOX, "--replace")
    assert not list(Path("out/test/masks").iterdir())


def test_the_fingerprint_changes_with_the_masks():
    masks(*BOX)
    masks("--box", "0.25,0.375,0.75,0.75", out="lower")  # of the same file size
    assert len({Path(out, "test/agnostic-mask/anna_mask.png").stat().st_size for out in ("out", "lower")}) == 1
    first = data().fingerprint()
    assert first != data(out="lower").fingerprint() and first == data(size=(64, 48)).fingerprint()
    shutil.copy("lower/test/agnostic-mask/anna_mask.png", "out/test/agnostic-mask/anna_mask.png")
    assert data().fingerprint() != first
    shutil.copytree("out", "foreign")
    for content in ("[1]", "{", '{"made_by": "me", "settings": {"from": "a hat"}, "photos": {}}'):  # another program's: not read
        Path("foreign/masks.json").write_text(content)
        assert data(out="foreign").describe()["masks"] == {"test": ["file"]}


def test_the_real_photos_are_dressed_and_undressed(shared_data):
    """The path of the tiny models; what they generate is judged elsewhere."""
    root = shared_data / "viton_hd_sample" / "test"
    masks("--box", "150,250,620,800", "--garments", root / "cloth", source=str(root / "image"))
    names = sorted(path.stem for path in (root / "image").iterdir())
    assert sorted(record()["photos"]) == names and len(Path("out/test_pairs.txt").read_text().splitlines()) == 25
    for name in names:
        check_paint(name)
        assert abs(mask_of(name).mean() - 470 * 550 / (768 * 1024)) < 1e-6
    place = ["--data.init_args.root", "out", "--data.init_args.size", "[128,96]"]
    main(["predict", "--config", "tiny/paste_garment", *place, "--data.init_args.pairing", "unpaired", "--out", "dressed"])
    main(["predict", "--config", "tiny/igr", *place, "--model.init_args.steps", "1", "--out", "undressed"])
    assert len(os.listdir("dressed")) == 25 and sorted(path.stem for path in Path("undressed").iterdir()) == names
    assert len({path.read_bytes() for path in Path("dressed").iterdir()}) == 25
