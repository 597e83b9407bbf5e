"""Dress Code (Morelli et al., ECCV 2022): upper-body clothes, lower-body clothes and dresses, one person and one shop image per sample.

    ROOT/train_pairs.txt  test_pairs_paired.txt  test_pairs_unpaired.txt    person, garment, category (0 upper, 1 lower, 2 dresses)
    ROOT/{upper_body,lower_body,dresses}/
        train_pairs.txt  test_pairs_paired.txt  test_pairs_unpaired.txt     person, garment
        images/013563_0.jpg          the person
               013563_1.jpg          the shop image
        keypoints/013563_2.json      18 keypoints, in a frame of 384 x 512 whatever the image's size
        label_maps/013563_4.png      ATR labels
        skeletons/013563_5.jpg  dense/013563_5.png  dense/013563_5_uv.npz   (not read)
        masks/013563_1.png           the shop image's background, white, added by LaDI-VTON
        agnostic_masks/013563_0.png  white where the garment may be, made by CatVTON for test people
        images-unpaired/013563_0.jpg the person in the garment of test_pairs_unpaired.txt; only the embedded wardrobe can have it

Columns are separated by tabs or spaces. A pair file in the root may lack its third column, and either kind of pair file may be missing.
The dataset itself has no agnostic masks: they are derived from labels and keypoints.
"""

import json
from collections import Counter, defaultdict
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fashiongen.data import masks
from fashiongen.data.images import Size, read_labels, read_mask
from fashiongen.data.listing import Listing, NotListed, TryOnRow, find, lists_nobody, read_pairs
from fashiongen.data.tryon import TryOnData
from fashiongen.data.tryon_dataset import TryOnDataset
from fashiongen.errors import UserError

KEYPOINTS = 18
# The frame of the keypoints, also used to derive masks: height and width.
FRAME: Size = (512, 384)

# The folders, in the order of the numbers in the root's pair file, and our names of the categories.
CATEGORIES = {"upper_body": "upper", "lower_body": "lower", "dresses": "full"}
PAIR_FILES = {"train": ("train_pairs.txt",), "test": ("test_pairs_paired.txt", "test_pairs_unpaired.txt")}

# For each part the folders, and the suffixes after the number shared by all files of a person; "" is the name in the pair file.
PLACES: dict[str, tuple[tuple[str, str], ...]] = {
    "person": (("images", ""),),
    "garment_mask": (("masks", "_1.png"),),
    "dressed": (("images-unpaired", ""),),
    "mask": (("agnostic_masks", "_0.png"), ("agnostic-masks", "_0.png"), ("agnostic_mask", "_0.png"), ("agnostic-mask", "_0.png")),
    "parse": (("label_maps", "_4.png"),),
    "pose": (("keypoints", "_2.json"),),
}
# The same for the garment of an unpaired test, whose name is in the pair file.
PLACES_OF_OTHERS: dict[str, tuple[tuple[str, str], ...]] = {"other": PLACES["person"], "other_mask": (("masks", ".png"),)}


class _Pair(NamedTuple):
    folder: str
    person: str
    garment: str


class DressCodeDataset(TryOnDataset):
    """Samples as batches of one, at one size."""

    palette: ClassVar[str] = "atr"

    def read_pose(self, path: Path, source: Size, size: Size) -> Tensor:
        """Read 18 keypoints."""
        return read_keypoints(path, size)

    def read_garment_mask(self, path: Path) -> Tensor:
        """Read the foreground: everything not white."""
        return ~read_mask(path, self.size)

    def make_mask(self, row: TryOnRow, source: Size) -> NDArray[np.bool_]:
        """Derive the mask from labels and keypoints, as in LaDI-VTON."""
        if row.parse is None or row.pose is None or row.category is None:
            return super().make_mask(row, source)
        return masks.from_atr_and_points(read_labels(row.parse, FRAME).numpy(), read_keypoints(row.pose, FRAME).numpy(), row.category)


class DressCode(TryOnData):
    """Dress Code, paired in training and test.

    A sample's id is its folder and the stem of its person image, such as `upper_body_013563_0`, since a person can be in several folders.
    A part that one category's folder lacks is omitted from all batches, since they mix categories; masks are derived from what each has.

    The tree written by TryOffDiff's script (`{train,test}/{image,cloth}/`, like VITON-HD's) is not supported: it has only people and shop
    images, nothing to derive masks from, and the pair files it should have are never written. Use the downloaded folder.
    """

    layout: ClassVar[str] = "dress_code"
    markers: ClassVar[tuple[str, ...]] = (*PAIR_FILES["train"], *PAIR_FILES["test"], *CATEGORIES)
    dataset_class: ClassVar[type[TryOnDataset]] = DressCodeDataset

    def __init__(
        self,
        root: str,
        *,
        categories: tuple[str, ...] = ("upper_body", "lower_body", "dresses"),
        **options: Any,  # noqa: ANN401  TryOnData's own
    ) -> None:
        """Store the settings; nothing is read before `setup`.

        Args:
            root: the dataset's folder or its parent, or `wardrobe` for the embedded world, rendered on first use.
            categories: which of upper_body, lower_body and dresses.
            options: options of every try-on dataset.
        """
        super().__init__(root, **options)
        if not categories or (unknown := set(categories) - set(CATEGORIES)):
            wrong = f"unknown {', '.join(sorted(unknown))}" if categories else "empty"
            raise UserError(f"{self.layout}: data.categories is {wrong}; choose from {', '.join(CATEGORIES)}")
        self.categories = tuple(category for category in CATEGORIES if category in categories)
        if len(self.categories) < len(CATEGORIES):
            self.name = f"{self.name}-{'-'.join(self.categories)}"

    def listing(self, half: str, part: str = "person") -> Listing:
        """List the pairs of a half, train or test; each category's folder must hold at least one `part`, person or garment.

        The test half lists each person once, with its own garment from the paired file (else the image with its number) and the other
        one from the unpaired file.

        Raises:
            UserError: if a pair file is missing or damaged, all are empty, or the folder holds none of its people (or garments).
        """
        files = {name: self._pairs(name) for name in PAIR_FILES[half]}
        sources = [source for found, _ in files.values() for source in found]
        if not sources:
            some = " and ".join(PAIR_FILES[half])
            raise NotListed(f"{self.layout}: {self.root} has no {some}: data.root must be a folder in the Dress Code layout, or `wardrobe`")
        if not any(pairs for _, pairs in files.values()):
            raise lists_nobody(sources, " or ".join(self.categories))
        repeated = []
        for _, pairs in files.values():
            counts = Counter((pair.folder, pair.person) for pair in pairs)
            repeated += [f"{folder}/{person}" for (folder, person), count in counts.items() if count > 1]
        paired = files[PAIR_FILES[half][0]][1]
        others = {(pair.folder, pair.person): pair.garment for pair in files[PAIR_FILES[half][-1]][1]} if half == "test" else {}
        own = {(pair.folder, pair.person): pair.garment for pair in paired}
        wanted = own | {key: f"{_number(key[1])}_1{PurePosixPath(key[1]).suffix}" for key in others if key not in own}
        rows: list[TryOnRow] = []
        absent: dict[str, list[Path]] = defaultdict(list)
        for folder in self.categories:
            people = [person for where, person in wanted if where == folder]
            if not people:
                continue
            numbers = [_number(person) for person in people]
            found = {part: find(self.root / folder, places, people, numbers) for part, places in PLACES.items()}
            found["garment"] = find(self.root / folder, PLACES["person"], [wanted[folder, person] for person in people], numbers)
            if found[part] is None:
                whose = {"person": "people", "garment": "garments"}[part]
                raise UserError(f"{self.layout}: {self.root / folder / 'images'} is missing or holds none of the {whose} of its pair files")
            present = {name: both for name, both in found.items() if both is not None}
            for name, (_, gone) in present.items():
                absent[name] += gone
            exchanged = [person for person in people if (folder, person) in others]
            other_files: dict[str, dict[str, Path]] = {person: {} for person in people}
            for name, places in PLACES_OF_OTHERS.items():
                garments = [others[folder, person] for person in exchanged]
                paths, gone = find(self.root / folder, places, garments, [PurePosixPath(garment).stem for garment in garments]) or ([], [])
                absent[name] += gone
                for person, path in zip(exchanged, paths, strict=bool(paths)):
                    other_files[person][name] = path
            for index, person in enumerate(people):
                rows.append(
                    TryOnRow(
                        id=f"{folder}_{PurePosixPath(person).stem}",
                        category=CATEGORIES[folder],
                        **{
                            "person": self.root / folder / "images" / person,
                            **{name: paths[index] for name, (paths, _) in present.items()},
                            **other_files[person],
                        },
                    )
                )
        return Listing(half=half, sources=tuple(sources), rows=rows, absent=dict(absent), repeated=repeated)

    def _pairs(self, name: str) -> tuple[list[Path], list[_Pair]]:
        """Read the root's pair file, else those of the categories; also returns the files."""
        whole = self.root / name
        if whole.is_file():
            return [whole], [pair for pair in map(self._placed, read_pairs(whole, columns=(2, 3))) if pair.folder in self.categories]
        files, pairs = [], []
        for number, folder in enumerate(CATEGORIES):
            path = self.root / folder / name
            if folder in self.categories and path.is_file():
                files.append(path)
                for person, garment, *category in read_pairs(path, columns=(2, 3)):
                    if category and category != [str(number)]:
                        raise UserError(f"{path}: {person} has the category {category[0]} instead of {number} ({folder})")
                    pairs.append(_Pair(folder, person, garment))
        return files, pairs

    def _placed(self, pair: tuple[str, ...]) -> _Pair:
        """Return the folder of a line in the root's pair file, by its number, else by the location of the person's image."""
        person, garment = pair[:2]
        if len(pair) == 3:
            if pair[2] not in ("0", "1", "2"):
                raise UserError(f"{self.root}: the category {pair[2]!r} of {person} must be 0 (upper_body), 1 (lower_body) or 2 (dresses)")
            return _Pair(list(CATEGORIES)[int(pair[2])], person, garment)
        folders = [folder for folder in CATEGORIES if (self.root / folder / "images" / person).is_file()]
        if len(folders) != 1:
            where = "in none" if not folders else f"in several ({', '.join(folders)})"
            raise UserError(
                f"{self.root}: the pair file has no category for {person}, whose image is {where} of the folders; "
                "use the folders' own pair files"
            )
        return _Pair(folders[0], person, garment)

    def unmaskable(self, row: TryOnRow, listing: Listing) -> str | None:
        """Masks are derived from labels and keypoints."""
        if row.parse is not None and row.pose is not None:
            return None
        folder = row.person.parents[1]
        return f"{folder} has neither agnostic_masks nor both label_maps and keypoints to make them from; restore those folders"


def _number(person: str) -> str:
    """Return the common prefix of a person's files: 013563 of 013563_0.jpg."""
    return PurePosixPath(person).stem.removesuffix("_0")


def read_keypoints(path: Path, size: Size) -> Tensor:
    """Read Dress Code's keypoints: float32 (18, 3) of x, y in pixels of `size` and confidence, 0 for an invisible point.

    Raises:
        UserError: if the file is missing or not of the form `{"keypoints": [[x, y, confidence, number], ...]}`.
    """
    try:
        points = torch.tensor(json.loads(path.read_text(encoding="utf-8"))["keypoints"], dtype=torch.float32).reshape(KEYPOINTS, 4)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(
            f"{path}: not a Dress Code file with {KEYPOINTS} keypoints of x, y, confidence, number ({type(error).__name__})"
        ) from error
    # As in the dataset's own code, undetected points are at or beyond the corner.
    seen = ((points[:, :2] > 1).all(dim=1) & points.isfinite().all(dim=1)).float()[:, None]
    scaled = points[:, :2] * torch.tensor([size[1] / FRAME[1], size[0] / FRAME[0]])
    # Some copies have no confidence: visible points then count as certain.
    confidence = torch.where(points[:, 2:3] > 0, points[:, 2:3].clamp(max=1), torch.ones(()))
    return torch.cat([scaled.nan_to_num(), confidence], dim=1) * seen
