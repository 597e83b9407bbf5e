"""People who wear the wardrobe's garments: pose, build, looks, framing, and flaws that make a photo hard to use."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fashiongen.wardrobe.figure import Figure
from fashiongen.wardrobe.world import RGB, Item, Stream, allowed_item

VITON_CATEGORIES: tuple[str, ...] = ("tshirt", "shirt", "sweater", "hoodie", "tanktop", "jacket")
BOTTOMS: tuple[str, ...] = ("trousers", "skirt", "shorts")
SKINS: tuple[RGB, ...] = ((250, 218, 196), (238, 194, 160), (214, 164, 124), (172, 118, 80), (128, 82, 54), (92, 58, 42))
HAIRS: tuple[RGB, ...] = ((28, 22, 22), (66, 40, 26), (120, 74, 40), (196, 152, 84), (150, 62, 36), (120, 116, 114))
HAIR_STYLES: tuple[str, ...] = ("short", "bob", "long", "bun")
BACKGROUNDS: tuple[RGB, ...] = ((232, 232, 234), (226, 220, 212), (214, 224, 232), (238, 230, 226), (206, 214, 206), (198, 198, 206))
OCCLUSIONS: tuple[str, ...] = ("arm", "hair", "bag")
GOOD_SHARE, HARD_SHARE = 0.24, 0.34


@dataclass(frozen=True)
class Person:
    """One photo to draw: the person, the pose, the clothes, and its flaws as a training pair.

    `figure` maps body units to the 48 x 64 canvas. `occlusion` is one of none, arm, hair, bag.
    """

    id: str
    garment: Item
    top: Item
    bottom: Item
    figure: Figure
    skin: RGB
    hair: RGB
    hair_style: str
    background: RGB
    shoes: RGB
    bag: RGB
    light: float
    folds: tuple[float, float, float, float]
    hard_pose: bool
    occlusion: str
    truncated: bool
    side_view: bool
    extreme_proportion: bool

    @property
    def quality(self) -> str:
        """Good: front view, nothing hidden. Hard: an uneven pose. Bad: part of the garment is hard to see."""
        if self.truncated or self.side_view or self.extreme_proportion or self.occlusion != "none":
            return "bad"
        return "hard" if self.hard_pose else "good"

    @property
    def hidden_arm(self) -> str | None:
        """The wearer's arm (right or left) that a side view hides."""
        if not self.side_view:
            return None
        return "left" if self.figure.turn > 0 else "right"


def make_person(seed: int, namespace: str, index: int, categories: Sequence[str] = VITON_CATEGORIES) -> Person:
    """Person number `index` of a namespace, wearing a garment of one of the categories."""
    stream = Stream(seed, namespace, "person", index)
    name = f"{namespace}-{index:06d}"
    garment = allowed_item(stream, namespace, f"{name}-garment", categories)
    top = allowed_item(stream, namespace, f"{name}-top", ("tshirt", "tanktop", "sweater"))
    bottom = allowed_item(stream, namespace, f"{name}-bottom", BOTTOMS)
    draw = stream.number()
    hard_pose = GOOD_SHARE <= draw < GOOD_SHARE + HARD_SHARE
    flaws = _flaws(stream) if draw >= GOOD_SHARE + HARD_SHARE else frozenset()
    occlusion = stream.choice(OCCLUSIONS) if "occlusion" in flaws else "none"
    figure = _pose(stream, hard_pose, occlusion == "arm")
    if "side_view" in flaws:
        figure = _side(stream, figure)
    figure = _frame(stream, figure, garment.garment_type, "truncated" in flaws, "extreme_proportion" in flaws)
    return Person(
        id=name,
        garment=garment,
        top=top,
        bottom=bottom,
        figure=figure,
        skin=stream.choice(SKINS),
        hair=stream.choice(HAIRS),
        hair_style="long" if occlusion == "hair" else stream.choice(HAIR_STYLES),
        background=stream.choice(BACKGROUNDS),
        shoes=stream.choice(HAIRS),
        bag=stream.choice(((150, 90, 50), (40, 40, 48), (170, 40, 50), (210, 180, 130))),
        light=stream.number(-1.0, 1.0),
        folds=(stream.number(), stream.number(), stream.number(), stream.number()),
        hard_pose=hard_pose,
        occlusion=occlusion,
        truncated="truncated" in flaws,
        side_view="side_view" in flaws,
        extreme_proportion="extreme_proportion" in flaws,
    )


def _flaws(stream: Stream) -> frozenset[str]:
    """Draw one flaw, sometimes two."""
    names = ("occlusion", "occlusion", "truncated", "side_view", "extreme_proportion")
    flaws = {stream.choice(names)}
    if stream.chance(0.2):
        flaws.add(stream.choice(names))
    # A photo that is cropped on purpose keeps its normal scale, so that the two flaws stay distinct.
    return frozenset(flaws - {"extreme_proportion"} if "truncated" in flaws else flaws)


def _pose(stream: Stream, hard: bool, arm_across: bool) -> Figure:
    """A relaxed front pose, a bent one, or one with a forearm in front of the body."""
    reach = 1.0 if hard else 0.3
    figure = Figure(
        width=stream.number(0.93, 1.08),
        lean=stream.number(-3.0, 3.0) * reach,
        bend=stream.number(-1.6, 1.6) * reach,
        turn=stream.number(-0.9, 0.9) * reach,
        tilt=stream.number(-0.1, 0.1) * reach,
        right_arm=_arm(stream, hard),
        left_arm=_arm(stream, hard),
        stance=(stream.number(0.0, 0.1), stream.number(0.0, 0.1)),
    )
    if arm_across:
        across = (stream.number(0.1, 0.35), stream.number(-1.9, -1.25))
        side = stream.choice(("right_arm", "left_arm", "both"))
        if side in ("right_arm", "both"):
            figure = replace(figure, right_arm=across)
        if side in ("left_arm", "both"):
            figure = replace(figure, left_arm=(across[0], across[1] + 0.25))
    return figure


def _arm(stream: Stream, hard: bool) -> tuple[float, float]:
    """Angles of upper arm and forearm, in radians from straight down, outwards positive."""
    calm = (stream.number(0.2, 0.42), stream.number(0.08, 0.34))
    gesture = stream.choice(("hang", "hip", "out", "up"))
    hip = (stream.number(0.62, 0.85), stream.number(-0.7, -0.45))
    out = (stream.number(0.4, 0.6), stream.number(0.2, 0.5))
    up = (stream.number(0.7, 1.0), stream.number(2.2, 2.7))
    return {"hang": calm, "hip": hip, "out": out, "up": up}[gesture if hard else "hang"]


def _side(stream: Stream, figure: Figure) -> Figure:
    """The same body, turned so far that it looks narrow and one arm is hidden."""
    sign = 1.0 if stream.chance(0.5) else -1.0
    near = (stream.number(-0.12, 0.08), stream.number(-0.55, -0.2))
    return replace(
        figure,
        width=figure.width * stream.number(0.56, 0.66),
        turn=sign * stream.number(1.3, 1.7),
        right_arm=near if sign > 0 else figure.right_arm,
        left_arm=near if sign < 0 else figure.left_arm,
    )


def _frame(stream: Stream, figure: Figure, garment_type: str, truncated: bool, extreme: bool) -> Figure:
    """Scale and position of the body on the canvas: from the thighs up for tops, head to feet otherwise."""
    whole = garment_type != "upper"
    scale = stream.number(0.76, 0.8) if whole else stream.number(1.12, 1.22)
    x, y = 24.0 + stream.number(-1.0, 1.0) - figure.lean * scale * 0.4, (2.2 if whole else 2.6) + 17.4 * scale + stream.number(-0.6, 0.6)
    sidewards, large = stream.chance(0.4), stream.chance(0.4)
    near, shift = stream.number(), stream.number()
    if truncated and sidewards:
        x += (12.5 + 5.0 * shift) * (1.0 if near > 0.5 else -1.0)
    elif truncated and whole:
        scale, y = scale * 1.5, -6.0 + 4.0 * shift if garment_type == "lower" else 16.0 + 4.0 * shift
    elif truncated:
        scale *= 1.35 + 0.2 * near
        y = 64.0 - (13.0 + 5.0 * shift) * scale
    elif extreme and large and not whole:
        scale *= 1.35 + 0.15 * near
        y = 12.0 + 4.0 * shift
    elif extreme:
        scale *= 0.46 + 0.08 * near if not whole else 0.58 + 0.08 * near
        y = (64.0 - 60.0 * scale) * (0.55 + 0.4 * shift) + 6.0
        x += 14.0 * (shift - 0.5)
    return replace(figure, scale=scale, origin=(x, y))
