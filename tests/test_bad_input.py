"""Bad input of every kind ends in one line and exit status 2, or is used rightly: the list `KINDS` says which.

Everything goes through the command line, on a rendered folder in VITON-HD's layout that is spoilt in one place.
"""

import builtins
import errno
import io
import json
import os
import pickle
import re
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import diffusers  # noqa: F401  here, since its log handler keeps the stderr of the moment of its import: a test's would be closed
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from fashiongen.checkpoints import tiny_weights
from fashiongen.cli import main
from fashiongen.methods.baselines import MaskedCrop
from fashiongen.wardrobe import write_viton_hd

RECIPES = Path(__file__).parents[1] / "recipes"
PREDICT = ["predict", "--config", "crop.yaml", "--out", "out"]
TEST = ["test", "--config", "crop.yaml", "--evaluate.out", "record.json"]
FIT = ["fit", "--config", "crop.yaml"]
IGR = ["predict", "--config", "igr.yaml", "--out", "out"]
TRAIN = ["fit", "--config", "mean.yaml"]


class World:
    """The folder `viton` in the current folder, two people in training and two in the test, and how to spoil it."""

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
        """Replace an image, the person's unless told, without loss and under its old name."""
        path = path or self.person
        with Image.open(path) as image:
            changed = change(image.copy())
        changed.save(path, **{"format": "PNG", **options})

    def write_pairs(self, *lines, encoding="utf-8", end="\n"):
        self.pairs.write_bytes("".join(line + end for line in lines).encode(encoding))

    def lines(self):
        return [f"{name} {name}" for name in self.names]

    def rename(self, name):
        """Call the first person otherwise, in all its files."""
        for path in [path for path in (self.root / "test").rglob(f"{self.stem}*") if path.is_file()]:
            path.rename(path.with_name(path.name.replace(self.stem, name)))
        self.write_pairs(f"{name}.jpg {name}.jpg", *self.lines()[1:])

    def weights(self, part="sd"):
        """A copy of the shipped tiny weights, to spoil."""
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
        """Refuse to open or list anything in a folder, also to the superuser."""

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
    """What an attacker puts in a pickle."""

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
    """The images are those of the folder before it was spoilt, up to a mean difference in grey levels."""

    def check(world):
        images = world.images()
        assert images.keys() == world.baseline.keys()
        for name, image in images.items():
            assert np.abs(image - world.baseline[name]).mean() <= most, name

    return check


def others_same(what: Callable[[np.ndarray], bool]) -> Callable[[World], None]:
    """The spoilt sample's image is as `what` says, the others are what they were."""

    def check(world):
        images = world.images()
        assert images.keys() == world.baseline.keys()
        for name, image in images.items():
            assert what(image) if name == f"{world.stem}.png" else np.array_equal(image, world.baseline[name]), name

    return check


def whole_photo(world):
    """The spoilt sample's crop is its whole photo, the others are what they were."""
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
    """A kind of bad input: its name, how the input is spoilt, the command, and what must happen.

    That is a regular expression that the one line on standard error matches, or, where the input is used rightly, a check of the result.
    """

    name: str
    spoil: Callable[[World], object]
    command: list[str]
    then: str | Callable[[World], None]


KINDS = [
    # Images
    Kind("a truncated JPEG", lambda w: cut(w.person), PREDICT, r"image/\w+\.jpg is cut off, damaged or no image"),
    Kind("a text file named .jpg", lambda w: w.person.write_text("hello"), PREDICT, r"image/\w+\.jpg is cut off, damaged or no image"),
    Kind("an image of zero bytes", lambda w: w.person.write_bytes(b""), PREDICT, r"image/\w+\.jpg is cut off, damaged or no image"),
    Kind("a folder in an image's place", lambda w: (w.person.unlink(), w.person.mkdir()), PREDICT, r"image/\w+\.jpg is .*[Dd]irectory"),
    Kind(
        "a decompression bomb", lambda w: w.person.write_bytes(png_that_claims(60000, 60000)), PREDICT, r"image/\w+\.jpg .*3600000000 pix"
    ),
    Kind("a PNG named .jpg", lambda w: w.resave(), PREDICT, same()),
    Kind("a CMYK JPEG", lambda w: w.resave(lambda p: p.convert("CMYK"), format="JPEG", quality=100), PREDICT, same(8)),
    Kind("a palette image", lambda w: w.resave(lambda p: p.quantize(256)), PREDICT, same(4)),
    Kind("a grey image", lambda w: w.resave(lambda p: p.convert("L")), PREDICT, others_same(lambda p: np.ptp(p, axis=2).max() == 0)),
    Kind(
        "a 16-bit grey image",
        lambda w: w.resave(lambda p: Image.fromarray(np.asarray(p.convert("L")).astype(np.uint16) * 257)),
        PREDICT,
        others_same(lambda p: np.ptp(p, axis=2).max() == 0 and 60 < p.mean() < 250 and p.std() > 10),
    ),
    Kind(
        "a transparent image",
        lambda w: w.resave(lambda p: Image.new("RGBA", p.size, (0, 0, 0, 0))),
        PREDICT,
        others_same(lambda p: bool((p == 255).all())),
    ),
    Kind(
        "an animated GIF",
        lambda w: w.resave(lambda p: p.quantize(256), format="GIF", save_all=True, append_images=[Image.new("RGB", (48, 64), "red")]),
        PREDICT,
        same(4),
    ),
    Kind("an animated PNG", lambda w: w.resave(save_all=True, append_images=[Image.new("RGB", (48, 64), "red")]), PREDICT, same()),
    Kind("a photo that EXIF turns", on_its_side, PREDICT, same()),
    Kind("a person of another size than its mask", lambda w: w.resave(lambda p: p.resize((144, 192), 0)), PREDICT, same(10)),
    Kind("a truncated mask", lambda w: cut(w.mask), PREDICT, r"agnostic-mask/\w+_mask\.png is cut off"),
    Kind("a mask all black", lambda w: w.resave(lambda m: m.point(lambda _: 0), w.mask), PREDICT, r"sample \w+: \S+ marks nothing"),
    Kind("a mask all white", lambda w: w.resave(lambda m: m.point(lambda _: 255), w.mask), PREDICT, whole_photo),
    Kind("a mask with grey levels", lambda w: w.resave(lambda m: m.point(lambda v: 140 if v else 90), w.mask), PREDICT, same()),
    Kind(
        "a 16-bit mask with grey levels",
        lambda w: w.resave(lambda m: Image.fromarray(np.where(np.asarray(m) > 0, 40000, 20000).astype(np.uint16)), w.mask),
        PREDICT,
        same(),
    ),
    Kind("labels outside of the palette", lambda w: w.resave(lambda p: p.point(lambda v: v + 200), w.parse), PREDICT, same()),
    Kind(
        "labels in colour",
        lambda w: w.resave(lambda p: p.convert("RGB"), w.parse),
        PREDICT,
        r"parse-v3/\w+\.png: label maps hold one index",
    ),
    # Missing files
    Kind("a missing person", lambda w: w.person.unlink(), PREDICT, r"lack their person, first \S*image/\w+\.jpg"),
    Kind("a missing garment", lambda w: w.garment.unlink(), TEST, r"lack their garment, first \S*cloth/\w+\.jpg"),
    Kind("a missing mask", lambda w: w.mask.unlink(), PREDICT, r"lack their mask, first \S*agnostic-mask/\w+_mask\.png"),
    Kind("a missing parse", lambda w: w.parse.unlink(), PREDICT, r"lack their parse, first \S*image-parse-v3/\w+\.png"),
    Kind("missing key points", lambda w: w.pose.unlink(), PREDICT, r"lack their pose, first \S*openpose_json/\w+_keypoints\.json"),
    Kind(
        "no garments to judge by", lambda w: shutil.rmtree(w.garment.parent), TEST, r"vtoff is judged by the true garment.* use `predict`"
    ),
    # Key points
    Kind("key points of nobody", lambda w: w.pose.write_text('{"people": []}'), PREDICT, same()),
    Kind("key points that are no JSON", lambda w: cut(w.pose), PREDICT, r"_keypoints\.json: no OpenPose file"),
    Kind(
        "key points that are no numbers",
        lambda w: w.pose.write_text(re.sub(r"\[[\d.]+,", "[NaN,", w.pose.read_text())),
        PREDICT,
        r"_keypoints\.json: no OpenPose file",
    ),
    Kind(
        "key points of another skeleton",
        lambda w: w.pose.write_text(json.dumps({"people": [{"pose_keypoints_2d": [0.0] * 54}]})),
        PREDICT,
        r"_keypoints\.json: no OpenPose file .* 25 points",
    ),
    # Pair files
    Kind("blank lines", lambda w: w.write_pairs("", w.lines()[0], "", "  ", w.lines()[1], ""), PREDICT, same()),
    Kind("Windows line ends", lambda w: w.write_pairs(*w.lines(), end="\r\n"), PREDICT, same()),
    Kind("a byte order mark", lambda w: w.write_pairs(*w.lines(), encoding="utf-8-sig"), PREDICT, same()),
    Kind("tabs", lambda w: w.write_pairs(*(line.replace(" ", "\t") for line in w.lines())), PREDICT, same()),
    Kind("no line end at the end", lambda w: w.pairs.write_text(w.pairs.read_text().strip()), PREDICT, same()),
    Kind("one column", lambda w: w.write_pairs(*w.names), PREDICT, r"test_pairs\.txt, line 1: has 1 columns"),
    Kind("a trailing comment", lambda w: w.write_pairs(*w.lines(), "# the end of it"), PREDICT, r"test_pairs\.txt, line 3: has 5 columns"),
    Kind("a path that climbs", lambda w: w.write_pairs("../../a.jpg b.jpg"), PREDICT, r"test_pairs\.txt, line 1: '../../a\.jpg' leads out"),
    Kind("an absolute path", lambda w: w.write_pairs("/etc/passwd b.jpg"), PREDICT, r"test_pairs\.txt, line 1: '/etc/passwd' leads out"),
    Kind("a path of Windows", lambda w: w.write_pairs("..\\a.jpg b.jpg"), PREDICT, r"test_pairs\.txt, line 1: .* leads out"),
    Kind(
        "a backslash in a name", lambda w: w.write_pairs("sub\\a.jpg b.jpg", *w.lines()), PREDICT, r"lack their person, first .*sub\\a\.jpg"
    ),
    Kind("a person listed twice", lambda w: w.write_pairs(*w.lines(), w.lines()[0]), PREDICT, r"test_pairs\.txt: .* listed more than once"),
    Kind("a name without a file", lambda w: w.write_pairs("x.jpg x.jpg", *w.lines()), PREDICT, r"1 of 3 samples .* first .*image/x\.jpg"),
    Kind(
        "names without any file", lambda w: w.write_pairs("x.jpg x.jpg"), PREDICT, r"test/image is missing or holds none of the people of"
    ),
    Kind("a name that is not ASCII", lambda w: w.rename("größe_人"), PREDICT, renamed("größe_人")),
    Kind("a name that begins with a dot", lambda w: w.rename(".hidden"), PREDICT, r"'\.hidden' cannot be a file name"),
    Kind(
        "names that are not UTF-8",
        lambda w: w.write_pairs("größe.jpg größe.jpg", encoding="latin-1"),
        PREDICT,
        r"test_pairs\.txt cannot be",
    ),
    Kind("a pair file in UTF-16", lambda w: w.write_pairs(*w.lines(), encoding="utf-16"), PREDICT, r"test_pairs\.txt cannot be read"),
    Kind("an empty split", lambda w: w.pairs.write_text(""), PREDICT, r"test_pairs\.txt: no sample is listed there"),
    Kind("a missing pair file", lambda w: w.pairs.unlink(), PREDICT, r"test_pairs\.txt is missing"),
    # Folders
    Kind(
        "a root that is missing", lambda w: shutil.rmtree(w.root), PREDICT, r"viton/test_pairs\.txt is missing: data\.root must be a folder"
    ),
    Kind("a root that is a file", lambda w: (shutil.rmtree(w.root), w.root.write_text("")), PREDICT, r"data\.root must be a folder"),
    Kind("a root that may not be read", lambda w: w.deny(w.root), PREDICT, r"viton/test_pairs\.txt.*Permission denied"),
    Kind("a person that may not be read", lambda w: w.deny(w.person), PREDICT, r"image/\w+\.jpg .*Permission denied"),
    Kind("too small a training set", lambda w: None, [*TRAIN, "--data.init_args.batch_size=9"], r"do not fill one step of 1 x 9"),
    # Weights
    Kind(
        "weights of another shape",
        lambda w: w.change_weights(w.weights() / "unet", lambda s: s.update({"conv_in.weight": torch.zeros(3, 5)})),
        [*IGR, "--model.init_args.pretrained=./weights"],
        r"weights/unet: .*conv_in\.weight .*3, 5",
    ),
    Kind(
        "weights with a key too few",
        lambda w: w.change_weights(w.weights() / "vae", lambda s: s.pop("decoder.conv_in.weight")),
        [*IGR, "--model.init_args.pretrained=./weights"],
        r"weights/vae: lacks weights of a AutoencoderKL: decoder\.conv_in\.weight",
    ),
    Kind(
        "weights with a key too many",
        lambda w: w.change_weights(w.weights() / "text_encoder", lambda s: s.update({"surplus": torch.zeros(1)})),
        [*IGR, "--model.init_args.pretrained=./weights"],
        r"weights/text_encoder: has weights that are none of a CLIPTextModel: surplus",
    ),
    Kind(
        "weights that are cut off",
        lambda w: cut(w.weights() / "unet" / "diffusion_pytorch_model.safetensors"),
        [*IGR, "--model.init_args.pretrained=./weights"],
        r"weights/unet: cannot load a UNet2DConditionModel from there",
    ),
    Kind(
        "weights that are text",
        lambda w: (w.weights("clip") / "model.safetensors").write_text("hello"),
        [*IGR, "--model.init_args.image_encoder=./weights"],
        r"weights: cannot load a CLIPVisionModelWithProjection from there",
    ),
    Kind(
        "weights as a pickle alone",
        lambda w: (w.weights() / "unet" / "diffusion_pytorch_model.safetensors").rename("weights/unet/diffusion_pytorch_model.bin"),
        [*IGR, "--model.init_args.pretrained=./weights"],
        r"weights/unet: cannot load a UNet2DConditionModel from there \(.*safetensors",
    ),
    Kind(
        "weights of another architecture",
        lambda w: shutil.copytree(w.weights() / "vae", "weights/unet", dirs_exist_ok=True),
        [*IGR, "--model.init_args.pretrained=./weights"],
        r"weights/unet: ",
    ),
    Kind(
        "a folder without its unet",
        lambda w: shutil.rmtree(w.weights() / "unet"),
        [*IGR, "--model.init_args.pretrained=./weights"],
        r"weights/unet: cannot load a UNet2DConditionModel from there",
    ),
    Kind(
        "a folder without its tokenizer",
        lambda w: shutil.rmtree(w.weights() / "tokenizer"),
        [*IGR, "--model.init_args.pretrained=./weights"],
        r"weights/tokenizer: cannot load a CLIPTokenizer from there",
    ),
    Kind(
        "a folder without model_index.json",
        lambda w: (w.weights() / "model_index.json").unlink(),
        [*IGR, "--model.init_args.pretrained=./weights"],
        made(2),
    ),
    Kind(
        "a config that is no JSON",
        lambda w: cut(w.weights() / "unet" / "config.json"),
        [*IGR, "--model.init_args.pretrained=./weights"],
        r"weights/unet: cannot load a UNet2DConditionModel from there \(.*config",
    ),
    Kind(
        "a config of nonsense",
        lambda w: w.change_config(w.weights("clip") / "config.json", vision_config={"hidden_size": "wide"}),
        [*IGR, "--model.init_args.image_encoder=./weights"],
        r"weights: cannot load a CLIPVisionModelWithProjection from there",
    ),
    Kind(
        "a model that predicts something else",
        lambda w: w.change_config(w.weights() / "scheduler" / "scheduler_config.json", prediction_type="v_prediction"),
        [*IGR, "--model.init_args.pretrained=./weights"],
        r"predicts v_prediction, but IGR's eq\. 1 wants epsilon",
    ),
    Kind(
        "a folder of weights that is not there",
        lambda w: None,
        [*IGR, "--model.init_args.pretrained=./nowhere"],
        r"pretrained: \./nowhere: no such folder",
    ),
    Kind(
        "an image prompt whose pickle would run code",
        lambda w: Path("ip.bin").write_bytes(pickle.dumps(Bomb())),
        [*IGR, "--model.init_args.ip_adapter=./ip.bin"],
        r"ip\.bin: not a weights file that can be read safely",
    ),
    Kind(
        "an image prompt of another model",
        lambda w: torch.save({"image_proj": {"proj.weight": torch.zeros(3, 5)}, "ip_adapter": {}}, "ip.bin"),
        [*IGR, "--model.init_args.ip_adapter=./ip.bin"],
        r"ip\.bin does not fit .*missing: .*of another shape: image_proj\.proj\.weight \(3, 5\)",
    ),
    Kind(
        "an image prompt that is a list",
        lambda w: torch.save([1, 2], "ip.bin"),
        [*IGR, "--model.init_args.ip_adapter=./ip.bin"],
        r"no state dict",
    ),
    # Checkpoints
    Kind(
        "a checkpoint of another method",
        lambda w: main(TRAIN),
        [*IGR, "--ckpt_path=checkpoints/last.ckpt"],
        r"the checkpoint does not fit IGR: missing: network.*left over: total, count",
    ),
    Kind("a checkpoint that is not there", lambda w: None, [*PREDICT, "--ckpt_path=lost.ckpt"], r"lost\.ckpt: no such file"),
    Kind(
        "a checkpoint that is text", lambda w: None, [*PREDICT, "--ckpt_path=crop.yaml"], r"crop\.yaml: not a checkpoint, or a damaged one"
    ),
    Kind(
        "a checkpoint that is cut off",
        lambda w: (main(TRAIN), cut(Path("checkpoints/last.ckpt"))),
        [*PREDICT, "--ckpt_path=checkpoints/last.ckpt"],
        r"last\.ckpt: not a checkpoint, or a damaged one",
    ),
    Kind(
        "a checkpoint whose pickle would run code",
        lambda w: torch.save({"state_dict": {}, "bomb": Bomb()}, "bomb.ckpt"),
        [*PREDICT, "--ckpt_path=bomb.ckpt"],
        r"pickled objects that could run code",
    ),
    Kind(
        "a checkpoint of weights alone",
        lambda w: torch.save({"a": torch.zeros(1)}, "a.ckpt"),
        [*PREDICT, "--ckpt_path=a.ckpt"],
        r"--ckpt_path: a torch file, but none",
    ),
    Kind(
        "a DeepSpeed folder",
        lambda w: Path("zero.ckpt").mkdir(),
        [*PREDICT, "--ckpt_path=zero.ckpt"],
        r"zero\.ckpt is a DeepSpeed.*--trust",
    ),
    Kind(
        "a parent that is not there",
        lambda w: overlay(parents={"coarse": "igr"}),
        [*FIT, "--config", "overlay.yaml"],
        r"needs the checkpoint of its parent igr: add --parents\.coarse PATH",
    ),
    # Recipes
    Kind(
        "a misspelt key",
        lambda w: overlay(data={"init_args": {"batchsize": 3}}),
        [*FIT, "--config", "overlay.yaml"],
        r"overlay\.yaml: unknown key 'batchsize'",
    ),
    Kind(
        "a value of the wrong type",
        lambda w: overlay(trainer={"max_steps": "many"}),
        [*FIT, "--config", "overlay.yaml"],
        r"overlay\.yaml: .*max_steps.*many",
    ),
    Kind(
        "an unknown class",
        lambda w: overlay(model={"class_path": "fashiongen.methods.igr.IGGR"}),
        [*FIT, "--config", "overlay.yaml"],
        r"overlay\.yaml: .*IGGR",
    ),
    Kind(
        "malformed YAML",
        lambda w: Path("bad.yaml").write_text("a: [b\nc: d: e"),
        [*FIT, "--config=bad.yaml"],
        r"bad\.yaml is not valid YAML",
    ),
    Kind("a recipe that is not there", lambda w: None, ["fit", "--config", "lost.yaml"], r"lost\.yaml: no such file"),
    Kind("a recipe that is a folder", lambda w: None, ["fit", "--config", "viton"], r"viton"),
    Kind(
        "a recipe that is a list",
        lambda w: Path("bad.yaml").write_text("- a\n- b\n"),
        ["fit", "--config", "bad.yaml"],
        r"bad\.yaml: holds no keys",
    ),
    Kind(
        "a recipe that is not UTF-8",
        lambda w: Path("bad.yaml").write_bytes(b"a: \xff\n"),
        ["test", "--config", "bad.yaml"],
        r"bad\.yaml: not a text in UTF-8",
    ),
    Kind("an empty recipe", lambda w: Path("bad.yaml").write_text(""), ["fit", "--config", "bad.yaml"], r"bad\.yaml: holds no keys"),
    Kind("no recipe at all", lambda w: None, ["fit"], r"fit needs a recipe: `fashiongen fit --config recipes/NAME\.yaml`"),
    Kind("an unknown task", lambda w: None, [*TEST, "--evaluate.task=vtof"], r"evaluate\.task=vtof: unknown task; choose one of .*vtoff"),
    Kind(
        "a task that the method cannot do",
        lambda w: w.monkeypatch.setattr(MaskedCrop, "take_off", None),
        TEST,
        r"evaluate\.task=vtoff: MaskedCrop cannot do it; it can do: no task",
    ),
    Kind(
        "an unknown protocol",
        lambda w: Path("crop.yaml").write_text(Path("crop.yaml").read_text() + "evaluate: {protocol: vtoff-lost}\n"),
        TEST,
        r"crop\.yaml: evaluate\.protocol: vtoff-lost: there is no .*tasks/vtoff-lost\.yaml",
    ),
    Kind("a size of nothing", lambda w: None, [*PREDICT, "--data.init_args.size=[0, 48]"], r"size.* must be at least 1"),
    Kind("an unknown layout", lambda w: None, ["wardrobe", "render", "viton_h", "x"], r"no layout 'viton_h'; it writes: .*viton_hd"),
    # Results
    Kind("a folder for images inside a file", lambda w: Path("out").write_text(""), [*PREDICT[:-1], "out/here"], r"cannot make the folder"),
    Kind("a file in the place of the images", lambda w: Path("out").write_text(""), PREDICT, r"cannot make the folder out"),
    Kind(
        "a record inside a file",
        lambda w: Path("a").write_text(""),
        [*TEST[:-1], "a/record.json"],
        r"evaluate\.out: cannot write a/record\.json: (File exists|Not a directory); choose another --evaluate\.out",
    ),
]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """The folder, and what the commands make of it before it is spoilt."""
    folder = tmp_path_factory.mktemp("rendered")
    write_viton_hd(folder / "viton", people=4, size=(64, 48), seed=0, test_fraction=0.5, workers=1)
    data = {"class_path": "fashiongen.data.VITONHD"}
    data["init_args"] = {"root": "viton", "size": [64, 48], "batch_size": 2, "num_workers": 0, "validation": 0}
    trainer = {"accelerator": "cpu", "logger": False, "max_epochs": 1, "enable_model_summary": False, "enable_checkpointing": False}
    crop = {"model": {"class_path": "fashiongen.methods.baselines.MaskedCrop"}, "data": data, "trainer": trainer}
    (folder / "crop.yaml").write_text(yaml.safe_dump(crop))
    igr = {"class_path": "fashiongen.methods.igr.IGR", "init_args": {"steps": 1}}
    (folder / "igr.yaml").write_text(yaml.safe_dump({**crop, "model": igr}))
    mean = {"class_path": "fashiongen.methods.baselines.MeanGarment", "init_args": {"size": [64, 48]}}
    keep = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"dirpath": "checkpoints", "save_last": True}}
    keep["init_args"] |= {"save_top_k": 0, "enable_version_counter": False}
    trainer = {**trainer, "enable_checkpointing": True, "callbacks": [keep]}
    (folder / "mean.yaml").write_text(yaml.safe_dump({**crop, "model": mean, "trainer": trainer}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(PREDICT)
        baseline = World(patch, {}).images()
    shutil.rmtree(folder / "out")
    return folder, baseline


@pytest.fixture
def world(rendered, tmp_path, monkeypatch):
    """A copy of the folder, in the current folder."""
    folder, baseline = rendered
    shutil.copytree(folder, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return World(monkeypatch, baseline)


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


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_bad_input(kind, world, capsys):
    kind.spoil(world)
    if callable(kind.then):
        main(kind.command)
        kind.then(world)
    else:
        line = complaint(capsys, kind.command)
        assert re.search(kind.then, line), line
        assert not Path("out").is_dir() or not any(Path("out").glob("*.part"))
    assert not Path("exploded").exists()


def test_there_are_fifty_kinds():
    assert len({kind.name for kind in KINDS}) == len(KINDS) >= 50


def full_disk(path):
    """Have the very next write of `path` meet a full disk: its temporary file is the kernel's own full device."""
    path.with_name(f".{path.name}.{os.getpid()}.part").symlink_to("/dev/full")


def test_a_full_disk_loses_no_image(world, capsys):
    """One that was there before stays as it was."""
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


def test_an_interruption_is_told_apart(world, capsys):
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
