"""The user's own photos, each with a box around the garment or a mask.

    ROOT/anna.jpg        a dressed person: any size, any aspect ratio, any format that Pillow reads
         bert.png
         bert_mask.png   white where the garment may be, black elsewhere: instead of a box
         boxes.csv       name,left,top,right,bottom,category
                         anna.jpg,310,420,890,1400,upper

A box is in pixels of the photo as a viewer shows it, that is, upright, or in shares of its width and height (`boxes.py`). `category` is
upper, lower or full, by default upper. The line of a photo with a mask may leave the box empty and give only the category. A mask is
rotated upright like its photo, and its name may end in capitals (`bert_MASK.PNG`); a mask without a photo is an error.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset

from fashiongen import tasks
from fashiongen.batches import Batch, TryOffBatch
from fashiongen.data.base import FashionData
from fashiongen.data.boxes import BOX, CATEGORIES, Box, fit_box, read_boxes
from fashiongen.data.images import Size, image_size, image_to_tensor, open_image, read_mask
from fashiongen.data.loading import Loader, ShardSampler, require_at_least_one, share
from fashiongen.data.task_parts import readable_parts
from fashiongen.errors import UserError

BOXES = "boxes.csv"
MASK = "_mask.png"
# The batch fields that a photo can fill.
PARTS = ("person", "mask", "category")
# Formats of cameras, phones and the web. One that Pillow cannot decode is reported as unreadable instead of ignored.
ENDINGS = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".heif", ".avif"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Photo:
    """One photo with a box or a mask of the garment.

    Attributes:
        id: the stem of the photo's name.
        path: the photo.
        category: upper, lower or full.
        box: the box, inside the photo.
        mask: the mask's file, used if there is no box.
    """

    id: str
    path: Path
    category: str
    box: Box | None = None
    mask: Path | None = None


class PhotoDataset(Dataset[Batch]):
    """Photos as batches of one, framed to one size without distortion."""

    def __init__(
        self, photos: Sequence[Photo], size: Size, garment_share: float | None = None, batch_type: type[Batch] = TryOffBatch
    ) -> None:
        """Read `photos` at `size` (height, width) as `batch_type`; `garment_share` as in `Photos`."""
        self.photos = list(photos)
        self.size = size
        self.garment_share = garment_share
        self.batch_type = batch_type
        self.parts = readable_parts(batch_type, PARTS, Photos.name)

    def __len__(self) -> int:
        """Return the number of photos."""
        return len(self.photos)

    def __getitem__(self, index: int) -> Batch:
        """Return one photo: `person` (1, 3, H, W) uint8 and `mask` (1, 1, H, W) bool, white and unmasked outside the photo.

        Raises:
            UserError: if a file is damaged, or a mask is empty or too small at this size.
        """
        photo = self.photos[index]
        image = open_image(photo.path)
        if photo.box is not None:
            mask = Image.new("L", image.size)
            mask.paste(255, photo.box)
        else:
            assert photo.mask is not None
            mask = Image.fromarray(read_mask(photo.mask, (image.height, image.width))[0].numpy()).convert("L")
        garment = mask.getbbox()
        if garment is None:
            raise UserError(f"{photo.mask} is completely black: paint white where the garment of {photo.path.name} may be")
        frame = framed(Box(*garment), (image.height, image.width), self.size, self.garment_share)
        person = cut(image, frame, "white")
        placed = cut(mask, frame, 0).resize((self.size[1], self.size[0]), Image.Resampling.NEAREST)
        if placed.getbbox() is None:
            where = photo.mask or f"the box of {photo.path}"
            raise UserError(f"{where} marks less than a pixel at {self.size[0]}x{self.size[1]}: enlarge it, or set data.garment_share")
        parts: dict[str, Any] = {
            "person": image_to_tensor(person, self.size)[None],
            "mask": (torch.frombuffer(bytearray(placed.tobytes()), dtype=torch.uint8) >= 128).view(1, 1, *self.size),
            "category": [photo.category],
        }
        return self.batch_type(ids=[photo.id], **{part: parts[part] for part in self.parts})


def framed(garment: Box, source: Size, size: Size, garment_share: float | None) -> Box:
    """Return the frame in a photo's pixels that has the aspect ratio of `size`; it may extend beyond the photo.

    Args:
        garment: the garment's bounding box.
        source: height and width of the photo.
        size: height and width that the frame is resized to.
        garment_share: share of the frame's height taken by the garment, less if the whole garment would not fit otherwise; None
            uses the smallest frame that holds the whole photo.
    """
    if garment_share is None:
        height = max(source[0], source[1] * size[0] / size[1])
    else:
        height = max((garment.bottom - garment.top) / garment_share, (garment.right - garment.left) * size[0] / size[1])
    rows, columns = max(1, round(height)), max(1, round(height * size[1] / size[0]))
    top = _start((garment.top + garment.bottom) / 2, rows, source[0])
    left = _start((garment.left + garment.right) / 2, columns, source[1])
    return Box(left, top, left + columns, top + rows)


def _start(middle: float, length: int, whole: int) -> int:
    """Return the start of `length` pixels around `middle`: inside the `whole` if they fit, else centred on it."""
    return min(max(round(middle - length / 2), 0), whole - length) if length <= whole else (whole - length) // 2


def cut(image: Image.Image, frame: Box, fill: str | int) -> Image.Image:
    """Crop a frame from an image, filled where it extends beyond."""
    cut = Image.new(image.mode, (frame.right - frame.left, frame.bottom - frame.top), fill)
    cut.paste(image, (-frame.left, -frame.top))
    return cut


class Photos(FashionData):
    """A folder of the user's own photos, for `fashiongen predict`; it has no ground truth to train or test on.

    A photo with another aspect ratio than `size` is padded with white, never distorted. Subfolders and hidden files are ignored. A
    sample's id is the stem of its photo.

    Attributes:
        offers: the mask.
    """

    name = "photos"
    split = "predict"
    root: Path
    size: tuple[int, int]
    offers: frozenset[str] = frozenset({"mask"})

    def __init__(
        self,
        root: str,
        size: tuple[int, int] = (1024, 768),
        garment_share: float | None = None,
        category: str = "upper",
        batch_size: int = 1,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        task: str = "vtoff",
    ) -> None:
        """Store the settings; nothing is read before `setup`.

        Args:
            root: folder with the photos and `boxes.csv`.
            size: height and width that photos are resized to.
            garment_share: crop or pad each photo around its garment, so that the garment takes this share of the frame's height, such
                as 0.5; for photos that show much more or less of a person than the method's training images.
            category: upper, lower or full, for photos without a category in `boxes.csv`.
            batch_size: photos per process and step.
            eval_batch_size: the same; takes precedence, since recipes set both.
            num_workers: worker processes.
            task: the task whose batches are returned; it may require only a person, a mask and a category.
        """
        super().__init__()
        require_at_least_one(self.name, size=size, batch_size=batch_size, eval_batch_size=eval_batch_size)
        if garment_share is not None and not 0 < garment_share <= 1:
            raise UserError(f"photos: garment_share={garment_share} must be above 0 and at most 1")
        if category not in CATEGORIES:
            raise UserError(f"photos: category={category}: unknown; choose among {', '.join(CATEGORIES)}")
        self.root = Path(root).expanduser()
        self.size = size
        self.garment_share = garment_share
        self.category = category
        self.eval_batch_size = eval_batch_size or batch_size
        self.num_workers = num_workers
        self.task = task
        self.batch_type = tasks.find(task).batch
        readable_parts(self.batch_type, PARTS, self.name)
        self.datasets: dict[str, Any] = {}
        # With fewer photos than processes, some processes get none.
        self.allow_zero_length_dataloader_with_multiple_devices = True

    def setup(self, stage: str | None = None) -> None:
        """Find the photos with their boxes or masks.

        Raises:
            UserError: if the stage is not predict, there is no photo, or a photo's box or mask is missing or invalid.
        """
        if stage not in (None, "predict"):
            raise UserError(f"photos: {self.root} has no ground truth to train on or to test against: use `fashiongen predict`")
        self.datasets["predict"] = PhotoDataset(find_photos(self.root, self.category), self.size, self.garment_share, self.batch_type)

    def predict_dataloader(self) -> Loader:
        """Return the photos in the order of their names, each once."""
        dataset = self.datasets["predict"]
        return Loader(
            dataset,
            sampler=ShardSampler(dataset, **share(self.trainer)),
            batch_size=self.eval_batch_size,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
        )

    def fingerprint(self) -> str:
        """Return a sha256 over the names and sizes of the files to read and the content of `boxes.csv`."""
        boxes = self.root / BOXES
        digest = hashlib.sha256(boxes.read_bytes() if boxes.is_file() else b"")
        for photo in self.datasets["predict"].photos:
            for file in (photo.path, photo.mask):
                if file is not None:
                    digest.update(f"\0{file.name}\0{file.stat().st_size}".encode())
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        """Return what is read, for a log: name, root, size, number of photos and the parts offered."""
        return {**super().describe(), "samples": {split: len(dataset) for split, dataset in self.datasets.items()}}


def find_photos(root: Path, category: str) -> list[Photo]:
    """Return the photos of a folder, by name.

    Raises:
        UserError: if there is none, two would have the same id, a photo has neither box nor mask, or a box or mask does not fit its photo.
    """
    if not root.is_dir():
        raise UserError(f"photos: {root}: no such folder; data.root must be a folder of photos")
    paths, masks = list_photos(root)
    lines = read_boxes(root / BOXES, {path.name for path in paths})
    photos = []
    for path in paths:
        box, told = lines.get(path.name, (None, None))
        mask = None if box is not None else masks.get(path.stem)
        size, fitted = image_size(path), None
        if box is not None:
            fitted = fit_box(box, size, f"{root / BOXES}: the box of {path.name}")
        elif mask is not None:
            check_proportion(mask, path.name, size)
        photos.append(Photo(id=path.stem, path=path, category=told or category, box=fitted, mask=mask))
    if bare := [photo for photo in photos if photo.box is None and photo.mask is None]:
        first = bare[0].path.name
        header = f"name,{','.join(BOX)},category"
        raise UserError(
            f"photos: {len(bare)} of {len(photos)} photos of {root} have neither a box nor a mask, first {first}: add a line such as "
            f"`{first},LEFT,TOP,RIGHT,BOTTOM,{category}` to {root / BOXES} (header: {header}), or a mask {bare[0].id}{MASK}"
        )
    return photos


def list_photos(root: Path) -> tuple[list[Path], dict[str, Path]]:
    """Return the photos of a folder, by name, and the masks next to them, by the photo's stem.

    Raises:
        UserError: if there is no photo, two would have the same id, a mask has no photo, or a photo two masks.
    """
    images = sorted(path for path in root.iterdir() if path.suffix.lower() in ENDINGS and not path.name.startswith(".") and path.is_file())
    # A case-sensitive file system may hold two masks for one photo.
    masks: dict[str, Path] = {}
    for path in images:
        if path.name.lower().endswith(MASK) and masks.setdefault(path.name[: -len(MASK)], path) != path:
            raise UserError(
                f"photos: {root}: {masks[path.name[: -len(MASK)]].name} and {path.name} are masks of the same photo: remove one"
            )
    paths = [path for path in images if path not in masks.values()]
    if not paths:
        raise UserError(f"photos: {root} contains no photo (a file that ends in {', '.join(sorted(ENDINGS))})")
    stems = [path.stem for path in paths]
    if repeated := [path.name for path in paths if stems.count(path.stem) > 1]:
        raise UserError(f"photos: {root}: {', '.join(repeated[:2])} would share a name in the output: rename one")
    if lone := [path.name for stem, path in masks.items() if stem not in stems]:
        more = f" and {len(lone) - 1} more" if len(lone) > 1 else ""
        raise UserError(
            f"photos: {root}: {lone[0]}{more}: there is no photo {lone[0][: -len(MASK)]} for this mask; add the photo, "
            "rename the file (if it is a photo itself) or remove it"
        )
    return paths, masks


def check_proportion(mask: Path, photo: str, size: Size) -> None:
    """Reject a mask or a label map with another aspect ratio than its photo's; other sizes are scaled.

    Args:
        mask: the mask.
        photo: the photo's name, for the message.
        size: height and width of the photo.

    Raises:
        UserError: if the aspect ratios differ.
    """
    (height, width), (rows, columns) = size, image_size(mask)
    if abs(height * columns - width * rows) > max(height, width, rows, columns):  # off by more than a rounded pixel
        raise UserError(
            f"{mask} is {columns}x{rows}, with another aspect ratio than {photo} ({width}x{height}): it belongs to another photo"
        )
