"""Boxes with the distributions of their edges, drawn on the image as the GFL paper's figures do (arXiv 2006.04388, Figures 5 and 9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

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
_BAR = 64
"""px: length of the highest bar of a side."""
_MARGIN = 56
"""px around the image, where bins beyond its border are seen."""
_LEAST = 2
"""px: shorter bars are left out."""


def draw(image: np.ndarray, boxes: Sequence[BoxView], *, distributions: bool = True) -> Image.Image:
    """Return the image with boxes, classes and scores and, along each side, the distribution of its place.

    A side's distribution stands where its bins lie on the image: bars grow inwards along the box's other axis from the middle of
    the side, the highest to a fixed length. A Dirac box has none.

    Args:
        image: (height, width, 3) RGB uint8.
        boxes: best first; drawn from the last to the first, so that the best lie on top.
    """
    height, width = image.shape[:2]
    factor = _enlargement(height, width)
    margin = _MARGIN if distributions else 0
    canvas = Image.new("RGBA", (width * factor + 2 * margin, height * factor + 2 * margin), "white")
    canvas.paste(Image.fromarray(image).resize((width * factor, height * factor), Image.Resampling.BICUBIC), (margin, margin))
    for index in reversed(range(len(boxes))):
        layer = Image.new("RGBA", canvas.size)
        _draw_box(ImageDraw.Draw(layer), boxes[index], COLOURS[index % len(COLOURS)], factor, margin, distributions)
        canvas = Image.alpha_composite(canvas, layer)
    return canvas.convert("RGB")


def close_up(image: np.ndarray, box: BoxView, side: str, size: int = 300) -> Image.Image:
    """Return one box and the distribution of one of its sides, with the true edges in amber where they are known; ``size`` px square.

    Args:
        image: (height, width, 3) RGB uint8. side: of ``naming.SIDES``.
    """
    view = replace(box, sides=tuple(each for each in box.sides if each.side == side), detection=box.gt or box.detection, category="")
    height, width = image.shape[:2]
    factor = _enlargement(height, width)
    picture = draw(image, [view])
    x1, y1, x2, y2 = view.prediction or (0, 0, width, height)
    for each in view.sides:
        for place in each.pixel(each.mode_places).tolist():
            x1, x2 = (min(x1, place), max(x2, place)) if each.horizontal else (x1, x2)
            y1, y2 = (y1, y2) if each.horizontal else (min(y1, place), max(y2, place))
    half = 0.5 * max(x2 - x1, y2 - y1) * factor + 1.3 * _BAR
    x, y = (0.5 * (low + high) * factor + _MARGIN for low, high in ((x1, x2), (y1, y2)))
    cut = Image.new("RGB", (round(2 * half), round(2 * half)), "white")
    cut.paste(picture, (round(half - x), round(half - y)))
    return cut.resize((size, size), Image.Resampling.LANCZOS)


def _enlargement(height: int, width: int) -> int:
    """Return the factor by which an image is enlarged."""
    return max(1, min(round(SHORT_SIDE / min(height, width)), LONG_SIDE // max(height, width)))


def _draw_box(pen: ImageDraw.ImageDraw, box: BoxView, colour: str, factor: int, margin: int, distributions: bool) -> None:
    place = box.prediction
    if place is None:
        return
    x1, y1, x2, y2 = (value * factor + margin for value in place)
    if distributions:
        for side in box.sides:
            _draw_side(pen, side, ((x1 + x2) / 2, (y1 + y2) / 2), colour, factor, margin)
    pen.rectangle((x1, y1, x2, y2), outline=colour, width=3)
    if not box.category:
        return
    score = "" if box.detection_score is None else f" {box.detection_score:.2f}"
    font = ImageFont.load_default(size=18)
    text = " ".join(f"{box.category}{score}".split())
    left, top, right, bottom = pen.textbbox((x1, y1), text, font=font)
    up = min(bottom - top + 8, y1)
    pen.rectangle((x1, y1 - up, x1 + right - left + 10, y1 - up + bottom - top + 8), fill=colour)
    pen.text((x1 + 5, y1 - up + 1), text, fill="white", font=font)


def _draw_side(pen: ImageDraw.ImageDraw, side: SideView, middle: tuple[float, float], colour: str, factor: int, margin: int) -> None:
    if side.probability is None or not np.isfinite(side.probability).all():
        return
    lengths = _BAR * side.probability / side.probability.max()
    shown = np.flatnonzero(lengths >= _LEAST)
    places = side.pixel(shown) * factor + margin
    half = max(1.0, 0.4 * side.px_per_bin * factor)
    x, y = middle
    low, high = float(places.min() - half), float(places.max() + half)
    pen.line((low, y, high, y) if side.horizontal else (x, low, x, high), fill="white", width=2)
    for at, length in zip(places.tolist(), lengths[shown].tolist(), strict=True):
        corners = (at - half, y - length, at + half, y) if side.horizontal else (x, at - half, x + length, at + half)
        pen.rectangle(corners, fill=_faded(colour), outline="white")
    for edge, p in zip(side.edges or (), side.edge_probs or (), strict=True):
        at, length = float(side.pixel(edge)) * factor + margin, 1.25 * _BAR * p
        pen.line((at, y, at, y - length) if side.horizontal else (x, at, x + length, at), fill=TRUTH, width=5)


def _faded(colour: str) -> tuple[int, int, int, int]:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return red, green, blue, 165
