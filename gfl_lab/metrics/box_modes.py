"""Modes of discrete box distributions, and how bimodal a distribution is (docs/box-distributions.md)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gfl_lab.metrics.bins import Positions, places
from gfl_lab.metrics.boxdist import Array, as_distribution

MIN_MODE_MASS = 0.1
"""A mode holds at least this mass: a quarter of what the rarest annotator of the data (0.4) would give it."""

MAX_VALLEY_RATIO = 0.5
"""Between two modes the distribution falls to at most this part of the lower of the two peaks."""

MODE_TOLERANCE_BINS = 1.0
"""A mode shows a true edge when it lies within this distance of it: the reach of one two-hot target between bins 0, 1, ..., n.

It is the same for bins at other positions, so that all variants are asked for the same precision.
"""

_EPS = 1e-9


@dataclass(frozen=True)
class Modes:
    """The modes of each distribution, from the lowest bin up, padded to M columns.

    count: (...) int, at least 1. place: (..., M) in the unit of the positions, sub-bin, NaN where padded. mass: (..., M), the mass of the mode's
    basin, 0 where padded; sums to 1. height: (..., M), the highest bin, 0 where padded. valley: (..., M-1), the lowest bin
    between a mode and the next one up, 0 where padded.
    """

    count: NDArray[np.int64]
    place: Array
    mass: Array
    height: Array
    valley: Array


def _saddles(p: Array) -> Array:
    """Return (N, B) -> (N, B): the highest level to which one must fall on the way from a bin to a higher one; 0 if there is none.

    Among equal bins the lower one counts as higher on the right's view, so that one bin of a plateau, and one of two equal
    peaks, keeps its prominence.
    """
    bins = p.shape[1]
    result = np.zeros_like(p)
    for view, strict in ((p, False), (p[:, ::-1], True)):
        lowest = np.full_like(p, np.inf)
        saddle = np.zeros_like(p)
        found = np.zeros(p.shape, dtype=bool)
        for step in range(1, bins):
            other = view[:, :-step]
            here = view[:, step:]
            higher = (other > here) if strict else (other >= here)
            new = higher & ~found[:, step:]
            # the lowest bin strictly between; a direct neighbour leaves no room, so the saddle is the bin itself
            saddle[:, step:] = np.where(new, np.minimum(lowest[:, step:], here), saddle[:, step:])
            found[:, step:] |= higher
            lowest[:, step:] = np.minimum(lowest[:, step:], other)
        result = np.maximum(result, saddle[:, ::-1] if strict else saddle)
    return result


def _basins(p: Array, cumulative: Array, peaks: NDArray[np.int64], count: NDArray[np.int64]) -> tuple[Array, Array, Array]:
    """Return bounds, masses and valleys of the basins of ``peaks`` (R, M), padded with B: a valley bin belongs half to each side."""
    rows, bins = p.shape
    width = peaks.shape[1]
    index = np.arange(bins)
    bounds = np.full((rows, width + 1), bins - 0.5)
    bounds[:, 0] = -0.5
    valleys = np.zeros((rows, max(width - 1, 0)))
    for k in range(width - 1):
        low, high = peaks[:, k, None], peaks[:, k + 1, None]
        between = np.where((index > low) & (index < high), p, np.inf)
        valley = between.min(1)
        at = between <= valley[:, None] + _EPS
        first, last = at.argmax(1), bins - 1 - at[:, ::-1].argmax(1)
        exists = k + 1 < count
        bounds[:, k + 1] = np.where(exists, (first + last) / 2, bins - 0.5)
        valleys[:, k] = np.where(exists, valley, 0.0)
    # bin i covers [i - 0.5, i + 0.5)
    position = bounds + 0.5
    whole = np.minimum(position.astype(np.int64), bins - 1)
    mass_below = np.take_along_axis(cumulative, whole, 1) + (position - whole) * np.take_along_axis(p, whole, 1)
    return bounds, np.diff(mass_below, axis=1), valleys


def modes(p: ArrayLike, positions: Positions | None = None) -> Modes:
    """Return the modes of each distribution: (..., n+1) -> ``Modes`` of shape (...) and (..., M).

    A peak (a bin, or a plateau, higher than its neighbours) is a mode when

    1. on the way to any higher peak the distribution falls to at most ``MAX_VALLEY_RATIO`` of its height, and
    2. its basin, from valley to valley, holds at least ``MIN_MODE_MASS``; the lightest peak is dropped first and its basin
       shared out, until all hold enough.

    A mode's place is the centroid of the bins around its peak that reach half its height, and one more on either side, within
    its basin: two bins that share one edge give the edge itself. Reversing the bins reverses the result. Only the place depends
    on the ``positions`` (n+1,) of the bins; None stands for 0, 1, ..., n.
    """
    array = as_distribution(p)
    shape, bins = array.shape[:-1], array.shape[-1]
    flat = np.where(np.isfinite(array), array, 0.0).reshape(-1, bins)
    rows = len(flat)
    cumulative = np.concatenate([np.zeros((rows, 1)), flat.cumsum(1)], axis=1)
    # Relative, so that rounding noise in empty bins makes no peak; a peak below 1e-6 could not gather MIN_MODE_MASS anyway.
    is_peak = (_saddles(flat) <= MAX_VALLEY_RATIO * flat * (1 + _EPS)) & (flat > 1e-6)
    none = ~is_peak.any(1)
    is_peak[none, flat[none].argmax(1)] = True

    def padded(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        count = mask.sum(1)
        order = np.argsort(~mask, axis=1, kind="stable")[:, : max(1, int(count.max(initial=1)))]
        return np.where(np.arange(order.shape[1]) < count[:, None], order, bins), count

    active = np.flatnonzero(is_peak.sum(1) > 1)
    while len(active):
        peaks, count = padded(is_peak[active])
        _, mass, _ = _basins(flat[active], cumulative[active], peaks, count)
        mass = np.where(np.arange(peaks.shape[1]) < count[:, None], mass, np.inf)
        lightest = mass.min(1)
        drop = (mass <= lightest[:, None] + _EPS) & (lightest < MIN_MODE_MASS - _EPS)[:, None]
        drop[drop.sum(1) == count, 0] = False  # all alike: no structure, one mode stays
        row, column = np.nonzero(drop)
        is_peak[active[row], peaks[row, column]] = False
        changed = np.unique(row)
        active = active[changed]
        active = active[is_peak[active].sum(1) > 1]

    peaks, count = padded(is_peak)
    bounds, mass, valley = _basins(flat, cumulative, peaks, count)
    present = np.arange(peaks.shape[1]) < count[:, None]
    height = np.where(present, np.take_along_axis(flat, np.minimum(peaks, bins - 1), 1), 0.0)
    index = np.arange(bins)
    place, at = np.full(peaks.shape, np.nan), places(bins, positions)
    for k in range(peaks.shape[1]):
        some = np.flatnonzero(present[:, k])
        part, peak = flat[some], peaks[some, k, None]
        low = part < MAX_VALLEY_RATIO * height[some, k, None] - _EPS
        start = np.where(low & (index < peak), index, -1).max(1)  # the first bin below half height on either side
        end = np.where(low & (index > peak), index, bins).min(1)
        inside = (index >= start[:, None]) & (index <= end[:, None])
        lower, upper = bounds[some, k, None], bounds[some, k + 1, None]
        share = np.clip(np.minimum(index + 0.5, upper) - np.maximum(index - 0.5, lower), 0.0, 1.0)
        weight = part * inside * share
        place[some, k] = (weight @ at) / np.maximum(weight.sum(1), 1e-300)
    mass = np.where(present, mass, 0.0)
    width = peaks.shape[1]
    return Modes(
        count=count.astype(np.int64).reshape(shape),
        place=place.reshape(*shape, width),
        mass=mass.reshape(*shape, width),
        height=height.reshape(*shape, width),
        valley=valley.reshape(*shape, max(width - 1, 0)),
    )


def bimodality(p: ArrayLike) -> Array:
    """Return how bimodal each distribution is, from 0 (one mode) to 1 (two equal modes with nothing between): (..., n+1) -> (...).

    Twice the mass of the lighter of the two heaviest modes, times the depth of the valley between them: 1 - valley / lower peak.
    Among equally heavy modes the lower ones count.
    """
    array = as_distribution(p)
    found = modes(array)
    shape, width = found.count.shape, found.mass.shape[-1]
    if width < 2:
        return np.zeros(shape)
    mass, height = found.mass.reshape(-1, width), found.height.reshape(-1, width)
    valley = found.valley.reshape(-1, width - 1)
    pair = np.sort(np.argsort(-mass, axis=1, kind="stable")[:, :2], axis=1)
    lower_mass = np.take_along_axis(mass, pair, 1).min(1)
    lower_peak = np.take_along_axis(height, pair, 1).min(1)
    column = np.arange(width - 1)
    between = (column >= pair[:, :1]) & (column < pair[:, 1:])
    lowest = np.where(between, valley, np.inf).min(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = np.clip(1.0 - lowest / lower_peak, 0.0, 1.0)
    result = np.where(found.count.reshape(-1) >= 2, np.clip(2 * lower_mass * depth, 0.0, 1.0), 0.0)
    return result.reshape(shape)


def shows_both_edges(p: ArrayLike, edge_a: ArrayLike, edge_b: ArrayLike, positions: Positions | None = None) -> NDArray[np.bool_]:
    """Return True if each distribution has a mode within ``MODE_TOLERANCE_BINS`` of either edge, and not the same one for both.

    (..., n+1), (...), (...) -> (...) bool. Edges in the unit of the ``positions`` of the bins.
    """
    found = modes(p, positions)
    near = [np.abs(found.place - np.asarray(edge, np.float64)[..., None]) <= MODE_TOLERANCE_BINS + _EPS for edge in (edge_a, edge_b)]
    own = (near[0] | near[1]).sum(-1) >= 2
    return near[0].any(-1) & near[1].any(-1) & own
