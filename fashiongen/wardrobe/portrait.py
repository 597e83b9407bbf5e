"""A person wearing the garment of a shop image, with everything that datasets store with the photo."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fashiongen.wardrobe import body
from fashiongen.wardrobe.draw import (
    CANVAS,
    edge_color,
    element,
    item_layers,
    layer_elements,
    path_data,
    rasterize,
    silhouette_elements,
    svg,
)
from fashiongen.wardrobe.figure import ELBOW, WRIST, Points, densify, mirror, span
from fashiongen.wardrobe.people import Person
from fashiongen.wardrobe.surface import Layer, mix
from fashiongen.wardrobe.world import RGB, Item

# Extra label codes beyond LIP's ids: the pair's garment, the hands and the bag get their own and are mapped to LIP's or ATR's ids later.
GARMENT, RIGHT_HAND, LEFT_HAND, BAG = 20, 21, 22, 23
LIP = {
    "hair": 2,
    "upper": 5,
    "full": 6,
    "lower": 9,
    "neck": 10,
    "skirt": 12,
    "face": 13,
    "left_arm": 14,
    "right_arm": 15,
    "left_leg": 16,
    "right_leg": 17,
    "left_shoe": 18,
    "right_shoe": 19,
}
# ATR's ids by LIP's; ATR has a label for bags but none for the neck, which its parsers label as the head.
ATR = {0: 0, 2: 2, 5: 4, 6: 7, 9: 6, 10: 11, 12: 5, 13: 11, 14: 14, 15: 15, 16: 12, 17: 13, 18: 9, 19: 10, BAG: 16}
LABEL_STEP = 11
PART_STEP = 10
GREY = 128
Bones = tuple[tuple[int, int], ...]
BODY_25_BONES: Bones = (
    *((1, 8), (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (8, 9), (9, 10), (10, 11), (8, 12), (12, 13), (13, 14)),
    *((1, 0), (0, 15), (15, 17), (0, 16), (16, 18), (14, 19), (19, 20), (14, 21), (11, 22), (22, 23), (11, 24)),
)


@dataclass(frozen=True)
class PersonImages:
    """A photo and its annotations; images are `(H, W, 3)` uint8, labels `(H, W)` uint8, masks `(H, W)` bool.

    `parse` holds LIP's labels, `parse_atr` ATR's. `densepose` shows DensePose's part numbers as colours.
    `agnostic_mask` is true where the garment may be (to inpaint), `garment_mask` where the worn garment is visible,
    `keypoints` are BODY_25 `(25, 3)`: x and y in pixels, confidence, all zero if hidden or outside of the image.
    """

    image: NDArray[np.uint8]
    parse: NDArray[np.uint8]
    parse_atr: NDArray[np.uint8]
    keypoints: NDArray[np.float64]
    densepose: NDArray[np.uint8]
    agnostic_mask: NDArray[np.bool_]
    agnostic: NDArray[np.uint8]
    parse_agnostic: NDArray[np.uint8]
    garment_mask: NDArray[np.bool_]
    openpose: NDArray[np.uint8]


class Scene:
    """Draws everything twice: as an image and as a label map."""

    def __init__(self, person: Person) -> None:
        """Start with an empty canvas."""
        self.person = person
        self.drawing: list[str] = []
        self.labels: list[str] = []

    def flat(self, outline: Points, rgb: RGB, code: int, line: float = 0.45) -> None:
        """Draw a plain shape on the canvas."""
        path = path_data(outline)
        self.drawing.append(element(path, rgb, mix(rgb, (30, 10, 10), 0.35), line))
        self.labels.append(element(path, (code * LABEL_STEP,) * 3))

    def cloth(self, item: Item, layers: Sequence[Layer], code: int) -> None:
        """Draw the layers of an item on the figure, with shadows and folds."""
        figure = self.person.figure
        for layer in layers:
            self.drawing += layer_elements(layer, figure, edge_color(item), 0.5, self.person.skin, item.id)
            outline = path_data(figure.place(layer.part.frame, layer.part.outline))
            self.drawing.append(f'<path d="{outline}" fill="url(#shade)"/>')
            if layer.part.frame == "torso":
                self._folds(layer, item.id)
        self.labels += silhouette_elements(layers, figure, (code * LABEL_STEP,) * 3, grow=0.5)

    def _folds(self, layer: Layer, key: str) -> None:
        """A few soft folds that run from the sides towards the middle."""
        figure = self.person.figure
        bottom = float(layer.part.outline[:, 1].max())
        paths = []
        for index, at in enumerate(self.person.folds):
            side = 1.0 if index % 2 else -1.0
            y = bottom * (0.3 + 0.16 * index)
            line = span((side * 10.0, y), (side * (1.0 + 4.0 * at), y + 3.0 + 4.0 * at), 6)
            paths.append(path_data(figure.place("torso", line), closed=False))
        folds = element("".join(paths), None, (0, 0, 0), 0.9 * figure.scale, 0.16)
        outline = path_data(figure.place(layer.part.frame, layer.part.outline))
        clip = f"{key}{layer.part.name}folds"
        self.drawing.append(f'<clipPath id="{clip}"><path d="{outline}"/></clipPath><g clip-path="url(#{clip})">{folds}</g>')


def _arms(scene: Scene, layers: dict[str, Layer], worn: Item, code: int, front: bool) -> None:
    """The arms that are in front of (or behind) the torso, in their sleeves."""
    person = scene.person
    for side in ("right", "left"):
        angles = person.figure.right_arm if side == "right" else person.figure.left_arm
        name = f"{side}_arm"
        if side == person.hidden_arm or (angles[1] < 0.0 or person.side_view) != front:
            continue
        place = person.figure.place
        scene.flat(place(name, body.UPPER_ARM), person.skin, LIP[name])
        scene.flat(place(name, body.LOWER_ARM), person.skin, LIP[name])
        scene.flat(place(name, body.HAND), person.skin, RIGHT_HAND if side == "right" else LEFT_HAND)
        if name in layers:
            scene.cloth(worn, [layers[name]], code)


def _head(scene: Scene) -> None:
    """Face and the hair around it."""
    person = scene.person
    scene.flat(body.head_outline(person), person.skin, LIP["face"])
    turn = person.figure.turn * 1.2
    dark = mix(person.skin, (40, 20, 20), 0.75)
    scale = person.figure.scale
    for x in (-1.8 + turn, 1.8 + turn):
        scene.drawing.append(
            element(path_data(body.on_head(person, span((x - 0.8, -0.6), (x + 0.8, -0.6), 2)), False), None, (35, 25, 30), 1.0 * scale)
        )
    nose = body.on_head(person, np.array([(turn, 0.0), (turn + 0.5, 1.6), (turn - 0.3, 1.7)]))
    scene.drawing.append(element(path_data(nose, False), None, dark, 0.4 * scale, 0.7))
    scene.drawing.append(
        element(path_data(body.on_head(person, span((turn - 1.4, 3.4), (turn + 1.4, 3.4), 2)), False), None, (176, 50, 60), 0.9 * scale)
    )
    scene.flat(body.fringe(person), person.hair, LIP["hair"])
    if person.occlusion == "hair":
        for lock in body.locks(person):
            scene.flat(lock, person.hair, LIP["hair"])


def _bag(scene: Scene) -> None:
    """A strap across the chest and a bag in front of the hip."""
    person = scene.person
    strap = person.figure.place("torso", span((6.0, -0.5), (-7.0, 16.0), 8))
    scene.drawing.append(element(path_data(strap, False), None, person.bag, 1.8 * person.figure.scale))
    scene.labels.append(element(path_data(strap, False), None, (BAG * LABEL_STEP,) * 3, 1.8 * person.figure.scale))
    outline = densify(np.array([(-11.0, 14.0), (-1.5, 14.0), (-0.5, 23.0), (-12.0, 23.0)]))
    scene.flat(person.figure.place("torso", outline), person.bag, BAG)
    flap = person.figure.place("torso", np.array([(-11.0, 14.0), (-1.5, 14.0), (-6.2, 19.0)]))
    scene.flat(flap, mix(person.bag, (0, 0, 0), 0.25), BAG)


def _compose(person: Person) -> Scene:
    """Draw everything from back to front."""
    scene, figure, garment = Scene(person), person.figure, person.garment
    worn = {"upper": garment, "full": garment, "lower": person.top}[garment.garment_type]
    below = {"upper": person.bottom, "full": None, "lower": garment}[garment.garment_type]
    code = LIP["upper"] if worn is not garment else GARMENT
    layers = {layer.part.name: layer for layer in item_layers(worn)}
    legs = [layer for name, layer in layers.items() if name.endswith("_leg")]

    scene.flat(body.hair_back(person), person.hair, LIP["hair"])
    if "hood" in layers:
        scene.cloth(worn, [layers["hood"]], code)
    for side, sign in (("right", -1.0), ("left", 1.0)):
        for outline in (body.thigh(sign), body.shin(sign)):
            scene.flat(figure.place(f"{side}_leg", outline), person.skin, LIP[f"{side}_leg"])
        scene.flat(figure.place(f"{side}_leg", body.shoe(sign)), person.shoes, LIP[f"{side}_shoe"])
    scene.flat(figure.place("torso", body.TORSO), person.skin, LIP["neck"], line=0.0)
    scene.flat(figure.place("torso", body.NECK), person.skin, LIP["neck"], line=0.0)
    if legs:
        scene.cloth(worn, legs, code)
    if below is person.bottom:
        scene.cloth(below, item_layers(below), LIP["skirt" if below.category == "skirt" else "lower"])
    _arms(scene, layers, worn, code, front=False)
    scene.cloth(worn, [layers["torso"]], code)
    if below is garment:
        scene.cloth(below, item_layers(below), GARMENT)
    _head(scene)
    if person.occlusion == "bag":
        _bag(scene)
    _arms(scene, layers, worn, code, front=True)
    return scene


def _definitions(person: Person) -> str:
    """The light: a shadow that deepens towards one side of the body."""
    centre, reach = person.figure.origin[0], 15.0 * person.figure.scale
    dark, bright = (1.0, -1.0) if person.light > 0 else (-1.0, 1.0)
    start, end = centre + bright * reach, centre + dark * reach
    return (
        f'<linearGradient id="shade" gradientUnits="userSpaceOnUse" x1="{start:.2f}" y1="0" x2="{end:.2f}" y2="0">'
        '<stop offset="0" stop-color="#fff" stop-opacity="0.08"/><stop offset="0.5" stop-color="#000" stop-opacity="0"/>'
        f'<stop offset="1" stop-color="#000" stop-opacity="{0.16 + 0.2 * abs(person.light):.2f}"/></linearGradient>'
        '<linearGradient id="wall" x1="0" y1="0" x2="0" y2="1"><stop offset="0" stop-color="#fff" stop-opacity="0.5"/>'
        '<stop offset="1" stop-color="#000" stop-opacity="0.12"/></linearGradient>'
        '<rect x="-100" y="0" width="300" height="64" fill="url(#wall)"/>'
    )


def render_dressed(person: Person, garment: Item, height: int, width: int) -> NDArray[np.uint8]:
    """The photo of a person in another garment of the same type, `(H, W, 3)`: what an unpaired try-on should produce.

    The background, the body, its pose and all that is worn beside the garment are those of `render_person`.
    """
    return _photo(_compose(replace(person, garment=garment)), height, width)


def _photo(scene: Scene, height: int, width: int) -> NDArray[np.uint8]:
    person = scene.person
    return rasterize(svg([_definitions(person), *scene.drawing], background=person.background), height, width)


def render_person(person: Person, height: int, width: int) -> PersonImages:
    """All images of one person at the given size."""
    scene = _compose(person)
    image = _photo(scene, height, width)
    codes = np.rint(rasterize(svg(scene.labels, crisp=True, background=(0, 0, 0)), height, width)[:, :, 0] / LABEL_STEP).astype(np.uint8)
    garment_mask = codes == GARMENT
    parse = codes.copy()
    parse[garment_mask] = LIP[_garment_label(person.garment)]
    parse[codes == RIGHT_HAND] = LIP["right_arm"]
    parse[codes == LEFT_HAND] = LIP["left_arm"]
    parse_atr = np.array([ATR.get(code, 0) for code in range(BAG + 1)], dtype=np.uint8)[parse]
    parse[codes == BAG] = 0

    kept = np.isin(codes, (LIP["hair"], LIP["face"], RIGHT_HAND, LEFT_HAND))
    agnostic_mask = (_region(person, height, width) & ~kept) | garment_mask
    agnostic = image.copy()
    agnostic[agnostic_mask] = GREY
    parse_agnostic = np.where(agnostic_mask, 0, parse).astype(np.uint8)
    keypoints = _keypoints(person, height, width)
    return PersonImages(
        image=image,
        parse=parse,
        parse_atr=parse_atr,
        keypoints=keypoints,
        densepose=_densepose(person, height, width),
        agnostic_mask=agnostic_mask,
        agnostic=agnostic,
        parse_agnostic=parse_agnostic,
        garment_mask=garment_mask,
        openpose=draw_openpose(keypoints, height, width),
    )


def _garment_label(item: Item) -> str:
    """The LIP name of a garment's label."""
    return "skirt" if item.category == "skirt" else item.garment_type


def _region(person: Person, height: int, width: int) -> NDArray[np.bool_]:
    """The area to inpaint, drawn from the body alone so that its outline does not reveal the garment's."""
    figure, kind = person.figure, person.garment.garment_type
    ink: RGB = (255, 255, 255)
    body_parts: list[str] = []
    if kind in ("upper", "full"):
        bottom = {"upper": 29.5, "full": 40.0}[kind] if person.garment.category != "coat" else 44.0
        hull = mirror([(0.0, -8.0), (6.5, -8.0), (7.0, -3.0), (11.0, -1.0), (12.5, 10.0), (13.5, bottom), (0.0, bottom)])
        body_parts.append(element(path_data(figure.place("torso", hull)), ink))
        for side in ("right", "left"):
            if side != person.hidden_arm:
                bone = figure.place(f"{side}_arm", np.array([(0.0, 0.0), (ELBOW, 0.0), (WRIST, 0.0)]))
                body_parts.append(element(path_data(bone, closed=False), None, ink, 10.5 * figure.scale))
    if kind in ("lower", "full"):
        top = 11.0 if kind == "lower" else 20.0
        hull = mirror([(0.0, top), (11.5, top), (14.0, 24.0), (20.0, 58.5), (0.0, 58.5)])
        body_parts.append(element(path_data(figure.place("torso", hull)), ink))
    region: NDArray[np.bool_] = rasterize(svg(body_parts, crisp=True, background=(0, 0, 0)), height, width)[:, :, 0] > 127
    return region


def _keypoints(person: Person, height: int, width: int) -> NDArray[np.float64]:
    """BODY_25 joints in pixels; joints outside of the image are zero."""
    scale = min(width / CANVAS[0], height / CANVAS[1])
    points = body.joints(person)
    points[:, 0] = points[:, 0] * scale + (width - CANVAS[0] * scale) / 2
    points[:, 1] = points[:, 1] * scale + (height - CANVAS[1] * scale) / 2
    outside = (points[:, 0] < 0) | (points[:, 0] >= width) | (points[:, 1] < 0) | (points[:, 1] >= height) | (points[:, 2] == 0)
    points[outside] = 0.0
    return points


def _densepose(person: Person, height: int, width: int) -> NDArray[np.uint8]:
    """Body parts in the colours of DensePose's part numbers, on black."""
    texts = [element(path_data(outline), _part_color(part)) for part, outline in _densepose_parts(person)]
    return rasterize(svg(texts, crisp=True, background=(0, 0, 0)), height, width)


def render_densepose_iuv(person: Person, height: int, width: int) -> NDArray[np.uint8]:
    """DensePose's map `(H, W, 3)`: part number (0 for the background), then U and V in [0, 255] across and down the part."""
    texts = [element(path_data(outline), (part * PART_STEP,) * 3) for part, outline in _densepose_parts(person)]
    codes = rasterize(svg(texts, crisp=True, background=(0, 0, 0)), height, width)[:, :, 0]
    iuv = np.zeros((height, width, 3), dtype=np.uint8)
    iuv[:, :, 0] = np.rint(codes / PART_STEP)
    for part in np.unique(iuv[:, :, 0])[1:]:
        rows, columns = np.nonzero(iuv[:, :, 0] == part)
        for channel, places in ((1, columns), (2, rows)):
            iuv[rows, columns, channel] = np.rint(255 * (places - places.min()) / max(int(np.ptp(places)), 1))
    return iuv


def _densepose_parts(person: Person) -> list[tuple[int, Points]]:
    """DensePose's parts as outlines, back to front."""
    return [*body.densepose_parts(person.figure, person.hidden_arm), (23, body.head_outline(person))]


def _part_color(part: int) -> RGB:
    """A colour per part, from dark blue through green to yellow, as in the usual rendering."""
    share = part / 24.0
    return round(40 + 210 * share**1.6), round(60 + 180 * share), round(170 - 150 * abs(share - 0.35))


def draw_openpose(keypoints: NDArray[np.float64], height: int, width: int, bones: Bones = BODY_25_BONES) -> NDArray[np.uint8]:
    """The skeleton of joints `(K, 3)`, BODY_25 by default, on black, with twofold supersampling."""
    canvas = Image.new("RGB", (width * 2, height * 2))
    pen = ImageDraw.Draw(canvas)
    thick = max(2, round(min(height, width) / 20))
    for index, (start, end) in enumerate(bones):
        if keypoints[start, 2] > 0 and keypoints[end, 2] > 0:
            hue = index / len(bones)
            color = tuple(round(255 * min(1.0, max(0.0, 2.0 - abs((hue * 6 + shift) % 6 - 3.0)))) for shift in (3.0, 1.0, 5.0))
            pen.line([tuple(keypoints[start, :2] * 2), tuple(keypoints[end, :2] * 2)], fill=color, width=thick)
    return np.asarray(canvas.resize((width, height), Image.Resampling.BOX))
