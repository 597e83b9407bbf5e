"""The options of `fashiongen data masks`. This file imports nothing heavy."""

import argparse
import math
from pathlib import Path
from typing import Any

from fashiongen.cli.values import pixels, size

DESCRIPTION = """Make agnostic masks (where the garment may be) for your own photos, or for a dataset's people, and write
them with the photos in VITON-HD's layout, which `--data fashiongen.data.VITONHD --data.root OUT` reads for
try-on and try-off. The region comes from the first of these that is given, or from --from:

  parse      label maps of a human parser (--parse, --labels) with OpenPose's keypoints (--pose), or those that a
             dataset's folder holds (LAYOUT); drawn like VITON-HD's own masks, or LaDI-VTON's
  segformer  a segmentation network with the clothes labels, a local transformers checkpoint (--checkpoint)
  box        a box for every photo (--box), or one for each (--boxes, by default boxes.csv next to the photos)

Masks from different sources give different metrics: masks.json in OUT records source and settings. After an
interruption run the command again; masks that were made otherwise are only replaced with --replace."""
EXAMPLES = """examples:
  fashiongen data masks my_photos --out dressing --box 0.15,0.2,0.85,0.75 --garments shirts
  fashiongen data masks my_photos --out dressing --checkpoint segformer_b3_clothes --category lower
  fashiongen data masks my_photos --out dressing --parse parses --labels atr --pose keypoints
  fashiongen data masks viton_hd /data/zalando-hd-resized --out drawn"""


def add_masks(actions: Any) -> None:  # noqa: ANN401  argparse's class of subparsers has no public name
    """Add the parser of `data masks`."""
    parser = actions.add_parser(
        "masks", help="make agnostic and garment masks for your own photos", description=DESCRIPTION, epilog=EXAMPLES
    )
    parser.add_argument("layout", metavar="LAYOUT", nargs="?", help="for a dataset's people: its layout, such as viton_hd")
    parser.add_argument("source", metavar="SOURCE", type=Path, help="a photo, a folder of photos, or the dataset's folder")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT", help="folder to write: a new one, or that of an earlier run")
    parser.add_argument("--from", dest="kind", choices=["parse", "segformer", "box"], help="source of the region (default: see above)")
    parser.add_argument(
        "--category", choices=["upper", "lower", "full"], help="the garment to mask (default: the dataset's or boxes.csv's, else upper)"
    )
    parser.add_argument("--split", choices=["train", "test"], default="test", help="half of a dataset (default: %(default)s)")
    region = parser.add_argument_group("sources of the region")
    region.add_argument("--parse", type=Path, metavar="DIR", help="folder of label maps NAME.png")
    region.add_argument("--labels", choices=["lip", "atr"], help="what their numbers mean")
    region.add_argument(
        "--pose",
        type=Path,
        metavar="DIR",
        help="folder of NAME_keypoints.json (25 or 18 points); without it, the region is drawn from the labels alone",
    )
    region.add_argument(
        "--checkpoint", type=Path, metavar="DIR", help="folder of the network, such as of sayeed99/segformer_b3_clothes; it must be local"
    )
    region.add_argument("--device", default="cpu", metavar="D", help="where the network runs: cpu, cuda, cuda:1 (default: %(default)s)")
    region.add_argument(
        "--box", type=_box, metavar="L,T,R,B", help="left, top, right, bottom: pixels of the photo, or shares of it between 0 and 1"
    )
    region.add_argument("--boxes", type=Path, metavar="F", help="CSV file (name,left,top,right,bottom,category) or JSON file of boxes")
    shape = parser.add_argument_group("shape")
    shape.add_argument(
        "--shape",
        choices=["region", "box"],
        default="region",
        help="box fills the region's bounding box, which hides the garment's outline best (default: %(default)s)",
    )
    shape.add_argument(
        "--dilate",
        type=pixels,
        default=0,
        metavar="N",
        help="widen the region by N pixels of a photo 1024 high, beyond the margin that it is drawn with (default: %(default)s)",
    )
    shape.add_argument(
        "--size",
        type=size,
        metavar="HxW",
        help="pad photos and garments with white to this aspect ratio, and resize them (default: leave them as they are)",
    )
    parser.add_argument("--garments", type=Path, metavar="DIR", help="folder of shop images; every person is listed with every one")
    parser.add_argument("--replace", action="store_true", help="make masks again that were made otherwise, or changed by hand")


def _box(text: str) -> tuple[float, float, float, float]:
    try:
        left, top, right, bottom = (float(value) for value in text.split(","))
        if not all(map(math.isfinite, (left, top, right, bottom))):
            raise ValueError("NaN or infinity")
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not LEFT,TOP,RIGHT,BOTTOM, such as 310,420,890,1400 or 0.2,0.3,0.8,0.7") from None
    return left, top, right, bottom
