"""The picture of `gfl-lab predict --distributions`: the image, a close-up of each box with its edge distributions, and a legend."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gfl_lab.report.boxes import BoxView, TrueBox
from gfl_lab.report.close_up import close_up, dashed
from gfl_lab.report.drawing import COLOURS, TRUTH, Viewport, draw_box, enlargement, title
from gfl_lab.wording import joined

_GAP = 16
"""px between the parts of the picture."""
_PANEL = 380
"""px: width of a panel where several are in a row; a row has as many as fit, but at least two."""
_WIDEST = 720
"""px: width of a panel that is alone in its row."""
_INK, _FAINT = "#1a1a1a", "#555555"
_HEAD, _ROW = 54, 28
"""px: height of a panel's two lines of text, and of a row of the legend."""


def sheet(image: np.ndarray, boxes: Mapping[int, BoxView], truth: Sequence[TrueBox] | None, *, distributions: bool) -> Image.Image:
    """Return a picture of an image with detections.

    With ``distributions`` the image is followed by one panel for each box, which has bars along each side: one at each place that the
    detector gives this edge, longest at the most probable one.

    Args:
        image: (height, width, 3) RGB uint8.
        boxes: detections by number, best first; with their annotated boxes (``boxes.with_truth``) where there is truth.
        truth: all annotated boxes of the image; None where they are not known.
        distributions: add the panels.
    """
    parts = [_overview(image, boxes, truth, numbered=distributions)]
    if distributions and boxes:
        parts.append(_panels(image, boxes, parts[0].width, truth is not None))
    if distributions or truth is not None:
        width = max(part.width for part in parts)
        parts.append(_legend(width, _meanings(boxes.values(), truth, distributions)))
    return _stacked(parts) if len(parts) > 1 else parts[0]


def _overview(image: np.ndarray, boxes: Mapping[int, BoxView], truth: Sequence[TrueBox] | None, *, numbered: bool) -> Image.Image:
    height, width = image.shape[:2]
    factor = enlargement(height, width)
    canvas = Image.fromarray(image).resize((width * factor, height * factor), Image.Resampling.BICUBIC).convert("RGBA")
    view = Viewport(factor, 0.0, 0.0)
    pen = ImageDraw.Draw(canvas)
    for annotated in truth or ():
        dashed(pen, annotated.box, view)
    for number in reversed(list(boxes)):
        box = boxes[number]
        label = f"{number}  {title(box)}" if numbered else None
        canvas = draw_box(canvas, box, _colour(number), view, distributions=False, label=label)
    return canvas.convert("RGB")


def _panels(image: np.ndarray, boxes: Mapping[int, BoxView], width: int, has_truth: bool) -> Image.Image:
    """Return the panels in rows that are ``width`` px wide, or as wide as two panels need."""
    columns = 1 if len(boxes) == 1 else max(2, width // _PANEL)
    size = min(_WIDEST, max(_PANEL, (width - (columns - 1) * _GAP) // columns))
    rows = math.ceil(len(boxes) / columns)
    found = Image.new("RGB", (max(width, columns * size + (columns - 1) * _GAP), rows * (size + _HEAD) + (rows - 1) * _GAP), "white")
    for index, (number, box) in enumerate(boxes.items()):
        x, y = index % columns * (size + _GAP), index // columns * (size + _HEAD + _GAP)
        pen = ImageDraw.Draw(found)
        _write(pen, (x, y + 2), f"{number}  {title(box)}", 20, _colour(number), size)
        _write(pen, (x, y + 28), _remark(box, has_truth), 15, _FAINT, size)
        found.paste(close_up(image, box, _colour(number), size), (x, y + _HEAD))
    return found


def _remark(box: BoxView, has_truth: bool) -> str:
    """Return the second line above a panel: agreement with the annotated box, and the sides that have several modes."""
    parts = []
    if has_truth:
        parts.append("overlaps no annotated box of its class" if box.detection_iou is None else f"IoU {box.detection_iou:.2f}")
    counts = {side.side: len(side.mode_places) for side in box.sides if len(side.mode_places) > 1}
    if counts:
        most = max(counts.values())
        parts.append(f"{joined(list(counts))}: {'two modes' if most == 2 else f'up to {most} modes'}")
    elif any(side.probability is not None for side in box.sides):
        parts.append("one mode a side")
    return " · ".join(parts)


def _meanings(boxes: Iterable[BoxView], truth: Sequence[TrueBox] | None, distributions: bool) -> list[tuple[str, str]]:
    """Return the entries of the legend: (sign, meaning)."""
    found = [("box", "detected box, with its number, class and score" if distributions else "detected box")]
    if distributions:
        found.append(("bars", "learned distribution of an edge: longest bar at the most probable place"))
    if truth is not None:
        found.append(("dashes", "annotated box"))
    if distributions and any(side.edges for view in boxes for side in view.sides):
        found.append(("edges", "the two places of an ambiguous edge; the longer, the more annotators"))
    return found


def _legend(width: int, entries: Sequence[tuple[str, str]]) -> Image.Image:
    canvas = Image.new("RGB", (width, _ROW * len(entries)), "white")
    pen = ImageDraw.Draw(canvas)
    for row, (sign, meaning) in enumerate(entries):
        y = row * _ROW + _ROW // 2
        if sign == "box":
            pen.rectangle((2, y - 8, 38, y + 8), outline=COLOURS[0], width=3)
        elif sign == "bars":
            for index, length in enumerate((5, 12, 18, 9, 3)):
                pen.rectangle((2 + index * 7, y + 9 - length, 7 + index * 7, y + 9), fill=COLOURS[0])
        elif sign == "dashes":
            dashed(pen, (2, y - 8, 38, y + 8), Viewport(1.0, 0.0, 0.0))
        else:
            pen.line((12, y + 9, 12, y - 9), fill=TRUTH, width=5)
            pen.line((28, y + 9, 28, y - 3), fill=TRUTH, width=5)
        _write(pen, (50, y - 9), meaning, 15, _INK, width - 50)
    return canvas


def _stacked(parts: Sequence[Image.Image]) -> Image.Image:
    width = max(part.width for part in parts) + 2 * _GAP
    canvas = Image.new("RGB", (width, sum(part.height + _GAP for part in parts) + _GAP), "white")
    y = _GAP
    for part in parts:
        canvas.paste(part, (_GAP, y))
        y += part.height + _GAP
    return canvas


def _colour(number: int) -> str:
    return COLOURS[(number - 1) % len(COLOURS)]


def _write(pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: int, colour: str, width: int) -> None:
    """Write one line, shortened with dots to ``width`` px."""
    font = ImageFont.load_default(size=size)
    while text and pen.textlength(text, font=font) > width:
        text = text.removesuffix("...")[:-1].rstrip() + "..." if len(text) > 4 else ""
    pen.text(at, text, fill=colour, font=font)
