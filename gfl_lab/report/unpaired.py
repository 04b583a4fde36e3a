"""Differences of arms whose trainings do not pair, such as detections of other projects: independent groups over the same images.

The symbols are those of ``report.statistics``. An arm of n trainings has S^2, the sample variance of its AP, and E, the noise of one training
on one image, from its own AP on the samples of the images. Two arms a and b have

    d    = mean of a - mean of b
    B    = variance over bootstrap samples of the images of d
    g    = S_a^2 / n_a + S_b^2 / n_b         e = E_a / n_a + E_b / n_b
    half = sqrt(z^2 B + max(0, t^2 g - z^2 e))

t has Welch's (1938) degrees of freedom, but no more than two arms of the smaller one's size could have, 2 (n - 1): with 2 files against 10,
Welch's rule alone covers 90%. Nothing is pooled over other arms, since detectors of different projects need not vary alike.
``benchmarks/unpaired_coverage.py`` measures how often such intervals hold a known truth.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gfl_lab.report.noise import LEVEL, Array, Noise, half_width, image_variances, p_values
from gfl_lab.report.statistics import FAINT, NO_RECORDS, NO_SIGNAL, NO_SPREAD, ONE_SEED, SAME, Difference, Groups


@dataclass(frozen=True)
class Arm:
    """The trainings of one arm in one metric.

    Attributes:
        values: of each training, points; finite.
        samples: (n, R) the same on bootstrap samples of the images, which all arms share; None where it is not known.
        images: how many there are, 0 where that is not known.
        why: why ``samples`` are missing although they were looked up; else empty.
    """

    values: Sequence[float]
    samples: np.ndarray | None = None
    images: int = 0
    why: str = ""


def compare_arms(one: Arm, other: Arm, signal: bool = True) -> Difference:
    """Return interval and p of ``one`` minus ``other``, before any correction of p for the number of rows.

    Args:
        signal: False for numbers, such as costs of errors, that may be 0 although detectors work.
    """
    sizes, arms = (len(one.values), len(other.values)), (one, other)
    variance = np.array([_variance(arm.values) for arm in arms])
    residual = np.array([0.0 if arm.samples is None else float(np.nan_to_num(image_variances(arm.samples)[1])) for arm in arms])
    pairs, noise = between(np.array(sizes, float), variance, residual)
    images = _image_variance(one, other)
    plain = Difference(
        mean=statistics.fmean(one.values) - statistics.fmean(other.values),
        half=None,
        p=None,
        seed_variance=None if min(sizes) < 2 else float(noise.variance),
        image_variance=images,
        seeds=min(sizes),
        images=one.images,
        highest=max(*one.values, *other.values),
        groups=Groups(sizes, float(pairs), float(_welch(variance, np.ones(2)))),
    )
    verdict, why = _verdict(one, other, signal, images)
    if verdict:
        return dataclasses.replace(plain, verdict=verdict, why=why)
    known = pairs, np.array(images or 0.0), noise
    return dataclasses.replace(
        plain,
        half=float(half_width(1 - LEVEL, *known)),
        p=float(p_values(np.array(plain.mean), *known)),
        spread=float(noise.variance),
        freedom=float(noise.freedom),
        residual=float(noise.residual),
    )


def between(sizes: Array, variance: Array, residual: Array) -> tuple[Array, Noise]:
    """Return the noise of the difference of two arms.

    Args:
        sizes: (..., 2) trainings of both. variance, residual: (..., 2) S^2 and E of each.

    Returns:
        (...) the number of pairs that would weigh the same, and the noise of a pair: any training of one with any of the other.
    """
    pairs = 2 / (1 / sizes).sum(-1)
    freedom = np.minimum(_welch(variance / sizes, sizes - 1), 2 * (sizes.min(-1) - 1))
    one = np.ones(np.shape(pairs))
    return pairs, Noise(pairs * (variance / sizes).sum(-1), freedom, pairs * (residual / sizes).sum(-1), one, np.zeros(np.shape(pairs)))


def _welch(parts: Array, freedom: Array) -> Array:
    """Return the degrees of freedom of the sum of variances (..., 2) by Welch's (1938) rule; those of both together where both are 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        found = parts.sum(-1) ** 2 / (parts**2 / freedom).sum(-1)
    return np.where(np.isfinite(found), found, freedom.sum(-1))


def _variance(values: Sequence[float]) -> float:
    """Return the sample variance, 0 for numbers that are equal but for rounding; NaN of one number."""
    if len(values) < 2:
        return math.nan
    found = statistics.variance(values)
    return 0.0 if found <= SAME**2 else found


def _image_variance(one: Arm, other: Arm) -> float | None:
    if one.samples is None or other.samples is None:
        return None
    found = float(image_variances((one.samples.mean(0) - other.samples.mean(0))[None])[0])
    return found if math.isfinite(found) else None


def _verdict(one: Arm, other: Arm, signal: bool, images: float | None) -> tuple[str, str]:
    """Return why nothing can be concluded; empty where something can."""
    values = [*one.values, *other.values]
    if signal and all(abs(value) < FAINT for value in values):
        return NO_SIGNAL, "it is 0.0 in every trial of both"
    if max(values) - min(values) <= SAME and not images:
        return NO_SIGNAL, "both have the same number in every trial"
    if why := one.why or other.why:
        return NO_RECORDS, why
    if len(one.values) < 2 or len(other.values) < 2:
        return ONE_SEED, ""
    if all(max(arm.values) - min(arm.values) <= SAME for arm in (one, other)):
        return NO_SPREAD, "every training gave the same numbers, so they count as one"
    return "", ""
