"""Noise of differences from seed to seed and from image to image: variances, intervals and p-values as arrays.

The symbols are those of ``report.statistics``. Every function takes one table, or many simulated ones at once.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gfl_lab.report.quantiles import f_quantile, normal_quantile, student_quantile

Array = NDArray[np.float64]
LEVEL = 0.95
GUARD = 0.95
"""A row keeps its own spread where its variance lies above this quantile of F, were all rows alike."""
FAR = 0.999
"""A row above this quantile does not count for the others either: a seed that failed in one row would hide every difference in the table."""
CORRELATION = 0.5
"""Correlation of two rows' differences to one baseline, when all variants vary alike: they share the baseline's part."""
TWO_SEEDS = 0.15
"""Part of E that a row with one degree of freedom takes off S^2 itself. Without it such rows cover 99% where images make all the noise,
since t^2 is 161; with it 98.3% there and 95% where seeds make it."""
_LEAST_P = 1e-100


class Noise(NamedTuple):
    """Noise of the rows of a table from seed to seed, (..., rows): the table's rows stand along the last axis.

    ``variance`` (M) of one pair with its degrees of ``freedom``, and ``residual`` (E); ``rows`` are those that were pooled, 1 where a row
    keeps its own numbers. ``guarded`` marks rows that keep theirs although others were pooled.
    """

    variance: Array
    freedom: Array
    residual: Array
    rows: Array
    guarded: Array


def image_variances(samples: Array) -> tuple[Array, Array]:
    """Return B and E of differences on bootstrap samples of the images.

    Args:
        samples: (..., k, R) the differences of k seeds on R samples. A sample on which some seed has none (NaN) is left out.

    Returns:
        (...) B, the variance of the seeds' mean, and E, that of one seed through the noise of single trials on single images; NaN for E
        with one seed, and for both with fewer than two samples.
    """
    seeds = samples.shape[-2]
    undefined = np.asarray(np.isnan(samples).any(-2))  # (..., R)
    if undefined.any():
        samples = np.where(undefined[..., None, :], np.nan, samples)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of numpy, where fewer than two samples are left: NaN is the answer
            of_mean, of_each = np.nanvar(samples.mean(-2), -1, ddof=1), np.nanvar(samples, -1, ddof=1).mean(-1)
    else:
        of_mean, of_each = samples.mean(-2).var(-1, ddof=1), samples.var(-1, ddof=1).mean(-1)
    residual = np.maximum(0.0, (of_each - of_mean) * seeds / (seeds - 1)) if seeds > 1 else np.full(np.shape(of_mean), np.nan)
    return np.asarray(of_mean, float), np.asarray(residual, float)


def pool(seeds: Array, seed_variance: Array, residual: Array) -> Noise:
    """Pool the spread over seeds of rows that are compared with one baseline.

    A row that varies too much by ``GUARD`` keeps its own spread; by ``FAR`` it is left out of the others' mean, too.

    Args:
        seeds: (..., rows) number of pairs. seed_variance: (..., rows), NaN for a row that is not to be pooled, as with one seed.
        residual: (..., rows), NaN where unknown.
    """
    seed_variance, residual = np.asarray(seed_variance, float), np.asarray(residual, float)
    freedom = np.where(np.isfinite(seed_variance), np.asarray(seeds, float) - 1, 0.0)
    variance = np.nan_to_num(seed_variance)
    known = freedom > 0
    others = 1 - np.eye(freedom.shape[-1])

    def above(quantile: float, among: np.ndarray) -> np.ndarray:
        """Return the rows ``among`` some that vary more than the quantile of F allows, were all of these alike."""
        weight = np.where(among, freedom, 0.0)
        rest = weight @ others
        with np.errstate(invalid="ignore", divide="ignore"):
            limit = f_quantile(freedom, rest, quantile) * ((weight * variance) @ others) / rest
        return among & (rest > 0) & (variance > limit)

    pooled = known
    for _ in range(freedom.shape[-1] - 1):
        far = above(FAR, pooled)
        if not far.any():
            break
        pooled = pooled & ~far
    guarded = (known & ~pooled) | above(GUARD, pooled)
    rows, weight = pooled.sum(-1, keepdims=True), np.where(pooled, freedom, 0.0)
    total = weight.sum(-1, keepdims=True)
    own = guarded | (known & (rows == 1))
    seen = pooled & np.isfinite(residual)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (weight * variance).sum(-1, keepdims=True) / total
    shared = np.where(seen, residual, 0.0).sum(-1, keepdims=True) / np.maximum(1, seen.sum(-1, keepdims=True))
    return Noise(
        np.where(own, seed_variance, mean),
        np.where(own, freedom, total / (1 + (rows - 1) * CORRELATION**2)),
        np.where(np.isfinite(residual) | ~known, np.where(own, residual, shared), 0.0),
        np.where(own, 1, rows),
        guarded,
    )


def half_width(alpha: Array | float, seeds: Array, image_variance: Array, noise: Noise) -> Array:
    """Return the half width of the interval with the error ``alpha``, two-sided; it falls as ``alpha`` grows."""
    tail = np.asarray(alpha) / 2
    return np.sqrt(squared_half_width(normal_quantile(tail), student_quantile(noise.freedom, tail), seeds, image_variance, noise))


def squared_half_width(z: Array | float, t: Array, seeds: Array, image_variance: Array, noise: Noise) -> Array:
    """Return the square of the half width for the quantiles ``z`` of the normal and ``t`` of Student's distribution."""
    early = np.where(noise.freedom <= 1, TWO_SEEDS, 0.0) * noise.residual
    return z**2 * image_variance + np.maximum(0.0, t**2 * (noise.variance - early) - z**2 * (noise.residual - early)) / seeds


def p_values(distance: Array, seeds: Array, image_variance: Array, noise: Noise, level: float = 1 - LEVEL) -> Array:
    """Return the ``alpha`` at which ``half_width`` is ``distance``, by bisection of its logarithm.

    It is below ``level`` just if the interval with the error ``level`` is narrower, to the last bit.
    """
    distance = np.abs(distance)
    low, high = np.full(distance.shape, math.log(_LEAST_P)), np.zeros(distance.shape)
    for _ in range(48):
        middle = (low + high) / 2
        wider = half_width(np.exp(middle), seeds, image_variance, noise) > distance
        low, high = np.where(wider, middle, low), np.where(wider, high, middle)
    p = np.exp(high)
    inside = half_width(level, seeds, image_variance, noise) >= distance
    return np.where(inside, np.maximum(p, level), np.minimum(p, np.nextafter(level, 0)))


def p_within(mean: Array, bound: float, seeds: Array, image_variance: Array, noise: Noise, level: float = 1 - LEVEL) -> Array:
    """Return the p of a true difference of ``bound`` or more, either way.

    It is below ``level`` just if the interval with the error ``level`` lies inside of ±``bound``.

    Two one-sided tests (Schuirmann 1987), each at half of the error, so that the interval that is shown decides.
    """
    room = bound - np.abs(mean)
    return np.where(room > 0, p_values(room, seeds, image_variance, noise, level), 1.0)
