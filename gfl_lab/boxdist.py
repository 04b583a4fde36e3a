"""Mathematics of discrete box distributions: modes, distances, and scores against a known truth.

A box side is a distribution p over the bins 0..n of the distance from a cell to the side, in units of
stride * bin_width (Li et al., arXiv 2006.04388, section 3.2). Arrays have shape (..., n+1), sum to 1 along the last
axis and are of any float type; results are float64. docs/box-distributions.md gives the definitions with their reasons.
Needs numpy alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

TARGET_MARGIN = 0.1
"""Distance targets are clipped to [0, n - 0.1], as mmdet's ``DistancePointBBoxCoder`` does, so that two bins enclose them."""

MIN_MODE_MASS = 0.1
"""A mode holds at least this mass: under a third of what the rarest annotator of the data (0.35) would give it."""

MAX_VALLEY_RATIO = 0.5
"""Between two modes the distribution falls to at most this part of the lower of the two peaks."""

MODE_TOLERANCE_BINS = 1.0
"""A mode shows a true edge when it lies within this distance of it: the reach of one two-hot target."""

MIN_EDGE_GAP_BINS = 3.0
"""Two edges closer than this may share or touch bins (each fills two), so that even the ideal distribution has one mode."""

_EPS = 1e-9

Array = NDArray[np.float64]


def _distribution(p: ArrayLike) -> Array:
    array = np.asarray(p, dtype=np.float64)
    if array.ndim == 0 or array.shape[-1] < 2:
        raise ValueError(f"a box distribution has at least two bins on its last axis; the shape is {array.shape}")
    return array


# --- moments --------------------------------------------------------------------------------------


def expectation(p: ArrayLike) -> Array:
    """Mean of each distribution, in bins: (..., n+1) -> (...). The decoded distance (arXiv 2006.04388, equation 5)."""
    array = _distribution(p)
    return array @ np.arange(array.shape[-1], dtype=np.float64)


def spread(p: ArrayLike) -> Array:
    """Standard deviation of each distribution, in bins: (..., n+1) -> (...)."""
    array = _distribution(p)
    bins = np.arange(array.shape[-1], dtype=np.float64)
    mean = array @ bins
    return np.sqrt(np.maximum((array * (bins - mean[..., None]) ** 2).sum(-1), 0.0))


def entropy(p: ArrayLike) -> Array:
    """Shannon entropy of each distribution, in nats: (..., n+1) -> (...), from 0 to log(n+1). 0 log 0 is 0."""
    array = _distribution(p)
    return -(array * np.log(np.where(array > 0, array, 1.0))).sum(-1) + 0.0


def tail_mass(p: ArrayLike) -> Array:
    """Mass on the last bin n: (..., n+1) -> (...). A large one says that the side lies at or beyond the reach of the bins."""
    return _distribution(p)[..., -1].copy()


# --- the ideal distribution -----------------------------------------------------------------------


def ideal_distribution(edges_bins: ArrayLike, probs: ArrayLike, n: int) -> Array:
    """The distribution that minimises the expected DFL when the side is at ``edges_bins[k]`` with probability ``probs[k]``.

    DFL is cross-entropy to the two-hot interpolation of the target (equation 6), so its minimiser is the mixture of these
    two-hots. Targets are clipped to [0, n - 0.1] first, as in training.

    Args:
        edges_bins: (..., K) distances from the cell, in bins.
        probs: (..., K), summing to 1 over K; broadcast against ``edges_bins``.
        n: index of the last bin (``reg_max``).

    Returns:
        (..., n+1).
    """
    edges, weights = np.broadcast_arrays(np.asarray(edges_bins, np.float64), np.asarray(probs, np.float64))
    edges = np.clip(edges, 0.0, n - TARGET_MARGIN)
    hats = np.maximum(0.0, 1.0 - np.abs(edges[..., None] - np.arange(n + 1)))
    return (weights[..., None] * hats).sum(-2)


# --- modes ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Modes:
    """The modes of each distribution, from the lowest bin up, padded to M columns.

    count: (...) int, at least 1. place: (..., M) in bins, sub-bin, NaN where padded. mass: (..., M), the mass of the mode's
    basin, 0 where padded; sums to 1. height: (..., M), the highest bin, 0 where padded. valley: (..., M-1), the lowest bin
    between a mode and the next one up, 0 where padded.
    """

    count: NDArray[np.int64]
    place: Array
    mass: Array
    height: Array
    valley: Array


def _saddles(p: Array) -> Array:
    """(N, B) -> (N, B): the highest level to which one must fall on the way from a bin to a higher one; 0 if there is none.

    Of equal bins the lower one counts as higher on the right's view, so that one bin of a plateau, and one of two equal
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
    """Bounds, masses and valleys of the basins of ``peaks`` (R, M), padded with B: a valley bin belongs half to each side."""
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


def modes(p: ArrayLike) -> Modes:
    """The modes of each distribution: (..., n+1) -> ``Modes`` of shape (...) and (..., M).

    A peak (a bin, or a plateau, higher than its neighbours) is a mode when

    1. on the way to any higher peak the distribution falls to at most ``MAX_VALLEY_RATIO`` of its height, and
    2. its basin, from valley to valley, holds at least ``MIN_MODE_MASS``; the lightest peak is dropped first and its basin
       shared out, until all hold enough.

    A mode's place is the centroid of the bins around its peak that reach half its height, and one more on either side, within
    its basin: two bins that share one edge give the edge itself. Reversing the bins reverses the result.
    """
    array = _distribution(p)
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
    place = np.full(peaks.shape, np.nan)
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
        place[some, k] = (weight @ index) / np.maximum(weight.sum(1), 1e-300)
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
    """How bimodal each distribution is, from 0 (one mode) to 1 (two equal modes with nothing between): (..., n+1) -> (...).

    Twice the mass of the lighter of the two heaviest modes, times the depth of the valley between them: 1 - valley / lower peak.
    """
    array = _distribution(p)
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


# --- distances ------------------------------------------------------------------------------------


def wasserstein1(p: ArrayLike, q: ArrayLike) -> Array:
    """Wasserstein-1 distance of two distributions on the same bins, in bins: (..., n+1), (..., n+1) -> (...)."""
    difference = np.cumsum(_distribution(p) - _distribution(q), axis=-1)
    return np.abs(difference[..., :-1]).sum(-1)


def _w1_weighted(positions: Array, signed_mass: Array) -> Array:
    order = np.argsort(positions, axis=-1, kind="stable")
    positions = np.take_along_axis(positions, order, -1)
    gap = np.cumsum(np.take_along_axis(signed_mass, order, -1), axis=-1)[..., :-1]
    return (np.abs(gap) * np.diff(positions, axis=-1)).sum(-1)


def wasserstein1_points(p: ArrayLike, edges_bins: ArrayLike, probs: ArrayLike) -> Array:
    """Wasserstein-1 distance of a distribution on bins to points with masses, in bins; exact, through the two CDFs.

    Args:
        p: (..., n+1).
        edges_bins: (..., K) places of the points, in bins, anywhere on the line.
        probs: (..., K) their masses, summing to 1.

    Returns:
        (...). Not 0 for the ideal distribution of an edge between two bins: a two-hot is itself spread over them.
    """
    array = _distribution(p)
    edges, weights = np.asarray(edges_bins, np.float64), np.asarray(probs, np.float64)
    shape = np.broadcast_shapes(array.shape[:-1], edges.shape[:-1], weights.shape[:-1])
    array = np.broadcast_to(array, (*shape, array.shape[-1]))
    edges, weights = (np.broadcast_to(x, (*shape, max(edges.shape[-1], weights.shape[-1]))) for x in (edges, weights))
    bins = np.broadcast_to(np.arange(array.shape[-1], dtype=np.float64), array.shape)
    return _w1_weighted(np.concatenate([bins, edges], -1), np.concatenate([array, -weights], -1))


def wasserstein1_dirac(distance: ArrayLike, edges_bins: ArrayLike, probs: ArrayLike) -> Array:
    """Wasserstein-1 distance of a single predicted distance to points with masses, in bins: (...), (..., K), (..., K) -> (...)."""
    place = np.asarray(distance, np.float64)[..., None]
    return (np.asarray(probs, np.float64) * np.abs(np.asarray(edges_bins, np.float64) - place)).sum(-1)


# --- scores against the truth ---------------------------------------------------------------------


@dataclass(frozen=True)
class TruthScores:
    """One trial against the known edges. A score is None where no side is left to count.

    two_mode_recall: share of the ``recall_sides`` whose distribution has a mode of its own at both true edges.
    false_bimodality: share of the ``clear_sides`` with two modes or more.
    wasserstein: mean Wasserstein-1 distance to the two true edges over the ``wasserstein_sides``, in bins.
    """

    two_mode_recall: float | None
    false_bimodality: float | None
    wasserstein: float | None
    boxes: int
    scored_boxes: int
    ambiguous_sides: int
    scored_ambiguous_sides: int
    out_of_reach_sides: int
    too_close_sides: int
    recall_sides: int
    wasserstein_sides: int
    clear_sides: int

    def metrics(self) -> dict[str, float]:
        """The scores that are defined, by metric key (``naming.TRUTH_METRICS``)."""
        return {key: value for key in ("two_mode_recall", "false_bimodality", "wasserstein") if (value := getattr(self, key)) is not None}

    def counts(self) -> dict[str, int]:
        """How many boxes and sides stand behind the scores."""
        return {key: value for key, value in asdict(self).items() if isinstance(value, int)}


def _stack_sides(probs: Any, rows: int) -> Array | None:
    """(N, 4, n+1) from an array or a column of flat lists, side-major; None for Dirac rows (empty lists)."""
    if probs is None:
        return None
    array = np.stack([np.asarray(row, np.float64) for row in probs]) if rows else np.zeros((0, 0))
    if array.size == 0:
        return None
    array = array.reshape(rows, -1)
    if array.shape[1] % 4:
        raise ValueError(f"a row of probs holds {array.shape[1]} numbers, not four sides of equal length")
    return array.reshape(rows, 4, -1)


def shows_both_edges(p: ArrayLike, edge_a: ArrayLike, edge_b: ArrayLike) -> NDArray[np.bool_]:
    """Whether each distribution has a mode within ``MODE_TOLERANCE_BINS`` of either edge, and not the same one for both.

    (..., n+1), (...), (...) -> (...) bool. Edges in bins.
    """
    found = modes(p)
    near = [np.abs(found.place - np.asarray(edge, np.float64)[..., None]) <= MODE_TOLERANCE_BINS + _EPS for edge in (edge_a, edge_b)]
    own = (near[0] | near[1]).sum(-1) >= 2
    return near[0].any(-1) & near[1].any(-1) & own


def truth_scores(
    *,
    probs: Sequence[ArrayLike] | ArrayLike | None,
    expectation: ArrayLike,
    ambiguous_side: ArrayLike,
    edge_a: ArrayLike,
    edge_b: ArrayLike,
    prob_a: ArrayLike,
    scored: ArrayLike,
    reg_max: int,
) -> TruthScores:
    """Score the distributions of N ground-truth boxes against the known edges (docs/box-distributions.md).

    Arguments are the columns of the ground-truth rows of distributions.parquet.

    Args:
        probs: (N, 4, n+1), or N rows of 4 * (n+1) numbers, side-major; None or empty rows for a Dirac box.
        expectation: (N, 4) decoded distances in bins, or N rows of 4; used for a Dirac box.
        ambiguous_side: (N,) 0..3, or -1 where every side is clear.
        edge_a: (N,) distance of the first of the two true edges in bins; anything where there are none.
        edge_b: (N,) that of the second.
        prob_a: (N,) probability of ``edge_a``; ``edge_b`` has the rest.
        scored: (N,) bool, whether the cell is assigned under every annotation of the box.
        reg_max: n. Given, not read off ``probs``, so that a Dirac box is scored on the same sides.

    Returns:
        The scores. A Dirac box shows no two modes: recall 0, false bimodality 0.
    """
    side = np.asarray(ambiguous_side, np.int64).reshape(-1)
    rows = len(side)
    distributions = _stack_sides(probs, rows)
    if distributions is not None and distributions.shape[2] != reg_max + 1:
        raise ValueError(f"probs have {distributions.shape[2]} bins a side; reg_max {reg_max} asks for {reg_max + 1}")
    points = np.stack([np.asarray(row, np.float64) for row in expectation]).reshape(rows, 4) if rows else np.zeros((0, 4))
    edges = np.stack([np.asarray(edge_a, np.float64), np.asarray(edge_b, np.float64)], -1).reshape(rows, 2)
    first = np.asarray(prob_a, np.float64).reshape(rows)
    counted = np.asarray(scored, bool).reshape(rows)
    if distributions is not None:
        counted = counted & np.isfinite(distributions).all((1, 2))
    else:
        counted = counted & np.isfinite(points).all(1)

    ambiguous = counted & (side >= 0)
    with np.errstate(invalid="ignore"):
        reachable = ambiguous & (edges >= 0).all(1) & (edges <= reg_max).all(1)
        showable = reachable & (np.abs(edges[:, 0] - edges[:, 1]) >= MIN_EDGE_GAP_BINS)
    weights = np.stack([first, 1 - first], -1)

    clear = counted[:, None] & (np.arange(4) != side[:, None])
    if distributions is None:
        hits, false_modes = np.zeros(int(showable.sum()), bool), np.zeros(int(clear.sum()), bool)
        distance = wasserstein1_dirac(points[reachable, side[reachable]], edges[reachable], weights[reachable])
    else:
        chosen = distributions[showable, side[showable]]
        hits = shows_both_edges(chosen, edges[showable, 0], edges[showable, 1]) if len(chosen) else np.zeros(0, bool)
        false_modes = modes(distributions[clear]).count >= 2 if clear.any() else np.zeros(0, bool)
        distance = wasserstein1_points(distributions[reachable, side[reachable]], edges[reachable], weights[reachable])

    def mean(values: NDArray[Any]) -> float | None:
        return float(values.mean()) if len(values) else None

    return TruthScores(
        two_mode_recall=mean(hits),
        false_bimodality=mean(false_modes),
        wasserstein=mean(distance),
        boxes=rows,
        scored_boxes=int(counted.sum()),
        ambiguous_sides=int((side >= 0).sum()),
        scored_ambiguous_sides=int(ambiguous.sum()),
        out_of_reach_sides=int((ambiguous & ~reachable).sum()),
        too_close_sides=int((reachable & ~showable).sum()),
        recall_sides=int(showable.sum()),
        wasserstein_sides=int(reachable.sum()),
        clear_sides=int(clear.sum()),
    )
