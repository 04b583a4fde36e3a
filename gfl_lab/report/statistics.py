"""Is a difference more than noise? Paired differences between variants, over seeds and validation images.

Two things make a difference uncertain: other seeds would have trained other weights, and other validation images would have
weighed their errors otherwise. Both are estimated and added (docs/statistics.md). With k seeds,

    d       = mean over seeds s of d_s = (AP of the variant with seed s - AP of the baseline with seed s)
    S^2     = sample variance of d_s
    B       = variance over bootstrap samples of the images of the mean over seeds of the difference
    V       = mean over seeds of the variance over bootstrap samples of one seed's difference
    E       = max(0, (V - B) k / (k - 1)): the noise of one trial on one image, which is part of both S^2 / k and B
    half    = sqrt(z^2 B + max(0, t^2 M - z^2 E) / k)     the half width of an interval; p is the alpha at which it equals |d|

With two or three seeds S^2 of one row is little known, so the rows of a table share reference: M is its mean over the rows, as E is. A row
whose S^2 is too large to be one of them (an F test at 5% against the others) keeps its own, as a single row does.
``benchmarks/interval_coverage.py`` measures how often such intervals hold a known truth.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gfl_lab.report.noise import LEVEL, Noise, half_width, image_variances, p_values, p_within, pool
from gfl_lab.report.quantiles import normal_quantile

Sampled = Sequence[tuple[np.ndarray, np.ndarray]]
"""(R,) a metric on the same bootstrap samples of the images, of (variant, baseline), one pair for each seed."""
FAINT = 0.05
"""AP points: what is below prints as 0.0. The spread of such numbers is no evidence on detectors that work."""
LARGEST = 100.0
"""AP points: no two detectors differ by more, neither in AP nor in what errors cost."""
SAME = 1e-9
"""AP points: numbers that are closer are equal but for rounding."""

NO_SIGNAL, NO_SPREAD, NO_RECORDS, ONE_SEED, NO_LOOK = "no signal", "no spread", "no records", "one seed", "no look yet"


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
        highest: the largest number of both in any trial; infinite where it is not known.
        why: why nothing can be concluded from these numbers; empty where something can.
        verdict: NO_SIGNAL, NO_SPREAD or NO_RECORDS beside ``why``, else empty.
    """

    mean: float
    seeds: int
    seed_variance: float | None = None
    image_variance: float | None = None
    residual: float | None = None
    images: int = 0
    highest: float = math.inf
    why: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class Groups:
    """How two arms whose trainings do not pair were compared (``report.unpaired``).

    Attributes:
        sizes: trainings of both. pairs: as many pairs would weigh the same, the harmonic mean of ``sizes``.
        rate: degrees of freedom that one more training of every arm adds.
    """

    sizes: tuple[int, int]
    pairs: float
    rate: float


@dataclass(frozen=True)
class Difference:
    """A variant minus the baseline, in AP points.

    Attributes:
        mean: over ``seeds`` pairs.
        half: half width of the interval, of 95% unless ``level`` says otherwise; None where there is none to give.
        p: two-sided, of no difference; below 0.05 where the interval leaves 0 out, and only there. None with ``half``.
        seed_variance: of one pair's difference, in this row alone; None with one pair.
        image_variance: of ``mean`` through the choice of images; None when it was not computed.
        seeds: number of pairs; without pairs, trainings of the smaller arm.
        residual: variance of one pair through the noise of single trials on single images, as the interval uses it.
        spread: variance of one pair's difference that the interval rests on: pooled over ``rows`` rows, or the row's own.
        freedom: degrees of freedom of ``spread``.
        rows: how many rows ``spread`` is pooled over; 1 where the row stands by itself.
        guarded: True where other rows were pooled and this one varies too much to be one of them.
        images: how many validation images there are, 0 where that is not known.
        highest: the largest number of both in any trial; infinite where it is not known.
        level: error that the interval may have by itself: 5%, or the part of it that belongs to one look (``report.looks``). ``p`` is
            enlarged by as much.
        verdict, why: of ``Paired``: where there is no interval, the reason. NO_LOOK before the first look that was fixed beforehand.
        groups: of arms whose trainings do not pair; else None. Then a pair is any training of one with any of the other.
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
    highest: float = math.inf
    level: float = 1 - LEVEL
    verdict: str = ""
    why: str = ""
    groups: Groups | None = None

    @property
    def pairs(self) -> float:
        """Number of pairs that the interval rests on; for arms without pairs, the number that would weigh the same."""
        return float(self.seeds) if self.groups is None else self.groups.pairs

    @property
    def low(self) -> float | None:
        """Lower end of the interval."""
        return None if self.half is None else self.mean - self.half

    @property
    def high(self) -> float | None:
        """Upper end of the interval."""
        return None if self.half is None else self.mean + self.half

    @property
    def ends(self) -> tuple[float, float] | None:
        """Ends of the interval for readers, cut where no difference can lie (``possible_ends``)."""
        return None if self.half is None else possible_ends(self.mean, self.half)

    @property
    def noise(self) -> Noise:
        """The noise that the interval rests on, of this row alone; there is one only where there is an interval."""
        return Noise(*(np.array(value, float) for value in (self.spread, self.freedom, self.residual, self.rows, self.guarded)))

    @property
    def image_half(self) -> float | None:
        """Half width of an interval over images only, for one seed."""
        return None if self.image_variance is None else float(normal_quantile(0.5 + LEVEL / 2)) * math.sqrt(self.image_variance)

    @property
    def lasting(self) -> float | None:
        """Part of ``image_variance`` that no number of seeds takes away; None where it is not known."""
        return None if self.image_variance is None else max(0.0, self.image_variance - self.residual / self.pairs)

    def reversed(self) -> Difference:
        """Return the baseline minus the variant."""
        groups = self.groups and dataclasses.replace(self.groups, sizes=self.groups.sizes[::-1])
        return dataclasses.replace(self, mean=-self.mean + 0.0, groups=groups)


def too_low(found: Difference, min_effect: float) -> str:
    """Return why equivalence within ``min_effect`` shows nothing: both are below it in every trial, so they cannot differ by more. Else empty."""
    return f"it is below the smallest effect that matters, {min_effect:g} AP, in every trial of both" if found.highest < min_effect else ""


def possible_ends(mean: float, half: float) -> tuple[float, float]:
    """Return the ends of an interval around ``mean``, cut at ±``LARGEST``: a true difference lies within, so it covers as often as before."""
    return max(mean - half, -LARGEST), min(mean + half, LARGEST)


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
    each = [value - reference for value, reference in pairs]
    if not each or not all(map(math.isfinite, each)):
        raise ValueError(f"a difference needs pairs of finite numbers, and these are {list(pairs)}")
    count = len(each)
    found = Paired(statistics.fmean(each), count, images=images, highest=max(map(max, pairs)))
    if samples is not None:
        of_mean, residual = image_variances(np.stack([value - reference for value, reference in samples]))
        if math.isfinite(of_mean):
            found = dataclasses.replace(found, image_variance=float(of_mean), residual=float(residual) if math.isfinite(residual) else None)
    if signal and all(abs(value) < FAINT for pair in pairs for value in pair):
        return dataclasses.replace(found, verdict=NO_SIGNAL, why="it is 0.0 in every trial of both")
    if all(abs(one) <= SAME for one in each) and not found.image_variance:
        return dataclasses.replace(found, verdict=NO_SIGNAL, why="both have the same numbers in every seed")
    if count < 2:
        return found
    if max(max(values) - min(values) for values in zip(*pairs, strict=True)) <= SAME:
        return dataclasses.replace(found, verdict=NO_SPREAD, why="every seed gave the same numbers, so they count as one")
    variance = statistics.variance(each)
    return dataclasses.replace(found, seed_variance=0.0 if variance <= SAME**2 else variance)


def judge(rows: Sequence[Paired], level: float = 1 - LEVEL) -> list[Difference]:
    """Return interval and p of rows that are compared with one baseline in one metric, before any correction of p for their number.

    The spread over seeds is pooled over the rows that have two seeds or more. A row with one seed gets no interval: nothing could show
    that it varies more than the others do.

    Args:
        level: error of each interval. p is enlarged by 5% / ``level``, so that it is below 5% just if the interval leaves 0 out.
    """
    if not rows:
        return []
    nan = float("nan")
    seeds = np.array([row.seeds for row in rows], float)
    variance = np.array([nan if row.seed_variance is None else row.seed_variance for row in rows], float)
    residual = np.array([nan if row.residual is None else row.residual for row in rows], float)
    images = np.array([row.image_variance or 0.0 for row in rows])
    noise = pool(seeds, variance, residual)
    half = half_width(level, seeds, images, noise)
    p = _enlarged(p_values(np.array([row.mean for row in rows]), seeds, images, noise, level), level)
    found = []
    for index, row in enumerate(rows):
        verdict, why = row.verdict, row.why
        if not verdict and row.seed_variance is not None and noise.variance[index] == 0:
            verdict, why = NO_SPREAD, "the difference is the same in every seed"
        elif row.seed_variance is None and not verdict:
            verdict = ONE_SEED
        plain = Difference(
            row.mean, None, None, row.seed_variance, row.image_variance, row.seeds, images=row.images, highest=row.highest, level=level,
            verdict=verdict, why=why,
        )  # fmt: skip
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


def p_equivalent(found: Difference, min_effect: float) -> float:
    """Return the p of a true difference of at least ``min_effect``, either way; below 0.05 just if the 95% interval lies inside of it.

    Args:
        min_effect: in AP points, above 0.

    Raises:
        ValueError: there is no interval.
    """
    if found.half is None:
        raise ValueError(f"the noise between seeds is not known: {found.why or found.verdict}")
    seeds, images = np.array(found.pairs), np.array(found.image_variance or 0.0)
    return float(_enlarged(p_within(np.array(found.mean), min_effect, seeds, images, found.noise, found.level), found.level))


def _enlarged(p: np.ndarray, level: float) -> np.ndarray:
    """Return p-values that are tested at ``level`` as ones that are tested at 5%: one is below just if the other is."""
    error = 1 - LEVEL
    if level == error:
        return p
    scaled = np.minimum(1.0, p * (error / level))
    return np.where(p < level, np.minimum(scaled, np.nextafter(error, 0)), np.maximum(scaled, error))


def difference(pairs: Sequence[tuple[float, float]], samples: Sampled | None = None, images: int = 0) -> Difference:
    """Return ``judge`` of one row alone: the difference of (variant, baseline) pairs. Arguments as of ``paired``."""
    return judge([paired(pairs, samples, images)])[0]


def image_variance(pairs: Sampled) -> float:
    """Return the variance over the choice of images of the mean difference of (variant, baseline) pairs, one for each seed: B."""
    return float(image_variances(np.stack([value - reference for value, reference in pairs]))[0])


def holm(p_values: Mapping[str, float], rows: int | None = None) -> dict[str, float]:
    """Return Holm's correction (1979) of the p-values of rows that are compared with one baseline.

    Args:
        rows: how many there are, if not all of them have a p-value yet.
    """
    corrected: dict[str, float] = {}
    highest, count = 0.0, len(p_values) if rows is None else rows
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, p * (count - rank)))
        corrected[name] = highest
    return {name: corrected[name] for name in p_values}
