"""`fashiongen judge`: kept predictions and folders of other code on the real command line; bad ones end in one line."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image
from spoilt import TEST, Kind, check, cut

from fashiongen import weights_read
from fashiongen.benchmark.arrange import read
from fashiongen.cli import main
from fashiongen.records import Record

SSIM = {"ssim": {"class_path": "fashiongen.metrics.SSIM"}}
COLOUR = {"colour": {"class_path": "fashiongen.metrics.ColourError"}}
DATA = ["--data", "fashiongen.data.VITONHD", "--data.root", "viton", "--data.size", "[64, 48]", "--data.num_workers", "0"]
JUDGE = ["judge", "made", "--protocol", "p.yaml", *DATA, "--data.validation", "0", "--out", "judged.json"]


def protocol(name, metrics=SSIM, **settings):
    text = {"task": "vtoff", "protocol": name, "size": [64, 48], "resize": None, "reference": None, "metrics": metrics}
    Path(f"{name}.yaml").write_text(yaml.safe_dump({"evaluate": {**text, **settings}}))


@pytest.fixture
def made(world):
    """Images by other code for the two test people, and a protocol."""
    Path("made").mkdir()
    for index, name in enumerate(world.names):
        with Image.open(world.root / "test" / "image" / name) as photo:
            photo.convert("RGB").point(lambda value, index=index: value // (index + 2)).save(f"made/{Path(name).stem}.png")
    protocol("p")
    return world


def lost(world):
    return Path("made") / f"{world.stem}.png"


def resized(size):
    def change(world):
        for path in Path("made").iterdir():
            Image.open(path).resize(size).save(path)

    return change


KINDS = [
    Kind("no such folder", lambda w: shutil.rmtree("made"), JUDGE, r"^fashiongen: made: no such folder; judge takes a folder of images"),
    Kind("a file in the folder's place", lambda w: (shutil.rmtree("made"), Path("made").touch()), JUDGE, r"made: no such folder"),
    Kind(
        "an empty folder", lambda w: [path.unlink() for path in Path("made").iterdir()], JUDGE, r"made: holds no \.png, \.jpg, \.jpeg: give"
    ),
    Kind(
        "images in a folder below",
        lambda w: (Path("made").rename("below"), Path("made").mkdir(), Path("below").rename("made/upper_body")),
        JUDGE,
        r"made: holds no .*; there are some in made/upper_body: give",
    ),
    Kind("a truncated image", lambda w: cut(lost(w)), JUDGE, r"made/\w+\.png is truncated, damaged or not an image .* make it again"),
    Kind(
        "several damaged images",
        lambda w: [path.write_text("hello") for path in Path("made").iterdir()],
        JUDGE,
        r"made/\w+\.png is truncated, .* \(2 such files\): make",
    ),
    Kind(
        "no name of a sample",
        lambda w: [path.rename(path.with_name(f"out{index}.png")) for index, path in enumerate(sorted(Path("made").iterdir()))],
        JUDGE,
        r"no file of made is named after a sample .*: there is out0\.png, the test's first sample is \w+",
    ),
    Kind(
        "two files of a sample", lambda w: shutil.copy(lost(w), lost(w).with_suffix(".JPG")), JUDGE, r"2 files belong to the sample \w+: "
    ),
    Kind("a missing image", lambda w: lost(w).unlink(), JUDGE, r"made: 1 samples of the test have no prediction, .* add --allow-missing"),
    Kind("images of another size", resized((24, 32)), JUDGE, r"made: 2 of 2 images are not 64x48 .* but 32x24, .*; p states no resizing"),
    Kind("swapped sizes", resized((64, 48)), JUDGE, r"but 48x64 \(height and width are swapped\)"),
    Kind(
        "an unknown protocol", lambda w: None, [*JUDGE, "--protocol", "vtoff-lost"], r"--protocol vtoff-lost: no such file, .*did you mean"
    ),
    Kind("a protocol that is not there", lambda w: Path("p.yaml").unlink(), JUDGE, r"p\.yaml: no such file"),
    Kind(
        "a recipe in the protocol's place",
        lambda w: None,
        [*JUDGE, "--protocol", "crop.yaml"],
        r"--protocol crop\.yaml: has no evaluate\.metrics to judge by: give a protocol \(`fashiongen recipes` lists them\)",
    ),
    Kind(
        "a protocol of another task",
        lambda w: None,
        [*JUDGE, "--protocol", "strict"],
        r"evaluate\.task=retrieval, but the data are for vtoff",
    ),
    Kind("no data", lambda w: None, ["judge", "made", "--protocol", "p.yaml"], r"judge needs the data of the test: add --data CLASS"),
    Kind("data of another size", lambda w: None, [*JUDGE, "--data.size", "[32, 24]"], r"protocol p uses size \[64, 48\], but data"),
    Kind(
        "data whose root is missing",
        lambda w: shutil.rmtree("viton"),
        JUDGE,
        r"viton.*(no such folder|does not exist|is missing|no folder)",
    ),
    Kind("an unknown naming", lambda w: None, [*JUDGE, "--names", "person"], r"--names invalid choice: 'person'"),
    Kind("a record inside a file", lambda w: Path("a").touch(), [*JUDGE, "--out", "a/b.json"], r"evaluate\.out: cannot write a/b\.json"),
    Kind(
        "a damaged manifest",
        lambda w: Path("made/manifest.json").write_text("{"),
        JUDGE,
        r"made/manifest\.json: damaged .*; remove it to judge the images alone",
    ),
    Kind(
        "a manifest without its ids",
        lambda w: Path("made/manifest.json").write_text(json.dumps({"schema": 1, "kept": {"ids": 3}})),
        JUDGE,
        r"made/manifest\.json: ",
    ),
    Kind(
        "a folder to keep in that is taken", lambda w: None, [*TEST, "--evaluate.keep", "made"], r"evaluate\.keep: made holds other files"
    ),
    Kind(
        "a folder to keep in inside a file",
        lambda w: Path("a").touch(),
        [*TEST, "--evaluate.keep", "a/b"],
        r"evaluate\.keep: cannot write a/b",
    ),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_bad_folders(kind, made, capsys):
    check(kind, made, capsys)
    assert not Path("judged.json").exists()


def test_no_kind_is_lost():
    assert len({kind.name for kind in KINDS}) == len(KINDS) >= 23


def test_one_sampling_serves_several_protocols(made, monkeypatch, capsys):
    protocol("q", COLOUR)
    crop = ["test", "--config", "crop.yaml", "--data.init_args.num_workers", "0"]
    own = {}
    for name in "pq":
        main([*crop, "--config", f"{name}.yaml", "--evaluate.out", f"own-{name}.json", "--evaluate.keep", "kept"])
        own[name] = Record.read(f"own-{name}.json")
    monkeypatch.setattr("fashiongen.methods.baselines.MaskedCrop.take_off", lambda *_: pytest.fail("sampled"))
    for name, record in own.items():
        main(["judge", "kept", "--protocol", f"{name}.yaml", "--config", "crop.yaml", "--out", f"{name}.json"])
        again = Record.read(f"{name}.json")
        assert again.metrics == record.metrics and again.conditions == record.conditions
        assert (again.method, again.recipe, again.source["kind"]) == (record.method, "crop.yaml", "kept predictions")
    assert "kept: 2 of the 2 samples of viton_hd (test)" in capsys.readouterr().out
    assert not Path("lightning_logs").exists() and not Path("logs").exists()


def test_a_folder_of_other_code_is_judged_and_shown_apart(made):
    for path in sorted(Path("made").glob("*.png")):
        with Image.open(path) as image:
            image.save(path.with_name(f"{path.stem}_{path.stem}.JPG"), format="JPEG", quality=95)
        path.unlink()
    crop = ["test", "--config", "crop.yaml", "--config", "p.yaml", "--evaluate.out", "bench/nodes/own/record.json"]
    main(crop)
    main([*JUDGE, "--out", "bench/nodes/theirs/record.json", "--name", "theirs", "--seed", "3"])
    record = Record.read("bench/nodes/theirs/record.json")
    assert (record.method, record.seed, record.status, record.n_samples) == ("theirs", 3, "ok", 2)
    assert record.source["named_by"] == "person_garment" and record.source["lossy"] == 2
    assert "2 of 2 predictions are JPEG" in record.reason
    boards = read(Path("bench")).boards
    assert [(board.label, [row.name for row in board.rows]) for board in boards] == [
        ("vtoff on viton_hd", ["crop + p"]),
        ("vtoff on viton_hd, judged folders", ["theirs"]),
    ]
    assert boards[0].conditions == boards[1].conditions


def test_a_resizing_that_the_protocol_does_not_state_compares_with_nothing_of_it(made):
    main(JUDGE)
    as_stated = Record.read("judged.json")
    resized((24, 32))(made)
    main([*JUDGE, "--evaluate.resize", "stretch"])
    record = Record.read("judged.json")
    assert record.source["resized"] == 2 and "resized as the protocol states (stretch)" in record.reason
    assert record.conditions["protocol_settings"] != as_stated.conditions["protocol_settings"]


def test_an_incomplete_folder_compares_with_no_complete_one(made):
    whole, part = "bench/nodes/whole/record.json", "bench/nodes/part/record.json"
    main([*JUDGE, "--out", whole, "--name", "whole"])
    lost(made).unlink()
    main([*JUDGE, "--out", part, "--name", "part", "--allow-missing"])
    assert [len(board.rows) for board in read(Path("bench")).boards] == [1, 1]
    assert "missing" in Record.read(part).conditions and "missing" not in Record.read(whole).conditions


def test_tests_of_several_protocols_share_one_sampling(made, monkeypatch):
    """As those of a suite's row; other settings, data or files are sampled again."""
    from fashiongen.methods.baselines import MaskedCrop

    sampled, take_off = [], MaskedCrop.take_off
    monkeypatch.setattr(MaskedCrop, "take_off", lambda self, batch: sampled.append(len(batch)) or take_off(self, batch))
    protocol("q", COLOUR)
    crop = ["test", "--config", "crop.yaml", "--data.init_args.validation", "0"]

    def test(name, *args, reuse=("--evaluate.reuse", "shared")):
        before = sum(sampled)
        main([*crop, "--config", f"{name}.yaml", "--evaluate.out", f"{name}.json", *reuse, *args])
        return Record.read(f"{name}.json"), sum(sampled) - before

    alone, _ = test("q", reuse=())
    first, count = test("p")
    assert count == 2 and first.source == {} and first.predictions["path"].startswith("shared/")
    second, count = test("q")
    assert count == 0 and second.metrics == alone.metrics and second.conditions == alone.conditions
    assert (second.method, second.recipe, second.overlays) == ("masked_crop", "crop.yaml", ["q.yaml"])
    assert second.source["kind"] == "kept predictions" and second.source_sha256 == alone.source_sha256
    assert second.source["manifest"]["config_sha256"] == first.config_sha256 != second.config_sha256
    assert second.source["manifest"]["seed"] == 0 and second.source["manifest"]["source_sha256"] == first.source_sha256
    assert test("q", "--seed_everything", "1")[1] == 2
    (file,) = (path for path in Path(first.predictions["path"]).glob(f"{made.stem}.png"))
    Image.new("RGB", (48, 64)).save(file)  # it is not what was kept
    assert test("q")[1] == 2
    made.resave(lambda image: image.resize((96, 128)))
    assert test("q")[1] == 2


def test_whatever_decides_predictions_is_in_the_key_of_shared_ones(made, monkeypatch):
    """Each change alone gives another key; without one the key stays."""
    from fashiongen.cli import reuse

    keys, share = [], reuse.SharedPredictions
    monkeypatch.setattr(reuse, "SharedPredictions", lambda folder, key: keys.append(key) or share(folder, key))

    def key(*args):
        main(["test", "--config", "crop.yaml", "--config", "p.yaml", "--evaluate.reuse", "shared", "--evaluate.out", "p.json", *args])
        return keys[-1]

    start = key()
    assert key() == start
    changed = [key("--trainer.callbacks+", "lightning.pytorch.callbacks.RichModelSummary")]
    schedule = Path("scheduler_config.json")
    for text in ("one", "other"):  # a file without weights that a method has read, such as a schedule's
        schedule.write_text(text)
        with monkeypatch.context() as patch:
            patch.setattr(weights_read, "begin", lambda: [weights_read.Reading("schedule", {schedule: weights_read.stat_of(schedule)})])
            changed.append(key())
    for name, value in (("versions_of", {"transformers": "5"}), ("own_sources", {"mine": "edited"})):
        with monkeypatch.context() as patch:
            patch.setattr(reuse, name, lambda *_, value=value: value)
            changed.append(key())
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    changed.append(key("--seed_everything", "false"))
    assert len({start, *changed}) == 1 + len(changed) == 7
    assert "fashiongen.tasks.one_image" in reuse.code_of(reuse.tasks.find("vtoff")()).sources
