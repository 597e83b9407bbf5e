"""The look of an item: its cut filled with colour, print, material texture and the trims of its style, as plain shapes.

Lengths are in pixels of a 64 x 48 shop image times `grain` (body units per pixel), so textures have the same scale on a dress
as on a shirt.
"""

from dataclasses import dataclass, field

import numpy as np

from fashiongen.wardrobe.cuts import Cut, Part, cut_of
from fashiongen.wardrobe.figure import Points, box, circle, span
from fashiongen.wardrobe.glyphs import GLYPH_STROKES, logo_outline
from fashiongen.wardrobe.world import RGB, Item, brightness

INK: RGB = (32, 30, 36)
PAPER: RGB = (250, 250, 248)


@dataclass(frozen=True)
class Shape:
    """One filled or stroked path in the coordinates of a frame."""

    frame: str
    points: Points
    fill: RGB | None = None
    stroke: RGB | None = None
    width: float = 0.0
    opacity: float = 1.0
    closed: bool = True
    clipped: bool = True
    solid: bool = False
    dash: float = 0.0
    see_through: bool = False


@dataclass
class Layer:
    """A part of the cut with everything drawn on it; clipped shapes stay inside its outline, solid ones count as cloth."""

    part: Part
    shapes: list[Shape] = field(default_factory=list)


def mix(first: RGB, second: RGB, share: float) -> RGB:
    """`first` blended with a share of `second`."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def accent_of(rgb: RGB) -> RGB:
    """White on dark cloth, near black on bright cloth."""
    return PAPER if brightness(rgb) < 150 else INK


def shade_of(rgb: RGB, share: float) -> RGB:
    """A darker shade of a colour; a lighter one for black, so that it is visible."""
    return mix(rgb, (0, 0, 0), share) if brightness(rgb) > 60 else mix(rgb, (255, 255, 255), share * 0.8)


def layers_of(item: Item, grain: float) -> list[Layer]:
    """All layers of an item from back to front."""
    cut = cut_of(item)
    layers = {part.name: Layer(part) for part in cut.parts}
    hems = _ruffles(item, cut, grain) if item.attributes["Clothing Fashion Style"] == "romantic" else []
    for name, shape in hems:
        layers[name].shapes.append(shape)
    for layer in layers.values():
        part = layer.part
        base = shade_of(item.rgb, part.tone)
        layer.shapes.append(Shape(part.frame, part.outline, fill=base, clipped=False, solid=True))
        if part.printed:
            layer.shapes += _print_field(item, part, grain)
        layer.shapes += _material(item, part, base, grain)
    for name, shape in [*_details(item, cut, grain), *_style(item, cut, grain), *_emblem(item, cut, grain)]:
        layers[name].shapes.append(shape)
    return list(layers.values())


def _bounds(part: Part) -> tuple[float, float, float, float]:
    """Minimum and maximum x and y of a part; for arms, x runs across and y along."""
    points = part.outline[:, ::-1] if part.frame.endswith("_arm") else part.outline
    return float(points[:, 0].min()), float(points[:, 0].max()), float(points[:, 1].min()), float(points[:, 1].max())


def _oriented(part: Part, points: Points) -> Points:
    """Points given as (across, down) in the order of the part's frame."""
    return points[:, ::-1] if part.frame.endswith("_arm") else points


def _print_field(item: Item, part: Part, grain: float) -> list[Shape]:
    """Stripes, dots or checks over a whole part."""
    design = item.attributes["Design features"]
    left, right, top, bottom = _bounds(part)
    second = item.second_rgb
    shapes: list[Shape] = []
    if design in ("stripes", "checks"):
        period = (8.0 if design == "stripes" else 8.5) * grain
        thick = (3.0 if design == "stripes" else 2.3) * grain
        for y in np.arange(np.floor(top / period) * period + item.phase * period, bottom + period, period):
            shapes.append(Shape(part.frame, span((left - 1, y), (right + 1, y), 10), stroke=second, width=thick, closed=False))
        if design == "checks":
            for x in np.arange(np.floor(left / period) * period, right + period, period):
                shapes.append(Shape(part.frame, span((x, top - 1), (x, bottom + 1), 12), stroke=second, width=thick, closed=False))
    if design == "dots":
        period = 7.0 * grain
        for row, y in enumerate(np.arange(np.floor(top / period) * period + item.phase * period, bottom + period, period * 0.8)):
            for x in np.arange(np.floor(left / period) * period, right + period, period):
                shapes.append(Shape(part.frame, circle(x + (row % 2) * period / 2, y, 1.9 * grain, 9), fill=second))
    return shapes


def _material(item: Item, part: Part, base: RGB, grain: float) -> list[Shape]:
    """The texture of the material over a whole part."""
    material = item.attributes["Material"]
    left, right, top, bottom = _bounds(part)
    frame = part.frame
    dark = shade_of(base, 0.55)
    shapes: list[Shape] = []
    if material == "denim":
        step, rise = 5.0 * grain, bottom - top
        for x in np.arange(left - rise, right, step):
            shapes.append(
                Shape(
                    frame,
                    _oriented(part, span((x, bottom), (x + rise, top), 16)),
                    stroke=dark,
                    width=1.5 * grain,
                    opacity=0.5,
                    closed=False,
                )
            )
        seam: RGB = (255, 150, 30) if item.color not in ("orange", "yellow", "red", "beige", "pink") else (40, 60, 130)
        shapes.append(Shape(frame, part.outline, stroke=mix(base, (20, 30, 70), 0.6), width=5.2 * grain, opacity=0.9))
        shapes.append(Shape(frame, part.outline, stroke=seam, width=2.8 * grain, dash=2.2 * grain))
        shapes.append(Shape(frame, part.outline, stroke=mix(base, (20, 30, 70), 0.6), width=1.2 * grain))
    if material == "knit":
        step, tooth = 5.0 * grain, 2.6 * grain
        for y in np.arange(top - step, bottom + step, step):
            x = np.arange(left - tooth, right + 2 * tooth, tooth)
            zigzag = np.stack([x, y + np.where(np.arange(len(x)) % 2 == 0, 0.0, tooth)], axis=1)
            shapes.append(Shape(frame, _oriented(part, zigzag), stroke=dark, width=1.4 * grain, opacity=0.55, closed=False))
    if material == "leather":
        shapes.append(Shape(frame, part.outline, stroke=mix(base, (0, 0, 0), 0.65), width=5.0 * grain, opacity=0.7))
        gleam: RGB = (255, 255, 255) if brightness(base) < 225 else (150, 165, 190)
        wide, step, rise = 2.6 * grain, 15.0 * grain, (right - left) * 0.9
        for y in np.arange(top - rise, bottom + rise, step):
            streak = np.concatenate(
                [span((left, y + rise), (right, y), 8), span((right, y + wide * 1.7), (left, y + rise + wide * 0.7), 8)]
            )
            shapes.append(Shape(frame, _oriented(part, streak), fill=gleam, opacity=0.85))
            thin = span((left, y + rise + wide * 2.3), (right, y + wide * 2.3), 8)
            shapes.append(Shape(frame, _oriented(part, thin), stroke=gleam, width=0.8 * grain, opacity=0.6, closed=False))
    if material == "lace":
        period = 5.6 * grain
        hole = 1.75 * grain
        for row, y in enumerate(np.arange(top, bottom + period, period * 0.75)):
            for x in np.arange(np.floor(left / period) * period, right + period, period):
                diamond = np.array([(0, -1.15), (1, 0), (0, 1.15), (-1, 0)]) * hole + np.array([x + (row % 2) * period / 2, y])
                shapes.append(
                    Shape(frame, _oriented(part, diamond), fill=PAPER, stroke=shade_of(base, 0.4), width=0.9 * grain, see_through=True)
                )
    return shapes


def _details(item: Item, cut: Cut, grain: float) -> list[tuple[str, Shape]]:
    """The details of the category: zips, hoods, bands and soles."""
    frames = {part.name: part.frame for part in cut.parts}
    shapes: list[tuple[str, Shape]] = []
    rgb = item.rgb
    for detail in cut.details:
        frame, width = frames[detail.part], detail.width * grain
        match detail.kind:
            case "dark_line":
                shape = Shape(frame, detail.points, stroke=shade_of(rgb, 0.55), width=width, closed=False)
            case "accent_line":
                shape = Shape(frame, detail.points, stroke=accent_of(rgb), width=width, closed=False)
            case "metal_line":
                shape = Shape(frame, detail.points, stroke=mix(accent_of(rgb), (150, 150, 155), 0.5), width=width, closed=False)
            case "collar_band":
                shape = Shape(frame, detail.points, stroke=shade_of(rgb, 0.3), width=width, closed=False)
            case "dark_fill":
                shape = Shape(frame, detail.points, fill=shade_of(rgb, 0.28), opacity=0.9, stroke=shade_of(rgb, 0.6), width=0.7 * grain)
            case "light_fill":
                shape = Shape(
                    frame,
                    detail.points,
                    fill=mix(rgb, PAPER, 0.25),
                    stroke=shade_of(rgb, 0.6),
                    width=0.9 * grain,
                    clipped=False,
                    solid=True,
                )
            case "sole":
                shape = Shape(frame, detail.points, fill=(58, 50, 48), clipped=False, solid=True)
            case _:
                shape = Shape(frame, detail.points, stroke=shade_of(rgb, 0.2), width=width * 1.2, closed=False, clipped=False, solid=True)
        shapes.append((detail.part, shape))
    return shapes


def _style(item: Item, cut: Cut, grain: float) -> list[tuple[str, Shape]]:
    """The trims of the style: patch pockets, collar and buttons, side stripes, or a bow (ruffles lie below the cloth)."""
    frames = {part.name: part.frame for part in cut.parts}
    rgb, accent = item.rgb, accent_of(item.rgb)
    shapes: list[tuple[str, Shape]] = []
    style = item.attributes["Clothing Fashion Style"]
    if style == "casual":
        for name, x, y in cut.pockets:
            size = 7.2 * grain
            shapes.append((name, Shape(frames[name], box(x, y, size, size), fill=shade_of(rgb, 0.22), stroke=accent, width=1.2 * grain)))
            flap = span((x - size / 2, y - size * 0.2), (x + size / 2, y - size * 0.2), 3)
            shapes.append((name, Shape(frames[name], flap, stroke=accent, width=1.2 * grain, closed=False)))
    if style == "formal":
        for name, points in cut.collars:
            shapes.append(
                (name, Shape(frames[name], points, fill=accent, stroke=shade_of(rgb, 0.5), width=0.8 * grain, clipped=False, solid=True))
            )
        for name, start, end in cut.placket:
            length = float(np.hypot(end[0] - start[0], end[1] - start[1]))
            shapes.append((name, Shape(frames[name], span(start, end, 8), stroke=shade_of(rgb, 0.4), width=4.0 * grain, closed=False)))
            for x, y in span(start, end, max(3, round(length / (5.5 * grain)))):
                shapes.append((name, Shape(frames[name], circle(x, y, 1.35 * grain, 8), fill=accent)))
    if style == "sporty":
        for name, points in cut.sides:
            shapes.append((name, Shape(frames[name], points, stroke=accent, width=4.6 * grain, closed=False)))
            shapes.append((name, Shape(frames[name], points, stroke=rgb, width=1.5 * grain, closed=False)))
    if style == "romantic":
        name, x, y = cut.bow
        wing = np.array([(0, 0), (4.6, -3.2), (5.4, 0), (4.6, 3.2)]) * grain
        for sign in (-1.0, 1.0):
            points = wing * np.array([sign, 1.0]) + np.array([x, y])
            tail = np.array([(0, 0), (sign * 1.2, 0), (sign * 3.2, 6.0), (sign * 1.2, 6.4)]) * grain + np.array([x, y])
            shapes.append((name, Shape(frames[name], tail, fill=accent, clipped=False, solid=True)))
            shapes.append((name, Shape(frames[name], points, fill=accent, stroke=rgb, width=0.6 * grain, clipped=False, solid=True)))
        shapes.append((name, Shape(frames[name], circle(x, y, 1.4 * grain, 8), fill=mix(accent, rgb, 0.5), clipped=False, solid=True)))
    return shapes


def _ruffles(item: Item, cut: Cut, grain: float) -> list[tuple[str, Shape]]:
    """Scallops along the hems, drawn below the cloth."""
    frames = {part.name: part.frame for part in cut.parts}
    shapes: list[tuple[str, Shape]] = []
    for name, line in cut.hems:
        length = float(np.hypot(*np.diff(line, axis=0).T).sum())
        count = max(2, round(length / (4.4 * grain)))
        at = (np.arange(count) + 0.5) / count
        along = np.linspace(0.0, 1.0, len(line))
        for x, y in zip(np.interp(at, along, line[:, 0]), np.interp(at, along, line[:, 1]), strict=True):
            fill = mix(item.rgb, accent_of(item.rgb), 0.35)
            ring = circle(float(x), float(y), 2.7 * grain, 12)
            shapes.append(
                (name, Shape(frames[name], ring, fill=fill, stroke=shade_of(item.rgb, 0.5), width=0.9 * grain, clipped=False, solid=True))
            )
    return shapes


def _emblem(item: Item, cut: Cut, grain: float) -> list[tuple[str, Shape]]:
    """Letters or a logo, at their position in the cut."""
    design = item.attributes["Design features"]
    name, x, y, width, height = cut.emblem
    frame = next(part.frame for part in cut.parts if part.name == name)
    second = item.second_rgb
    shapes: list[tuple[str, Shape]] = []
    if design == "letters":
        upright = height > width
        letters = item.letters if max(width, height) / min(width, height) > 1.3 else item.letters[:1]
        step = max(width, height) / len(letters)
        for index, letter in enumerate(letters):
            offset = (index - (len(letters) - 1) / 2) * step
            centre = np.array([x, y + offset] if upright else [x + offset, y])
            size = np.array([width * 0.8, step * 0.72] if upright else [step * 0.7, height])
            for stroke in GLYPH_STROKES[letter]:
                points = (stroke - 0.5) * size + centre
                shapes.append((name, Shape(frame, points, stroke=second, width=2.0 * grain, closed=False, clipped=False)))
    if design == "logo":
        radius = min(min(width, height) * 0.62, 6.5 * grain)
        shapes.append((name, Shape(frame, circle(x, y, radius, 20), fill=second, clipped=False)))
        shapes.append((name, Shape(frame, logo_outline(item.logo) * radius * 0.66 + np.array([x, y]), fill=item.rgb, clipped=False)))
    return shapes
