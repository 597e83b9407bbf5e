"""The contract of DataModules, on every registered dataset, rendered small."""

import importlib
import shutil
import subprocess
import sys

import pytest
from data_contract import DataContract, FolderContract
from PIL import Image

from fashiongen import data, wardrobe
from fashiongen.cli import main
from fashiongen.data.embedded import EMBEDDED
from fashiongen.errors import UserError

SIZE = (32, 24)
SETTINGS = {"size": SIZE, "batch_size": 4, "eval_batch_size": 3, "num_workers": 0, "seed": 5}
# Other tests import datasets from other packages.
OWN = {layout: cls for layout, cls in data.layouts().items() if cls.__module__.startswith("fashiongen.")}

ELSEWHERE = '''
import hashlib
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import Dataset

from fashiongen.batches import TryOffBatch
from fashiongen.data.check import Report
from fashiongen.data.folder import FolderData, splits_of
from fashiongen.data.images import read_image
from fashiongen.errors import UserError
from fashiongen.wardrobe import writes


@writes("shelf")
def write_shelf(root, people, size, seed):
    """Write images of one colour each."""
    for split in ("train", "test"):
        (Path(root) / split).mkdir(parents=True)
        for number in range(people):
            Image.new("RGB", size[::-1], (9 * number, seed, 200)).save(Path(root) / split / f"{number:03d}.jpg")
    return Path(root)


class Images(Dataset):
    def __init__(self, files, size):
        self.files, self.size = files, size

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        image = read_image(self.files[index], self.size)[None]
        return TryOffBatch(
            ids=[self.files[index].stem], person=image, mask=torch.ones_like(image[:, :1]).bool(), category=["upper"], garment=image
        )


class Shelf(FolderData):
    """A folder of shop images, each its own person."""

    layout = "shelf"
    markers = ("train", "test")
    task = "vtoff"

    def __init__(self, root, size=(32, 24), people=12, batch_size=4, **options):
        """Store the settings."""
        super().__init__(root, people=people, size=size, batch_size=batch_size, **options)

    def setup(self, stage=None):
        self.find_root()
        for split in splits_of(stage):
            files = sorted((self.root / ("train" if split == "train" else "test")).glob("*.jpg"))
            if not files:
                raise UserError(f"shelf: {self.root} holds no images")
            self.datasets[split] = Images(files, self.size)
        self.split = splits_of(stage)[0]
        self.offers = frozenset({"mask", "garment"})

    def train_dataloader(self):
        return self.training_loader(self.datasets["train"])

    def val_dataloader(self):
        return self.evaluation_loader(self.datasets["val"], block=1)

    def test_dataloader(self):
        return self.evaluation_loader(self.datasets["test"], block=self.eval_batch_size)

    predict_dataloader = test_dataloader

    def fingerprint(self):
        return hashlib.sha256(b"".join(path.read_bytes() for path in self.datasets[self.split].files)).hexdigest()

    @classmethod
    def check(cls, root):
        return Report(cls.layout, str(root), usable=any(Path(root).glob("test/*.jpg")))
'''


@pytest.fixture(scope="module", params=list(OWN))
def world(request, tmp_path_factory):
    """A dataset, and the smallest world that its writer supports."""
    write = wardrobe.writers()[request.param]
    for people in (20, 40, 60, 200):
        try:
            root = write(tmp_path_factory.mktemp("world") / request.param, people=people, size=SIZE, seed=0, workers=1)
        except UserError:  # it has to fill every split
            continue
        return OWN[request.param], root
    raise AssertionError(f"{request.param}: 200 people are not enough for its writer")


class TestLayouts(FolderContract):
    """Every layout of the package."""

    @pytest.fixture
    def make(self, world):
        cls, root = world
        # A small share, if training samples are held out.
        small = {"validation": 3} if hasattr(cls(str(root), **SETTINGS), "validation") else {}
        return lambda **options: cls(**{"root": str(root), **SETTINGS, **small, **options})

    @pytest.fixture
    def changeable(self, world, tmp_path):
        return shutil.copytree(world[1], tmp_path / "copy")


class TestPhotos(DataContract):
    """A folder of photos, for prediction only."""

    @pytest.fixture
    def make(self, tmp_path):
        for number in range(5):
            Image.new("RGB", (40, 60), (40 * number, 0, 0)).save(tmp_path / f"{number}.jpg")
        lines = [f"{number}.jpg,10,10,30,40,upper" for number in range(5)]
        (tmp_path / "boxes.csv").write_text("\n".join(["name,left,top,right,bottom,category", *lines]))
        return lambda **options: data.Photos(str(tmp_path), **{"size": SIZE, "eval_batch_size": 2, **options})


class TestElsewhere(FolderContract):
    """A dataset in an external package, without changes to fashiongen."""

    @pytest.fixture(scope="class")
    def shelf(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("outside")
        (folder / "shelf_data.py").write_text(ELSEWHERE)
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(folder)
            module = importlib.import_module("shelf_data")
        main(["wardrobe", "render", "shelf", str(folder / "shelf"), "--people", "12", "--size", "32x24"])
        return module.Shelf, folder / "shelf"

    @pytest.fixture
    def make(self, shelf):
        return lambda **options: shelf[0](**{"root": str(shelf[1]), **SETTINGS, **options})

    @pytest.fixture
    def changeable(self, shelf, tmp_path):
        return shutil.copytree(shelf[1], tmp_path / "copy")

    def test_the_command_line_and_the_wardrobe_know_it(self, shelf, capsys):
        assert data.layouts()["shelf"] is shelf[0]
        main(["data", "check", "shelf", str(shelf[1]), "--strict"])
        assert capsys.readouterr().out.endswith(": usable\n")
        embedded = shelf[0](EMBEDDED, people=5)
        embedded.setup("test")
        assert embedded.embedded and len(embedded.datasets["test"]) == 5


def test_a_process_that_has_not_imported_it_finds_it_by_its_class(tmp_path):
    (tmp_path / "shelf_in_a_shell.py").write_text(ELSEWHERE.replace("shelf", "shelf_in_a_shell"))
    for command, last in (("wardrobe render {} world --people 12 --size 32x24", ""), ("data check {} world --strict", ": usable")):
        arguments = command.format("shelf_in_a_shell.Shelf").split()
        done = subprocess.run([sys.executable, "-m", "fashiongen", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and done.stdout.rstrip().endswith(last), done.stderr


@pytest.mark.parametrize("layout", ["nowhere.Shelf", "pathlib.Path", "fashiongen.data.base.FashionData"])
def test_a_class_that_is_no_dataset_is_refused(layout, capsys, tmp_path):
    for command in (["data", "check", layout, str(tmp_path)], ["wardrobe", "render", layout, str(tmp_path / "new")]):
        with pytest.raises(SystemExit) as stop:
            main(command)
        assert stop.value.code == 2 and f"layout {layout}" in capsys.readouterr().err


def test_every_layout_is_read_written_and_named_after_its_class():
    assert OWN.keys() <= wardrobe.writers().keys() and len(OWN) >= 6
    for layout, cls in OWN.items():
        assert cls.layout == layout and getattr(data, cls.__name__) is cls and cls.__doc__
        assert cls(EMBEDDED).root.name.startswith(f"{layout}-world")
    with pytest.raises(AttributeError, match="has no attribute 'Nonsense'"):
        data.Nonsense  # noqa: B018  the access is what is tested
