"""Discrete box distributions: their moments, the ideal one for given edges, and distances between them.

A box side is a distribution p over the bins 0..n of the distance from a location to the side, in units of
stride * bin_width (Li et al., arXiv 2006.04388, section 3.2). Arrays have shape (..., n+1), sum to 1 along the last
axis and are of any float type; results are float64. docs/box-distributions.md gives the definitions with their reasons.

``positions`` are the distances (n+1,) that the bins stand for, ascending; None stands for 0, 1, ..., n.
"In bins" then means: in the unit of the positions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gfl_lab.metrics.bins import Positions, places

TARGET_MARGIN = 0.1
"""Distance targets are clipped to [0, n - 0.1], as mmdet's ``DistancePointBBoxCoder`` does, so that two bins enclose them."""

Array = NDArray[np.float64]


def as_distribution(p: ArrayLike) -> Array:
    """Return ``p`` as float64. Raises ValueError if the last axis has fewer than two bins."""
    array = np.asarray(p, dtype=np.float64)
    if array.ndim == 0 or array.shape[-1] < 2:
        raise ValueError(f"a box distribution has at least two bins on its last axis; the shape is {array.shape}")
    return array


# --- moments --------------------------------------------------------------------------------------


def expectation(p: ArrayLike, positions: Positions | None = None) -> Array:
    """Return the mean of each distribution, in bins: (..., n+1) -> (...). The decoded distance (arXiv 2006.04388, equation 5)."""
    array = as_distribution(p)
    return array @ places(array.shape[-1], positions)


def spread(p: ArrayLike, positions: Positions | None = None) -> Array:
    """Return the standard deviation of each distribution, in bins: (..., n+1) -> (...)."""
    array = as_distribution(p)
    bins = places(array.shape[-1], positions)
    mean = array @ bins
    return np.sqrt(np.maximum((array * (bins - mean[..., None]) ** 2).sum(-1), 0.0))


def entropy(p: ArrayLike) -> Array:
    """Return the Shannon entropy of each distribution, in nats: (..., n+1) -> (...), from 0 to log(n+1). 0 log 0 is 0."""
    array = as_distribution(p)
    return -(array * np.log(np.where(array > 0, array, 1.0))).sum(-1) + 0.0


def tail_mass(p: ArrayLike) -> Array:
    """Return the mass on the last bin n: (..., n+1) -> (...). If it is large, the side lies at or beyond the reach of the bins."""
    return as_distribution(p)[..., -1].copy()


# --- the ideal distribution -----------------------------------------------------------------------


def ideal_distribution(edges_bins: ArrayLike, probs: ArrayLike, n: int, positions: Positions | None = None) -> Array:
    """Return the distribution that minimises the expected DFL when the side is at ``edges_bins[k]`` with probability ``probs[k]``.

    DFL is cross-entropy to the two-hot interpolation of the target (equation 6), so its minimiser is the mixture of these
    two-hots. Targets are clipped first, as in training: to the first bin, and to a tenth of the last gap below the last one.

    Args:
        edges_bins: (..., K) distances from the location, in bins.
        probs: (..., K), summing to 1 over K; broadcast against ``edges_bins``.
        n: index of the last bin (``reg_max``).
        positions: of the bins.

    Returns:
        (..., n+1).
    """
    edges, weights = np.broadcast_arrays(np.asarray(edges_bins, np.float64), np.asarray(probs, np.float64))
    if positions is None:
        edges = np.clip(edges, 0.0, n - TARGET_MARGIN)
        hats = np.maximum(0.0, 1.0 - np.abs(edges[..., None] - np.arange(n + 1)))
    else:
        at = places(n + 1, positions)
        edges = np.clip(edges, at[0], at[-1] - TARGET_MARGIN * (at[-1] - at[-2]))
        left = np.clip(np.searchsorted(at, edges, side="right") - 1, 0, n - 1)
        share = ((edges - at[left]) / (at[left + 1] - at[left]))[..., None]
        hats = np.eye(n + 1)[left] * (1 - share) + np.eye(n + 1)[left + 1] * share
    return (weights[..., None] * hats).sum(-2)


# --- distances ------------------------------------------------------------------------------------


def wasserstein1(p: ArrayLike, q: ArrayLike, positions: Positions | None = None) -> Array:
    """Return the Wasserstein-1 distance of two distributions on the same bins, in bins: (..., n+1), (..., n+1) -> (...)."""
    difference = np.cumsum(as_distribution(p) - as_distribution(q), axis=-1)
    if positions is None:
        return np.abs(difference[..., :-1]).sum(-1)
    return (np.abs(difference[..., :-1]) * np.diff(places(difference.shape[-1], positions))).sum(-1)


def _w1_weighted(positions: Array, signed_mass: Array) -> Array:
    order = np.argsort(positions, axis=-1, kind="stable")
    positions = np.take_along_axis(positions, order, -1)
    gap = np.cumsum(np.take_along_axis(signed_mass, order, -1), axis=-1)[..., :-1]
    return (np.abs(gap) * np.diff(positions, axis=-1)).sum(-1)


def wasserstein1_points(p: ArrayLike, edges_bins: ArrayLike, probs: ArrayLike, positions: Positions | None = None) -> Array:
    """Return the Wasserstein-1 distance of a distribution on bins to points with masses, in bins; exact, through the two CDFs.

    Args:
        p: (..., n+1).
        edges_bins: (..., K) places of the points, in bins, anywhere on the line.
        probs: (..., K) their masses, summing to 1.
        positions: of the bins.

    Returns:
        (...). Not 0 for the ideal distribution of an edge between two bins: a two-hot is itself spread over them.
    """
    array = as_distribution(p)
    edges, weights = np.asarray(edges_bins, np.float64), np.asarray(probs, np.float64)
    shape = np.broadcast_shapes(array.shape[:-1], edges.shape[:-1], weights.shape[:-1])
    array = np.broadcast_to(array, (*shape, array.shape[-1]))
    edges, weights = (np.broadcast_to(x, (*shape, max(edges.shape[-1], weights.shape[-1]))) for x in (edges, weights))
    bins = np.broadcast_to(places(array.shape[-1], positions), array.shape)
    return _w1_weighted(np.concatenate([bins, edges], -1), np.concatenate([array, -weights], -1))


def wasserstein1_dirac(distance: ArrayLike, edges_bins: ArrayLike, probs: ArrayLike) -> Array:
    """Return the Wasserstein-1 distance of a single predicted distance to points with masses, in bins: (...), (..., K), (..., K) -> (...)."""
    place = np.asarray(distance, np.float64)[..., None]
    return (np.asarray(probs, np.float64) * np.abs(np.asarray(edges_bins, np.float64) - place)).sum(-1)
