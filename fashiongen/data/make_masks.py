"""`fashiongen data masks`: masks for one's own photos, in the layout of VITON-HD, so that its reader serves them for try-on and try-off.

    OUT/test_pairs.txt                        every person with every garment; written last
        masks.json                            what the masks were made with (`mask_record.py`)
        test/image/anna.jpg                   the photo
             agnostic-mask/anna_mask.png      white where the garment may be
             agnostic-v3.2/anna.png           the photo with that region painted grey
             masks/anna.png                   the worn garment, if the source knows it; TryOffAnyone's name of the folder
             cloth/shirt.jpg                  the garments to put on, if any

Each mask holds a hash of everything that decides it, so that a second run makes only what is not there, and overwrites nothing made
otherwise, or corrected by hand.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from rich.console import Console
from rich.progress import track

from fashiongen.data.base import layouts
from fashiongen.data.boxes import Box, Corners, read_boxes
from fashiongen.data.check import require_folder
from fashiongen.data.images import UNREADABLE, Size, open_image, read_labels
from fashiongen.data.listing import TryOnRow
from fashiongen.data.mask_record import RECORD, MaskRecord, read_record
from fashiongen.data.mask_sources import BoxSource, LayoutSource, MaskSource, ParseSource, Person, SegmentationSource
from fashiongen.data.masks import GREY, Mask, widened
from fashiongen.data.photos import BOXES, cut, framed, list_photos
from fashiongen.data.streettryon import open_cropped
from fashiongen.data.tryon import TryOnData
from fashiongen.errors import UserError
from fashiongen.records import file_sha256, write_atomically

KINDS = ("parse", "segformer", "box")
"""The sources, preferred ones first."""
PAIRS = "test_pairs.txt"
KEY = "fashiongen-masks"
"""The PNG text of a mask that holds the hash of what decides it."""


@dataclass(frozen=True, kw_only=True)
class MaskOptions:
    """The options of `fashiongen data masks`.

    Attributes:
        source: a photo, a folder of photos, or the folder of a dataset in `layout`.
        out: the folder to write.
        layout: a layout of `fashiongen.data.layouts()`; None for photos.
        split: train or test: which half of the dataset.
        kind: parse, segformer or box; None for the first that is given.
        category: upper, lower or full; None for the dataset's or the box's own, else upper.
        parse: folder of label maps.
        labels: lip or atr, the palette of `parse`.
        pose: folder of OpenPose's keypoints.
        checkpoint: folder of a segmentation network.
        device: where it runs.
        box: the box of every photo.
        boxes: file of boxes; by default `boxes.csv` next to the photos.
        shape: region or box.
        dilate: pixels of 1024 by which the region is widened.
        size: height and width that photos and garments are padded and resized to; None leaves them as they are.
        garments: folder of garments to put on, or None.
        replace: make masks that were made otherwise again.
    """

    source: Path
    out: Path
    layout: str | None = None
    split: str = "test"
    kind: str | None = None
    category: str | None = None
    parse: Path | None = None
    labels: str | None = None
    pose: Path | None = None
    checkpoint: Path | None = None
    device: str = "cpu"
    box: Corners | None = None
    boxes: Path | None = None
    shape: str = "region"
    dilate: int = 0
    size: Size | None = None
    garments: Path | None = None
    replace: bool = False


def make_masks(options: MaskOptions) -> None:
    """Make the masks of all photos that have none yet, and write the folder.

    Raises:
        UserError: if an option, a photo or what its mask is derived from is unsuitable, or masks that were made otherwise are in the way.
    """
    people, source = _find(options)
    counts = Counter(person.id for person in people)
    if repeated := [person.path.name for person in people if counts[person.id] > 1]:
        raise UserError(f"{options.source}: {', '.join(repeated[:2])} would share a name in the output: rename one")
    garments = [] if options.garments is None else list_photos(_folder(options.garments, "--garments"))[0]
    settings = {**source.settings, "shape": options.shape, "dilate": options.dilate, "size": options.size and list(options.size)}
    before = _read_earlier(options, settings)
    places = {person.id: _Places(options, person) for person in people}
    keys = {person.id: _key(person, source, settings) for person in people}
    todo = [person for person in people if not places[person.id].whole(keys[person.id])]
    replaced = [places[person.id].mask for person in todo if places[person.id].key() != keys[person.id] and places[person.id].mask.exists()]
    if replaced and not options.replace:
        raise UserError(
            f"{replaced[0]}{f' and {len(replaced) - 1} more' if len(replaced) > 1 else ''}: made from another photo, box or setting, or "
            "changed by hand; add --replace to make it again, or choose another --out"
        )
    if replaced:
        (options.out / PAIRS).unlink(missing_ok=True)  # a reader would take old and new masks for one folder
    if before is None or before.settings != settings:
        write_atomically(options.out / RECORD, MaskRecord(settings, {}).as_json())
    names = [place.image.name for place in places.values()]
    others = _copy_garments(garments, names, options)
    failures: list[UserError] = []
    for person in track(todo, "making masks", console=Console(stderr=True), transient=True):
        try:
            _make(person, source, options, places[person.id], keys[person.id])
        except UserError as error:
            failures.append(error)
    if failures:
        more = f" ({len(failures) - 1} more of {len(people)} photos have such faults)" if len(failures) > 1 else ""
        raise UserError(f"{failures[0]}{more}; the masks of the other photos are made: fix this and run again")
    photos = {person.id: _entry(person, source, places[person.id]) for person in people}
    write_atomically(options.out / RECORD, MaskRecord(settings, photos).as_json())
    write_atomically(options.out / PAIRS, "".join(f"{name} {other}\n" for name, other in pairs_of(names, others)))
    covered = sorted(float(photo["covered"]) for photo in photos.values())
    print(
        f"{len(todo)} masks made from {settings['from']}, {len(people) - len(todo)} already there; they cover {covered[0]:.0%} to "
        f"{covered[-1]:.0%} of a photo\nread them with --data fashiongen.data.VITONHD --data.root {options.out}"
    )


class _Places:
    """The files that are written for one person."""

    def __init__(self, options: MaskOptions, person: Person) -> None:
        folder = options.out / "test"
        # A photo that is not cut or resized stays as it is, byte for byte.
        self.copied = options.size is None and (person.row is None or person.row.box is None)
        self.image = folder / "image" / f"{person.id}{person.path.suffix if self.copied else '.png'}"
        self.painted = folder / "agnostic-v3.2" / f"{person.id}.png"
        self.worn = folder / "masks" / f"{person.id}.png"
        self.mask = folder / "agnostic-mask" / f"{person.id}_mask.png"

    def key(self) -> str | None:
        """Return the key in the mask, None if there is none."""
        try:
            with Image.open(self.mask) as image:
                return image.info.get(KEY)
        except UNREADABLE:
            return None

    def whole(self, key: str) -> bool:
        """Return whether all is there, made from what `key` is the hash of."""
        return self.key() == key and self.image.is_file() and self.painted.is_file()


def _key(person: Person, source: MaskSource, settings: dict[str, Any]) -> str:
    """Return a hash of everything that decides a mask; missing files are told when it is made."""
    inputs = [list(given) if isinstance(given, tuple) else _digest(given) for given in (person.path, *source.inputs(person))]
    return hashlib.sha256(json.dumps([settings, person.category, inputs], sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    return file_sha256(path) if path.is_file() else ""


def _make(person: Person, source: MaskSource, options: MaskOptions, places: _Places, key: str) -> None:
    """Write the files of one person, the mask last."""
    image = open_cropped(person.path, None if person.row is None else person.row.box)
    derived = source.derive(person, image)
    mask = _at(widened(derived.agnostic, options.dilate, as_box=options.shape == "box"), image)
    region = mask.getbbox()
    if region is None:
        raise UserError(
            f"{person.path}: no {person.category}-body garment found: the mask is empty; see --category, or draw a box (--from box)"
        )
    worn = None if derived.worn is None or not derived.worn.any() else _at(derived.worn, image)
    if options.size is not None:
        frame = framed(Box(*region), (image.height, image.width), options.size, None)
        image = _framed(image, frame, options.size, "white")
        mask = _framed(mask, frame, options.size, 0)
        worn = None if worn is None else _framed(worn, frame, options.size, 0)
        if mask.getbbox() is None:
            raise UserError(f"{person.path}: its mask is less than a pixel of --size: enlarge one of them")
    painted = image.copy()
    painted.paste((GREY, GREY, GREY), mask=mask)
    if places.copied:
        _write(places.image, lambda part: shutil.copyfile(person.path, part))
    else:
        _write(places.image, lambda part: image.save(part, format="PNG"))
    _write(places.painted, lambda part: painted.save(part, format="PNG"))
    if worn is None:
        places.worn.unlink(missing_ok=True)
    else:
        garment = worn
        _write(places.worn, lambda part: garment.save(part, format="PNG"))
    text = PngInfo()
    text.add_text(KEY, key)
    _write(places.mask, lambda part: mask.save(part, format="PNG", pnginfo=text))


def _at(mask: Mask, image: Image.Image) -> Image.Image:
    """Return a mask as a grey image of the photo's size, white where True."""
    return Image.fromarray(mask).resize(image.size, Image.Resampling.NEAREST).convert("L")


def _framed(image: Image.Image, frame: Box, size: Size, fill: str | int) -> Image.Image:
    """Pad an image to a frame and resize it: photos antialiased, masks by nearest neighbour."""
    how = Image.Resampling.NEAREST if image.mode == "L" else Image.Resampling.BILINEAR
    return cut(image, frame, fill).resize((size[1], size[0]), how)


def _write(path: Path, save: Callable[[Path], object]) -> None:
    """Let `save` write a temporary file next to `path` and rename it, so that a kill leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _entry(person: Person, source: MaskSource, places: _Places) -> dict[str, Any]:
    """Return the record of one photo; the share is of the mask as it is, which the user may have corrected."""
    with Image.open(places.mask) as image:
        covered = float((np.asarray(image.convert("L")) >= 128).mean())
    entry = {"photo": file_sha256(person.path), "image": places.image.name, "category": person.category, "covered": round(covered, 4)}
    boxes = [list(given) for given in source.inputs(person) if isinstance(given, tuple)]
    return {**entry, "box": boxes[0]} if boxes else entry


def _copy_garments(paths: Sequence[Path], people: Sequence[str], options: MaskOptions) -> list[str]:
    """Write the shop images and return their names.

    A shop image with the name of a person is the garment that the person wears, for the reader. If that holds for some people only, the
    folder would be a damaged paired one: those shop images then get another name.

    Raises:
        UserError: if one cannot be read.
    """
    endings = {path: ".png" if options.size else path.suffix for path in paths}
    names = [f"{safe_name(path.stem)}{endings[path]}" for path in paths]
    if not set(people) <= set(names):
        names = [f"{Path(name).stem}_garment{Path(name).suffix}" if name in people else name for name in names]
    for path, name in zip(paths, names, strict=True):
        _copy_garment(path, options.out / "test" / "cloth" / name, options.size)
    return names


def _copy_garment(path: Path, target: Path, size: Size | None) -> None:
    image = open_image(path)
    if size is None:
        _write(target, lambda part: shutil.copyfile(path, part))
        return
    shown = _framed(image, framed(Box(0, 0, *image.size), (image.height, image.width), size, None), size, "white")
    _write(target, lambda part: shown.save(part, format="PNG"))


def pairs_of(people: Sequence[str], garments: Sequence[str]) -> list[tuple[str, str]]:
    """Return every person with every garment of another name, or with itself if there is none: a person to undress.

    >>> pairs_of(["anna.jpg", "bert.jpg"], ["anna.jpg", "shirt.jpg"])
    [('anna.jpg', 'shirt.jpg'), ('bert.jpg', 'anna.jpg'), ('bert.jpg', 'shirt.jpg')]
    """
    return [(person, other) for person in people for other in [name for name in garments if name != person] or [person]]


def safe_name(stem: str) -> str:
    """Return a stem that a pair file can hold: it separates names by spaces, and a colon would be part of a path.

    >>> safe_name("my photo: 2")
    'my_photo_2'
    """
    return re.sub(r"[\s:\\]+", "_", stem)


def _folder(path: Path, option: str) -> Path:
    if not path.is_dir():
        raise UserError(f"{option} {path}: no such folder")
    return path


def _read_earlier(options: MaskOptions, settings: dict[str, Any]) -> MaskRecord | None:
    """Return the record of an earlier run.

    Raises:
        UserError: if the folder holds other files than this command's, or masks with other settings.
    """
    out = options.out
    before = read_record(out)
    if before is None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: exists and was not made by `fashiongen data masks`; choose a new folder")
    if before is not None and before.settings != settings and not options.replace:
        names = sorted(name for name in {*before.settings, *settings} if before.settings.get(name) != settings.get(name))
        told = ", ".join(f"{name} {_short(before.settings.get(name))} instead of {_short(settings.get(name))}" for name in names)
        raise UserError(
            f"--out {out}: its masks were made with other settings ({told}); add --replace to make them again, or choose another"
        )
    return before


def _short(value: object) -> str:
    """Return a setting for a message: of a checkpoint the hash of its weights."""
    if isinstance(value, dict):
        return " ".join(str(sha256)[:12] for name, sha256 in value.items() if str(name).endswith(".safetensors"))
    return str(value)


def _find(options: MaskOptions) -> tuple[list[Person], MaskSource]:
    """Return the people and the source of their masks.

    Raises:
        UserError: if there are no people, or no source is given.
    """
    module = _open_layout(options) if options.layout else None
    listing = None if module is None else module.listing(options.split)
    people = _people(options) if module is None or listing is None else _listed(module, listing.rows, options)
    drawn = options.boxes or (options.source / BOXES if (options.source / BOXES).is_file() else None)
    given = {
        "parse": options.parse is not None
        or (module is not None and listing is not None and all(module.unmaskable(row, listing) is None for row in listing.rows)),
        "segformer": options.checkpoint is not None,
        "box": options.box is not None or drawn is not None,
    }
    kind = options.kind or next((kind for kind in KINDS if given[kind]), None)
    if kind is None or not given[kind]:
        needed = {
            "parse": "--parse and --labels, with --pose (or a layout whose folder holds them)",
            "segformer": "--checkpoint",
            "box": "--box or --boxes",
        }
        ways = needed[kind] if kind else "; or ".join(needed.values())
        raise UserError(f"{options.source}: nothing to make masks from{f' by --from {kind}' if kind else ''}: give {ways}")
    if kind == "segformer":
        assert options.checkpoint is not None
        return people, SegmentationSource(options.checkpoint, options.device)
    if kind == "parse" and options.parse is None:
        assert module is not None
        return people, LayoutSource(module.dataset_class([], module.size), module.layout)
    if kind == "parse":
        assert options.parse is not None
        if options.labels is None:
            raise UserError(f"--parse {options.parse}: add --labels lip or --labels atr: the files do not tell what their numbers mean")
        return people, ParseSource(options.parse, options.pose, options.labels, people)
    if options.box is not None:
        return people, BoxSource({person.path.name: options.box for person in people}, "--box")
    assert drawn is not None
    if not drawn.is_file():
        raise UserError(f"--boxes {drawn}: no such file")
    lines = read_boxes(drawn, {person.path.name for person in people})
    boxes = {name: box for name, (box, _) in lines.items() if box is not None}
    told = {name: category for name, (_, category) in lines.items()}
    people = [replace(person, category=told.get(person.path.name) or person.category) for person in people]
    return people, BoxSource(boxes, str(drawn))


def _people(options: MaskOptions) -> list[Person]:
    """Return the photos of a folder, or the single photo."""
    source = options.source
    if not source.exists():
        raise UserError(f"{source}: no such photo or folder of photos")
    paths = list_photos(source)[0] if source.is_dir() else [source]
    return [Person(id=safe_name(path.stem), path=path, category=options.category or "upper") for path in paths]


def _open_layout(options: MaskOptions) -> TryOnData:
    known = {name: cls for name, cls in layouts().items() if issubclass(cls, TryOnData)}
    if options.layout not in known:
        raise UserError(f"no layout {options.layout!r} of people; there are: {', '.join(known)}; leave it out for photos")
    module = known[options.layout](str(require_folder(options.layout, options.source)), validation=0, size=(512, 384))
    module.find_root()
    return module


def _listed(module: TryOnData, rows: Sequence[TryOnRow], options: MaskOptions) -> list[Person]:
    """Return the people of a dataset; their category is the given one, else their own, else that of what they wear."""
    dataset = module.dataset_class([], module.size)
    people = []
    for row in rows:
        category = options.category or row.category
        if category is None:
            category = dataset.worn_category(None if row.parse is None else read_labels(row.parse, module.size))
        people.append(Person(id=safe_name(row.id), path=row.person, category=category, row=row))
    return people
