"""What a page draws, before any drawing: curves, the distributions of one box, the most bimodal sides, speed against AP.

Pure functions of frames and rows from ``results``; they never read. Nothing here knows a colour.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gfl_lab import naming
from gfl_lab.metrics import box_modes, boxdist
from gfl_lab.report.sides import neighbours
from gfl_lab.results.rows import ExperimentRow, Logged

Array = NDArray[np.float64]

MAX_POINTS = 1500
"""A line is thinned to about this many points: more than a screen has columns."""

# --- curves ---------------------------------------------------------------------------------------

TERM_ORDER = ("loss", "loss_cls", "loss_bbox", "loss_dfl", "loss_centerness", "lr")


@dataclass(frozen=True)
class Line:
    """One trial's values of one metric. NaN is a gap: a value that was not finite."""

    seed: int
    trial: str
    x: Array
    y: Array


@dataclass(frozen=True)
class Curve:
    """One variant's values of one metric: a line a seed; their mean and range where every seed has a value.

    ``low`` and ``high`` are the smallest and largest seed, not a standard error; equal to ``mean`` for one seed.
    """

    variant: str
    lines: tuple[Line, ...]
    x: Array
    mean: Array
    low: Array
    high: Array


def curve_keys(found: Iterable[str]) -> tuple[str, ...]:
    """Metrics in reading order: loss terms, then ``naming.METRICS``, then others by name."""
    found = set(found)
    known = [key for key in (*TERM_ORDER, *naming.METRICS) if key in found]
    return (*known, *sorted(found - set(known)))


def curves(logged: Iterable[Logged], kind: str, window: int = 1, max_points: int = MAX_POINTS) -> tuple[Curve, ...]:
    """The curves of one metric, in the order in which their variants come.

    Args:
        logged: as ``results.Store.logged`` returns it.
        kind: ``train`` (x is the step) or ``val`` (x is the epoch).
        window: mean over this many consecutive values (odd), centred, fewer at the ends; 1 changes nothing.
        max_points: longer lines are thinned to every k-th value, first and last kept.
    """
    variants: dict[str, list[tuple[Logged, Array, Array]]] = {}
    for one in logged:
        x, last = np.unique((one.step if kind == "train" else one.epoch)[::-1], return_index=True)  # of a repeated one the last
        variants.setdefault(one.variant, []).append((one, x.astype(float), smoothed(one.value[::-1][last], window)))
    result = []
    for variant, found in variants.items():
        found.sort(key=lambda each: (each[0].seed, each[0].trial))
        lines = tuple(Line(one.seed, one.trial, *_thin(x, y, max_points)) for one, x, y in found)
        shared = reduce(lambda a, b: a if np.array_equal(a, b) else np.intersect1d(a, b, assume_unique=True), (x for _, x, _ in found))
        stacked = np.stack([y[np.searchsorted(x, shared)] for _, x, y in found])
        x_mean, mean = _thin(shared, stacked.mean(0), max_points)
        _, low = _thin(shared, stacked.min(0), max_points)
        _, high = _thin(shared, stacked.max(0), max_points)
        result.append(Curve(variant, lines, x_mean, mean, low, high))
    return tuple(result)


def smoothed(values: Array, window: int) -> Array:
    """The mean of the finite values among ``window`` (odd) consecutive ones, centred; NaN where the value itself is not finite."""
    finite = np.isfinite(values)
    if window == 1 or not len(values):
        return np.where(finite, values, np.nan)
    half, ones = window // 2, np.ones(window)
    total = np.convolve(np.where(finite, values, 0.0), ones)[half : half + len(values)]
    count = np.convolve(finite, ones)[half : half + len(values)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(finite, total / count, np.nan)


def _thin(x: Array, y: Array, most: int) -> tuple[Array, Array]:
    if len(x) <= most:
        return x, y
    keep = np.unique(np.linspace(0, len(x) - 1, most).round().astype(int))
    return x[keep], y[keep]


# --- the distributions of one box -----------------------------------------------------------------

_SIGN = np.array([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class SideView:
    """One side of one box: everything a bar chart of it shows. Distances are from the cell, in bins, outwards.

    ``probability`` (n+1) is None for a Dirac box. ``edges`` and ``edge_probs`` are the two true places and their
    probabilities where the data know them, and ``ideal`` the distribution DFL would learn from them.
    ``origin + sign * px_per_bin * bins`` is the place on the image, in px.
    """

    side: str
    probability: Array | None
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
    def horizontal(self) -> bool:
        """Whether its place is an x coordinate (left, right)."""
        return self.side in ("left", "right")

    def pixel(self, bins: Any) -> Any:
        """Coordinate on the original image of a distance in bins: px."""
        return self.origin + self.sign * self.px_per_bin * np.asarray(bins, np.float64)


@dataclass(frozen=True)
class BoxView:
    """One box of one trial. Boxes are (x1, y1, x2, y2) in px of the original image, or None where there is none."""

    category: str
    gt: tuple[float, float, float, float] | None
    detection: tuple[float, float, float, float] | None
    cell_box: tuple[float, float, float, float] | None
    cell: tuple[float, float] | None
    detection_score: float | None
    detection_iou: float | None
    cell_iou: float | None
    score: float | None
    stride: int
    ambiguity: str
    ambiguous_side: int
    sides: tuple[SideView, ...]

    @property
    def prediction(self) -> tuple[float, float, float, float] | None:
        """The kept detection; where the box was missed, what the cell alone decoded."""
        return self.detection or self.cell_box


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _box(row: Mapping[str, Any], prefix: str) -> tuple[float, float, float, float] | None:
    values = [_number(row.get(f"{prefix}_{corner}")) for corner in ("x1", "y1", "x2", "y2")]
    return None if None in values else tuple(values)


def _list(value: Any) -> Array:
    return np.asarray(value if value is not None else [], np.float64).reshape(-1)


def box_view(row: Mapping[str, Any]) -> BoxView:
    """What is drawn of one row of distributions.parquet. ``sides`` is empty when no cell stands for the box.

    Raises:
        ValueError: the probabilities are not four sides of ``bins`` numbers.
    """
    bins = int(row["bins"])
    probs, expected, target = _list(row["probs"]), _list(row["expectation"]), _list(row["target"])
    if bins and len(probs) not in (0, 4 * bins):
        raise ValueError(f"a box has {len(probs)} probabilities, not 4 x {bins}")
    cell = (_number(row["cell_x"]), _number(row["cell_y"]))
    sides = []
    if None not in cell and len(expected) == 4:
        ambiguous = int(row["ambiguous_side"])
        edge_a, edge_b, prob_a = (_number(row[key]) for key in ("edge_a", "edge_b", "prob_a"))
        scale = (_number(row["scale_x"]) or 1.0, _number(row["scale_y"]) or 1.0)
        for index, side in enumerate(naming.SIDES):
            p = probs.reshape(4, bins)[index] if len(probs) else None
            knows = index == ambiguous and None not in (edge_a, edge_b, prob_a)
            found = box_modes.modes(p) if p is not None and np.isfinite(p).all() else None
            sides.append(
                SideView(
                    side=side,
                    probability=p,
                    expectation=float(expected[index]),
                    target=_number(target[index]) if len(target) == 4 else None,
                    edges=(edge_a, edge_b) if knows else None,
                    edge_probs=(prob_a, 1 - prob_a) if knows else None,
                    ideal=boxdist.ideal_distribution([edge_a, edge_b], [prob_a, 1 - prob_a], bins - 1) if knows and p is not None else None,
                    bimodality=float(box_modes.bimodality(p)) if found is not None else 0.0,
                    mode_places=tuple(float(x) for x in found.place[: int(found.count)]) if found is not None else (),
                    origin=cell[index % 2],
                    sign=float(_SIGN[index]),
                    px_per_bin=float(row["stride"]) * float(row["bin_width"]) / scale[index % 2],
                )
            )
    return BoxView(
        category=str(row["category"]),
        gt=_box(row, "gt"),
        detection=_box(row, "det"),
        cell_box=_box(row, "cell"),
        cell=cell if None not in cell else None,
        detection_score=_number(row["det_score"]),
        detection_iou=_number(row["det_iou"]),
        cell_iou=_number(row["cell_iou"]),
        score=_number(row["score"]),
        stride=int(row["stride"]),
        ambiguity=str(row["ambiguity"] or ""),
        ambiguous_side=int(row["ambiguous_side"]),
        sides=tuple(sides),
    )


@dataclass(frozen=True)
class Growth:
    """One side of one box after each epoch: what it looked like on the way.

    Attributes:
        side: of ``naming.SIDES``. epochs: (E,) from 1. places: (B,) along one axis of the image, px, ascending.
        probability: (E, B) that the side lies within a px of each place: the bins as they lay then, since the cell that speaks for a
            box may change, divided by their width. expectation: (E,) px.
        target: px. edges: the two true places, px, where the data know them.
    """

    side: str
    epochs: Array
    places: Array
    probability: Array
    expectation: Array
    target: float | None
    edges: tuple[float, float] | None


_FAINT = 0.02
"""Places that are never believed in by more than this part of the strongest belief are cut off at either end."""


def growth(frame: pd.DataFrame) -> tuple[Growth, ...]:
    """The four sides of a box from what ``results.Store.history`` returned.

    Raises:
        ValueError: the probabilities are not four sides of ``bins`` numbers.
    """
    views = [box_view(row) for row in frame.to_dict("records")]
    known = [index for index, view in enumerate(views) if len(view.sides) == 4 and view.sides[0].probability is not None]
    if not known:
        return ()
    epochs = frame["epoch"].to_numpy(float)[known]
    found = []
    for index, side in enumerate(naming.SIDES):
        each = [views[i].sides[index] for i in known]
        ends = [np.sort(one.pixel([-0.5, len(one.probability) - 0.5])) for one in each]
        places = np.arange(math.floor(min(low for low, _ in ends)) + 0.5, math.ceil(max(high for _, high in ends)), 1.0)
        density = np.zeros((len(each), len(places)))
        for row, one in enumerate(each):
            bins = np.floor((places - one.origin) * one.sign / one.px_per_bin + 0.5).astype(int)
            inside = (bins >= 0) & (bins < len(one.probability))
            density[row, inside] = one.probability[bins[inside]] / one.px_per_bin
        seen = np.flatnonzero(density.max(0) >= _FAINT * density.max())
        shown = slice(max(0, seen[0] - 3), seen[-1] + 4)
        places, density = places[shown], density[:, shown]
        last = each[-1]
        target = None if last.target is None else float(last.pixel(last.target))
        edges = None if last.edges is None else tuple(float(place) for place in last.pixel(last.edges))
        expectation = np.array([float(one.pixel(one.expectation)) for one in each])
        found.append(Growth(side, epochs, places, density, expectation, target, edges))
    return tuple(found)


# --- the most bimodal sides -----------------------------------------------------------------------

RANKING_INPUT = (
    "image_id", "annotation_id", "category", "stride", "bin_width", "scale_x", "scale_y", "bins", "probs",
    "ambiguous_side", "ambiguity", "edge_a", "edge_b", "cell_iou", "gt_x1", "gt_y1", "gt_x2", "gt_y2",
)  # fmt: skip
"""The columns of distributions.parquet that ``most_bimodal`` needs."""

RANKING_COLUMNS = (
    "image_id", "annotation_id", "category", "side", "bimodality", "gap_px", "true_gap_px", "ambiguity", "neighbour", "cell_iou",
)  # fmt: skip


def most_bimodal(frame: pd.DataFrame | None, limit: int = 50) -> pd.DataFrame:
    """Sides of ground-truth boxes, most bimodal first; sides with one mode are left out.

    Returns:
        ``RANKING_COLUMNS``: ``side`` is a name of ``naming.SIDES``; ``bimodality`` 0 to 1 (``box_modes.bimodality``);
        ``gap_px`` the distance of the two heaviest modes in px of the original image; ``true_gap_px`` that of the two
        true edges when this is the ambiguous side, else NaN; ``ambiguity`` why it is ambiguous, empty when it is not;
        ``neighbour`` whether another annotated box is beside this side (``sides.neighbours``). Empty for a Dirac box, and for None.
    """
    empty = pd.DataFrame(
        {name: pd.Series(dtype="object" if name in ("category", "side", "ambiguity") else "float64") for name in RANKING_COLUMNS}
    )
    if frame is None or not len(frame):
        return empty
    frame = frame[frame["annotation_id"] >= 0]
    frame = frame.assign(near=list(neighbours(frame)))[frame["bins"] > 1].reset_index(drop=True)
    if not len(frame):
        return empty
    parts = []
    for bins, group in frame.groupby("bins"):
        usable = group[[len(p) == 4 * bins for p in group["probs"]]]
        if not len(usable):
            continue
        p = np.stack(usable["probs"].to_numpy()).astype(np.float64).reshape(-1, int(bins))
        p = np.where(np.isfinite(p), p, 0.0)
        score = box_modes.bimodality(p).reshape(-1, 4)
        rows, sides = np.nonzero(score > 0)
        if not len(rows):
            continue
        order = np.argsort(-score[rows, sides], kind="stable")[:limit]
        rows, sides = rows[order], sides[order]
        found = box_modes.modes(p.reshape(-1, 4, int(bins))[rows, sides])
        picked = usable.iloc[rows].reset_index(drop=True)
        scale = np.where(sides % 2 == 0, picked["scale_x"], picked["scale_y"])
        unit = picked["stride"].to_numpy(float) * picked["bin_width"].to_numpy(float) / scale
        true = picked["ambiguous_side"].to_numpy() == sides
        parts.append(
            pd.DataFrame(
                {
                    "image_id": picked["image_id"],
                    "annotation_id": picked["annotation_id"],
                    "category": picked["category"],
                    "side": [naming.SIDES[side] for side in sides],
                    "bimodality": score[rows, sides],
                    "gap_px": _gap(found) * unit,
                    "true_gap_px": np.where(true, np.abs(picked["edge_a"] - picked["edge_b"]) * unit, np.nan),
                    "ambiguity": np.where(true, picked["ambiguity"], ""),
                    "neighbour": np.stack(picked["near"].to_numpy())[np.arange(len(picked)), sides],
                    "cell_iou": picked["cell_iou"].astype(float),
                }
            )
        )
    if not parts:
        return empty
    return pd.concat(parts).sort_values("bimodality", ascending=False, kind="stable").head(limit).reset_index(drop=True)


def _gap(found: box_modes.Modes) -> Array:
    """Distance in bins between the two heaviest modes of each distribution."""
    pair = np.argsort(-found.mass, axis=1, kind="stable")[:, :2]
    places = np.take_along_axis(found.place, pair, 1)
    return np.abs(places[:, 0] - places[:, -1])


# --- speed against AP -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """Speed and AP of one variant; ``seeds`` holds (seed, fps, AP) of each trial behind the means."""

    variant: str
    fps: float
    ap: float
    seeds: tuple[tuple[int, float, float], ...]


def speed_accuracy(experiment: ExperimentRow) -> tuple[Point, ...]:
    """Mean fps and AP of every variant with a finished trial that has both. Measured values only: published speeds are
    of another machine and have no place on the same axis."""
    points = []
    for variant in experiment.variants:
        seeds = tuple((t.seed, t.metrics["fps"], t.metrics["AP"]) for t in variant.done if {"fps", "AP"} <= t.metrics.keys())
        if seeds:
            points.append(Point(variant.name, float(np.mean([s[1] for s in seeds])), float(np.mean([s[2] for s in seeds])), seeds))
    return tuple(points)


def published_speed(experiment: ExperimentRow) -> tuple[Point, ...]:
    """Speed and AP of the published rows that have both, by the variant they belong to; each row once. Their machine is not ours."""
    found: dict[str, Point] = {}
    for variant in experiment.variants:
        known = variant.reference
        if known is not None and {"fps", "AP"} <= known.metrics.keys():
            found.setdefault(known.row, Point(variant.name, known.metrics["fps"], known.metrics["AP"], ()))
    return tuple(found.values())


def pareto(points: Sequence[Point]) -> tuple[Point, ...]:
    """The points that no other one beats in both speed and AP, slowest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (-point.fps, -point.ap)):
        if not front or point.ap > front[-1].ap:
            front.append(point)
    return tuple(reversed(front))
