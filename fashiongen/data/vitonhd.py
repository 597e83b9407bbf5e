"""VITON-HD (Choi et al., CVPR 2021; also `zalando-hd-resized`): women's upper-body garments, one person and one shop image per sample.

    ROOT/train_pairs.txt  test_pairs.txt        "person.jpg cloth.jpg" per line
    ROOT/{train,test}/image/00006_00.jpg        the person
                      cloth/00006_00.jpg        the shop image, on white
                      cloth-mask/00006_00.jpg   its foreground
                      agnostic-mask/00006_00_mask.png         white where the garment may be; not in every copy
                      agnostic-v3.2/00006_00.jpg              the person with that region painted grey
                      image-parse-v3/00006_00.png             LIP labels
                      openpose_json/00006_00_keypoints.json   25 keypoints
                      image-unpaired/00006_00.jpg   the person in the second column's garment; only the embedded wardrobe can have it

The archive's top folder and some other folders have several names (`PLACES`). Missing agnostic masks are derived from the grey paint of
`agnostic-v3.2`, else from parse and keypoints.

`fashiongen data masks` writes this layout too, with `masks.json`, which holds the category of each person; here all are upper by default.

Both pair files are mismatched in their second column: they are for dressing a person in another garment. A person's own garment is the
image of the same name, so samples here are always (person, garment of that name), and the second column is the other garment of an
unpaired test. CatVTON names the test file `test_pairs_unpaired.txt`. It may list a person several times, with different garments.
"""

import json
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fashiongen.data import masks
from fashiongen.data.images import Size, read_labels
from fashiongen.data.listing import UNPAIRED, Listing, NotListed, TryOnRow, find, lists_nobody, read_pairs
from fashiongen.data.mask_record import read_record
from fashiongen.data.openpose import read_openpose
from fashiongen.data.quality import QualityFilter
from fashiongen.data.reframe import Zooms
from fashiongen.data.tryon import TryOnData
from fashiongen.data.tryon_dataset import TryOnDataset
from fashiongen.errors import UserError

KEYPOINTS = 25
# The height at which VITON-HD's own code draws the agnostic region.
DRAWN_AT = 1024

PAIR_FILES = {"train": ("train_pairs.txt",), "test": ("test_pairs.txt", "test_pairs_unpaired.txt")}

# For each part the folders and suffixes (after the person's stem; "" is the full name) in copies of the dataset.
PLACES: dict[str, tuple[tuple[str, str], ...]] = {
    "person": (("image", ""),),
    "garment": (("cloth", ""),),
    "garment_mask": (("cloth-mask", ""), ("cloth-mask", ".png"), ("cloth_mask", ""), ("cloth_mask", ".png")),
    "mask": tuple((folder, ending) for folder in ("agnostic-mask", "agnostic_masks", "agnostic_mask") for ending in ("_mask.png", ".png")),
    "agnostic": (("agnostic-v3.2", ""), ("agnostic-v3.2", ".png"), ("agnostic", ""), ("agnostic", ".png")),
    "dressed": (("image-unpaired", ""),),
    "parse": (("image-parse-v3", ".png"), ("image-parse", ".png")),
    "pose": (("openpose_json", "_keypoints.json"), ("openpose-json", "_keypoints.json")),
}


class VITONHDDataset(TryOnDataset):
    """Samples as batches of one, at one size."""

    palette: ClassVar[str] = "lip"

    def read_pose(self, path: Path, source: Size, size: Size) -> Tensor:
        """Read 25 keypoints."""
        return read_openpose(path, KEYPOINTS, source, size)

    def make_mask(self, row: TryOnRow, source: Size) -> NDArray[np.bool_]:
        """Derive the mask from parse and keypoints, as in VITON-HD's own code."""
        if row.parse is None or row.pose is None:
            return super().make_mask(row, source)
        frame = (DRAWN_AT, max(1, round(DRAWN_AT * source[1] / source[0])))
        return masks.from_lip(read_labels(row.parse, frame).numpy(), self.read_pose(row.pose, source, frame).numpy())


class VITONHD(TryOnData):
    """VITON-HD, paired in training and test.

    A sample's id is the stem of its person image. If the test file lists some person with several garments, an unpaired test has a sample
    per line, with the id `PERSON_GARMENT`, and a paired one a sample per person. With `duplicates` the name is `viton_hd-clean`: its
    numbers are not comparable to those of the whole dataset.
    """

    layout: ClassVar[str] = "viton_hd"
    markers: ClassVar[tuple[str, ...]] = tuple(name for names in PAIR_FILES.values() for name in names)
    dataset_class: ClassVar[type[TryOnDataset]] = VITONHDDataset

    def __init__(
        self,
        root: str,
        *,
        quality: QualityFilter | None = None,
        duplicates: str | None = None,
        **options: Any,  # noqa: ANN401  TryOnData's own
    ) -> None:
        """Store the settings; nothing is read before `setup`.

        Args:
            root: the dataset's folder or its parent, or `wardrobe` for the embedded world, rendered on first use.
            quality: train only on good pairs, for any task.
            duplicates: JSON file of pairs to exclude, in the format of TryOffDiff's `references/vitonhd_duplicate_filenames.json`,
                `{"test": {"duplicates": ["02015_00.jpg", ...], "leaked": [...]}, "train": {"duplicates": [...]}}`. That file leaves
                1,990 of 2,032 test pairs and 11,552 of 11,647 training pairs.
            options: options of every try-on dataset.
        """
        super().__init__(root, **options)
        self.quality = quality
        self.duplicates = None if duplicates is None else Path(duplicates).expanduser()
        if self.duplicates is not None:
            self.name = f"{self.name}-clean"
        self.left_out: dict[str, int] = {}

    def listing(self, half: str, part: str = "person") -> Listing:
        """List the pairs of a half, train or test; the folder must hold at least one `part`, person or garment.

        Raises:
            UserError: if the pair file is missing, damaged or empty, the folder holds none of its people (or garments), or `duplicates`
                does not belong to this dataset.
        """
        pairs_file = next((self.root / name for name in PAIR_FILES[half] if (self.root / name).is_file()), self.root / PAIR_FILES[half][0])
        if not pairs_file.is_file():
            raise NotListed(f"{self.layout}: {pairs_file} is missing: data.root must be a folder in the VITON-HD layout, or `wardrobe`")
        pairs = read_pairs(pairs_file)
        if not pairs:
            raise lists_nobody([pairs_file])
        if self.duplicates is not None:
            unwanted = read_duplicates(self.duplicates, half)
            clean = [pair for pair in pairs if pair[0] not in unwanted]
            self.left_out[half] = len(pairs) - len(clean)
            if unwanted and not self.left_out[half]:
                raise UserError(
                    f"{self.duplicates}: none of its {half} names is in {pairs_file}, which is clean already or another dataset's"
                )
            pairs = clean
        first: dict[str, tuple[str, ...]] = {}
        for pair in pairs:
            first.setdefault(pair[0], pair)
        several = half == "test" and len(set(pairs)) > len(first)  # garments for some person
        if several and self.pairing == "paired":
            pairs = list(first.values())
        names, others = [person for person, _ in pairs], [cloth for _, cloth in pairs]
        stems = [PurePosixPath(name).stem for name in names]
        ids = stems
        if several and self.pairing == "unpaired":
            ids = [f"{stem}_{PurePosixPath(other).stem}" for stem, other in zip(stems, others, strict=True)]
        drawn = [f"{id_}{PurePosixPath(name).suffix}" for id_, name in zip(ids, names, strict=True)]
        found = {part: find(self.root / half, places, names, stems) for part, places in PLACES.items()}
        found["other"] = find(self.root / half, PLACES["garment"], others, others)
        found["other_mask"] = find(self.root / half, PLACES["garment_mask"], others, [PurePosixPath(name).stem for name in others])
        if found[part] is None and pairs:
            folder, whose = self.root / half / PLACES[part][0][0], {"person": "people", "garment": "garments"}[part]
            raise UserError(f"{self.layout}: {folder} is missing or holds none of the {whose} of {pairs_file}")
        if found["mask"] is not None:
            found["agnostic"] = None
        found["dressed"] = find(self.root / half, PLACES["dressed"], drawn, ids)
        made = read_record(self.root)
        photos = made.photos if made else {}
        present = {part: both for part, both in found.items() if both is not None}
        rows = [
            TryOnRow(
                id=ids[index],
                category=photos.get(stem, {}).get("category", "upper"),
                **{
                    "person": self.root / half / "image" / names[index],
                    # A pair of the same name has no other garment.
                    **{part: paths[index] for part, (paths, _) in present.items() if part not in UNPAIRED or others[index] != names[index]},
                },
            )
            for index, stem in enumerate(stems)
        ]
        repeated = [id_ for id_, count in Counter(ids).items() if count > 1]
        return Listing(
            half=half, sources=(pairs_file,), rows=rows, absent={part: absent for part, (_, absent) in present.items()}, repeated=repeated
        )

    def unmaskable(self, row: TryOnRow, listing: Listing) -> str | None:
        """Masks are derived from parse and keypoints."""
        if row.parse is not None and row.pose is not None:
            return None
        return (
            f"{self.root / listing.half / 'agnostic-mask'} is missing or holds no mask of the people of {listing.lists}, and there is "
            "nothing to make them from; add the agnostic masks (STEM_mask.png, white where the garment may be), agnostic-v3.2, or "
            "image-parse-v3 and openpose_json"
        )

    def lacks_garments(self, half: str) -> str:
        """Return the message that the folder of shop images is missing."""
        return f"{self.root / half} has no folder cloth"

    def dataset(self, split: str, rows: dict[str, list[TryOnRow]]) -> TryOnDataset:
        """Build the Dataset of a split; with `quality`, training uses only good pairs."""
        zooms: dict[str, Zooms] | None = None
        chosen = rows[split]
        if self.quality is not None and split == "train":
            zooms = self.quality.select([*rows["train"], *rows["val"]])
            chosen = [row for row in chosen if row.id in zooms]
        return self.dataset_class(chosen, self.size, batch_type=self.batch_type, zooms=zooms, filter=self.filter, in_memory=self.in_memory)

    def describe(self) -> dict[str, Any]:
        """Return a description for logs, with the number of pairs excluded by `duplicates`."""
        described = super().describe()
        return described if self.duplicates is None else {**described, "left_out": dict(self.left_out)}


def read_duplicates(path: Path, half: str) -> set[str]:
    """Read the names of a half to exclude.

    Raises:
        UserError: if the file is missing or not in the format that `VITONHD` describes.
    """
    try:
        kinds = json.loads(path.read_text(encoding="utf-8")).get(half, {}).values()
        names = [name for kind in kinds for name in kind]
        if not all(isinstance(name, str) for name in names) or any(isinstance(kind, str) for kind in kinds):
            raise TypeError("a name is not a text")
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: data.duplicates names TryOffDiff's vitonhd_duplicate_filenames.json") from error
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        form = '{"test": {"duplicates": [NAME, ...], "leaked": [...]}, "train": {...}}'
        raise UserError(f"{path}: not a list of duplicates of the form {form} ({type(error).__name__})") from error
    return set(names)
