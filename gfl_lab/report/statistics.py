"""Is a difference more than noise? Paired differences between variants, over seeds and validation images.

Two things make a difference uncertain: other seeds would have trained other weights, and other validation images would have
weighed their errors otherwise. Both are estimated and added (docs/statistics.md):

    d = mean over seeds s of (AP of the variant with seed s - AP of the baseline with seed s)
    var(d) = var over seeds / number of seeds  +  variance of d over bootstrap samples of the images

The interval is Student's, with degrees of freedom by Satterthwaite's rule, because percentiles of a bootstrap over three to five seeds
are far too narrow where the seeds make the noise (benchmarks/interval_coverage.py measures both).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]

LEVEL = 0.95
POWER = 0.80
MAX_SEEDS = 1000
"""More are never asked for: then the difference counts as not resolvable."""


@dataclass(frozen=True)
class Difference:
    """A variant minus the baseline, in AP points.

    Attributes:
        mean: over ``seeds`` pairs.
        half: half width of the 95% interval; None when there is one pair or none of the variances is known.
        p: two-sided, of no difference; None with ``half``.
        seed_variance: of one pair's difference; None with one pair.
        image_variance: of ``mean`` through the choice of images; None when it was not computed.
        seeds: number of pairs.
    """

    mean: float
    half: float | None
    p: float | None
    seed_variance: float | None
    image_variance: float | None
    seeds: int

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


def difference(pairs: Sequence[tuple[float, float]], image_variance: float | None = None, images: int = 0) -> Difference:
    """The difference of (variant, baseline) pairs, one for each seed.

    Args:
        pairs: AP of both with the same seed; at least one.
        image_variance: from ``image_variance``; None leaves the choice of images out.
        images: how many there are.
    """
    each = [ours - theirs for ours, theirs in pairs]
    mean, count = statistics.fmean(each), len(each)
    if count < 2:
        return Difference(mean, None, None, None, image_variance, count)
    seed_variance = statistics.variance(each)
    error, freedom = _error(seed_variance, count, image_variance or 0.0, images)
    if error == 0:
        return Difference(mean, 0.0, 1.0 if mean == 0 else 0.0, seed_variance, image_variance, count)
    half = float(special.stdtrit(freedom, 0.5 + LEVEL / 2) * error)
    p = float(2 * special.stdtr(freedom, -abs(mean) / error))
    return Difference(mean, half, p, seed_variance, image_variance, count)


def _error(seed_variance: float, seeds: Array | float, image_variance: float, images: int) -> tuple[Array, Array]:
    """Standard error of the mean difference, and its degrees of freedom (Satterthwaite 1946); arrays where ``seeds`` is one."""
    of_seeds = seed_variance / np.asarray(seeds, float)
    total = of_seeds + image_variance
    spread = of_seeds**2 / (seeds - 1) + (image_variance**2 / (images - 1) if images > 1 else 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt(total), np.where(spread > 0, total**2 / spread, np.inf)


def image_variance(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """Variance over the choice of images of the mean difference of (variant, baseline) pairs, one for each seed.

    Args:
        pairs: (R,) a metric on the same bootstrap samples of the images (a column of ``cocoap.resample``), of both trials.
    """
    found = np.mean([ours - theirs for ours, theirs in pairs], axis=0)
    return float(np.nanvar(found, ddof=1))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's correction (1979) of the p-values of all rows that are compared with one baseline."""
    corrected: dict[str, float] = {}
    highest = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, p * (len(p_values) - rank)))
        corrected[name] = highest
    return {name: corrected[name] for name in p_values}


def detectable(found: Difference, images: int = 0) -> float | None:
    """The smallest true difference that so many seeds tell from none: at 5%, two-sided, with a power of 80%. None with one seed."""
    if found.seed_variance is None:
        return None
    return float(_needed(*_error(found.seed_variance, found.seeds, found.image_variance or 0.0, images)))


def _needed(error: Array, freedom: Array) -> Array:
    return (special.stdtrit(freedom, 0.5 + LEVEL / 2) + special.stdtrit(freedom, POWER)) * error


def seeds_needed(found: Difference, smallest: float, images: int = 0) -> int | None:
    """How many seeds would tell a true difference of ``smallest`` AP from none: at 5%, two-sided, with a power of 80%.

    Returns:
        None when no number of seeds would do, because the choice of images alone makes more noise than that.

    Raises:
        ValueError: the difference rests on one seed.
    """
    if found.seed_variance is None:
        raise ValueError("one seed does not show how much seeds differ")
    seeds = np.arange(2, MAX_SEEDS + 1)
    enough = _needed(*_error(found.seed_variance, seeds, found.image_variance or 0.0, images)) <= smallest
    return int(seeds[enough.argmax()]) if enough.any() else None
