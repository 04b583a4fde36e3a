"""The part of an image around one box, enlarged, with the distributions of its sides."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw

from gfl_lab.report.boxes import BoxView
from gfl_lab.report.drawing import BAR, COLOURS, TRUTH, Viewport, draw_box

CLOSEST = 32.0
"""Highest factor by which an image is enlarged: a box of a few px stays recognisable."""
_DRAWN = 420
"""px: size at which a thumbnail is drawn before it is made smaller, so that its bars, of a fixed length, leave room for the box."""


def close_up(image: np.ndarray, box: BoxView, colour: str, size: int, paper: str = "white") -> Image.Image:
    """Return the part of the image around a box, ``size`` px square, with the distributions of its sides and the annotated box in dashes.

    Args:
        image: (height, width, 3) RGB uint8. paper: colour of the picture beyond the border of the image.
    """
    view = viewport(box, image.shape[:2], size)
    canvas = Image.new("RGBA", (size, size), paper)
    _paste(canvas, image, view)
    if box.gt is not None:
        dashed(ImageDraw.Draw(canvas), box.gt, view)
    return draw_box(canvas, box, colour, view, distributions=True, label="").convert("RGB")


def side_thumbnail(
    image: np.ndarray, box: BoxView, side: str, size: int = 300, colour: str = COLOURS[0], paper: str = "white"
) -> Image.Image:
    """Return one box and the distribution of one of its sides, with the true edges in amber where they are known; ``size`` px square.

    The box is the annotated one, or the detection where there is none.

    Args:
        image: (height, width, 3) RGB uint8. side: of ``naming.SIDES``. colour: of the box and its bars. paper: as of ``close_up``.
    """
    one = replace(box, sides=tuple(each for each in box.sides if each.side == side), detection=box.gt or box.detection, gt=None)
    return close_up(image, one, colour, _DRAWN, paper).resize((size, size), Image.Resampling.LANCZOS)


def viewport(box: BoxView, shape: tuple[int, ...], size: int) -> Viewport:
    """Return the view of a canvas of ``size`` px square that shows a box with its modes and true edges, and room for the bars.

    Args:
        shape: (height, width) of the image, px; all of it is shown for a box that has no place.
    """
    x1, y1, x2, y2 = _extent(box, shape)
    factor = min(CLOSEST, (size - 2.6 * BAR) / max(x2 - x1, y2 - y1, 1e-6))
    half = 0.5 * size / factor
    return Viewport(factor, 0.5 * (x1 + x2) - half, 0.5 * (y1 + y2) - half)


def dashed(pen: ImageDraw.ImageDraw, box: tuple[float, float, float, float], view: Viewport, dash: float = 7.0) -> None:
    """Draw a box, (x1, y1, x2, y2) px of the image, in dashes of ``dash`` px on the canvas."""
    x1, y1, x2, y2 = view.x(box[0]), view.y(box[1]), view.x(box[2]), view.y(box[3])
    for begin, end in (((x1, y1), (x2, y1)), ((x1, y2), (x2, y2)), ((x1, y1), (x1, y2)), ((x2, y1), (x2, y2))):
        length = math.dist(begin, end)
        steps = max(1, math.ceil(length / (2 * dash)))
        step_x, step_y = (end[0] - begin[0]) / steps, (end[1] - begin[1]) / steps
        for step in range(steps):
            x, y = begin[0] + step * step_x, begin[1] + step * step_y
            pen.line((x, y, x + 0.5 * step_x, y + 0.5 * step_y), fill=TRUTH, width=3)


def _extent(box: BoxView, shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    """Return the smallest region (x1, y1, x2, y2), px, with the box, its annotated box, and every mode and true edge of its sides."""
    corners = [each for each in (box.prediction, box.gt) if each is not None] or [(0.0, 0.0, float(shape[1]), float(shape[0]))]
    xs, ys = [value for each in corners for value in each[::2]], [value for each in corners for value in each[1::2]]
    for side in box.sides:
        (xs if side.horizontal else ys).extend(float(side.pixel(place)) for place in (*side.mode_places, *(side.edges or ())))
    return min(xs), min(ys), max(xs), max(ys)


def _paste(canvas: Image.Image, image: np.ndarray, view: Viewport) -> None:
    """Paste the part of the image that the canvas shows."""
    height, width = image.shape[:2]
    left, top = max(0.0, view.left), max(0.0, view.top)
    right, bottom = min(float(width), view.left + canvas.width / view.factor), min(float(height), view.top + canvas.height / view.factor)
    if right <= left or bottom <= top:
        return
    x, y = round(view.x(left)), round(view.y(top))
    size = max(1, round(view.x(right)) - x), max(1, round(view.y(bottom)) - y)
    canvas.paste(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC, box=(left, top, right, bottom)), (x, y))
