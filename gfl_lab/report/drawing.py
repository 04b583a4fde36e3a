"""Boxes with the distributions of their edges, drawn on the image as the GFL paper's figures do (arXiv 2006.04388, Figures 5 and 9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gfl_lab.report.boxes import BoxView, SideView

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#6b4e9b", "#56b4e9")
"""Okabe and Ito's, distinct for colour-blind readers too; boxes take them in turn."""
TRUTH = "#e69f00"
SHORT_SIDE = 720
"""px: smaller images are enlarged to about this, so that bars of a few px are seen."""
LONG_SIDE = 4096
"""px: no image is enlarged beyond this, so that a panorama needs no gigabytes."""
BAR = 64
"""px: length of the highest bar of a side."""
_LEAST = 2
"""px: shorter bars are left out."""


@dataclass(frozen=True)
class Viewport:
    """A part of an image on a canvas: ``factor`` canvas px for one of the image, whose (left, top) is at the canvas's corner."""

    factor: float
    left: float
    top: float

    def x(self, value: float) -> float:
        """Return the canvas x of an image x, px."""
        return (value - self.left) * self.factor

    def y(self, value: float) -> float:
        """Return the canvas y of an image y, px."""
        return (value - self.top) * self.factor

    def place(self, value: float, horizontal: bool) -> float:
        """Return the canvas x (horizontal) or y of an image coordinate, px."""
        return self.x(value) if horizontal else self.y(value)


def draw_box(
    canvas: Image.Image, box: BoxView, colour: str, view: Viewport, *, distributions: bool, label: str | None = None
) -> Image.Image:
    """Return an RGBA canvas with one box on top.

    A side's distribution stands where its bins lie on the image: bars grow along the box's other axis from the middle of the side, the highest
    to ``BAR`` px. A Dirac box has none.

    Args:
        label: text at the box's corner; None is class and score.
    """
    layer = Image.new("RGBA", canvas.size)
    pen = ImageDraw.Draw(layer)
    if box.prediction is not None:
        x1, y1, x2, y2 = box.prediction
        if distributions:
            for side in box.sides:
                _draw_side(pen, side, ((x1 + x2) / 2, (y1 + y2) / 2), colour, view)
        pen.rectangle((view.x(x1), view.y(y1), view.x(x2), view.y(y2)), outline=colour, width=3)
        _draw_label(pen, title(box) if label is None else label, view.x(x1), view.y(y1), colour)
    return Image.alpha_composite(canvas, layer)


def title(box: BoxView) -> str:
    """Return class and score of a box; nothing for a box without a class."""
    score = "" if box.detection_score is None else f" {box.detection_score:.2f}"
    return " ".join(f"{box.category}{score}".split()) if box.category else ""


def enlargement(height: int, width: int) -> int:
    """Return the factor by which an image is enlarged."""
    return max(1, min(round(SHORT_SIDE / min(height, width)), LONG_SIDE // max(height, width)))


def _draw_label(pen: ImageDraw.ImageDraw, text: str, x: float, y: float, colour: str) -> None:
    """Write white text on colour above (x, y); below it where the canvas ends."""
    if not text:
        return
    font = ImageFont.load_default(size=18)
    left, top, right, bottom = pen.textbbox((x, y), text, font=font)
    up = min(bottom - top + 8, y)
    pen.rectangle((x, y - up, x + right - left + 10, y - up + bottom - top + 8), fill=colour)
    pen.text((x + 5, y - up + 1), text, fill="white", font=font)


def _draw_side(pen: ImageDraw.ImageDraw, side: SideView, middle: tuple[float, float], colour: str, view: Viewport) -> None:
    """Draw the bars of a side from ``middle`` (image px), and the true edges where they are known."""
    if side.probability is None or not np.isfinite(side.probability).all():
        return
    lengths = BAR * side.probability / side.probability.max()
    shown = np.flatnonzero(lengths >= _LEAST)
    places = np.array([view.place(place, side.horizontal) for place in side.pixel(side.positions[shown]).tolist()])
    widths = np.maximum(1.0, 0.4 * side.widths[shown] * side.px_per_bin * view.factor)
    x, y = view.x(middle[0]), view.y(middle[1])
    low, high = float((places - widths).min()), float((places + widths).max())
    pen.line((low, y, high, y) if side.horizontal else (x, low, x, high), fill="white", width=2)
    for at, half, length in zip(places.tolist(), widths.tolist(), lengths[shown].tolist(), strict=True):
        corners = (at - half, y - length, at + half, y) if side.horizontal else (x, at - half, x + length, at + half)
        pen.rectangle(corners, fill=_faded(colour), outline="white")
    for edge, p in side.true_edges:
        at, length = view.place(float(side.pixel(edge)), side.horizontal), 1.25 * BAR * p
        pen.line((at, y, at, y - length) if side.horizontal else (x, at, x + length, at), fill=TRUTH, width=5)


def _faded(colour: str) -> tuple[int, int, int, int]:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return red, green, blue, 165


def draw_marks(
    image: np.ndarray, marks: Sequence[tuple[Sequence[float], str]], truths: Sequence[Sequence[float]] = (), size: int = 420
) -> Image.Image:
    """Return an image with plain boxes.

    Args:
        image: (height, width, 3) RGB uint8.
        marks: box (x1, y1, x2, y2) in px of the image, and its colour. truths: boxes in white, below them.
        size: px, longer side of the picture.
    """
    height, width = image.shape[:2]
    factor = size / max(height, width)
    picture = Image.fromarray(image).resize((max(1, round(width * factor)), max(1, round(height * factor))), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    for box, colour in (*((box, "white") for box in truths), *marks):
        corners = tuple(value * factor for value in box)
        pen.rectangle([corner + shift for corner, shift in zip(corners, (-1, -1, 1, 1), strict=True)], outline="black")
        pen.rectangle(corners, outline=colour, width=3)
    return picture
