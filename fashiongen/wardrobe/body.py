"""The body under the clothes: skin, head, hair, limbs, its joints and its DensePose colours."""

import numpy as np
from numpy.typing import NDArray

from fashiongen.wardrobe.figure import ANKLE, CROTCH, ELBOW, KNEE, SHOULDER, WRIST, Figure, Points, box, circle, densify, mirror
from fashiongen.wardrobe.people import Person

# Outlines are in the coordinates of a frame, see figure.py.
NECK = mirror([(0.0, -7.0), (2.2, -7.0), (2.4, -2.5), (5.5, 0.0), (6.5, 3.5), (0.0, 5.5)])
TORSO = mirror([(0.0, -1.0), (3.0, -1.0), (8.2, 0.8), (8.6, 3.0), (7.6, 9.0), (6.6, 14.5), (8.2, 20.0), (8.6, 24.0), (0.0, 26.0)])
UPPER_ARM = densify(np.array([(-0.8, -2.0), (0.4, 1.6), (4.0, 2.1), (ELBOW, 1.75), (ELBOW, -1.75), (4.0, -2.1)]))
LOWER_ARM = densify(np.array([(ELBOW - 0.8, 1.75), (16.0, 1.8), (WRIST, 1.2), (WRIST, -1.2), (16.0, -1.8), (ELBOW - 0.8, -1.75)]))
HAND = circle(0.0, 0.0, 1.0, 12) * np.array([2.5, 1.6]) + np.array([WRIST + 1.6, 0.0])
HEAD_CENTRE = (0.0, -10.6)


def thigh(sign: float) -> Points:
    """From hip to knee."""
    return densify(np.array([(sign * x, y) for x, y in ((0.2, 21.0), (8.6, 21.0), (8.2, 28.0), (6.9, KNEE), (2.6, KNEE), (0.8, 27.0))]))


def shin(sign: float) -> Points:
    """From knee to ankle."""
    return densify(
        np.array([(sign * x, y) for x, y in ((2.6, KNEE - 0.5), (6.9, KNEE - 0.5), (7.2, 46.0), (5.9, ANKLE), (3.6, ANKLE), (2.6, 46.0))])
    )


def shoe(sign: float) -> Points:
    """A shoe seen from the front."""
    return box(sign * 5.2, ANKLE + 1.6, 5.0, 4.4)


def head_outline(person: Person) -> Points:
    """The face on the canvas, narrower at the chin."""
    angle = np.linspace(0.0, 2.0 * np.pi, 24, endpoint=False)
    narrow = np.where(np.sin(angle) > 0, 1.0 - 0.22 * np.sin(angle) ** 2, 1.0)
    return on_head(person, np.stack([4.7 * np.cos(angle) * narrow, 6.2 * np.sin(angle)], axis=1))


def on_head(person: Person, points: Points) -> Points:
    """Canvas coordinates of points around the middle of the head."""
    centre = person.figure.place("torso", np.array([HEAD_CENTRE]))[0]
    # The head does not narrow with the flat torso when the body turns: it keeps its own width.
    placed: Points = centre + np.asarray(points, dtype=np.float64) * person.figure.scale
    return placed


def hair_back(person: Person) -> Points:
    """The hair behind head and shoulders."""
    low = {"short": 1.0, "bob": 6.5, "long": 17.0, "bun": 1.0}[person.hair_style]
    wide = {"short": 5.2, "bob": 6.4, "long": 6.8, "bun": 5.2}[person.hair_style]
    arc = [(wide * float(np.sin(a)), -7.2 * float(np.cos(a))) for a in np.linspace(0.0, np.pi / 2, 7)]
    outline = mirror([*arc, (wide * 1.02, low * 0.6), (wide * 0.85, low), (0.0, low)])
    if person.hair_style == "bun":
        outline = np.concatenate([outline, circle(0.0, -8.2, 2.8, 12)])
    return on_head(person, outline)


def fringe(person: Person) -> Points:
    """The hair over the forehead, parted on the side the body turns to."""
    part = 1.6 + person.figure.turn
    top = [(5.0 * float(np.sin(a)), -6.9 * float(np.cos(a))) for a in np.linspace(-np.pi / 2, np.pi / 2, 11)]
    return on_head(person, np.array([*top, (4.6, -1.0), (3.9, -2.6), (part, -4.6), (-3.6, -2.4), (-4.6, -0.6)]))


def locks(person: Person) -> list[Points]:
    """Long hair that falls over the chest."""
    half = np.array([(2.6, -9.0), (5.6, -9.0), (7.4, 0.0), (7.2, 9.0), (5.6, 14.0), (3.4, 13.0), (2.8, 6.0), (3.8, -2.0)])
    return [person.figure.place("torso", densify(half * np.array([sign, 1.0]))) for sign in (-1.0, 1.0)]


def joints(person: Person) -> NDArray[np.float64]:
    """BODY_25 joints on the canvas `(25, 3)`: x, y, confidence."""
    figure = person.figure
    points = np.zeros((25, 3))

    def put(index: int, frame: str, x: float, y: float) -> None:
        points[index] = [*figure.place(frame, np.array([[x, y]]))[0], 0.9]

    put(1, "torso", 0.0, 0.0)
    put(8, "torso", 0.0, 22.5)
    for side, sign, arm, leg, foot in (("right", -1.0, 2, 9, 22), ("left", 1.0, 5, 12, 19)):
        put(arm, "torso", sign * SHOULDER[0], SHOULDER[1])
        if person.hidden_arm != side:
            put(arm + 1, f"{side}_arm", ELBOW, 0.0)
            put(arm + 2, f"{side}_arm", WRIST, 0.0)
        put(leg, f"{side}_leg", sign * 4.8, CROTCH - 2.5)
        put(leg + 1, f"{side}_leg", sign * 4.8, KNEE)
        put(leg + 2, f"{side}_leg", sign * 4.8, ANKLE)
        put(foot, f"{side}_leg", sign * 5.6, ANKLE + 3.4)
        put(foot + 1, f"{side}_leg", sign * 6.8, ANKLE + 3.0)
        put(foot + 2, f"{side}_leg", sign * 4.6, ANKLE + 2.2)
    turn = figure.turn * 1.2
    face = {0: (turn, 0.6), 15: (-1.8 + turn, -0.8), 16: (1.8 + turn, -0.8), 17: (-4.6, -0.2), 18: (4.6, -0.2)}
    for index, point in face.items():
        points[index] = [*on_head(person, np.array([point]))[0], 0.9]
    return points


def densepose_parts(figure: Figure, hidden_arm: str | None) -> list[tuple[int, Points]]:
    """DensePose's coarse parts (1 torso ... 24 head) as canvas outlines, back to front; the caller adds the head."""
    parts: list[tuple[int, Points]] = []
    for sign, side, upper_leg, lower_leg, foot in ((-1.0, "right", 7, 11, 6), (1.0, "left", 8, 12, 5)):
        for part, outline in ((upper_leg, thigh(sign)), (lower_leg, shin(sign)), (foot, shoe(sign))):
            parts.append((part, figure.place(f"{side}_leg", outline)))
    parts.append((1, figure.place("torso", TORSO)))
    for side, upper, lower, hand in (("right", 16, 20, 3), ("left", 15, 19, 4)):
        if side != hidden_arm:
            parts += [
                (part, figure.place(f"{side}_arm", outline)) for part, outline in ((upper, UPPER_ARM), (lower, LOWER_ARM), (hand, HAND))
            ]
    return parts
