"""Plots with Pillow alone: a grid of panels that share the horizontal axis, with intervals and a legend."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

COLOURS = ("#0072b2", "#d55e00", "#e69f00", "#009e73", "#cc79a7", "#000000")
"""Okabe and Ito's, told apart by colour-blind readers too."""
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 400, 250, 52, 26, 12, 40
FINE = 3
"""Everything is drawn this many times larger, then reduced, so that lines are smooth."""
APART = 4
"""Pixels between points of two lines at the same place, so that their intervals do not hide each other."""


class Point(NamedTuple):
    """A value at `x` with the ends of its interval, which are the value itself if it has none."""

    x: float
    y: float
    low: float
    high: float


class Line(NamedTuple):
    """Points that belong together, by ascending x."""

    name: str
    points: list[Point]


class Panel(NamedTuple):
    """One plot: `level` is drawn as a dashed line; what lies above `top` is drawn at its edge, with its value."""

    title: str
    lines: list[Line]
    level: float | None = None
    top: float | None = None


class Axes:
    """Maps a panel's values to pixels; x is logarithmic."""

    def __init__(self, panel: Panel, left: float, upper: float) -> None:
        """Find the range of the panel whose upper left corner is at (left, upper)."""
        points = [point for line in panel.lines for point in line.points]
        self.xs = sorted({point.x for point in points})
        low, high = min(point.low for point in points), max(point.high for point in points)
        if panel.level is not None:
            low, high = min(low, panel.level), max(high, panel.level)
        high = high if panel.top is None else min(high, panel.top)
        space = 0.06 * (high - low) or 1.0
        self.low, self.high = low - space, high + space
        self.box = left + LEFT, upper + TOP, left + WIDTH - RIGHT, upper + HEIGHT - BOTTOM

    def x(self, value: float) -> float:
        """Return the horizontal place of a value."""
        first, last = np.log(self.xs[0]), np.log(max(self.xs[-1], 1.01 * self.xs[0]))
        share = (np.log(value) - first) / (last - first)
        return float(self.box[0] + (0.06 + 0.88 * share) * (self.box[2] - self.box[0]))

    def y(self, value: float) -> float:
        """Return the vertical place of a value, at the upper edge if it lies above."""
        share = (min(value, self.high) - self.low) / (self.high - self.low)
        return float(self.box[3] - share * (self.box[3] - self.box[1]))

    def ticks(self) -> list[float]:
        """Return four to eight round values inside the range."""
        rough = (self.high - self.low) / 5
        unit = 10.0 ** np.floor(np.log10(rough))
        step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
        return [float(tick) for tick in np.arange(np.ceil(self.low / step), np.floor(self.high / step) + 1) * step]


class Canvas:
    """Draws in the pixels of the final image."""

    def __init__(self, width: int, height: int) -> None:
        """Start white."""
        self.image = Image.new("RGB", (width * FINE, height * FINE), "white")
        self.pen = ImageDraw.Draw(self.image)

    def line(self, places: list[tuple[float, float]], colour: str, width: float = 1.0) -> None:
        """Draw a line through places."""
        self.pen.line([(x * FINE, y * FINE) for x, y in places], fill=colour, width=round(width * FINE), joint="curve")

    def mark(self, x: float, y: float, colour: str, *, above: bool, diamond: bool) -> None:
        """Draw a point: a disk, a diamond, or a triangle for one that lies above."""
        if above or diamond:
            corners = [(x, y - 5), (x + 5, y + 3), (x - 5, y + 3)] if above else [(x, y - 6), (x + 6, y), (x, y + 6), (x - 6, y)]
            self.pen.polygon([(a * FINE, b * FINE) for a, b in corners], fill=colour)
        else:
            self.pen.ellipse([(x - 3) * FINE, (y - 3) * FINE, (x + 3) * FINE, (y + 3) * FINE], fill=colour)

    def text(self, x: float, y: float, words: str, anchor: str, colour: str = "#222222", size: int = 11) -> None:
        """Write words at a place; `anchor` is Pillow's."""
        self.pen.text((x * FINE, y * FINE), words, fill=colour, anchor=anchor, font=ImageFont.load_default(size * FINE))

    def save(self, to: Path) -> None:
        """Write the image at its final size, with few colours."""
        small = self.image.resize((self.image.width // FINE, self.image.height // FINE), Image.Resampling.LANCZOS)
        small.quantize(128, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(to, optimize=True)


def draw(to: Path, columns: list[list[Panel]], x_label: str) -> None:
    """Draw panels to a PNG file, column by column; the last line of each panel has diamonds and no line between them."""
    canvas = Canvas(WIDTH * len(columns), HEIGHT * max(map(len, columns)) + 30)
    for place, panels in enumerate(columns):
        for number, panel in enumerate(panels):
            _panel(canvas, panel, Axes(panel, WIDTH * place, HEIGHT * number + 30), x_label)
    x = float(LEFT)
    for number, line in enumerate(columns[0][0].lines):
        canvas.mark(x, 15, COLOURS[number], above=False, diamond=number == len(columns[0][0].lines) - 1)
        canvas.text(x + 10, 15, line.name, "lm", size=12)
        x += 30 + 8 * len(line.name)
    canvas.save(to)


def _panel(canvas: Canvas, panel: Panel, axes: Axes, x_label: str) -> None:
    left, upper, right, lower = axes.box
    canvas.text(left, upper - 6, panel.title, "ls", size=12)
    for tick in axes.ticks():
        canvas.line([(left, axes.y(tick)), (right, axes.y(tick))], "#dddddd", 0.7)
        canvas.text(left - 5, axes.y(tick), f"{tick + 0.0:.5g}", "rm")  # no -0
    for value in axes.xs:
        canvas.text(axes.x(value), lower + 4, f"{value:g}", "mt")
    canvas.text((left + right) / 2, lower + 19, x_label, "mt")
    canvas.line([(left, upper), (left, lower), (right, lower)], "#222222")
    if panel.level is not None:
        for dash in np.arange(left, right, 8):
            canvas.line([(dash, axes.y(panel.level)), (min(dash + 4, right), axes.y(panel.level))], "#222222")
    for number, line in enumerate(panel.lines):
        colour, last = COLOURS[number], number == len(panel.lines) - 1
        shift = APART * (number - (len(panel.lines) - 1) / 2)
        places = [(axes.x(point.x) + shift, axes.y(point.y)) for point in line.points]
        if len(places) > 1 and not last:
            canvas.line(places, colour, 1.3)
        for (x, y), point in zip(places, line.points, strict=True):
            if point.high > point.low:
                canvas.line([(x, axes.y(point.low)), (x, axes.y(point.high))], colour)
            above = point.y > axes.high
            canvas.mark(x, y, colour, above=above, diamond=last)
            if above:
                canvas.text(x + 7, y + 9 * number, f"{point.y:.0f}", "lm", colour)
