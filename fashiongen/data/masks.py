"""Agnostic masks (where the worn garment may be) for folders without them, derived from the other parts.

Each function follows the procedure that the dataset's users follow, so that its masks are like theirs, and documents where it differs.
Masks, labels and images are arrays (H, W) or (H, W, 3), True where the garment may be; widths are given for the original procedure's
image height and scaled to the array's. A derived mask is not the dataset's own: results with the two differ.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

Mask = NDArray[np.bool_]
Labels = NDArray[np.uint8]
Points = NDArray[np.float32]

# LIP labels that VITON-HD pastes back over the grey: sunglasses and face; trousers, skirt, legs and shoes.
LIP_KEPT = (4, 13, 9, 12, 16, 17, 18, 19)

# ATR labels.
HAT, HAIR, SUNGLASSES, UPPER, SKIRT, TROUSERS, DRESS = 1, 2, 3, 4, 5, 6, 7
LEFT_SHOE, RIGHT_SHOE, HEAD, LEFT_LEG, RIGHT_LEG, LEFT_ARM, RIGHT_ARM, BAG, SCARF = 9, 10, 11, 12, 13, 14, 15, 16, 17
ACCESSORIES = (HAT, SUNGLASSES, BAG, LEFT_SHOE, RIGHT_SHOE, SCARF)

# The ATR label of each LIP label. A glove is a hand, which ATR counts as an arm; label 10 is a jumpsuit in LIP, the neck in VITON-HD.
ATR_OF_LIP = np.array(
    (
        *(0, HAT, HAIR, LEFT_ARM, SUNGLASSES, UPPER, DRESS, UPPER, LEFT_LEG, TROUSERS, DRESS, SCARF, SKIRT, HEAD),
        *(LEFT_ARM, RIGHT_ARM, LEFT_LEG, RIGHT_LEG, LEFT_SHOE, RIGHT_SHOE),
    ),
    dtype=np.uint8,
)

# The labels of the worn garment, for each palette and category; ATR's as in TryOffAnyone, where tops and bottoms may be labelled dresses.
WORN: dict[str, dict[str, tuple[int, ...]]] = {
    "atr": {"upper": (UPPER, DRESS), "lower": (SKIRT, TROUSERS), "full": (UPPER, SKIRT, TROUSERS, DRESS)},
    "lip": {"upper": (5, 6, 7), "lower": (9, 12), "full": (5, 6, 7, 9, 10, 12)},
}

# DensePose's part numbers.
TORSO, HANDS, FEET, THIGHS, CALVES, UPPER_ARMS, FOREARMS = (
    (1, 2),
    (3, 4),
    (5, 6),
    (7, 8, 9, 10),
    (11, 12, 13, 14),
    (15, 16, 17, 18),
    (19, 20, 21, 22),
)

# After JPEG: how far the grey paint may be from 128, and how much a painted pixel must differ from the photo.
GREY, GREY_TOLERANCE, CHANGED = 128, 10, 24


def from_painted(painted: NDArray[np.uint8], person: NDArray[np.uint8]) -> Mask:
    """Find the grey paint of an agnostic image (VITON-HD's `agnostic-v3.2`).

    Paint is everything that is grey here but not in the photo, plus the grey connected to it: this includes a painted-over grey garment,
    but not a grey wall.

    Args:
        painted: (H, W, 3) RGB, the person with the garment's region painted (128, 128, 128).
        person: (H, W, 3) RGB, the photo.
    """
    grey = ((painted >= GREY - GREY_TOLERANCE) & (painted <= GREY + GREY_TOLERANCE)).all(axis=2)
    changed = (np.maximum(painted, person) - np.minimum(painted, person) > CHANGED).any(axis=2)
    regions, count = ndimage.label(grey)
    size = np.bincount(regions.ravel(), minlength=count + 1)
    certain = np.bincount(regions[grey & changed], minlength=count + 1)
    # Less than half a percent of a region is noise: JPEG leaves grey specks along edges.
    is_paint = certain > 0.005 * size
    is_paint[0] = False
    # Majority of the 3 x 3 neighbourhood: JPEG also frays the paint's edge.
    mask: Mask = ndimage.uniform_filter(is_paint[regions].astype(np.float32), 3) > 0.5
    return mask


def from_lip(parse: Labels, points: Points) -> Mask:
    """Draw the region that VITON-HD's `get_img_agnostic` paints grey (Choi et al. 2021, `datasets.py`), for upper-body garments.

    Thick lines along the arms and over the shoulders, the torso down to hips as wide as the shoulders, and a square at the neck; head and
    lower body are kept. The original assumes that all joints are visible; here a limb with an invisible joint is skipped, and invisible
    hips are placed one and a half shoulder widths below the shoulders. The parsed garment is added, so that the mask covers it where a
    joint is invisible or the cloth is wider than the lines.

    Args:
        parse: (H, W) LIP labels (5 upper clothes, 6 dress, 7 coat).
        points: (25, 3) OpenPose BODY_25: x and y in the parse's pixels, confidence 0 if not visible.
    """
    height, width = parse.shape
    unit = 20 * height / 1024
    joints, seen = points[:, :2].astype(np.float64), points[:, 2] > 0
    canvas = Image.new("1", (width, height))
    pen = ImageDraw.Draw(canvas)

    def disc(joint: int, across: float, down: float) -> None:
        (x, y), across, down = joints[joint], across * unit, down * unit
        pen.ellipse((x - across, y - down, x + across, y + down), fill=1)

    def line(*ends: int, thick: float) -> None:
        pen.line([tuple(joints[end]) for end in ends], fill=1, width=max(1, round(thick * unit)))

    for elbow in (3, 6):
        for joint in (elbow, elbow + 1):
            if seen[joint - 1] and seen[joint]:
                line(joint - 1, joint, thick=10)
                disc(joint, 5, 5)
    for shoulder in (2, 5):
        if seen[shoulder]:
            disc(shoulder, 5, 5)
    if seen[2] and seen[5]:
        line(2, 5, thick=10)
        _level_hips(joints, seen)
        for hip in (9, 12):
            disc(hip, 3, 6)
        line(2, 9, thick=6)
        line(5, 12, thick=6)
        line(9, 12, thick=12)
        pen.polygon([tuple(joints[joint]) for joint in (2, 5, 12, 9)], fill=1)
    if seen[1]:
        x, y = joints[1]
        pen.rectangle((x - 7 * unit, y - 7 * unit, x + 7 * unit, y + 7 * unit), fill=1)
    mask: Mask = (np.array(canvas, dtype=bool) & ~np.isin(parse, LIP_KEPT)) | np.isin(parse, (5, 6, 7))
    return mask


def _level_hips(joints: NDArray[np.float64], seen: Mask) -> None:
    """Move the hips (9 and 12) apart to the width of the shoulders, or below the shoulders if they are not visible."""
    across = joints[5] - joints[2]
    width = float(np.hypot(*across))
    if seen[9] and seen[12]:
        middle, apart = (joints[9] + joints[12]) / 2, joints[12] - joints[9]
        half = apart * (width / max(float(np.hypot(*apart)), 1e-6)) / 2
    else:
        middle, half = (joints[2] + joints[5]) / 2 + [0.0, 1.5 * width], across / 2
    joints[9], joints[12] = middle - half, middle + half


def from_atr_and_points(parse: Labels, points: Points, category: str) -> Mask:
    """Dilate the garment and the arms as in LaDI-VTON's `dresscode.py`, which is based on Dress Code's own `dataset.py`.

    For upper bodies and dresses a thick line runs from wrist to wrist, and the neck below a line parallel to the shoulders is included;
    everything is dilated by ten pixels of 512; hair, face, shoes, bag, hands and the garments of the other half are kept. Two differences:
    skirts count as lower-body clothes, and for a dress all clothes are the garment, since parsers often split dresses and jumpsuits; LaDI
    leaves both visible.

    Args:
        parse: (H, W) ATR labels.
        points: (18, 3) OpenPose COCO: x and y in the parse's pixels, confidence 0 if not visible.
        category: upper, lower or full.
    """
    height, width = parse.shape
    head = np.isin(parse, (HAT, HAIR, SUNGLASSES, HEAD))
    kept = {"upper": (SKIRT, TROUSERS), "lower": (UPPER, LEFT_ARM, RIGHT_ARM), "full": ()}[category]
    fixed = np.isin(parse, (HAIR, *ACCESSORIES, *kept))
    worn = {
        "upper": (UPPER,),
        "lower": (SKIRT, TROUSERS, LEFT_LEG, RIGHT_LEG),
        "full": (DRESS, UPPER, SKIRT, TROUSERS, LEFT_LEG, RIGHT_LEG),
    }[category]
    region = np.isin(parse, worn)
    if category == "lower":
        fixed |= head
    else:
        sleeves = _arm_line(points, height, width)
        region |= sleeves
        fixed |= np.isin(parse, (LEFT_ARM, RIGHT_ARM)) & ~sleeves  # hands
        face = head & _above_shoulders(points, height, width)
        region |= head & ~face
        fixed |= face
    mask: Mask = _dilated(region, 10 * height / 512) & ~fixed
    return mask


def _arm_line(points: Points, height: int, width: int) -> Mask:
    """Draw a line of 45 pixels of 512 from wrist to wrist over the shoulders, as far as joints are visible."""
    canvas = Image.new("1", (width, height))
    pen = ImageDraw.Draw(canvas)
    chain = [tuple(float(value) for value in points[joint, :2]) for joint in (7, 6, 5, 2, 3, 4) if points[joint, 2] > 0]
    if len(chain) > 1:
        pen.line(chain, fill=1, width=max(1, round(45 * height / 512)), joint="curve")
    return np.array(canvas, dtype=bool)


def _above_shoulders(points: Points, height: int, width: int) -> Mask:
    """Return (H, W), True above the line that runs 20 pixels of 512 over the shoulders; all True if one is not visible."""
    right, left = points[2], points[5]
    if min(right[2], left[2]) <= 0 or abs(left[0] - right[0]) < 1e-6:
        return np.ones((height, width), dtype=bool)
    slope = (left[1] - right[1]) / (left[0] - right[0])
    line = right[1] + slope * (np.arange(width) - right[0]) - 20 * height / 512
    above: Mask = np.arange(height)[:, None] < line[None, :]
    return above


def from_atr_and_densepose(parse: Labels, parts: Labels, category: str) -> Mask:
    """Cover garment and body parts with smooth hulls, as in CatVTON's `AutoMasker`; for street photos without keypoints.

    The unprotected parts of the person, with the DensePose parts that the garment may cover, are filled to convex hulls and smoothed;
    the garment itself is added; face, hands and feet are removed. AutoMasker also uses a LIP parse, which separates the neck from the
    face: here the neck is the head region where DensePose has the torso.

    Args:
        parse: (H, W) ATR labels.
        parts: (H, W) DensePose part numbers, 0 for the background.
        category: upper, lower or full.
    """
    covered = {"upper": (*TORSO, *UPPER_ARMS, *FOREARMS), "lower": (*THIGHS, *CALVES)}
    covered["full"] = covered["upper"] + covered["lower"]
    worn = {"upper": (UPPER, DRESS), "lower": (SKIRT, TROUSERS, DRESS), "full": (UPPER, DRESS, SKIRT, TROUSERS)}[category]
    others = {"upper": (LEFT_LEG, RIGHT_LEG, SKIRT, TROUSERS), "lower": (LEFT_ARM, RIGHT_ARM, HEAD, UPPER), "full": ()}[category]
    # AutoMasker's kernel of 1/250 of the larger side, once, and twice at a quarter of the size.
    step = max(parse.shape) / 500
    face = (parse == HEAD) & ~np.isin(parts, TORSO)
    limbs = np.isin(parse, (LEFT_ARM, RIGHT_ARM, LEFT_LEG, RIGHT_LEG))
    untouched = face | (_dilated(np.isin(parts, HANDS + FEET), step) & limbs)
    protected = untouched | np.isin(parse, (HAIR, *ACCESSORIES, *others))
    body = _dilated(np.isin(parts, covered[category]), 8 * step)
    region = _hulls(((parse > 0) & ~protected) | body) & ~protected
    smooth = ndimage.gaussian_filter(region.astype(np.float32), 3.5 * step) > 0.1
    mask: Mask = _dilated((smooth | np.isin(parse, worn)) & ~untouched, step)
    return mask


def from_atr(parse: Labels, category: str) -> Mask:
    """Cover garment and body parts with smooth hulls, from labels alone: for a segmentation network without keypoints or DensePose.

    The procedure is that of `from_atr_and_densepose`, with the body parts that the labels know. They know neither hands nor neck: hands
    beside an upper garment are covered, and the neck is kept with the face.

    Args:
        parse: (H, W) ATR labels.
        category: upper, lower or full.
    """
    parts = np.zeros_like(parse)
    parts[np.isin(parse, (UPPER, DRESS))] = TORSO[0]
    parts[np.isin(parse, (LEFT_ARM, RIGHT_ARM))] = UPPER_ARMS[0]
    parts[np.isin(parse, (SKIRT, TROUSERS, LEFT_LEG, RIGHT_LEG))] = THIGHS[0]
    return from_atr_and_densepose(parse, parts, category)


def widened(mask: Mask, reach: float, *, as_box: bool = False) -> Mask:
    """Dilate a mask by `reach` pixels of 1024, or fill the bounding box of that: what hides the outline of the garment better.

    >>> bool(widened(np.eye(4, dtype=bool), 0, as_box=True).all())
    True
    """
    grown = _dilated(mask, reach * mask.shape[0] / 1024)
    if as_box and grown.any():
        rows, columns = np.flatnonzero(grown.any(axis=1)), np.flatnonzero(grown.any(axis=0))
        grown[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return grown


def _hulls(mask: Mask) -> Mask:
    """Fill the convex hull of each connected region."""
    canvas = Image.fromarray(mask)
    pen = ImageDraw.Draw(canvas)
    regions, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    for index, box in enumerate(ndimage.find_objects(regions), start=1):
        ys, xs = np.nonzero(regions[box] == index)
        corners = np.stack([xs + box[1].start, ys + box[0].start], axis=1)
        try:
            hull = ConvexHull(corners).vertices
        except QhullError:  # a point or a straight line is its own hull
            continue
        pen.polygon([(int(x), int(y)) for x, y in corners[hull]], fill=1)
    return np.array(canvas, dtype=bool)


def _dilated(mask: Mask, reach: float) -> Mask:
    """Dilate with a square that extends `reach` pixels, rounded, to each side."""
    side = 2 * round(reach) + 1
    grown: Mask = ndimage.maximum_filter(mask, size=side, mode="constant", cval=False)
    return grown
