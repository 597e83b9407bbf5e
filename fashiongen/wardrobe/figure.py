"""A figure maps garment parts from their own coordinates to the image: flat for a shop image, bent for a person.

Body units: y = 0 at the shoulders, 25 at the crotch, 41 at the knees, 58 at the ankles; x = 0 is the middle of the body.
The frames `right_arm` and `left_arm` use (along the arm, across it, outwards positive) with the shoulder at 0 and the elbow at `ELBOW`.
Sides are the wearer's: the right arm is on the left of the image (x < 0).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]

SHOULDER = (8.2, 1.8)
ELBOW = 12.5
WRIST = 24.0
CROTCH = 25.0
KNEE = 41.0
ANKLE = 58.0
SIDE = {"right": -1.0, "left": 1.0}


@dataclass(frozen=True)
class Figure:
    """The position and pose of a body; the default is the flat pose of a shop image."""

    scale: float = 1.0
    origin: tuple[float, float] = (0.0, 0.0)
    width: float = 1.0
    lean: float = 0.0
    bend: float = 0.0
    turn: float = 0.0
    tilt: float = 0.0
    right_arm: tuple[float, float] = (0.2, 0.2)
    left_arm: tuple[float, float] = (0.2, 0.2)
    stance: tuple[float, float] = (0.0, 0.0)

    def place(self, frame: str, points: Points) -> Points:
        """Image coordinates `(N, 2)` of points `(N, 2)` given in a frame's own coordinates."""
        points = np.asarray(points, dtype=np.float64)
        if frame.endswith("_arm"):
            body = self._arm(frame, points)
        elif frame.endswith("_leg"):
            body = self._leg(frame, points)
        else:
            body = self._torso(points)
        placed: Points = body * self.scale + np.asarray(self.origin)
        return placed

    def _torso(self, points: Points) -> Points:
        x, y = points[:, 0], points[:, 1]
        down = _limit(y / CROTCH, -0.4, 1.0)
        upright = 1.0 - _limit(down, 0.0, 1.0)
        # A turned body moves its middle sideways while its outline stays: a print slides as on a cylinder.
        slide = self.turn * 3.0 * (1.0 - _limit(x / 11.0, -1.0, 1.0) ** 2)
        centre = self.lean * (1.0 - down) + self.bend * np.sin(np.pi * _limit(down, 0.0, 1.0))
        placed = np.empty_like(points)
        placed[:, 0] = x * self.width + slide + centre
        placed[:, 1] = y + self.tilt * x * upright
        return placed

    def _arm(self, frame: str, points: Points) -> Points:
        side = SIDE[frame.split("_")[0]]
        upper, lower = self.right_arm if side < 0 else self.left_arm
        along, across = points[:, 0], points[:, 1]
        shoulder = self._torso(np.array([[side * SHOULDER[0], SHOULDER[1]]]))[0]
        first = np.array([side * np.sin(upper), np.cos(upper)])
        second = np.array([side * np.sin(lower), np.cos(lower)])
        before, after = np.minimum(along, ELBOW), np.maximum(along - ELBOW, 0.0)
        bone = shoulder + before[:, None] * first + after[:, None] * second
        # The crosswise direction turns gradually around the elbow so that cloth bends instead of tearing.
        mix = _limit((along - (ELBOW - 2.5)) / 5.0, 0.0, 1.0)
        angle = upper + (lower - upper) * mix
        normal = np.stack([side * np.cos(angle), -np.sin(angle)], axis=1)
        placed: Points = bone + across[:, None] * normal
        return placed

    def _leg(self, frame: str, points: Points) -> Points:
        side = SIDE[frame.split("_")[0]]
        spread = self.stance[0] if side < 0 else self.stance[1]
        body = self._torso(points)
        body[:, 0] += side * spread * np.maximum(points[:, 1] - 20.0, 0.0)
        return body


def _limit(values: Points, low: float, high: float) -> Points:
    """Like `np.clip`, which takes five times as long for the few points of a shape."""
    limited: Points = np.minimum(np.maximum(values, low), high)
    return limited


def span(start: tuple[float, float], end: tuple[float, float], count: int = 8) -> Points:
    """`count` evenly spaced points `(count, 2)` on a straight line."""
    share = np.arange(count)[:, None] / (count - 1)
    line: Points = np.asarray(start) + share * (np.asarray(end) - np.asarray(start))
    return line


def densify(points: Points, step: float = 2.0) -> Points:
    """A closed polygon with extra points so that no edge is longer than `step`."""
    edges = np.roll(points, -1, axis=0) - points
    pieces = np.maximum(1, np.ceil(np.hypot(edges[:, 0], edges[:, 1]) / step)).astype(int)
    first = np.repeat(np.cumsum(pieces) - pieces, pieces)
    share = (np.arange(pieces.sum()) - first) / np.repeat(pieces, pieces)
    dense: Points = np.repeat(points, pieces, axis=0) + share[:, None] * np.repeat(edges, pieces, axis=0)
    return dense


def mirror(half: list[tuple[float, float]]) -> Points:
    """The closed, left-right symmetric polygon with the given right half, from top to bottom."""
    right = np.asarray(half, dtype=np.float64)
    left = right[::-1] * np.array([-1.0, 1.0])
    return densify(np.concatenate([right, left]))


def circle(x: float, y: float, radius: float, count: int = 10) -> Points:
    """A polygon `(count, 2)` around a centre."""
    angle = np.linspace(0.0, 2.0 * np.pi, count, endpoint=False)
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], axis=1)


def box(x: float, y: float, width: float, height: float) -> Points:
    """The polygon of a rectangle around its centre."""
    corners = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    return densify(np.array([(x + a * width / 2, y + b * height / 2) for a, b in corners], dtype=np.float64), max(width, height) / 2)
