"""The sources that `fashiongen data masks` can derive masks from: a parse with keypoints, a segmentation network, or a drawn box.

Masks are boolean arrays (h, w) in the proportion of the photo: those from labels are drawn at a height of 1024.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image
from torch import Tensor

from fashiongen.checkpoints import some
from fashiongen.data import masks
from fashiongen.data.boxes import Corners, fit_box
from fashiongen.data.images import Size, read_labels
from fashiongen.data.listing import TryOnRow
from fashiongen.data.masks import Labels, Mask
from fashiongen.data.openpose import COCO_18, read_body
from fashiongen.data.photos import check_proportion
from fashiongen.data.tryon_dataset import TryOnDataset
from fashiongen.errors import UserError
from fashiongen.records import file_sha256

# The height at which masks are drawn from labels.
DRAWN_AT = 1024
# The number of labels of each palette.
PALETTES = {"lip": 20, "atr": 18}

# The clothes labels of SegFormers such as sayeed99/segformer_b3_clothes, by the number that ATR gives them.
CLOTHES = (
    *("Background", "Hat", "Hair", "Sunglasses", "Upper-clothes", "Skirt", "Pants", "Dress", "Belt", "Left-shoe", "Right-shoe", "Face"),
    *("Left-leg", "Right-leg", "Left-arm", "Right-arm", "Bag", "Scarf"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """A photo to mask.

    Attributes:
        id: the stem of the names of all that is written for it.
        path: the photo.
        category: upper, lower or full.
        row: its files in a dataset's folder, if it is from one.
    """

    id: str
    path: Path
    category: str
    row: TryOnRow | None = None


class Derived(NamedTuple):
    """The masks of a photo: where the garment may be, and the worn garment itself if the source knows it; both (h, w)."""

    agnostic: Mask
    worn: Mask | None


class MaskSource(Protocol):
    """Derives the masks of one photo after the other.

    Attributes:
        settings: what decides the masks of all photos, as plain values; `from` is parse, segformer or box.
    """

    settings: dict[str, Any]

    def inputs(self, person: Person) -> list[Path | Corners]:
        """Return what decides the masks of a photo besides the settings, its category and itself."""

    def derive(self, person: Person, image: Image.Image) -> Derived:
        """Derive the masks of a photo; the agnostic one may be empty.

        Raises:
            UserError: if the source has nothing for this photo, it does not belong to it, or it shows no person.
        """


class BoxSource:
    """Drawn boxes."""

    def __init__(self, boxes: Mapping[str, Corners], given: str) -> None:
        """Take the box of each photo by its file name; `given` says where they are from, for messages."""
        self.settings: dict[str, Any] = {"from": "box"}
        self.boxes = boxes
        self.given = given

    def inputs(self, person: Person) -> list[Path | Corners]:
        """Return the box, if there is one."""
        box = self.boxes.get(person.path.name)
        return [] if box is None else [box]

    def derive(self, person: Person, image: Image.Image) -> Derived:
        """Fill the box."""
        if person.path.name not in self.boxes:
            raise UserError(f"{self.given} has no box for {person.path.name}; add it, or remove the photo")
        box = fit_box(self.boxes[person.path.name], (image.height, image.width), f"{self.given}: the box of {person.path.name}")
        mask = np.zeros((image.height, image.width), dtype=bool)
        mask[box.top : box.bottom, box.left : box.right] = True
        return Derived(mask, None)


class ParseSource:
    """Human-parse label maps in a folder, with keypoints in another.

    With keypoints, the region is drawn as VITON-HD does for an upper-body garment and LIP labels, as LaDI-VTON does for others; without,
    it is made of hulls around the garment and the limbs, as with a segmentation network.
    """

    def __init__(self, parse: Path, pose: Path | None, palette: str, people: Sequence[Person]) -> None:
        """Take the folders of STEM.png and STEM_keypoints.json (or STEM.json).

        Raises:
            UserError: if a folder has nothing for any of the people.
        """
        self.settings: dict[str, Any] = {"from": "parse", "labels": palette, "keypoints": pose is not None}
        self.parse, self.pose, self.palette = parse, pose, palette
        names = [person.path.stem for person in people]
        for folder, endings in ((parse, (".png",)), (pose, ("_keypoints.json", ".json"))):
            if folder is not None and not any((folder / f"{name}{ending}").is_file() for name in names for ending in endings):
                raise UserError(f"{folder} has nothing for any of the {len(names)} photos: it must hold {names[0]}{endings[0]} and so on")

    def _files(self, person: Person) -> tuple[Path, Path | None]:
        stem = person.path.stem
        pose = None if self.pose is None else self.pose / f"{stem}_keypoints.json"
        if pose is not None and not pose.is_file() and pose.with_name(f"{stem}.json").is_file():
            pose = pose.with_name(f"{stem}.json")
        return self.parse / f"{stem}.png", pose

    def inputs(self, person: Person) -> list[Path | Corners]:
        """Return the label map and the keypoints."""
        return [path for path in self._files(person) if path is not None]

    def derive(self, person: Person, image: Image.Image) -> Derived:
        """Draw the region from labels and keypoints."""
        parse_file, pose_file = self._files(person)
        parse = read_parse(parse_file, person, image, self.palette)
        worn = np.isin(parse, masks.WORN[self.palette][person.category])
        atr = masks.ATR_OF_LIP[parse] if self.palette == "lip" else parse
        if pose_file is None:
            return Derived(masks.from_atr(atr, person.category), worn)
        points = read_body(pose_file, (image.height, image.width), frame_of(image))
        require_seen(points, pose_file, person)
        if self.palette == "lip" and person.category == "upper":
            return Derived(masks.from_lip(parse, points.numpy()), worn)
        return Derived(masks.from_atr_and_points(atr, points[list(COCO_18)].numpy(), person.category), worn)


class LayoutSource:
    """The parse and the keypoints, or the DensePose map, of a dataset's folder, by the procedure of its reader."""

    def __init__(self, dataset: TryOnDataset, layout: str) -> None:
        """Take the Dataset that derives the masks, and its layout."""
        self.settings: dict[str, Any] = {"from": "parse", "layout": layout}
        self.dataset = dataset

    def inputs(self, person: Person) -> list[Path | Corners]:
        """Return the label map, the keypoints, the DensePose map and the crop box."""
        assert person.row is not None
        return [path for path in (person.row.parse, person.row.pose, person.row.densepose, person.row.box) if path is not None]

    def derive(self, person: Person, image: Image.Image) -> Derived:
        """Draw the region like the reader of the layout."""
        row, size, palette = person.row, (image.height, image.width), self.dataset.palette
        assert row is not None
        if palette == "lip" and person.category != "upper":
            raise UserError(
                f"{person.path}: this layout's procedure draws upper-body garments: give --parse and --pose instead of a layout"
            )
        worn = None
        if row.parse is not None:
            parse = read_parse(row.parse, person, image, palette)
            worn = np.isin(parse, masks.WORN[palette][person.category]) if palette else None
        if row.pose is not None:
            require_seen(self.dataset.read_pose(row.pose, size, size), row.pose, person)
        return Derived(self.dataset.make_mask(replace(row, category=person.category), size), worn)


class SegmentationSource:
    """A semantic segmentation network with the clothes labels, by its own names of them."""

    def __init__(self, checkpoint: Path, device: str) -> None:
        """Load the checkpoint of a local folder.

        Raises:
            UserError: if it is no semantic segmentation network with the clothes labels.
        """
        if not checkpoint.is_dir():
            raise UserError(
                f"--checkpoint {checkpoint}: no such folder; download one first, such as with "
                f"`hf download sayeed99/segformer_b3_clothes --local-dir {checkpoint}`"
            )
        from fashiongen.nn.parts.segmentation import Segmenter  # it imports transformers

        try:
            self.segmenter = Segmenter(str(checkpoint), device)
        except UserError as error:
            raise UserError(f"--checkpoint {str(error).removeprefix('pretrained: ')}") from error
        except (RuntimeError, AssertionError) as error:  # an unknown device, or none of this kind
            raise UserError(f"--device {device}: torch cannot use it here ({str(error).splitlines()[0]}); choose cpu") from error
        names = [_plain(label) for label in self.segmenter.labels]
        known = {_plain(label): number for number, label in enumerate(CLOTHES)}
        if sorted(names) != sorted(known):
            others = [label for label in self.segmenter.labels if _plain(label) not in known]
            raise UserError(
                f"--checkpoint {checkpoint}: its {len(names)} labels are not the clothes labels ({', '.join(CLOTHES)}): "
                f"{f'unknown {some(others)}' if others else 'some are missing or repeated'}"
            )
        self.atr = np.array([known[name] for name in names], dtype=np.uint8)
        read = [
            path for path in sorted(checkpoint.iterdir()) if path.suffix in (".safetensors", ".bin") or path.name.endswith("config.json")
        ]
        self.settings: dict[str, Any] = {"from": "segformer", "checkpoint": {path.name: file_sha256(path) for path in read}}
        self.name = checkpoint

    def inputs(self, person: Person) -> list[Path | Corners]:
        """Return nothing: the photo decides."""
        return []

    def derive(self, person: Person, image: Image.Image) -> Derived:
        """Label the photo and draw the region from the labels."""
        parse = self.atr[self.segmenter(image, frame_of(image)).numpy()]
        if not parse.any():
            raise UserError(f"{person.path}: {self.name} finds no person there; remove the photo, or draw a box (--from box)")
        return Derived(masks.from_atr(parse, person.category), np.isin(parse, masks.WORN["atr"][person.category]))


def _plain(label: str) -> str:
    """Return a label's letters: checkpoints differ in hyphens and capitals."""
    return re.sub("[^a-z]", "", label.lower())


def frame_of(image: Image.Image) -> Size:
    """Return the size at which masks are drawn from labels."""
    return DRAWN_AT, max(1, round(DRAWN_AT * image.width / image.height))


def read_parse(path: Path, person: Person, image: Image.Image, palette: str) -> Labels:
    """Read a photo's label map at the size of drawing: uint8 (h, w).

    Raises:
        UserError: if the file is missing or damaged, has the proportion of another photo, is empty, or has labels outside of the palette.
    """
    check_proportion(path, person.path.name, (image.height, image.width))
    parse: Labels = read_labels(path, frame_of(image)).numpy()
    if not parse.any():
        raise UserError(f"{path}: no person found: the label map is empty (all background); parse {person.path.name} again, or remove it")
    if palette and parse.max() >= PALETTES[palette]:
        raise UserError(f"{path}: has the label {parse.max()}, but {palette.upper()} labels end at {PALETTES[palette] - 1}: see --labels")
    return parse


def require_seen(points: Tensor, path: Path, person: Person) -> None:
    """Refuse keypoints of nobody, except for a lower-body garment, which needs none: the mask would have the garment's outline.

    Raises:
        UserError: if no point is visible.
    """
    if person.category != "lower" and not (points[:, 2] > 0).any():
        raise UserError(f"{path}: no person found: no keypoint is visible; detect those of {person.path.name} again, or remove it")
