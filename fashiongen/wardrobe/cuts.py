"""The cut of every category: the parts of the garment, and the positions of prints, pockets, buttons, stripes, ruffles and bows."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from fashiongen.wardrobe.figure import Points, circle, densify, mirror, span
from fashiongen.wardrobe.world import Item

Pair = tuple[float, float]


@dataclass(frozen=True)
class Part:
    """A piece of cloth in the coordinates of one frame of the figure."""

    name: str
    frame: str
    outline: Points
    printed: bool = False
    tone: float = 0.0


@dataclass(frozen=True)
class Detail:
    """A detail of the category itself (a zip, a hood string, a sole)."""

    part: str
    points: Points
    kind: str
    width: float = 1.2


@dataclass(frozen=True)
class Cut:
    """Parts from back to front, and the positions of everything on them, in body units."""

    parts: list[Part]
    emblem: tuple[str, float, float, float, float]
    pockets: list[tuple[str, float, float]] = field(default_factory=list)
    placket: list[tuple[str, Pair, Pair]] = field(default_factory=list)
    collars: list[tuple[str, Points]] = field(default_factory=list)
    sides: list[tuple[str, Points]] = field(default_factory=list)
    hems: list[tuple[str, Points]] = field(default_factory=list)
    bow: tuple[str, float, float] = ("torso", 0.0, 0.0)
    details: list[Detail] = field(default_factory=list)


SIGNS = (-1.0, 1.0)


def on_side(points: list[Pair], sign: float) -> Points:
    """Points of the wearer's left half, mirrored to the right if `sign` is -1."""
    placed: Points = np.array(points, dtype=np.float64) * np.array([sign, 1.0])
    return placed


def cut_of(item: Item) -> Cut:
    """The cut of an item."""
    return _CUTS[item.category](item)


def _neckline(item: Item, half_width: float, depth: float) -> list[Pair]:
    """The right half of a neckline, from its lowest point up to the side of the neck."""
    if item.neckline == "vee":
        return [(0.0, depth + 2.5), (half_width, -1.0)]
    if item.neckline == "square":
        return [(0.0, depth), (half_width * 0.8, depth), (half_width, -1.0)]
    angles = np.linspace(0.0, np.pi / 2, 6)
    return [(half_width * float(np.sin(a)), depth - (depth + 1.0) * (1.0 - float(np.cos(a)))) for a in angles]


def _sleeve_end(item: Item) -> float:
    """How far along the arm the sleeve reaches, in body units."""
    return {"short": 7.0 + 3.5 * item.length, "long": 22.0 + 1.5 * item.length, "no": 0.0}[item.sleeves]


def _sleeves(item: Item, ease: float) -> tuple[list[Part], list[tuple[str, Points]], list[tuple[str, Points]]]:
    """Both sleeves, the lines of their side stripes and their hems."""
    end = _sleeve_end(item)
    if end == 0.0:
        return [], [], []
    wrist = 2.3 + ease * 0.5 + (1.8 * item.flare if item.category in ("shirt", "dress", "sweater", "jumpsuit") else 0.6 * item.flare)
    reach = min(1.0, end / 22.0)
    cuff = (2.9 + ease * 0.6) * (1 - reach) + wrist * reach
    outer = [(-1.2, -3.0), (-1.0, 0.2), (0.6, 1.7 + ease * 0.4), (4.0, 2.7 + ease * 0.5), (end, cuff)]
    inner = [(end, -cuff), (6.5, -2.6 - ease * 0.5), (4.0, -3.2)]
    outline = densify(np.array([*outer, *inner]))
    parts, sides, hems = [], [], []
    for side in ("right", "left"):
        name = f"{side}_arm"
        parts.append(Part(name, name, outline, tone=0.06))
        sides.append((name, span((0.5, 0.8), (end, cuff - 1.7), 14)))
        hems.append((name, span((end, cuff), (end, -cuff), 6)))
    return parts, sides, hems


@dataclass(frozen=True)
class _Basics:
    """Body lengths of a top in body units, and how loose it is."""

    length: float
    ease: float
    neck_depth: float


_TOPS: dict[str, _Basics] = {
    "tshirt": _Basics(23.0, 0.2, 2.4),
    "shirt": _Basics(25.0, 0.3, 2.4),
    "sweater": _Basics(23.0, 0.7, 1.4),
    "hoodie": _Basics(24.0, 1.0, 2.0),
    "tanktop": _Basics(21.0, 0.0, 4.5),
    "jacket": _Basics(20.0, 0.8, 1.5),
    "coat": _Basics(36.0, 0.8, 4.0),
}


def _torso(item: Item) -> Cut:
    """The common cut of everything worn on the upper body."""
    basics, is_coat, is_tank = _TOPS[item.category], item.category == "coat", item.category == "tanktop"
    length, ease, depth = basics.length + 3.5 * item.length, basics.ease + 1.1 * item.width, basics.neck_depth
    hem, waist = 8.6 + ease * 0.9 + (3.0 if is_coat else 1.2) * item.flare, 7.7 + ease
    neck = 4.2 if is_tank else 3.6
    straps: list[Pair] = [(6.9, -0.2), (6.4, 3.0), (7.2, 6.2)]
    shoulders: list[Pair] = [(8.6, 1.0), (9.0, 2.0)]
    armhole = [*(straps if is_tank else shoulders), (8.5 + ease, 8.0)]
    curve = 1.6 if item.category == "shirt" else 0.5
    lower_edge = [(waist, 15.0), (hem, length), (hem * 0.5, length + curve), (0.0, length + curve)]
    outline = mirror([*_neckline(item, neck, depth), *armhole, *lower_edge])
    sleeves, sleeve_sides, sleeve_hems = _sleeves(item, ease)
    hood = mirror([(0.0, -7.2), (3.6, -6.4), (5.6, -3.2), (5.2, 1.0), (2.4, 3.2), (0.0, 4.2)])
    inset = [(8.5 + ease - 1.6, 8.0), (waist - 1.6, 15.0), (hem - 1.6, length - 0.2)]
    collar = [(0.1, depth + 3.0), (3.0, -2.4), (6.2, 0.4), (4.2, 7.2)]
    return Cut(
        parts=[
            *([Part("hood", "torso", hood, tone=0.25)] if item.category == "hoodie" else []),
            *sleeves,
            Part("torso", "torso", outline, printed=True),
        ],
        emblem=("torso", 0.0, 22.4, 14.0, 8.0) if is_coat else ("torso", 0.0, 10.5, 12.5, 7.0),
        pockets=[("torso", sign * hem * 0.5, length - (8.0 if is_coat else 5.6)) for sign in SIGNS],
        placket=[("torso", (0.0, depth + 2.0), (0.0, length - 1.0))],
        collars=[("torso", on_side(collar, sign)) for sign in SIGNS],
        sides=[*(("torso", on_side(inset, sign)) for sign in SIGNS), *sleeve_sides],
        hems=[("torso", np.array([(x, length + curve * (1 - abs(x) / hem)) for x in np.linspace(-hem, hem, 12)])), *sleeve_hems],
        bow=("torso", 0.0, depth + 1.2),
        details=_torso_details(item, length, hem, waist, curve, _half_ring(item, neck, depth)),
    )


def _torso_details(item: Item, length: float, hem: float, waist: float, curve: float, neckline: list[Pair]) -> list[Detail]:
    """The details that distinguish tops: bands, strings, collars, zips and belts."""
    details: list[Detail] = []
    if item.category in ("hoodie", "sweater", "jacket"):
        band = mirror([(0.0, length - 2.4), (hem, length - 2.4), (hem + 0.2, length + curve), (0.0, length + curve)])
        end = _sleeve_end(item)
        cuff = densify(np.array([(end - 2.4, -5.0), (end - 2.4, 5.0), (end, 5.0), (end, -5.0)]))
        details += [Detail("torso", band, "dark_fill"), Detail("right_arm", cuff, "dark_fill"), Detail("left_arm", cuff, "dark_fill")]
    match item.category:
        case "hoodie":
            details += [Detail("torso", on_side([(2.0, 3.0), (2.3, 8.0)], sign), "accent_line", 1.1) for sign in SIGNS]
        case "sweater":
            details.append(Detail("torso", np.array(neckline), "collar_band", 3.2))
        case "tshirt":
            details.append(Detail("torso", np.array(neckline), "collar_band", 1.6))
        case "shirt":
            collar = [(0.2, 2.0), (4.2, -2.0), (5.6, 1.0), (3.0, 5.6)]
            details += [Detail("torso", on_side(collar, sign), "light_fill") for sign in SIGNS]
            details.append(Detail("torso", span((0.0, 4.0), (0.0, length)), "dark_line", 1.0))
        case "jacket":
            collar = [(0.5, 1.5), (1.6, -2.6), (4.4, -2.2), (4.4, 0.8)]
            details.append(Detail("torso", span((0.0, 1.0), (0.0, length)), "metal_line", 1.7))
            details += [Detail("torso", on_side(collar, sign), "dark_fill") for sign in SIGNS]
        case "coat":
            lapel = [(0.3, 12.0), (3.6, -1.6), (6.0, 2.0), (4.6, 5.5), (5.4, 6.6)]
            details += [Detail("torso", on_side(lapel, sign), "dark_fill") for sign in SIGNS]
            details.append(Detail("torso", span((0.0, 12.0), (0.0, length)), "dark_line", 1.2))
            details.append(Detail("torso", span((-waist - 1.0, 16.0), (waist + 1.0, 16.0)), "dark_line", 2.0))
    return details


def _half_ring(item: Item, half_width: float, depth: float) -> list[Pair]:
    """The whole neckline from left to right."""
    right = _neckline(item, half_width, depth)
    return [(-x, y) for x, y in reversed(right)] + right[1:]


def _dress(item: Item) -> Cut:
    """A bodice and a skirt in one piece."""
    length = 36.0 + 14.0 * item.length
    hem = 9.6 + 7.0 * item.flare
    ease = 0.6 * item.width
    neck, depth = 4.4, 2.6
    shoulders: list[Pair] = (
        [(8.6, 1.0), (8.9, 2.0), (8.3 + ease, 8.0)] if item.sleeves != "no" else [(6.6, -0.2), (6.6, 4.0), (8.3 + ease, 8.0)]
    )
    outline = mirror(
        [*_neckline(item, neck, depth), *shoulders, (6.9 + ease, 14.5), (9.2 + ease, 21.0), (hem, length), (0.0, length + 1.0)]
    )
    sleeves, sleeve_sides, sleeve_hems = _sleeves(item, ease)
    inset = [(6.4 + ease, 8.0), (5.0 + ease, 14.5), (7.2 + ease, 21.0), (hem - 2.0, length)]
    collar = [(0.1, depth + 3.5), (3.6, -2.2), (6.8, 0.6), (4.8, 8.0)]
    return Cut(
        parts=[*sleeves, Part("torso", "torso", outline, printed=True)],
        emblem=("torso", 0.0, 9.0, 13.5, 8.5),
        pockets=[("torso", sign * hem * 0.52, length - 9.5) for sign in SIGNS],
        placket=[("torso", (0.0, depth + 3.0), (0.0, length - 1.0))],
        collars=[("torso", on_side(collar, sign)) for sign in SIGNS],
        sides=[
            *(("torso", on_side(inset, sign)) for sign in SIGNS),
            *sleeve_sides,
        ],
        hems=[("torso", np.array([(x, length + 1.0 - abs(x) / hem) for x in np.linspace(-hem, hem, 14)])), *sleeve_hems],
        bow=("torso", 0.0, 14.5),
        details=[Detail("torso", span((-9.0, 14.5), (9.0, 14.5), 8), "dark_line", 2.0)],
    )


def _leg_outline(waist: float, hip: float, length: float, ankle: float) -> list[Pair]:
    """The left leg (x > 0) from the middle of the waist around to the crotch."""
    centre = 4.9 + 0.3 * ankle
    knee = (41.0 - 25.0) / max(length - 25.0, 16.0)
    outer_knee = hip * (1 - knee) + (centre + ankle) * knee
    points: list[Pair] = [(-0.4, 13.5), (waist, 13.5), (hip, 21.0)]
    if length > 41.0:
        points.append((outer_knee, 41.0))
    inner = max(0.7, centre - ankle)
    return [*points, (centre + ankle, length), (inner, length), (0.55, 27.0), (-0.4, 25.5)]


def _legs(item: Item, length: float, ankle: float) -> Cut:
    """Two trouser legs that meet at the middle of the waist."""
    hip = 9.3 + 0.8 * item.width
    outline = densify(np.array(_leg_outline(7.6, hip, length, ankle)))
    parts, sides, hems, placket = [], [], [], []
    centre = 4.9 + 0.3 * ankle
    for side, sign in (("right", -1.0), ("left", 1.0)):
        name = f"{side}_leg"
        parts.append(Part(name, name, outline * np.array([sign, 1.0]), printed=True))
        sides.append((name, on_side([(6.1, 14.0), (hip - 1.8, 21.0), (centre + ankle - 1.8, length)], sign)))
        hems.append((name, span((sign * (centre - ankle), length), (sign * (centre + ankle), length), 6)))
        placket.append((name, (sign * (hip * 0.5), 17.5), (sign * centre, length)))
    long = length > 41.0
    return Cut(
        parts=parts,
        emblem=("left_leg", 0.0, 21.4, 14.5, 8.0),
        pockets=[(f"{side}_leg", sign * 5.5, 29.0 if long else 26.6) for side, sign in (("right", -1.0), ("left", 1.0))],
        placket=placket,
        sides=sides,
        hems=hems,
        bow=("left_leg", 0.0, 14.8),
        details=[Detail(part.name, span((-10.0, 14.2), (10.0, 14.2), 6), "dark_line", 2.0) for part in parts],
    )


def _trousers(item: Item) -> Cut:
    """Long trousers."""
    return _legs(item, 51.0 + 6.0 * item.length, 2.7 + 2.2 * item.flare)


def _shorts(item: Item) -> Cut:
    """Short trousers."""
    return _legs(item, 30.5 + 5.0 * item.length, 4.4 + 0.9 * item.flare)


def _skirt(item: Item) -> Cut:
    """A skirt from the waist down."""
    length = 30.0 + 17.0 * item.length
    hem = 10.0 + 7.0 * item.flare
    hip = 9.4 + 0.6 * item.width
    outline = mirror([(0.0, 13.5), (7.4, 13.5), (hip, 20.0), (hem, length), (hem * 0.5, length + 0.8), (0.0, length + 1.0)])
    middle = (13.5 + length) / 2
    return Cut(
        parts=[Part("torso", "torso", outline, printed=True)],
        emblem=("torso", 0.0, max(middle + 1.5, 25.6), 13.0, 7.5),
        pockets=[("torso", sign * hip * 0.5, 18.8) for sign in SIGNS],
        placket=[("torso", (0.0, 16.5), (0.0, length - 0.5))],
        sides=[("torso", on_side([(5.8, 14.0), (hip - 1.9, 20.0), (hem - 2.0, length)], sign)) for sign in SIGNS],
        hems=[("torso", np.array([(x, length + 1.0 - abs(x) / hem) for x in np.linspace(-hem, hem, 14)]))],
        bow=("torso", 0.0, 15.0),
        details=[Detail("torso", span((-10.0, 14.4), (10.0, 14.4), 6), "dark_line", 2.2)],
    )


def _jumpsuit(item: Item) -> Cut:
    """A bodice with trouser legs."""
    length = 46.0 + 8.0 * item.length
    ankle = 2.9 + 2.4 * item.flare
    legs = _legs(item, length, ankle)
    ease = 0.6 * item.width
    neck, depth = 4.2, 2.6
    collar = [(0.1, depth + 3.5), (3.4, -2.2), (6.6, 0.6), (4.6, 8.0)]
    shoulders: list[Pair] = (
        [(8.6, 1.0), (8.9, 2.0), (8.4 + ease, 8.0)] if item.sleeves != "no" else [(6.6, -0.2), (6.6, 4.0), (8.4 + ease, 8.0)]
    )
    outline = mirror([*_neckline(item, neck, depth), *shoulders, (7.7 + ease * 0.5, 14.0), (8.0 + ease * 0.5, 15.5), (0.0, 15.5)])
    sleeves, sleeve_sides, sleeve_hems = _sleeves(item, ease)
    return Cut(
        parts=[*legs.parts, *sleeves, Part("torso", "torso", outline, printed=True)],
        emblem=("torso", 0.0, 8.4, 14.5, 9.0),
        pockets=legs.pockets,
        placket=[("torso", (0.0, depth + 3.0), (0.0, 14.0)), *legs.placket],
        collars=[("torso", on_side(collar, sign)) for sign in SIGNS],
        sides=[*(("torso", span((sign * 6.6, 8.0), (sign * 6.0, 15.0), 4)) for sign in SIGNS), *sleeve_sides, *legs.sides],
        hems=[*legs.hems, *sleeve_hems],
        bow=("torso", 0.0, 14.5),
        details=[Detail("torso", span((-9.0, 14.8), (9.0, 14.8), 6), "accent_line", 1.8)],
    )


def _shoes(item: Item) -> Cut:
    """A pair of shoes seen from the side, one above the other."""
    parts: list[Part] = []
    details: list[Detail] = []
    sides: list[tuple[str, Points]] = []
    hems: list[tuple[str, Points]] = []
    pockets: list[tuple[str, float, float]] = []
    placket: list[tuple[str, Pair, Pair]] = []
    shaft, heel = 11.0 * item.length, 5.0 * item.flare
    for name, x, y in (("back_shoe", 3.0, -13.0 - shaft * 0.7), ("front_shoe", -3.0, 13.0)):
        top = y - 9.0 - shaft
        shape = [(-16, y + 5), (-17, y - 3), (-16, top), (-3, top), (-1, y - 6), (7, y - 3), (15, y - 1), (18, y + 2), (18, y + 5)]
        parts.append(Part(name, "flat", densify(np.array(shape, dtype=np.float64) + np.array([x, 0.0]), 4.0), printed=True))
        sole = [(-16.5, y + 4.2), (18.6, y + 4.2), (18.2, y + 7.2), (-7, y + 7.2), (-8, y + 7.2 + heel), (-16, y + 7.2 + heel)]
        details.append(Detail(name, np.array(sole, dtype=np.float64) + np.array([x, 0.0]), "sole"))
        sides.append((name, span((x + 4.5, y - 5.5), (x + 1.0, y + 5.0), 4)))
        hems.append((name, span((x - 16.5, top + 0.3), (x - 2.5, top + 0.3), 5)))
        pockets.append((name, x + 4.2, y + 0.7))
        placket.append((name, (x + 0.5, y - 3.4), (x + 14.0, y + 1.6)))
    return Cut(
        parts=parts,
        emblem=("front_shoe", -11.6, 11.6 - shaft * 0.3, 13.5, 8.5),
        pockets=pockets,
        placket=placket,
        sides=sides,
        hems=hems,
        bow=("front_shoe", 6.0, 8.5),
        details=details,
    )


def _bag(item: Item) -> Cut:
    """A handbag from the front."""
    top, bottom = 15.0 + 3.0 * item.width, 16.0 + 3.0 * item.flare
    height = 24.0 + 9.0 * item.length
    outline = mirror([(0.0, 0.0), (top - 1.5, 0.0), (top, 1.5), (bottom, height - 2.0), (bottom - 2.0, height), (0.0, height)])
    reach = 10.0 + 8.0 * item.sleeve
    handle = np.array([(7.5 * np.cos(a), -reach * np.sin(a)) for a in np.linspace(0.0, np.pi, 14)])
    return Cut(
        parts=[Part("torso", "flat", outline, printed=True)],
        emblem=("torso", 0.0, height * 0.42, 20.0, 10.0),
        pockets=[("torso", sign * bottom * 0.5, height * 0.72) for sign in SIGNS],
        placket=[("torso", (-top + 3.0, 3.2), (top - 3.0, 3.2))],
        sides=[("torso", span((sign * (top - 3.0), 0.0), (sign * (bottom - 3.4), height), 4)) for sign in SIGNS],
        hems=[("torso", span((-bottom, height), (bottom, height), 9))],
        bow=("torso", 0.0, 3.0),
        details=[Detail("torso", handle, "handle", 2.6)],
    )


def _hat(item: Item) -> Cut:
    """A hat with a dome and a brim."""
    dome, brim = 17.0 + 5.0 * item.length, 15.5 + 3.5 * item.flare
    wide = 11.5 + 2.0 * item.width
    arc = [(wide * float(np.sin(a)), dome * 0.8 * (1.0 - float(np.cos(a)))) for a in np.linspace(0.0, np.pi / 2, 9)]
    outline = mirror([*arc, (wide + 0.6, dome + 4.0), (0.0, dome + 4.8)])
    depth = 3.4 + 1.2 * item.sleeve
    edge = circle(0.0, 0.0, 1.0, 24) * np.array([brim, depth]) + np.array([0.0, dome + 6.0])
    return Cut(
        parts=[Part("torso", "flat", outline, printed=True), Part("brim", "flat", edge, tone=0.12)],
        emblem=("torso", 0.0, dome * 0.42, 14.0, 7.5),
        pockets=[("torso", sign * wide * 0.55, dome - 2.2) for sign in SIGNS],
        placket=[("torso", (-wide + 1.0, dome - 1.0), (wide - 1.0, dome - 1.0))],
        sides=[("torso", span((sign * (wide - 2.6), 0.0), (sign * (wide - 1.8), dome + 5.0), 4)) for sign in SIGNS],
        hems=[("brim", circle(0.0, 0.0, 1.0, 24)[:13] * np.array([brim, depth]) + np.array([0.0, dome + 6.6]))],
        bow=("torso", 0.0, dome - 1.5),
    )


_CUTS: dict[str, Callable[[Item], Cut]] = {
    **dict.fromkeys(("tshirt", "shirt", "sweater", "hoodie", "tanktop", "jacket", "coat"), _torso),
    "trousers": _trousers,
    "shorts": _shorts,
    "skirt": _skirt,
    "dress": _dress,
    "jumpsuit": _jumpsuit,
    "shoes": _shoes,
    "bag": _bag,
    "hat": _hat,
}
