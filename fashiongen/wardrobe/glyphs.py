"""Block letters as strokes and logos as outlines: without fonts, every machine draws the same."""

import numpy as np

from fashiongen.wardrobe.figure import Points, circle

_STROKES: dict[str, str] = {
    "A": "01 50 11|26 86",
    "E": "10 00 01 11|05 85",
    "F": "10 00 01|05 85",
    "H": "00 01|10 11|05 15",
    "K": "00 01|10 05 11",
    "L": "00 01 11",
    "T": "00 10|50 51",
    "V": "00 51 10",
    "X": "00 11|10 01",
    "Z": "00 10 01 11",
}
_STEPS = {"0": 0.0, "1": 1.0, "2": 0.2, "5": 0.5, "6": 0.64, "8": 0.8}

GLYPH_STROKES: dict[str, list[Points]] = {
    letter: [np.array([(_STEPS[p[0]], _STEPS[p[1]]) for p in stroke.split()]) for stroke in text.split("|")]
    for letter, text in _STROKES.items()
}


def logo_outline(kind: str) -> Points:
    """The outline `(N, 2)` of a logo's figure within [-1, 1]."""
    if kind == "star":
        angle = np.arange(10) * np.pi / 5 - np.pi / 2
        radius = np.where(np.arange(10) % 2 == 0, 1.15, 0.5)
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    if kind == "ring":
        return circle(0.0, 0.0, 0.62, 14)
    if kind == "diamond":
        return np.array([(0, -1), (0.85, 0), (0, 1), (-0.85, 0)], dtype=np.float64)
    return np.array([(0, 1), (-1, -0.1), (-0.85, -0.7), (-0.4, -0.85), (0, -0.4), (0.4, -0.85), (0.85, -0.7), (1, -0.1)], dtype=np.float64)
