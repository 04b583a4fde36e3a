"""Small figures as inline SVG for pages that stand alone: intervals, seeds, sides of a box, a box on its image.

Colours are classes, which the page's style fills for light, dark and paper. Text is escaped here.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gfl_lab.report.formatting import shortened
from gfl_lab.report.writers.escape import escaped

if TYPE_CHECKING:  # a table's page needs neither pandas nor Pillow
    from gfl_lab.report.boxes import SideView
    from gfl_lab.report.claim_boxes import BoxPair

Number = int | float
VARIANT, REFERENCE, TRUTH = "va", "re", "tr"
"""Classes: the variant, the one it is compared with, and true edges."""
_FAINT = 0.004
"""Probabilities below it widen no axis."""
_CHARACTER = 5.4
_BOLD = 6.1
"""px: width of a character of a name, and of a bold text, about."""
_PICTURE = 300
"""px: longer side of a picture's copy in the page."""


def element(name: str, content: str = "", /, **attributes: Number | str) -> str:
    """Return an SVG element. ``content`` is markup; ``class_`` is class, ``stroke_width`` is stroke-width."""
    texts = [f' {key.rstrip("_").replace("_", "-")}="{_attribute(value)}"' for key, value in attributes.items() if value != ""]
    return f"<{name}{''.join(texts)}>{content}</{name}>" if content else f"<{name}{''.join(texts)}/>"


def figure(width: Number, height: Number, label: str, parts: Sequence[str]) -> str:
    """Return an SVG as wide as its place on the page. ``label``: for those who cannot see it."""
    return element("svg", "".join(parts), viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=label)


def text(x: Number, y: Number, content: str, **attributes: Number | str) -> str:
    """Return a text at a place."""
    return element("text", escaped(content), x=x, y=y, **attributes)


def _attribute(value: Number | str) -> str:
    return escaped(value) if isinstance(value, str) else f"{round(float(value), 2):g}"


@dataclass(frozen=True)
class Scale:
    """A linear scale from values to places."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the place of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Return a few round numbers from ``low`` to ``high``, 0 among them where it lies between."""
    step = 10.0 ** math.floor(math.log10((high - low) / 10))
    step *= next(factor for factor in (1, 2, 5, 10, 20, 50, 100) if (high - low) / (step * factor) <= most)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


# --- intervals ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ForestRow:
    """A difference with its interval.

    Attributes:
        ends: of the interval; None where there is none. better: as ``DifferenceRow.better``.
        each: the difference of each seed, as small dots. text: what stands at the right.
    """

    name: str
    mean: float
    ends: tuple[float, float] | None
    better: bool | None
    text: str
    each: tuple[float, ...] = ()


def forest(rows: Sequence[ForestRow], label: str, *, width: int, names: int, values: int, row: int = 18, band: float | None = None) -> str:
    """Return differences with their intervals, one below the other.

    Args:
        label: for those who cannot see the figure.
        width, names, values: of the figure, of the room for names at the left, and the least for texts at the right. row: height of a row.
        band: half width of a band around 0: effects that do not matter.
    """
    ends = [0.0, *((-band, band) if band else ())]
    ends += [value for each in rows for value in (each.mean, *(each.ends or ()), *each.each)]
    room = 0.06 * (max(ends) - min(ends)) or 1.0
    values = max([values, *(int(_BOLD * len(each.text)) + 8 for each in rows)])
    x = Scale(min(ends) - room, max(ends) + room, names, width - values)
    bottom = row * len(rows) + 4
    parts = []
    if band:
        parts.append(element("rect", class_="band", x=x(-band), y=0, width=x(band) - x(-band), height=bottom))
    parts.append(element("line", class_="zero", x1=x(0), x2=x(0), y1=0, y2=bottom))
    for value in ticks(x.low, x.high, max(3, (width - names - values) // 30)):
        parts.append(element("line", class_="mark", x1=x(value), x2=x(value), y1=bottom, y2=bottom + 3))
        parts.append(text(x(value), bottom + 12, _tick(value), class_="soft", text_anchor="middle"))
    for index, each in enumerate(rows):
        parts.append(_forest_row(each, x, row * index + row / 2 + 2, width, names))
    return figure(width, bottom + 15, label, parts)


def _forest_row(each: ForestRow, x: Scale, y: float, width: int, names: int) -> str:
    tone = {True: "up", False: "down", None: "flat"}[each.better]
    parts = [element("circle", class_="seed", cx=x(value), cy=y + 5, r=1.6) for value in each.each]
    if each.ends is not None:
        low, high = map(x, each.ends)
        parts.append(element("line", class_="range", x1=low, x2=high, y1=y, y2=y))
        parts += [element("line", class_="range", x1=end, x2=end, y1=y - 3, y2=y + 3) for end in (low, high)]
    parts.append(element("circle", class_="mean", cx=x(each.mean), cy=y, r=3.6))
    name = text(0, y + 3.5, shortened(each.name, int((names - 8) / _CHARACTER)))
    value = text(width, y + 3.5, each.text, text_anchor="end", class_="value")
    return element("g", element("title", escaped(f"{each.name}: {each.text}")) + name + "".join(parts) + value, class_=tone)


def _tick(value: float) -> str:
    return f"{value:+g}".replace("-", "−") if value else "0"


def seeds(values: Sequence[float], low: float, high: float, kind: str, label: str, width: int = 120) -> str:
    """Return the values of one variant, a dot for each seed, on an axis from ``low`` to ``high``, with their mean as a line."""
    room = 0.05 * (high - low) or 1.0
    x = Scale(low - room, high + room, 4, width - 4)
    parts = [element("line", class_="axis", x1=0, x2=width, y1=7, y2=7)]
    parts += [element("circle", class_=f"dot {kind}", cx=x(value), cy=7, r=3) for value in values]
    if len(values) > 1:
        mean = x(float(np.mean(values)))
        parts.append(element("line", class_=f"line {kind}", x1=mean, x2=mean, y1=0, y2=14))
    return figure(width, 14, label, parts)


# --- distributions of a box -----------------------------------------------------------------------

_WIDTH, _HEIGHT, _TOP = 150, 52, 13


def side_top(pair: BoxPair) -> float:
    """Return the upper end of the probability axes of a box."""
    sides = [side for two in pair.sides for side in two]
    peaks = [float(np.nanmax(side.probability)) for side in sides if side.probability is not None]
    peaks += [probability for side in sides for _, probability in side.true_edges]
    return max(peaks, default=1.0) * 1.06


def side_chart(variant: SideView, reference: SideView, top: float, strong: bool) -> str:
    """Return one side of a box in both variants: probability over the place on the image, px.

    Bars are the variant's and the outline the other's; a variant without distributions is a line at its one distance. Black: the annotated
    edge. Pins: the true edges, as high as each is probable. Triangles: where each variant decodes the side.
    """
    low, high = _side_range(variant, reference)
    x, y = Scale(low, high, 4, _WIDTH - 4), Scale(0.0, top, _HEIGHT, _TOP)
    parts = [text(4, 9, variant.side, class_="strong" if strong else "")]
    parts += [_steps(variant, x, y, f"bars {VARIANT}"), _steps(reference, x, y, f"outline {REFERENCE}")]
    if variant.target is not None:
        at = x(float(variant.pixel(variant.target)))
        parts.append(element("line", class_="target", x1=at, x2=at, y1=_TOP - 3, y2=_HEIGHT))
    for place, probability in variant.true_edges:
        at = x(float(variant.pixel(place)))
        parts.append(element("line", class_=f"pin {TRUTH}", x1=at, x2=at, y1=y(probability), y2=_HEIGHT))
        parts.append(element("circle", class_=f"head {TRUTH}", cx=at, cy=y(probability), r=2.6))
    parts.append(element("line", class_="axis", x1=0, x2=_WIDTH, y1=_HEIGHT, y2=_HEIGHT))
    for side, kind in ((reference, REFERENCE), (variant, VARIANT)):
        at = x(float(side.pixel(side.expectation)))
        if side.probability is None:
            parts.append(element("line", class_=f"only {kind}", x1=at, x2=at, y1=_TOP, y2=_HEIGHT))
        parts.append(element("path", class_=f"place {kind}", d=f"M{at:.1f} {_HEIGHT + 1}l3.5 6h-7z"))
    for value in ticks(low, high, 3):
        parts.append(text(x(value), _HEIGHT + 16, f"{value:g}", class_="soft", text_anchor="middle"))
    return figure(_WIDTH, _HEIGHT + 19, f"{variant.side} side of the box in both variants", parts)


def _side_range(*sides: SideView) -> tuple[float, float]:
    """Return the places, px, that hold all that is drawn of a side."""
    places = []
    for side in sides:
        bins = [side.expectation, *(place for place, _ in side.true_edges), *([] if side.target is None else [side.target])]
        if side.probability is not None:
            kept = np.flatnonzero(side.probability >= max(_FAINT, 0.02 * float(np.nanmax(side.probability))))
            bins += [side.borders[kept[0]], side.borders[kept[-1] + 1]] if len(kept) else []
        places += [float(side.pixel(value)) for value in bins]
    low, high = min(places), max(places)
    room = 0.04 * (high - low) or 1.0
    return low - room, high + room


def _steps(side: SideView, x: Scale, y: Scale, kind: str) -> str:
    """Return a distribution as steps over its bins, those within the axis."""
    if side.probability is None or not np.isfinite(side.probability).all():
        return ""
    borders = side.pixel(side.borders)
    points = []
    for low, high, probability in zip(borders[:-1], borders[1:], side.probability, strict=True):
        ends = [min(max(float(end), x.low), x.high) for end in (low, high)]
        if ends[0] != ends[1]:
            points += [(x(end), y(float(probability))) for end in ends]
    if not points:
        return ""
    points = [(points[0][0], y(0.0)), *points, (points[-1][0], y(0.0))]
    return element("path", class_=kind, d="M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points))


def box_picture(pair: BoxPair, label: str) -> str:
    """Return the surroundings of a box on its image: annotated box, and the boxes of both variants."""
    x1, y1, x2, y2 = pair.window
    size = x2 - x1
    parts = [element("rect", class_="ground", x=x1, y=y1, width=size, height=size)]
    if pair.image is not None:
        parts.append(_cut_out(pair.image, pair.window))
    boxes = ((pair.variant.gt, "gt"), (pair.reference.prediction, REFERENCE), (pair.variant.prediction, VARIANT))
    for box, kind in boxes:
        if box is not None:
            place: dict[str, Number] = {"x": box[0], "y": box[1], "width": max(0.0, box[2] - box[0]), "height": max(0.0, box[3] - box[1])}
            parts += [element("rect", class_=each, vector_effect="non-scaling-stroke", **place) for each in ("rim", f"box {kind}")]
    return element("svg", "".join(parts), viewBox=f"{x1:.1f} {y1:.1f} {size:.1f} {size:.1f}", role="img", aria_label=label, class_="photo")


def _cut_out(image: NDArray[np.uint8], window: tuple[float, float, float, float]) -> str:
    """Return the part of an image in a window, small, as a data URI at its place."""
    from PIL import Image

    height, width = image.shape[:2]
    x1, y1 = max(0, math.floor(window[0])), max(0, math.floor(window[1]))
    x2, y2 = min(width, math.ceil(window[2])), min(height, math.ceil(window[3]))
    if x2 <= x1 or y2 <= y1:
        return ""
    cut = Image.fromarray(image[y1:y2, x1:x2])
    cut.thumbnail((_PICTURE, _PICTURE))
    buffer = io.BytesIO()
    cut.save(buffer, "JPEG", quality=85)
    uri = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return element("image", href=uri, x=x1, y=y1, width=x2 - x1, height=y2 - y1, preserveAspectRatio="none")
