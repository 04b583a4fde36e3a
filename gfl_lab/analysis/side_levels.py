"""Distances of box sides from their locations as numbers by level, and the n and bin width that they ask for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gfl_lab.detector.box_forms import DISTANCE_MARGIN

QUANTILES = (0.5, 0.9, 0.99, 0.999)
ACCEPTED = 1000
"""One clipped side of this many, on the worst level, is accepted."""
N = TypeVar("N", int, float)

MAX_REG_MAX, MAX_BIN_WIDTH = 128, 64.0
"""The largest that the settings take."""
MAX_BINS = 512
"""Bins that are counted one by one; the last also holds what lies beyond."""

TABLE_2 = (
    "The paper found little effect on COCO: AP 40.1 to 40.2 for n from 12 to 18, 39.8 to 40.2 for bin widths from 0.5 to 4 "
    "(arXiv 2006.04388, Tables 2b and 2c)."
)


@dataclass(frozen=True)
class LevelSides:
    """Boxes learnt on one level, or on all (``stride`` 0), and the distances from their cells to their sides, in bins.

    A box counts on each level where it has a cell. Shares are of 1. Without cells there is nothing to state: None.

    Attributes:
        stride: of the level, px of the network input.
        boxes, boxes_share: boxes with a cell here, and of all boxes.
        cells: (cell, box) pairs; each has 4 sides.
        quantiles: distance that this share of the sides does not exceed.
        max: largest distance.
        clipped_sides, clipped_share: sides farther than n - 0.1 bins.
        clipped_boxes, clipped_boxes_share: boxes with such a side, and of the boxes here.
        counts: sides in [k, k + 1) bins for k = 0, 1, ...; at least n of them, at most ``MAX_BINS``, the last open.
        needed_reg_max: smallest n that clips at most one side in a thousand; None also where more than 128 would be needed.
        needed_bin_width: smallest width that does so at the present n, rounded up to 3 digits; None also beyond 64.
    """

    stride: int
    boxes: int
    boxes_share: float
    cells: int
    quantiles: dict[str, float] | None
    max: float | None
    clipped_sides: int
    clipped_share: float | None
    clipped_boxes: int
    clipped_boxes_share: float | None
    counts: tuple[int, ...]
    needed_reg_max: int | None
    needed_bin_width: float | None


@dataclass(frozen=True)
class SideDistances:
    """The distances of a data set's box sides under some settings, as ``side_distances`` returns them.

    Attributes:
        reg_max: n.
        bin_width: in strides.
        image_size: longest and shortest side that images were scaled into, px.
        images, boxes: that training uses; crowd regions are no boxes.
        boxes_without_cells: boxes that no location learns.
        levels: finest first.
        all: over all levels.
        notes: what training does that the numbers leave out.
    """

    reg_max: int
    bin_width: float
    image_size: tuple[int, int]
    images: int
    boxes: int
    boxes_without_cells: int
    levels: tuple[LevelSides, ...]
    all: LevelSides
    notes: tuple[str, ...]

    @property
    def _used(self) -> list[LevelSides]:
        return [level for level in self.levels if level.cells]

    @property
    def needed_reg_max(self) -> int | None:
        """Return the smallest n, at this bin width, that clips at most one side in a thousand on every level; None where there is none."""
        return _largest([level.needed_reg_max for level in self._used])

    @property
    def needed_bin_width(self) -> float | None:
        """Return the smallest bin width, at this n, that clips at most one side in a thousand on every level; None where there is none."""
        return _largest([level.needed_bin_width for level in self._used])

    @property
    def advice(self) -> str:
        """Return one paragraph: whether n and the bin width suit the data, and which would."""
        n, n_needed, width_needed = self.reg_max, self.needed_reg_max, self.needed_bin_width
        if not self._used:
            return "No box has a cell, so there is nothing to learn: anchor_scale and strides do not suit the boxes."
        worst = max(self._used, key=lambda level: level.clipped_share or 0.0)
        if worst.clipped_sides * ACCEPTED > 4 * worst.cells:
            text = f"reg_max {n} clips {worst.clipped_share:.2%} of the sides on stride {worst.stride}: "
            ways = [f"reg_max {n_needed} at bin_width {self.bin_width:g}"] if n_needed is not None else []
            ways += [f"bin_width {width_needed:g} at reg_max {n}"] if width_needed is not None else []
            return text + (
                f"{' or '.join(ways)} would clip at most 0.1% on every level." if ways else f"no reg_max up to {MAX_REG_MAX} will do."
            )
        text = f"reg_max {n} clips at most 0.1% of the sides on every level"
        text += (
            f"; so would reg_max {n_needed}, or bin_width {width_needed:g} at reg_max {n}."
            if n_needed is not None and n_needed < n
            else ", and no smaller one does."
        )
        far = max(level.quantiles["0.999"] for level in self._used if level.quantiles)
        if far < n / 2 and n_needed is not None and n_needed < n:
            text += f" 99.9% of the sides are within {far:.1f} bins: fewer bins would be cheaper, narrower ones finer. {TABLE_2}"
        return text

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        derived = {"needed_reg_max": self.needed_reg_max, "needed_bin_width": self.needed_bin_width, "advice": self.advice}
        return asdict(self) | derived


def describe_level(
    stride: int, distances: NDArray[np.float32], boxes: int, clipped_boxes: int, total: int, reg_max: int, bin_width: float
) -> LevelSides:
    """Return the numbers of a level.

    Args:
        stride: of the level; 0 for all levels together.
        distances: (4 cells,) in bins, sorted.
        boxes, clipped_boxes: boxes with a cell here, and those of them with a clipped side.
        total: all boxes.
    """
    sides = len(distances)
    counts = np.bincount(np.minimum(distances, MAX_BINS - 1).astype(np.int64), minlength=reg_max)
    # float32, as training compares
    clipped = sides - int(np.searchsorted(distances, np.float32(reg_max - DISTANCE_MARGIN), side="right"))
    quantiles = needed_reg_max = needed_bin_width = None
    if sides:
        quantiles = {str(q): float(distances[math.ceil(round(q * sides, 6)) - 1]) for q in QUANTILES}
        farthest = float(distances[sides - 1 - sides // ACCEPTED])  # of those that must be reached
        needed_reg_max = _at_most(_reach(farthest), MAX_REG_MAX)
        needed_bin_width = _at_most(_round_up(farthest * bin_width / (reg_max - DISTANCE_MARGIN)), MAX_BIN_WIDTH)
    return LevelSides(
        stride=stride,
        boxes=boxes,
        boxes_share=boxes / total if total else 0.0,
        cells=sides // 4,
        quantiles=quantiles,
        max=float(distances[-1]) if sides else None,
        clipped_sides=clipped,
        clipped_share=clipped / sides if sides else None,
        clipped_boxes=clipped_boxes,
        clipped_boxes_share=clipped_boxes / boxes if boxes else None,
        counts=tuple(counts.tolist()),
        needed_reg_max=needed_reg_max,
        needed_bin_width=needed_bin_width,
    )


def _reach(distance: float) -> int:
    """Return the smallest n that does not clip a distance, in bins."""
    n = max(1, math.floor(distance))
    while np.float32(n - DISTANCE_MARGIN) < distance:
        n += 1
    return n


def _at_most(value: N, limit: float) -> N | None:
    return value if value <= limit else None


def _largest(values: Iterable[N | None]) -> N | None:
    """Return the largest value; None where one is None, or there is none."""
    given = list(values)
    known = [value for value in given if value is not None]
    return max(known) if known and len(known) == len(given) else None


def _round_up(value: float) -> float:
    """Return ``value`` rounded up to 3 digits."""
    places = 2 - math.floor(math.log10(value))
    return round(math.ceil(value * 10**places) / 10**places, max(places, 0))
