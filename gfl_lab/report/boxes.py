"""The distributions of one box before any drawing: its four sides, their modes and true edges, as places on the image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfl_lab import naming
from gfl_lab.metrics import box_modes, boxdist
from gfl_lab.metrics.bins import places, stored_positions
from gfl_lab.metrics.coco_matching import overlaps

Array = NDArray[np.float64]
OUTWARD = np.array([-1.0, -1.0, 1.0, 1.0])
"""Sign by which a distance from the location is added to its x or y: left and top lie at smaller coordinates."""


@dataclass(frozen=True)
class SideView:
    """One side of one box: everything a bar chart of it shows. Distances are from the location, in bins, outwards.

    ``probability`` (n+1) is None for a Dirac box; its bins are at ``positions`` (n+1), which are 0, 1, ..., n unless bins are weighted. ``edges`` and ``edge_probs`` are the two true places and their
    probabilities if the data have them, and ``ideal`` the distribution DFL would learn from them.
    ``origin + sign * px_per_bin * bins`` is the place on the image, in px.
    """

    side: str
    probability: Array | None
    positions: Array
    expectation: float
    target: float | None
    edges: tuple[float, float] | None
    edge_probs: tuple[float, float] | None
    ideal: Array | None
    bimodality: float
    mode_places: tuple[float, ...]
    origin: float
    sign: float
    px_per_bin: float

    @property
    def true_edges(self) -> tuple[tuple[float, float], ...]:
        """The true places with their probabilities; empty where the data have none."""
        return tuple(zip(self.edges or (), self.edge_probs or (), strict=True))

    @property
    def borders(self) -> Array:
        """(n+2) where one bin ends and the next begins: halfway between them, and as far beyond the outer ones. For drawings."""
        halves = np.diff(self.positions) / 2
        return np.concatenate([self.positions[:1] - halves[:1], self.positions[:-1] + halves, self.positions[-1:] + halves[-1:]])

    @property
    def widths(self) -> Array:
        """(n+1) distance of each bin from the nearer one beside it."""
        gaps = np.diff(self.positions)
        return np.minimum(np.concatenate([gaps[:1], gaps]), np.concatenate([gaps, gaps[-1:]]))

    @property
    def horizontal(self) -> bool:
        """True if its place is an x coordinate (left, right)."""
        return self.side in ("left", "right")

    def pixel(self, bins: Any) -> Any:
        """Return the coordinate on the original image, px, of a distance in bins."""
        return self.origin + self.sign * self.px_per_bin * np.asarray(bins, np.float64)

    def distance(self, pixel: float) -> float:
        """Return the distance in bins of a coordinate on the original image, px: the inverse of ``pixel``."""
        return self.sign * (pixel - self.origin) / self.px_per_bin


@dataclass(frozen=True)
class TrueBox:
    """An annotated box, (x1, y1, x2, y2) in px of the image.

    Attributes:
        side: of an ambiguous box, index in ``naming.SIDES`` of the side that annotators draw at either of ``edges`` (px), with the
            probabilities ``edge_probs``; -1 for other boxes.
    """

    category: str
    box: tuple[float, float, float, float]
    side: int = -1
    edges: tuple[float, float] | None = None
    edge_probs: tuple[float, float] | None = None


@dataclass(frozen=True)
class BoxView:
    """One box of one trial. Boxes are (x1, y1, x2, y2) in px of the original image, or None where there is none."""

    category: str
    gt: tuple[float, float, float, float] | None
    detection: tuple[float, float, float, float] | None
    location_box: tuple[float, float, float, float] | None
    location: tuple[float, float] | None
    detection_score: float | None
    detection_iou: float | None
    location_iou: float | None
    score: float | None
    stride: int
    ambiguity: str
    ambiguous_side: int
    sides: tuple[SideView, ...]

    @property
    def prediction(self) -> tuple[float, float, float, float] | None:
        """The kept detection; for a missed box, what its location alone decoded."""
        return self.detection or self.location_box


def box_view(row: Mapping[str, Any]) -> BoxView:
    """Return what is drawn of one row of distributions.parquet. ``sides`` is empty where no location is matched to the box.

    Raises:
        ValueError: the probabilities are not four sides of ``bins`` numbers.
    """
    bins, probs = int(row["bins"]), _list(row["probs"])
    if bins and len(probs) not in (0, 4 * bins):
        raise ValueError(f"a box has {len(probs)} probabilities, not 4 x {bins}")
    location = _pair(row, "cell_x", "cell_y")
    has_sides = location is not None and len(_list(row["expectation"])) == 4
    return BoxView(
        category=str(row["category"]),
        gt=_box(row, "gt"),
        detection=_box(row, "det"),
        location_box=_box(row, "cell"),
        location=location,
        detection_score=_number(row["det_score"]),
        detection_iou=_number(row["det_iou"]),
        location_iou=_number(row["cell_iou"]),
        score=_number(row["score"]),
        stride=int(row["stride"]),
        ambiguity=str(row["ambiguity"] or ""),
        ambiguous_side=int(row["ambiguous_side"]),
        sides=tuple(_side(row, index, location) for index in range(4)) if has_sides and location is not None else (),
    )


def with_truth(view: BoxView, truth: Sequence[TrueBox]) -> BoxView:
    """Return a detection with the annotated box of its class that it overlaps most, and the IoU of the two.

    ``gt`` and ``detection_iou`` stay None if it overlaps no box of its class. Several detections can get the same box: this is a
    drawing, not the matching of COCO's evaluation.
    """
    own = [box for box in truth if box.category == view.category]
    if view.detection is None or not own:
        return view
    ious = overlaps(np.array([view.detection]), np.array([box.box for box in own]))[0]
    best = own[int(ious.argmax())]
    if ious.max() <= 0:
        return view
    sides = view.sides
    if best.edges is not None and best.side >= 0:
        near, far = best.edges
        sides = tuple(
            replace(side, edges=(side.distance(near), side.distance(far)), edge_probs=best.edge_probs) if index == best.side else side
            for index, side in enumerate(sides)
        )
    return replace(view, gt=best.box, detection_iou=float(ious.max()), sides=sides)


def _side(row: Mapping[str, Any], index: int, location: tuple[float, float]) -> SideView:
    bins, probs, target = int(row["bins"]), _list(row["probs"]), _list(row["target"])
    probability = probs.reshape(4, bins)[index] if len(probs) else None
    positions = stored_positions(row.get("bin_positions"))
    modes = box_modes.modes(probability, positions) if probability is not None and np.isfinite(probability).all() else None
    edges, prob_a = _pair(row, "edge_a", "edge_b"), _number(row["prob_a"])
    if index != int(row["ambiguous_side"]) or edges is None or prob_a is None:
        edges = edge_probs = None
    else:
        edge_probs = (prob_a, 1 - prob_a)
    has_ideal = edges is not None and edge_probs is not None and probability is not None
    scale = _number(row[("scale_x", "scale_y")[index % 2]]) or 1.0
    return SideView(
        side=naming.SIDES[index],
        probability=probability,
        positions=places(bins, positions),
        expectation=float(_list(row["expectation"])[index]),
        target=_number(target[index]) if len(target) == 4 else None,
        edges=edges,
        edge_probs=edge_probs,
        ideal=boxdist.ideal_distribution(list(edges or ()), list(edge_probs or ()), bins - 1, positions) if has_ideal else None,
        bimodality=0.0 if probability is None or modes is None else float(box_modes.bimodality(probability)),
        mode_places=() if modes is None else tuple(float(x) for x in modes.place[: int(modes.count)]),
        origin=location[index % 2],
        sign=float(OUTWARD[index]),
        px_per_bin=float(row["stride"]) * float(row["bin_width"]) / scale,
    )


def _number(value: Any) -> float | None:
    """Return a finite number; None for everything else."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _pair(row: Mapping[str, Any], first: str, second: str) -> tuple[float, float] | None:
    a, b = _number(row[first]), _number(row[second])
    return None if a is None or b is None else (a, b)


def _box(row: Mapping[str, Any], prefix: str) -> tuple[float, float, float, float] | None:
    x1, y1, x2, y2 = (_number(row.get(f"{prefix}_{corner}")) for corner in ("x1", "y1", "x2", "y2"))
    return None if x1 is None or y1 is None or x2 is None or y2 is None else (x1, y1, x2, y2)


def _list(value: Any) -> Array:
    return np.asarray(value if value is not None else [], np.float64).reshape(-1)
