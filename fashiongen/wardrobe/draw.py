"""Renders shapes to pixels, as SVG text by resvg; and draws the shop image of an item with its mask."""

import io
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import groupby

import numpy as np
import resvg_py
from numpy.typing import NDArray
from PIL import Image

from fashiongen.wardrobe.cuts import cut_of
from fashiongen.wardrobe.figure import Figure, Points
from fashiongen.wardrobe.surface import Layer, Shape, layers_of, shade_of
from fashiongen.wardrobe.world import RGB, Item

CANVAS = (48.0, 64.0)
MARGIN = 2.6
LARGEST_SCALE = 2.0
# How far ruffles and bows extend beyond the cloth, in body units.
RUFFLE, BOW = 2.2, 2.6


def path_data(points: Points, closed: bool = True) -> str:
    """The SVG path of points `(N, 2)`, to a hundredth of a canvas unit."""
    text = " ".join(["%.2f,%.2f"] * len(points)) % tuple(points.ravel().tolist())
    return f"M{text}Z" if closed else f"M{text}"


def paint(rgb: RGB) -> str:
    """A colour as SVG writes it."""
    return "#{:02x}{:02x}{:02x}".format(*rgb)


def element(path: str, fill: RGB | None, stroke: RGB | None = None, width: float = 0.0, opacity: float = 1.0, dash: float = 0.0) -> str:
    """One SVG path element."""
    parts = [f'<path d="{path}" fill="{paint(fill) if fill else "none"}"']
    if stroke:
        parts.append(f' stroke="{paint(stroke)}" stroke-width="{width:.2f}"')
    if dash:
        parts.append(f' stroke-dasharray="{dash:.2f}"')
    if opacity < 1.0:
        parts.append(f' opacity="{opacity:.2f}"')
    return "".join(parts) + "/>"


def svg(body: Iterable[str], crisp: bool = False, background: RGB = (255, 255, 255)) -> str:
    """A complete SVG of the 48 x 64 canvas; an image with another aspect ratio shows the canvas in its centre."""
    hint = ' shape-rendering="crispEdges"' if crisp else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {CANVAS[0]:g} {CANVAS[1]:g}" stroke-linejoin="round"{hint}>'
        f'<rect x="-200" y="-200" width="500" height="500" fill="{paint(background)}"/>{"".join(body)}</svg>'
    )


def rasterize(text: str, height: int, width: int) -> NDArray[np.uint8]:
    """The image `(height, width, 3)` of an SVG."""
    scale = min(width / CANVAS[0], height / CANVAS[1])
    left, top = (width / scale - CANVAS[0]) / 2, (height / scale - CANVAS[1]) / 2
    view = f'viewBox="{-left:.4f} {-top:.4f} {width / scale:.4f} {height / scale:.4f}" width="{width}" height="{height}"'
    text = text.replace(f'viewBox="0 0 {CANVAS[0]:g} {CANVAS[1]:g}"', view, 1)
    data = resvg_py.svg_to_bytes(svg_string=text, skip_system_fonts=True, width=width, height=height)
    return np.asarray(Image.open(io.BytesIO(bytes(data))).convert("RGB"))


def shape_elements(shapes: Iterable[Shape], figure: Figure, hole: RGB) -> list[str]:
    """Shapes drawn on a figure, equal neighbours as one path; the background colour shows through transparent cloth."""
    texts = []
    for look, group in groupby(shapes, key=_look):
        frame, fill, stroke, width, opacity, closed, dash, see_through = look
        members = [shape.points for shape in group]
        placed = figure.place(frame, np.concatenate(members))
        ends = np.cumsum([len(points) for points in members])[:-1]
        path = "".join(path_data(points, closed) for points in np.split(placed, ends))
        texts.append(element(path, hole if see_through else fill, stroke, width * figure.scale, opacity, dash * figure.scale))
    return texts


def _look(shape: Shape) -> tuple[str, RGB | None, RGB | None, float, float, bool, float, bool]:
    """All attributes of a shape except its points."""
    return shape.frame, shape.fill, shape.stroke, shape.width, shape.opacity, shape.closed, shape.dash, shape.see_through


def layer_elements(layer: Layer, figure: Figure, edge: RGB, edge_width: float, hole: RGB, key: str) -> list[str]:
    """The SVG of one layer: cloth, the shapes clipped to it, its edge, then the shapes that extend over the edge."""
    outline = path_data(figure.place(layer.part.frame, layer.part.outline))
    clip = f"{key}{layer.part.name}"
    first_clipped = next((index for index, shape in enumerate(layer.shapes) if shape.clipped), len(layer.shapes))
    below, above = layer.shapes[:first_clipped], layer.shapes[first_clipped:]
    inside = shape_elements((shape for shape in above if shape.clipped), figure, hole)
    outside = (shape_elements([shape], figure, hole)[0] for shape in above if not shape.clipped)
    return [
        *(shape_elements([shape], figure, hole)[0] for shape in below),
        *([f'<clipPath id="{clip}"><path d="{outline}"/></clipPath><g clip-path="url(#{clip})">', *inside, "</g>"] if inside else []),
        element(outline, None, edge, edge_width),
        *outside,
    ]


def silhouette_elements(layers: Sequence[Layer], figure: Figure, rgb: RGB, grow: float = 0.0) -> list[str]:
    """All cloth of some layers in one flat colour."""
    texts = []
    for layer in layers:
        for shape in layer.shapes:
            if shape.solid:
                line = (shape.width * figure.scale if shape.stroke else 0.0) + grow
                fill = rgb if shape.fill else None
                texts.append(element(path_data(figure.place(shape.frame, shape.points), shape.closed), fill, rgb, line))
    return texts


@lru_cache(maxsize=16)  # the image, mask and wearer of one garment are drawn in succession
def shop_figure(item: Item) -> Figure:
    """The flat figure that shows an item centred and as large as the canvas allows."""
    points = _reach(item)
    low, high = points.min(axis=0), points.max(axis=0)
    scale = min((CANVAS[0] - 2 * MARGIN) / (high[0] - low[0]), (CANVAS[1] - 2 * MARGIN) / (high[1] - low[1]), LARGEST_SCALE)
    centre = np.array(CANVAS) / 2 - (low + high) / 2 * scale
    return Figure(scale=scale, origin=(float(centre[0]), float(centre[1])))


def _reach(item: Item) -> Points:
    """The extent of an item on the flat figure: its parts, and the handles, soles, collars, bows and ruffles that extend beyond them."""
    flat, cut = Figure(), cut_of(item)
    frames = {part.name: part.frame for part in cut.parts}
    reached = [(part.name, part.outline) for part in cut.parts]
    reached += [(detail.part, detail.points) for detail in cut.details if detail.kind in ("sole", "handle")]
    if item.attributes["Clothing Fashion Style"] == "formal":
        reached += cut.collars
    if item.attributes["Clothing Fashion Style"] == "romantic":
        reached += [(name, line + shift) for name, line in cut.hems for shift in (-RUFFLE, RUFFLE)]
        reached.append((cut.bow[0], np.array([[cut.bow[1], cut.bow[2] - BOW]])))
    return np.concatenate([flat.place(frames[name], points) for name, points in reached])


@lru_cache(maxsize=16)
def item_layers(item: Item) -> tuple[Layer, ...]:
    """The layers of an item with textures at the scale of its shop image; cached and shared, so do not modify them."""
    return tuple(layers_of(item, 1.0 / shop_figure(item).scale))


def render_item(item: Item, height: int, width: int) -> NDArray[np.uint8]:
    """The shop image `(height, width, 3)` on white."""
    figure, layers = shop_figure(item), item_layers(item)
    edge = edge_color(item)
    body = silhouette_elements(layers, figure, (196, 198, 204), grow=1.6)
    for layer in layers:
        body += layer_elements(layer, figure, edge, 0.7, (236, 232, 228), "p")
    return rasterize(svg(body), height, width)


def edge_color(item: Item) -> RGB:
    """The colour of the thin outline of cloth."""
    return shade_of(item.rgb, 0.5)


def render_item_mask(item: Item, height: int, width: int) -> NDArray[np.bool_]:
    """The mask `(height, width)` of the item in its shop image."""
    body = silhouette_elements(item_layers(item), shop_figure(item), (0, 0, 0), grow=0.7)
    mask: NDArray[np.bool_] = rasterize(svg(body, crisp=True), height, width)[:, :, 0] < 128
    return mask
