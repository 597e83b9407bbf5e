"""Good pairs for high-quality fine-tuning (IGR, section 3, "Training Strategy").

The paper selects 20 % of its pairs by hand: it removes occlusions, truncations and side views, and resizes and pads images of extreme
proportions, people's and garments'. Here measures of the human parse, the keypoints and the shop image propose the selection, which is
written to a file that users can edit and read from that file from then on.
"""

import csv
import hashlib
import io
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rich.console import Console
from rich.progress import track

from fashiongen.data.images import Size, image_size, read_image, read_labels, read_mask
from fashiongen.data.listing import TryOnRow
from fashiongen.data.openpose import read_openpose
from fashiongen.data.reframe import Zooms, foreground
from fashiongen.data.user_cache import locked
from fashiongen.errors import UserError
from fashiongen.records import write_atomically

Labels = NDArray[np.uint8]
Points = NDArray[np.float32]

# LIP labels: the garment (upper clothes, dress, coat); skin visible in a neckline (10 is VITON-HD's neck, 13 the face).
GARMENT = (5, 6, 7)
NECKLINE = (10, 13)

# OpenPose's 25 keypoints.
POINTS = 25
RIGHT_SHOULDER, LEFT_SHOULDER, RIGHT_HIP, LEFT_HIP = 2, 5, 9, 12

# Measures are computed at this size: area shares need no detail.
MEASURED_AT: Size = (256, 192)

# The limit from which a measure counts as a defect; scores count each measure in units of its limit.
LIMITS = {"truncation": 0.1, "occlusion": 0.06, "side_view": 0.25, "proportion": 0.25, "garment_proportion": 0.25}
PROPORTIONS = ("proportion", "garment_proportion")
ZOOM_RANGE = (0.5, 2.0)
COLUMNS = ("id", "kept", "score", *LIMITS, "zoom", "garment_zoom", "reason")
LATER_COLUMNS = {"garment_proportion": 0.0, "garment_zoom": 1.0}
"""Columns that files written before version 0.2 lack, and what that means."""


@dataclass(frozen=True)
class Measures:
    """Measures of one person's garment, 0 for a perfect image.

    Attributes:
        truncation: number of garment pixels on the frame's outermost ring, divided by the square root of the garment's area.
        occlusion: share of the torso, between the garment's top and bottom, that shows anything but garment or neckline.
        shoulders: distance between the shoulders divided by the torso's length; 0 if either is not visible.
        asymmetry: difference in confidence between the right and the left shoulder and hip, in [0, 1].
        height: the garment's height as a share of the frame's; 0 without a garment. (Its width depends more on the arms than on scale.)
        extent: the garment's height or width in the shop image as a share of that image's, the larger one; 0 if there is none.
    """

    truncation: float
    occlusion: float
    shoulders: float
    asymmetry: float
    height: float
    extent: float = 0.0


@dataclass(frozen=True)
class Decision:
    """Whether a pair is kept, and why.

    `score` is in (0, 1], higher is better; `zoom` scales the person's image and `garment_zoom` the shop image.
    """

    id: str
    kept: bool
    score: float
    truncation: float
    occlusion: float
    side_view: float
    proportion: float
    garment_proportion: float
    zoom: float
    garment_zoom: float
    reason: str


class QualityFilter:
    """Selects the best pairs of a training set.

    The score of a pair is `1 / (1 + sum of measure / limit)`, over truncation, occlusion and side view, and over the proportions of the
    person and of the shop image too unless `pad_extreme` corrects them. The best `keep` share is kept.
    """

    def __init__(self, keep: float = 0.2, decisions: str | None = None, pad_extreme: bool = True) -> None:
        """Configure the selection.

        Args:
            keep: share of the training pairs to keep, in (0, 1].
            decisions: CSV file of the decisions. If it exists it is used, so that the column `kept` (1 or 0) can be edited by hand;
                else it is written.
            pad_extreme: scale and pad kept people and shop images whose garment takes far more or less of the frame than usual.
        """
        if not 0 < keep <= 1:
            raise UserError(f"quality.keep={keep} must be above 0 and at most 1")
        self.keep = keep
        self.decisions = None if decisions is None else Path(decisions).expanduser()
        self.pad_extreme = pad_extreme

    def select(self, rows: Sequence[TryOnRow]) -> dict[str, Zooms]:
        """Return the ids of the pairs to train on, each with the factors by which its images are scaled (1 for most).

        Raises:
            UserError: if the dataset offers no parse or pose, or the decisions file belongs to other pairs.
        """
        ids = [row.id for row in rows]
        if self.decisions is None:
            decided = decide(measure_rows(rows), ids, self.keep, pad_extreme=self.pad_extreme)
        else:
            if not self.decisions.exists():
                with locked(self.decisions):
                    if not self.decisions.exists():
                        write_decisions(self.decisions, decide(measure_rows(rows), ids, self.keep, pad_extreme=self.pad_extreme))
            decided = read_decisions(self.decisions, ids)
        return {decision.id: Zooms(decision.zoom, decision.garment_zoom) for decision in decided if decision.kept}


def measure(parse: Labels, pose: Points) -> Measures:
    """Measure one person.

    Args:
        parse: (H, W) LIP labels.
        pose: (25, 3) of x, y in the parse's pixels and confidence.
    """
    garment = np.isin(parse, GARMENT)
    shoulders, asymmetry = _shoulders(pose)
    if not garment.any():
        return Measures(truncation=1.0, occlusion=1.0, shoulders=shoulders, asymmetry=asymmetry, height=0.0)
    rows = np.flatnonzero(garment.any(axis=1))
    ring = garment[[0, -1]].sum() + garment[1:-1, [0, -1]].sum()
    trunk = _trunk(pose, parse.shape)
    trunk[: rows[0]] = False
    trunk[rows[-1] + 1 :] = False
    hidden = trunk & ~garment & ~np.isin(parse, NECKLINE)
    return Measures(
        truncation=float(ring / math.sqrt(garment.sum())),
        occlusion=float(hidden.sum() / max(trunk.sum(), 1)),
        shoulders=shoulders,
        asymmetry=asymmetry,
        height=float((rows[-1] - rows[0] + 1) / parse.shape[0]),
    )


def _shoulders(pose: Points) -> tuple[float, float]:
    """Return the distance between the shoulders divided by the torso's length, and the asymmetry of confidence."""
    right, left = pose[[RIGHT_SHOULDER, RIGHT_HIP]], pose[[LEFT_SHOULDER, LEFT_HIP]]
    asymmetry = float(np.abs(right[:, 2] - left[:, 2]).max())
    if min(right[:, 2].min(), left[:, 2].min()) <= 0:
        return 0.0, asymmetry
    middle = (right + left)[:, :2] / 2
    trunk = float(np.hypot(*(middle[1] - middle[0])))
    return float(np.hypot(*(right[0] - left[0])[:2])) / max(trunk, 1.0), asymmetry


def _trunk(pose: Points, size: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return (H, W), True between the shoulders and the hips; empty if one of them is not visible."""
    corners = pose[[RIGHT_SHOULDER, LEFT_SHOULDER, LEFT_HIP, RIGHT_HIP]]
    image = Image.new("1", (size[1], size[0]))
    if corners[:, 2].min() > 0:
        ImageDraw.Draw(image).polygon([(float(x), float(y)) for x, y, _ in corners], fill=1)
    return np.array(image, dtype=bool)


def measure_row(row: TryOnRow) -> Measures:
    """Measure one sample from its files.

    Raises:
        UserError: if the sample has no parse or no pose, or a file is damaged.
    """
    if row.parse is None or row.pose is None:
        lacking = "key points (openpose_json)" if row.parse else "human parse (image-parse-v3)"
        raise UserError(f"data.quality: {row.person.parents[1]} has no {lacking}, which the filter measures")
    labels = read_labels(row.parse, MEASURED_AT).numpy()
    pose = read_openpose(row.pose, POINTS, image_size(row.person), MEASURED_AT).numpy()
    return replace(measure(labels, pose), extent=garment_extent(row))


def garment_extent(row: TryOnRow) -> float:
    """Return the larger of the garment's height and width in its shop image, as a share of the image's; 0 without a garment.

    Raises:
        UserError: if a file is damaged.
    """
    if row.garment_mask is not None:
        garment = read_mask(row.garment_mask, MEASURED_AT)[0]
    elif row.garment is not None:
        garment = foreground(read_image(row.garment, MEASURED_AT))
    else:
        return 0.0
    found = garment.nonzero()
    if not len(found):
        return 0.0
    height, width = (found.amax(dim=0) - found.amin(dim=0) + 1).tolist()
    return float(max(height / MEASURED_AT[0], width / MEASURED_AT[1]))


def measure_rows(rows: Sequence[TryOnRow]) -> list[Measures]:
    """Measure all samples, in order, in threads: decoding releases the GIL."""
    console = Console(stderr=True, quiet=getattr(rank_zero_only, "rank", 0) != 0)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(track(pool.map(measure_row, rows), "measuring the pairs", total=len(rows), console=console, transient=True))


def decide(measures: Sequence[Measures], ids: Sequence[str], keep: float, *, pad_extreme: bool) -> list[Decision]:
    """Rank the pairs and keep the best; measures are compared with the median of this set.

    Ties are broken by the ids' hashes. The best come first.
    """
    worn = [measured for measured in measures if measured.height > 0] or list(measures)
    usual = {name: float(np.median([getattr(measured, name) for measured in worn])) for name in ("shoulders", "height")}
    shown = [measured.extent for measured in measures if measured.extent > 0]
    usual["extent"] = float(np.median(shown)) if shown else 0.0
    judged = [_judge(measured, id_, usual, pad_extreme) for measured, id_ in zip(measures, ids, strict=True)]
    judged.sort(key=lambda decision: (-decision.score, hashlib.sha256(decision.id.encode()).digest()))
    n_kept = round(keep * len(judged))
    return [replace(decision, kept=rank < n_kept) for rank, decision in enumerate(judged)]


def _judge(measured: Measures, id_: str, usual: dict[str, float], pad_extreme: bool) -> Decision:
    narrow = max(0.0, 1.0 - measured.shoulders / usual["shoulders"]) if usual["shoulders"] > 0 else 1.0
    larger = measured.height / usual["height"] if measured.height > 0 else 0.0
    garment_larger = measured.extent / usual["extent"] if measured.extent > 0 else 1.0
    values = {
        "truncation": measured.truncation,
        "occlusion": measured.occlusion,
        "side_view": max(narrow, measured.asymmetry),
        "proportion": abs(math.log(larger)) if larger > 0 else 1.0,
        "garment_proportion": abs(math.log(garment_larger)),
    }
    mended = pad_extreme and measured.height > 0
    counted = [name for name in values if not (mended and name in PROPORTIONS)]
    score = 1.0 / (1.0 + sum(values[name] / LIMITS[name] for name in counted))
    defects = [name for name in values if values[name] > LIMITS[name]]
    zooms = {
        name: round(float(np.clip(1 / ratio, *ZOOM_RANGE)), 4) if mended and name in defects else 1.0
        for name, ratio in zip(PROPORTIONS, (larger, garment_larger), strict=True)
    }
    reason = "no garment" if measured.height == 0 else " ".join(defects)
    return Decision(
        id=id_, kept=False, score=score, **values, zoom=zooms["proportion"], garment_zoom=zooms["garment_proportion"], reason=reason
    )


def write_decisions(path: Path, decisions: Sequence[Decision]) -> None:
    """Write the decisions as CSV atomically."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for decision in decisions:
        numbers = [f"{getattr(decision, column):.4f}" for column in COLUMNS[2:-1]]
        writer.writerow([decision.id, int(decision.kept), *numbers, decision.reason])
    write_atomically(path, text.getvalue())


def read_decisions(path: Path, ids: Sequence[str]) -> list[Decision]:
    """Read the decisions on the pairs `ids`, which may have been edited by hand.

    Raises:
        UserError: if a column is missing, a value is invalid, or the file's ids are not exactly `ids`.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if missing := [column for column in COLUMNS if column not in (*(reader.fieldnames or ()), *LATER_COLUMNS)]:
            raise UserError(f"{path}: has no column {', '.join(missing)}; delete the file to regenerate the decisions")
        decisions = [_parsed(path, reader.line_num, line) for line in reader]
    found, wanted = {decision.id for decision in decisions}, set(ids)
    if len(decisions) != len(wanted) or found != wanted:
        odd = sorted(found ^ wanted)
        what = f"{len(odd)} ids differ, such as {odd[0]}" if odd else "an id is listed twice"
        raise UserError(f"{path}: does not belong to this training set ({what}); name another file, or delete this one to regenerate it")
    return decisions


def _parsed(path: Path, line: int, values: dict[str, str]) -> Decision:
    try:
        numbers = {column: float(values.get(column, LATER_COLUMNS.get(column, ""))) for column in COLUMNS[2:-1]}
        decision = Decision(id=values["id"], kept={"1": True, "0": False}[values["kept"].strip()], **numbers, reason=values["reason"] or "")
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}, line {line}: kept must be 1 or 0, and {', '.join(COLUMNS[2:-1])} numbers") from error
    for name in ("zoom", "garment_zoom"):
        if not ZOOM_RANGE[0] <= (zoom := getattr(decision, name)) <= ZOOM_RANGE[1]:
            raise UserError(f"{path}, line {line}: {name}={zoom} must be from {ZOOM_RANGE[0]} to {ZOOM_RANGE[1]}")
    return decision
