"""StreetTryOn (Cui et al., CVPR 2024 workshops): street photos of people from DeepFashion2, without shop images.

    ROOT/{train,validation}/image/000001.jpg                      the person
                            segm_atr_labels/000001.png            ATR labels
                            densepose/000001_densepose.png        DensePose's part numbers, U and V, in OpenCV's channel order
                            raw_bbox/000001.jpg.json              {"human_bbox": [x1, x2, y1, y2]}; x counts rows: photo[x1:x2, y1:y2]
    ROOT/annotations/{train,validation}_image_list.txt            a name per line
                     street2street_test_pairs_{top,dress}.csv     a header, then "number,garment,person" per line
                     shop2street_test_pairs_top.csv               the garments are VITON-HD's shop images (ROOT/../zalando/test/cloth)

The pair files have the garment before the person, the reverse of VITON-HD's. The photos are not included: a script crops them from
DeepFashion2. Without `image`, the full photos in ROOT/../deepfashion2/{train,validation}/image (or ROOT/deepfashion2) are cropped to their
boxes on reading. There are no masks or keypoints: masks are derived from labels and DensePose.
"""

import csv
import json
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from fashiongen.data import masks
from fashiongen.data.images import UNREADABLE, Size, image_to_tensor, open_image, read_labels, unreadable
from fashiongen.data.listing import Listing, NotListed, TryOnRow, find, lists_nobody, read_lines, refuse_leaving
from fashiongen.data.tryon import TryOnData
from fashiongen.data.tryon_dataset import AGNOSTIC, TryOnDataset
from fashiongen.errors import UserError

FOLDERS = {"train": "train", "test": "validation"}
# The height at which masks are derived.
DRAWN_AT = 512
CATEGORY_OF_PAIRS = {"top": "upper", "dress": "full"}
IMAGES = (".jpg", ".jpeg", ".png")

# For each part the folders and the suffixes after the person's stem; "" is the full name.
PLACES: dict[str, tuple[tuple[str, str], ...]] = {
    "person": (("image", ""),),
    "parse": (("segm_atr_labels", ".png"),),
    "densepose": (("densepose", "_densepose.png"), ("densepose", ".png")),
    "box": (("raw_bbox", ".jpg.json"), ("raw_bbox", ".json")),
}


class StreetTryOnDataset(TryOnDataset):
    """Samples as batches of one, at one size."""

    palette: ClassVar[str] = "atr"

    def open_person(self, row: TryOnRow) -> Image.Image:
        """Decode a photo, cropped to its box if it is a full photo."""
        return open_cropped(row.person, row.box)

    def read_garment(self, row: TryOnRow) -> Tensor:
        """Read the garment of an unpaired row: a shop image, or what another person wears, cut out by the labels, on white."""
        if row.other_parse is None:
            return super().read_garment(row)
        assert row.garment is not None
        parse = read_labels(row.other_parse, self.size)
        worn = masks.DRESS if self.worn_category(parse) == "full" else masks.UPPER
        return image_to_tensor(open_cropped(row.garment, row.other_box), self.size, self.filter).masked_fill(parse != worn, 255)

    def make_mask(self, row: TryOnRow, source: Size) -> NDArray[np.bool_]:
        """Derive the mask from labels and DensePose, as in CatVTON."""
        if row.parse is None or row.densepose is None:
            return super().make_mask(row, source)
        frame = (DRAWN_AT, max(1, round(DRAWN_AT * source[1] / source[0])))
        parse = read_labels(row.parse, frame)
        category = row.category or self.worn_category(parse)
        return masks.from_atr_and_densepose(parse.numpy(), read_densepose(row.densepose, frame), category)

    def worn_category(self, parse: Tensor | None) -> str:
        """Return the category with the most pixels in the labels: upper clothes or a dress."""
        if parse is None:
            return super().worn_category(parse)
        return "full" if (parse == masks.DRESS).sum() > (parse == masks.UPPER).sum() else "upper"


class StreetTryOn(TryOnData):
    """StreetTryOn, which has no shop images: for prediction and unpaired metrics.

    Try-on is unpaired, with the garments of `pairs`: shop images of VITON-HD, or what other people wear, cut out of their photos.

    Without `pairs` the test half is every person of `validation`, each once, and a sample's id is the stem of its image.

    `pose` is never offered: the dataset has no keypoints, and joints estimated from labels and DensePose would be our own rule, used by
    no published number. A method that needs them is rejected.
    """

    layout: ClassVar[str] = "street_tryon"
    markers: ClassVar[tuple[str, ...]] = ("annotations", "validation")
    dataset_class: ClassVar[type[TryOnDataset]] = StreetTryOnDataset
    has_shop_images: ClassVar[bool] = False
    pairs_hint: ClassVar[str] = "; set data.pairs, such as street2street_test_pairs_top.csv"
    uniform_size: ClassVar[bool] = False

    def __init__(
        self,
        root: str,
        *,
        pairs: str | None = None,
        **options: Any,  # noqa: ANN401  TryOnData's own
    ) -> None:
        """Store the settings; nothing is read before `setup`.

        Args:
            root: the dataset's folder or its parent, or `wardrobe` for the embedded world, rendered on first use.
            pairs: a file of `annotations`, such as `street2street_test_pairs_top.csv`, whose lines are the test samples; the person of a
                line is the sample, its garment the `other` one. A sample's id is then `PERSON_GARMENT`, in stems.
            options: options of every try-on dataset.
        """
        super().__init__(root, **options)
        if AGNOSTIC in self.parts and self.pairing == "paired":
            raise UserError(f"{self.layout}: has no shop images, so a try-on is unpaired: set data.pairing=unpaired and data.pairs")
        self.pairs = pairs
        if pairs is not None:
            self.name = f"{self.name}-{PurePosixPath(pairs).stem.replace('_test_pairs', '')}"

    def listing(self, half: str, part: str = "person") -> Listing:
        """List the people of a half, train or test; `part` can only be person.

        Raises:
            UserError: if a list is missing, damaged or empty, the folder holds none of its people, or garments are requested.
        """
        if part != "person":
            raise UserError(f"{self.layout}: {self.lacks_garments(half)}")
        folder = self.root / FOLDERS[half]
        if half == "test" and self.pairs is not None:
            source = self._pair_file(self.pairs)
            pairs = read_csv_pairs(source)
            names = [person for _, person in pairs]
        else:
            source = self.root / "annotations" / f"{FOLDERS[half]}_image_list.txt"
            names, pairs = self._names(source), []
        if not names:
            raise lists_nobody([source])
        stems = [PurePosixPath(name).stem for name in names]
        present = self._photos(folder, names)
        if "person" not in present:
            raise UserError(
                f"{self.layout}: {folder / 'image'} is missing or holds none of the people of {source}; make it with the dataset's "
                f"script from DeepFashion2, or put DeepFashion2 at {self.root.parent / 'deepfashion2'}"
            )
        if present["person"][0][0].parent != folder / "image" and "box" not in present:
            raise UserError(f"{self.layout}: {folder / 'raw_bbox'} is missing: the photos of {present['person'][0][0].parent} are uncut")
        # Photo numbers restart in each half: the pair files apply only to the test half.
        categories = self._categories() if half == "test" else {}
        ids = [f"{stem}_{PurePosixPath(garment).stem}" for stem, (garment, _) in zip(stems, pairs, strict=True)] if pairs else stems
        if pairs:
            present |= self._others(source, [garment for garment, _ in pairs])
            if dressed := find(folder, (("image-unpaired", ".jpg"),), ids, ids):
                present["dressed"] = dressed
        rows = [
            TryOnRow(
                id=id_,
                category=_category_of(source) or categories.get(names[index]),
                **{part: paths[index] for part, (paths, _) in present.items()},
            )
            for index, id_ in enumerate(ids)
        ]
        repeated = [id_ for id_, count in Counter(ids).items() if count > 1]
        absent = {part: gone for part, (_, gone) in present.items()}
        return Listing(half=half, sources=(source,), rows=rows, absent=absent, repeated=repeated)

    def _pair_file(self, name: str) -> Path:
        for path in (self.root / "annotations" / name, self.root / name):
            if path.is_file():
                return path
        some = sorted(path.name for path in (self.root / "annotations").glob("*.csv"))
        raise UserError(
            f"{self.layout}: {self.root / 'annotations' / name} is missing; data.pairs can be: {', '.join(some) or 'nothing here'}"
        )

    def _names(self, source: Path) -> list[str]:
        if not source.is_file():
            raise NotListed(f"{self.layout}: {source} is missing: data.root must be a folder in the StreetTryOn layout, or `wardrobe`")
        names = []
        for number, line in enumerate(read_lines(source), start=1):
            if line.strip():
                # Some lists have paths: only the image's file name counts.
                refuse_leaving(source, number, [line.strip()])
                names.append(PurePosixPath(line.strip()).name)
        return names

    def _categories(self) -> dict[str, str]:
        """Return the category of each person listed in a pair file of tops or dresses."""
        told: dict[str, str] = {}
        for name in CATEGORY_OF_PAIRS:
            path = self.root / "annotations" / f"street2street_test_pairs_{name}.csv"
            if path.is_file():
                told |= {person: CATEGORY_OF_PAIRS[name] for _, person in read_csv_pairs(path)}
        return told

    def _photos(self, folder: Path, names: list[str]) -> dict[str, tuple[list[Path], list[Path]]]:
        """Find the photos of people and what is stored with them: for each part that there is the files, and which of them are missing."""
        stems = [PurePosixPath(name).stem for name in names]
        found = {part: find(folder, places, names, stems) for part, places in PLACES.items()}
        if found["person"] is not None:
            found["box"] = None
        else:
            for raw in (self.root / "deepfashion2", self.root.parent / "deepfashion2"):
                found["person"] = found["person"] or find(raw / folder.name, PLACES["person"], names, stems)
        return {part: both for part, both in found.items() if both is not None}

    def _others(self, source: Path, garments: list[str]) -> dict[str, tuple[list[Path], list[Path]]]:
        """Find the garments of an unpaired test: shop images of a VITON-HD next to the dataset, or photos of other people."""
        if source.name.startswith("shop2"):
            folder = self.root.parent / "zalando" / "test" / "cloth"
            files = [folder / garment for garment in garments]
            return {"other": (files, [file for file in files if not file.is_file()])}
        found = self._photos(self.root / FOLDERS["test"], garments)
        return {name: found[part] for part, name in (("person", "other"), ("parse", "other_parse"), ("box", "other_box")) if part in found}

    def unmaskable(self, row: TryOnRow, listing: Listing) -> str | None:
        """Masks are derived from labels and DensePose."""
        if row.parse is not None and row.densepose is not None:
            return None
        folder = self.root / FOLDERS[listing.half]
        return f"{folder} lacks segm_atr_labels or densepose, which masks are made from; restore those folders"

    def lacks_garments(self, half: str) -> str:
        """Say that there are no shop images."""
        return "the dataset has no shop images; it supports `test` with unpaired metrics, and `predict`"


def open_cropped(photo: Path, box: Path | None) -> Image.Image:
    """Decode a photo, cropped to its box if it has one."""
    image = open_image(photo)
    if box is None:
        return image
    top, bottom, left, right = clip_box(box, read_box(box), (image.height, image.width))
    return image.crop((left, top, right, bottom))


def _category_of(source: Path) -> str | None:
    return next((category for name, category in CATEGORY_OF_PAIRS.items() if source.stem.endswith(f"_{name}")), None)


def read_csv_pairs(path: Path) -> list[tuple[str, str]]:
    """Read a pair file of the dataset: (garment, person) per line, in the file's order.

    A line is `number,garment,person`; the header, if any, names no image. A file with two columns separated by spaces or tabs is
    read as (garment, person) too, as in the dataset's own code.

    Raises:
        UserError: if the file is missing or not text, a line has another format, or a name points outside of the dataset's root.
    """
    pairs = []
    lines = read_lines(path)
    try:
        cells_of = list(csv.reader(lines)) if path.suffix == ".csv" else [line.split() for line in lines]
    except csv.Error as error:
        raise UserError(f"{path} cannot be read as a pair file: {error}") from error
    for number, cells in enumerate(cells_of, start=1):
        names = [cell.strip() for cell in cells][-2:]
        if not any(names) or (number == 1 and not any(name.lower().endswith(IMAGES) for name in names)):
            continue
        if len(cells) not in (2, 3):
            raise UserError(f"{path}, line {number}: has {len(cells)} columns instead of number, garment and person")
        refuse_leaving(path, number, names)
        pairs.append((PurePosixPath(names[0]).name, PurePosixPath(names[1]).name))
    return pairs


def read_box(path: Path) -> tuple[int, int, int, int]:
    """Read a photo's crop box: top, bottom, left and right, in pixels; the file has the rows first.

    Raises:
        UserError: if the file is missing or not of the form `{"human_bbox": [top, bottom, left, right]}`.
    """
    try:
        top, bottom, left, right = (int(value) for value in json.loads(path.read_text(encoding="utf-8"))["human_bbox"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"{path}: not a file with human_bbox of four numbers ({type(error).__name__})") from error
    return top, bottom, left, right


def clip_box(path: Path, box: tuple[int, int, int, int], size: Size) -> tuple[int, int, int, int]:
    """Clip a box to its photo, like array slicing in the dataset's own script.

    Args:
        path: the box's file, for the message.
        box: top, bottom, left and right.
        size: the photo's size.

    Raises:
        UserError: if the box is outside the photo.
    """
    top, bottom, left, right = max(box[0], 0), min(box[1], size[0]), max(box[2], 0), min(box[3], size[1])
    if top >= bottom or left >= right:
        told = f"rows {box[0]} to {box[1]} and columns {box[2]} to {box[3]}"
        raise UserError(f"{path}: {told} contain no part of the photo, which has {size[0]} rows and {size[1]} columns; restore the file")
    return top, bottom, left, right


def read_densepose(path: Path, size: Size) -> NDArray[np.uint8]:
    """Read DensePose's part numbers (0 to 24) at `size`: uint8 (H, W), nearest neighbour.

    Raises:
        UserError: if the file is missing, truncated, not an image, or holds other numbers.
    """
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            # OpenCV wrote part, U and V as blue, green and red; some copies hold only the parts.
            parts = image if image.mode in ("L", "P") else image.convert("RGB").getchannel("B")
            labels = np.array(parts.resize((size[1], size[0]), Image.Resampling.NEAREST), dtype=np.uint8)
    except UNREADABLE as error:
        raise unreadable(path, error) from error
    if labels.max(initial=0) > 24:
        raise UserError(
            f"{path}: has the value {labels.max()}, but DensePose's part numbers end at 24; is it a rendering instead of the map?"
        )
    return labels
