"""Is a difference more than noise? Paired differences between variants, over seeds and validation images.

Two things make a difference uncertain: other seeds would have trained other weights, and other validation images would have
weighed their errors otherwise. Both are estimated and added (docs/statistics.md). With k seeds,

    d       = mean over seeds s of d_s = (AP of the variant with seed s - AP of the baseline with seed s)
    S^2     = sample variance of d_s
    B       = variance over bootstrap samples of the images of the mean over seeds of the difference
    V       = mean over seeds of the variance over bootstrap samples of one seed's difference
    E       = max(0, (V - B) k / (k - 1)): the noise of one trial on one image, which is part of both S^2 / k and B
    half    = sqrt(z^2 B + max(0, t^2 M - z^2 E) / k)     the half width of an interval; p is the alpha at which it equals |d|

With two or three seeds S^2 of one row is little known, so the rows of a table share theirs: M is its mean over the rows, as E is. A row
whose S^2 is too large to be one of them (an F test at 5% against the others) keeps its own, as a single row does.
``benchmarks/interval_coverage.py`` measures how often such intervals hold a known truth.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]
Sampled = Sequence[tuple[np.ndarray, np.ndarray]]
"""(R,) a metric on the same bootstrap samples of the images, of (variant, baseline), one pair for each seed."""

LEVEL = 0.95
POWER = 0.80
GUARD = 0.95
"""A row keeps its own spread where its variance lies above this quantile of F, were all rows alike."""
FAR = 0.999
"""A row above this quantile does not count for the others either: a seed that failed in one row would hide every difference in the table."""
CORRELATION = 0.5
"""Correlation of two rows' differences to one baseline, when all variants vary alike: they share the baseline's part."""
TWO_SEEDS = 0.15
"""Part of E that a row with one degree of freedom takes off S^2 itself. Without it such rows cover 99% where images make all the noise,
since t^2 is 161; with it 98.3% there and 95% where seeds make it."""
MAX_SEEDS = 1000
"""More are never asked for."""
FAINT = 0.05
"""AP points: what is below prints as 0.0. The spread of such numbers says nothing of detectors that work."""
_SAME = 1e-9
"""AP points: numbers that are closer are equal but for rounding."""
_LEAST_P = 1e-100


@dataclass(frozen=True)
class Paired:
    """Difference of two variants in one metric over the seeds that they share, in points.

    Attributes:
        mean: over the pairs, variant minus baseline.
        seeds: number of pairs.
        seed_variance: sample variance of the pairs' differences, S^2; None with one seed.
        image_variance: of ``mean`` through the choice of images, B; None where it is not known.
        residual: variance of one pair through the noise of single trials on single images, E; None with one seed or unknown images.
        images: how many validation images there are, 0 where that is not known.
        why: why nothing can be concluded from these numbers; empty where something can.
        verdict: NO_SIGNAL, NO_SPREAD or NO_RECORDS beside ``why``, else empty.
    """

    mean: float
    seeds: int
    seed_variance: float | None = None
    image_variance: float | None = None
    residual: float | None = None
    images: int = 0
    why: str = ""
    verdict: str = ""


NO_SIGNAL, NO_SPREAD, NO_RECORDS, ONE_SEED = "no signal", "no spread", "no records", "one seed"


@dataclass(frozen=True)
class Difference:
    """A variant minus the baseline, in AP points.

    Attributes:
        mean: over ``seeds`` pairs.
        half: half width of the 95% interval; None where there is none to give.
        p: two-sided, of no difference; below 0.05 where the interval leaves 0 out, and only there. None with ``half``.
        seed_variance: of one pair's difference, in this row alone; None with one pair.
        image_variance: of ``mean`` through the choice of images; None when it was not computed.
        seeds: number of pairs.
        residual: variance of one pair through the noise of single trials on single images, as the interval uses it.
        spread: variance of one pair's difference that the interval rests on: pooled over ``rows`` rows, or the row's own.
        freedom: degrees of freedom of ``spread``.
        rows: how many rows ``spread`` is pooled over; 1 where the row stands by itself.
        guarded: True where other rows were pooled and this one varies too much to be one of them.
        images: how many validation images there are, 0 where that is not known.
        verdict, why: of ``Paired``: where there is no interval, the reason.
    """

    mean: float
    half: float | None
    p: float | None
    seed_variance: float | None
    image_variance: float | None
    seeds: int
    residual: float = 0.0
    spread: float | None = None
    freedom: float | None = None
    rows: int = 1
    guarded: bool = False
    images: int = 0
    verdict: str = ""
    why: str = ""

    @property
    def low(self) -> float | None:
        """Lower end of the interval."""
        return None if self.half is None else self.mean - self.half

    @property
    def high(self) -> float | None:
        """Upper end of the interval."""
        return None if self.half is None else self.mean + self.half

    @property
    def image_half(self) -> float | None:
        """Half width of an interval that knows of images only: what one seed can say."""
        return None if self.image_variance is None else float(special.ndtri(0.5 + LEVEL / 2)) * math.sqrt(self.image_variance)

    @property
    def lasting(self) -> float | None:
        """Part of ``image_variance`` that no number of seeds takes away; None where it is not known."""
        return None if self.image_variance is None else max(0.0, self.image_variance - self.residual / self.seeds)

    def reversed(self) -> Difference:
        """The baseline minus the variant."""
        return dataclasses.replace(self, mean=-self.mean + 0.0)


# --- arrays: one table, or many simulated ones at once --------------------------------------------


class Noise(NamedTuple):
    """How much the rows of a table vary from seed to seed, (..., rows): the table's rows stand along the last axis.

    ``variance`` (M) of one pair with its degrees of ``freedom``, and ``residual`` (E); ``rows`` are those that were pooled, 1 where a row
    keeps its own numbers. ``guarded`` marks rows that keep theirs although others were pooled.
    """

    variance: Array
    freedom: Array
    residual: Array
    rows: Array
    guarded: Array


def image_variances(samples: Array) -> tuple[Array, Array]:
    """B and E of differences on bootstrap samples of the images.

    Args:
        samples: (..., k, R) the differences of k seeds on R samples. A sample on which some seed has none (NaN) is left out.

    Returns:
        (...) B, the variance of the seeds' mean, and E, that of one seed through the noise of single trials on single images; NaN for E
        with one seed, and for both with fewer than two samples.
    """
    seeds = samples.shape[-2]
    undefined = np.isnan(samples).any(-2)  # (..., R)
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
        """Which rows ``among`` some vary more than the quantile of F allows, were all of these alike."""
        weight = np.where(among, freedom, 0.0)
        rest = weight @ others
        with np.errstate(invalid="ignore", divide="ignore"):
            limit = special.fdtri(freedom, rest, quantile) * ((weight * variance) @ others) / rest
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
    """Half width of the interval with the error ``alpha``, two-sided; it falls as ``alpha`` grows."""
    tail = np.asarray(alpha) / 2
    return np.sqrt(_square(special.ndtri(tail), special.stdtrit(noise.freedom, tail), seeds, image_variance, noise))


def _square(z: Array | float, t: Array, seeds: Array, image_variance: Array, noise: Noise) -> Array:
    early = np.where(noise.freedom <= 1, TWO_SEEDS, 0.0) * noise.residual
    return z**2 * image_variance + np.maximum(0.0, t**2 * (noise.variance - early) - z**2 * (noise.residual - early)) / seeds


def p_values(distance: Array, seeds: Array, image_variance: Array, noise: Noise) -> Array:
    """The ``alpha`` at which ``half_width`` is ``distance``, by bisection of its logarithm; below 5% just where the interval of 95% is less."""
    distance = np.abs(distance)
    low, high = np.full(distance.shape, math.log(_LEAST_P)), np.zeros(distance.shape)
    for _ in range(48):
        middle = (low + high) / 2
        wider = half_width(np.exp(middle), seeds, image_variance, noise) > distance
        low, high = np.where(wider, middle, low), np.where(wider, high, middle)
    p, alpha = np.exp(high), 1 - LEVEL
    inside = half_width(alpha, seeds, image_variance, noise) >= distance
    return np.where(inside, np.maximum(p, alpha), np.minimum(p, np.nextafter(alpha, 0)))


# --- the rows of one table ------------------------------------------------------------------------


def paired(pairs: Sequence[tuple[float, float]], samples: Sampled | None = None, images: int = 0, signal: bool = True) -> Paired:
    """Summarise (variant, baseline) pairs, one for each seed.

    Args:
        pairs: AP of both with the same seed; at least one.
        samples: both on bootstrap samples of the images; None leaves the choice of images out.
        images: how many there are.
        signal: False for numbers, such as costs of errors, that may be 0 although detectors work.

    Raises:
        ValueError: there is no pair, or a number is not finite.
    """
    each = [ours - theirs for ours, theirs in pairs]
    if not each or not all(map(math.isfinite, each)):
        raise ValueError(f"a difference needs pairs of finite numbers, and these are {list(pairs)}")
    count = len(each)
    found = Paired(statistics.fmean(each), count, images=images)
    if samples is not None:
        of_mean, residual = image_variances(np.stack([ours - theirs for ours, theirs in samples]))
        if math.isfinite(of_mean):
            known = {"image_variance": float(of_mean), "residual": float(residual) if math.isfinite(residual) else None}
            found = dataclasses.replace(found, **known)
    if signal and all(abs(value) < FAINT for pair in pairs for value in pair):
        return dataclasses.replace(found, verdict=NO_SIGNAL, why="it is 0.0 in every trial of both")
    if all(abs(one) <= _SAME for one in each) and not found.image_variance:
        return dataclasses.replace(found, verdict=NO_SIGNAL, why="both have the same numbers in every seed")
    if count < 2:
        return found
    if max(max(values) - min(values) for values in zip(*pairs, strict=True)) <= _SAME:
        return dataclasses.replace(found, verdict=NO_SPREAD, why="every seed gave the same numbers, so they count as one")
    variance = statistics.variance(each)
    return dataclasses.replace(found, seed_variance=0.0 if variance <= _SAME**2 else variance)


def judge(rows: Sequence[Paired]) -> list[Difference]:
    """Interval and p of rows that are compared with one baseline in one metric, before any correction of p.

    The spread over seeds is pooled over the rows that have two seeds or more. A row with one seed gets no interval: nothing could show
    that it varies more than the others do.
    """
    if not rows:
        return []
    nan = float("nan")
    seeds = np.array([row.seeds for row in rows], float)
    variance = np.array([nan if row.seed_variance is None else row.seed_variance for row in rows], float)
    residual = np.array([nan if row.residual is None else row.residual for row in rows], float)
    images = np.array([row.image_variance or 0.0 for row in rows])
    noise = pool(seeds, variance, residual)
    half = half_width(1 - LEVEL, seeds, images, noise)
    p = p_values(np.array([row.mean for row in rows]), seeds, images, noise)
    found = []
    for index, row in enumerate(rows):
        verdict, why = row.verdict, row.why
        if not verdict and row.seed_variance is not None and noise.variance[index] == 0:
            verdict, why = NO_SPREAD, "the difference is the same in every seed"
        elif row.seed_variance is None and not verdict:
            verdict = ONE_SEED
        plain = Difference(
            row.mean, None, None, row.seed_variance, row.image_variance, row.seeds, images=row.images, verdict=verdict, why=why
        )
        if not verdict:
            plain = dataclasses.replace(
                plain,
                half=float(half[index]),
                p=float(p[index]),
                residual=float(noise.residual[index]),
                spread=float(noise.variance[index]),
                freedom=float(noise.freedom[index]),
                rows=int(noise.rows[index]),
                guarded=bool(noise.guarded[index]),
            )
        found.append(plain)
    return found


def difference(pairs: Sequence[tuple[float, float]], samples: Sampled | None = None, images: int = 0) -> Difference:
    """The difference of (variant, baseline) pairs that no other row stands beside: ``judge`` of one row. Arguments as of ``paired``."""
    return judge([paired(pairs, samples, images)])[0]


def image_variance(pairs: Sampled) -> float:
    """Variance over the choice of images of the mean difference of (variant, baseline) pairs, one for each seed: B."""
    return float(image_variances(np.stack([ours - theirs for ours, theirs in pairs]))[0])


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's correction (1979) of the p-values of all rows that are compared with one baseline."""
    corrected: dict[str, float] = {}
    highest = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, p * (len(p_values) - rank)))
        corrected[name] = highest
    return {name: corrected[name] for name in p_values}


# --- the size of a difference that can be told from none ------------------------------------------


_Z = float(special.ndtri(0.5 + LEVEL / 2) + special.ndtri(POWER))


def detectable(found: Difference) -> float | None:
    """The smallest true difference that so many seeds tell from none: at 5%, two-sided, with a power of 80%.

    None where there is no interval.
    """
    return None if found.half is None else float(_detectable(found, np.array(float(found.seeds)), np.array(found.freedom)))


def _detectable(found: Difference, seeds: Array, freedom: Array) -> Array:
    """As ``detectable``, were there ``seeds`` seeds in each row: what they average out of the images' part falls with their number."""
    t = special.stdtrit(freedom, 0.5 + LEVEL / 2) + special.stdtrit(freedom, POWER)
    lasting, images = found.lasting or 0.0, found.image_variance or 0.0
    images = lasting + (images - lasting) * found.seeds / seeds
    noise = Noise(np.array(found.spread), freedom, np.array(found.residual), np.array(found.rows), np.array(found.guarded))
    return np.sqrt(_square(_Z, t, seeds, images, noise))


def seeds_needed(found: Difference, smallest: float) -> int | None:
    """How many seeds would tell a true difference of ``smallest`` AP from none: at 5%, two-sided, with a power of 80%.

    All rows that share their spread are taken to have as many.

    Returns:
        None when ``MAX_SEEDS`` would not do. If the images are the limit, ``images_needed`` says how many of them would.

    Raises:
        ValueError: there is no interval, so the noise is not known.
    """
    if found.half is None:
        raise ValueError(f"the noise between seeds is not known: {found.why or found.verdict}")
    seeds = np.arange(2.0, MAX_SEEDS + 1)
    freedom = found.rows * (seeds - 1) / (1 + (found.rows - 1) * CORRELATION**2)
    enough = _detectable(found, seeds, freedom) <= smallest
    return int(seeds[enough.argmax()]) if enough.any() else None


def images_resolve(found: Difference) -> float | None:
    """The smallest true difference that these images tell from none, were there seeds without end; None where it is not known."""
    return None if found.half is None or found.lasting is None else _Z * math.sqrt(found.lasting)


def images_needed(found: Difference, smallest: float) -> int | None:
    """How many images a true difference of ``smallest`` AP wants at least, were there seeds without end.

    None where these suffice, or nothing is known of them.
    """
    limit = images_resolve(found)
    if limit is None or limit <= smallest or not found.images:
        return None
    return math.ceil(found.images * (limit / smallest) ** 2)
