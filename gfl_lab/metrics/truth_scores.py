"""Scores of a trial's box distributions against the ground-truth edges (docs/box-distributions.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gfl_lab.metrics.bins import Positions
from gfl_lab.metrics.box_modes import modes, shows_both_edges
from gfl_lab.metrics.boxdist import Array, wasserstein1_dirac, wasserstein1_points

MIN_EDGE_GAP_BINS = 3.0
"""Two edges closer than this may share or touch bins (each fills two), so that even the ideal distribution has one mode."""


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
        """Return the scores that are defined, by metric key (``naming.TRUTH_METRICS``)."""
        return {key: value for key in ("two_mode_recall", "false_bimodality", "wasserstein") if (value := getattr(self, key)) is not None}

    def counts(self) -> dict[str, int]:
        """Return the numbers of boxes and sides behind the scores."""
        return {key: value for key, value in asdict(self).items() if isinstance(value, int)}


def _stack_sides(probs: Any, rows: int) -> Array | None:
    """Return (N, 4, n+1) from an array or a column of flat lists, side-major; None for Dirac rows (empty lists)."""
    if probs is None:
        return None
    array = np.stack([np.asarray(row, np.float64) for row in probs]) if rows else np.zeros((0, 0))
    if array.size == 0:
        return None
    array = array.reshape(rows, -1)
    if array.shape[1] % 4:
        raise ValueError(f"a row of probs holds {array.shape[1]} numbers, not four sides of equal length")
    return array.reshape(rows, 4, -1)


def truth_scores(
    *,
    probs: Sequence[ArrayLike] | ArrayLike | None,
    expectation: Sequence[ArrayLike] | NDArray[Any],
    ambiguous_side: ArrayLike,
    edges: ArrayLike,
    prob_a: ArrayLike,
    scored: ArrayLike,
    reg_max: int,
    positions: Positions | None = None,
) -> TruthScores:
    """Score the distributions of N ground-truth boxes against the known edges (docs/box-distributions.md).

    Arguments are the columns of the ground-truth rows of distributions.parquet.

    Args:
        probs: (N, 4, n+1), or N rows of 4 * (n+1) numbers, side-major; None or empty rows for a Dirac box.
        expectation: (N, 4) decoded distances in bins, or N rows of 4; used for a Dirac box.
        ambiguous_side: (N,) 0..3, or -1 where every side is clear.
        edges: (N, 2) distances of the two true edges in bins (``edge_a``, ``edge_b``); anything where there are none.
        prob_a: (N,) probability of the first edge; the second has the rest.
        scored: (N,) bool, whether the location is assigned under every annotation of the box.
        reg_max: n. Given, not read off ``probs``, so that a Dirac box is scored on the same sides: edges in [0, n] are within reach.
        positions: (n+1,) of the bins, in the unit of the distances; None for 0, 1, ..., n. They do not change which sides count.

    Returns:
        The scores. A Dirac box shows no two modes: recall 0, false bimodality 0.
    """
    side = np.asarray(ambiguous_side, np.int64).reshape(-1)
    rows = len(side)
    distributions = _stack_sides(probs, rows)
    if distributions is not None and distributions.shape[2] != reg_max + 1:
        raise ValueError(f"probs have {distributions.shape[2]} bins a side; reg_max {reg_max} asks for {reg_max + 1}")
    points = np.stack([np.asarray(row, np.float64) for row in expectation]).reshape(rows, 4) if rows else np.zeros((0, 4))
    edges = np.asarray(edges, np.float64).reshape(rows, 2)
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
        hits = shows_both_edges(chosen, edges[showable, 0], edges[showable, 1], positions) if len(chosen) else np.zeros(0, bool)
        false_modes = modes(distributions[clear]).count >= 2 if clear.any() else np.zeros(0, bool)
        distance = wasserstein1_points(distributions[reachable, side[reachable]], edges[reachable], weights[reachable], positions)

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
