"""Does training still improve its variants at the end? The trend of AP over the last epochs against its noise, and losses that diverged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from gfl_lab.errors import FailureKind
from gfl_lab.report.answer import MOST_FIGURES, Answer, agrees, names_of
from gfl_lab.report.curves import Curve, curves
from gfl_lab.report.formatting import decimal
from gfl_lab.report.noise import LEVEL, pool
from gfl_lab.report.statistics import FAINT
from gfl_lab.results.rows import ExperimentRow, Logged, TrialRow, TrialState
from gfl_lab.wording import first_of, plural

LAST_SHARE = 4
"""The trend is that of the last quarter of the epochs,"""
LEAST_EPOCHS = 3
"""and of at least three: through two points there is always a line."""
LEAST_STEPS = 10
"""Steps of an epoch from which a risen loss is told: with few, the median of one epoch lies above all of another by chance."""
CORRELATION = 0.5
"""Assumed correlation of consecutive epochs' deviations from a line, where one seed alone shows the noise. Too few epochs to estimate it.
``benchmarks/trend_errors.py`` measures how often flat curves get a trend."""
RISES, FALLS, LEVEL_WITHIN_NOISE, SILENT = "rises", "falls", "level", "silent"
_SEARCH = "search"


@dataclass(frozen=True)
class Trend:
    """The trend of a variant's AP over its last epochs.

    Attributes:
        first, last: epochs that it rests on, from 1. seeds: number of curves.
        slope: AP points an epoch, mean over seeds. half: half width of its 95% interval; NaN where no noise can be estimated.
        highest: largest AP of any seed in these epochs.
    """

    variant: str
    first: int
    last: int
    seeds: int
    slope: float
    half: float
    highest: float

    @property
    def direction(self) -> str:
        """``rises`` or ``falls`` where the interval leaves 0 out and the change can be seen; ``silent`` at AP 0.0; else ``level``."""
        if self.highest < FAINT:
            return SILENT
        if abs(self.slope) * (self.last - self.first) < FAINT or not abs(self.slope) > self.half:
            return LEVEL_WITHIN_NOISE
        return RISES if self.slope > 0 else FALLS


@dataclass(frozen=True)
class _Slopes:
    """A variant's trend, with the variance of one seed's slope and its degrees of freedom."""

    trend: Trend
    variance: float
    freedom: float


def trends(found: Iterable[Curve]) -> tuple[Trend, ...]:
    """Return the trend of each curve of AP by epoch; of those with ``LEAST_EPOCHS`` that all seeds have.

    The slope is that of a line through the last epochs, by least squares. Its noise is the spread of the slopes over the seeds; with one
    seed, the scatter of the epochs about the line, enlarged by ``correlated``. Variants of the same number of seeds, one or several, and of epochs pool it
    (``noise.pool``). Variants at AP 0.0 have no noise to share.
    """
    parts = [part for part in map(_slopes, found) if part is not None]
    groups: dict[tuple[bool, int], list[_Slopes]] = {}
    for part in parts:
        groups.setdefault((part.trend.seeds == 1, part.trend.last - part.trend.first), []).append(part)
    result: dict[str, Trend] = {}
    for group in groups.values():
        variance = np.array([math.nan if part.trend.direction == SILENT else part.variance for part in group])
        noise = pool(np.array([part.freedom + 1 for part in group]), variance, np.zeros(len(group)))
        for part, of_slope, freedom in zip(group, noise.variance, noise.freedom, strict=True):
            t = -float(special.stdtrit(freedom, (1 - LEVEL) / 2)) if freedom > 0 else math.nan
            result[part.trend.variant] = replace(part.trend, half=t * math.sqrt(of_slope / part.trend.seeds))
    return tuple(result[part.trend.variant] for part in parts)


def _slopes(curve: Curve) -> _Slopes | None:
    rows = [line.y[np.searchsorted(line.x, curve.x)] for line in curve.lines]
    known = np.isfinite(rows).all(0) if rows else np.zeros(0, bool)
    epochs = curve.x[known]
    if len(epochs) < LEAST_EPOCHS:
        return None
    count = max(LEAST_EPOCHS, math.ceil(len(epochs) / LAST_SHARE))
    x, y = epochs[-count:] - epochs[-count:].mean(), np.stack(rows)[:, known][:, -count:]
    each = y @ x / (x @ x)
    seeds = len(each)
    if seeds > 1:
        variance, freedom = float(each.var(ddof=1)), float(seeds - 1)
    else:
        scatter = y - y.mean(1, keepdims=True) - each[:, None] * x
        factor, freedom = correlated(count)
        variance = factor * float((scatter**2).sum() / (count - 2) / (x @ x))
    trend = Trend(curve.variant, int(epochs[-count]), int(epochs[-1]), seeds, float(each.mean()), math.nan, float(y.max()))
    return _Slopes(trend, variance, freedom)


def correlated(count: int, correlation: float = CORRELATION) -> tuple[float, float]:
    """Return by how much the variance of a line's slope exceeds what the scatter about the line says, and the scatter's degrees of freedom.

    Deviations are a Gaussian autoregression of order 1. The first number is that of the expected values, the second Satterthwaite's.

    Args:
        count: epochs, 3 or more. correlation: of consecutive epochs, 0 (then they are 1 and ``count`` - 2) to below 1.
    """
    x = np.arange(count) - (count - 1) / 2
    covariance = correlation ** np.abs(np.subtract.outer(x, x))
    about_line = (np.eye(count) - 1 / count - np.outer(x, x) / (x @ x)) @ covariance
    scatter = float(np.trace(about_line))
    factor = float(x @ covariance @ x / (x @ x)) / (scatter / (count - 2))
    return factor, scatter**2 / float(np.trace(about_line @ about_line))


@dataclass(frozen=True)
class RisenLoss:
    """The loss of a trial whose median in its last epoch, ``last``, lies above its largest value in its first epoch, ``first``."""

    variant: str
    seed: int
    first: float
    last: float


def risen_losses(logged: Iterable[Logged]) -> tuple[tuple[RisenLoss, ...], bool]:
    """Return the trials whose loss has risen, and whether all trials could be told.

    A trial is told by two epochs of ``LEAST_STEPS`` finite values.
    """
    found, are_told = [], True
    for one in logged:
        is_finite = np.isfinite(one.value)
        epoch, value = one.epoch[is_finite], one.value[is_finite]
        ends = [value[epoch == at] for at in (epoch.min(), epoch.max())] if len(epoch) and epoch.max() > epoch.min() else []
        if not ends or min(map(len, ends)) < LEAST_STEPS:
            are_told = False
            continue
        first, last = float(ends[0].max()), float(np.median(ends[1]))
        if last > first:
            found.append(RisenLoss(one.variant, one.seed, first, last))
    return tuple(found), are_told


def curve_answer(experiment: ExperimentRow, logged: Mapping[tuple[str, str], Sequence[Logged]]) -> Answer:
    """Return which variants still improve at the end of training, which are level within noise, and which losses diverged.

    Args:
        logged: as ``results.Store.logged`` returns it.
    """
    done = {trial.id for trial in experiment.trials if trial.state is TrialState.DONE}
    found = trends(curves([one for one in logged.get(("val", "AP"), ()) if one.trial in done], "val"))
    sentences = [
        *_trend_sentences(found, experiment.kind == _SEARCH),
        *_open(experiment, done, found),
        *_losses(experiment, logged.get(("train", "loss"), ())),
    ]
    return Answer(" ".join(sentences), _reason(found, experiment.kind == _SEARCH))


def _trend_sentences(found: Sequence[Trend], is_search: bool) -> list[str]:
    """Return where AP rises, falls, is level and stays at 0.0; trials of a search are counted, since their names are long."""
    names = {way: [each.variant for each in found if each.direction == way] for way in (RISES, FALLS, LEVEL_WITHIN_NOISE, SILENT)}

    def of(way: str) -> str:
        return f"{len(names[way])} of {plural(len(found), 'trial')}" if is_search else names_of(names[way], len(found))

    sentences = []
    if names[RISES]:
        sentences.append(f"AP still rises at the end of training in {of(RISES)}.")
    if names[FALLS]:
        sentences.append(f"AP falls at the end of training in {of(FALLS)}.")
    if names[LEVEL_WITHIN_NOISE]:
        at_end = "" if names[RISES] or names[FALLS] else " at the end of training"
        sentences.append(f"AP is level within noise{at_end} in {of(LEVEL_WITHIN_NOISE)}.")
    if names[SILENT]:
        sentences.append(f"AP stays at 0.0 in {of(SILENT)}.")
    return sentences


def _open(experiment: ExperimentRow, done: set[str], found: Sequence[Trend]) -> list[str]:
    """Return sentences on trials that have no end yet, or too few epochs for a trend."""
    sentences = []
    open_ = [each for each in experiment.trials if each.state not in (TrialState.DONE, TrialState.FAILED)]
    if not done:
        sentences.append("No trial has finished, so no curve has its end yet.")
    elif open_:
        sentences.append(f"{plural(len(open_), 'unfinished trial')} {agrees(len(open_), 'is', 'are')} left out.")
    known = {each.variant for each in found}
    short = [each.name for each in experiment.variants if each.done and each.name not in known]
    if short:
        sentences.append(f"No trend with fewer than {LEAST_EPOCHS} evaluated epochs: {names_of(short, len(experiment.variants))}.")
    return sentences


def _losses(experiment: ExperimentRow, losses: Sequence[Logged]) -> list[str]:
    """Return sentences on losses that became NaN or infinite or have risen, and on other failures."""
    failed = [(variant.name, trial) for variant in experiment.variants for trial in variant.trials if trial.failure is not None]
    broken = [(name, trial) for name, trial in failed if trial.failure and trial.failure.kind == FailureKind.NON_FINITE_LOSS]
    others = [(name, trial) for name, trial in failed if trial.failure and trial.failure.kind != FailureKind.NON_FINITE_LOSS]
    risen, are_told = risen_losses(losses)
    is_search = experiment.kind == _SEARCH
    sentences = []
    if broken:
        sentences.append(
            f"The loss became NaN or infinite in {plural(len(broken), 'trial') if is_search else first_of([_trial(*each) for each in broken], 2, '; ')}."
        )
    if risen:
        words = [
            f"{each.variant}, seed {each.seed} (at most {each.first:.2g} in its first epoch, median {each.last:.2g} in its last)"
            for each in risen
        ]
        sentences.append(f"The loss rose in {plural(len(risen), 'trial') if is_search else first_of(words, 2, '; ')}.")
    if others:
        count = len(others)
        names = "" if is_search else f": {first_of([_trial(*each) for each in others], 2, '; ')}"
        sentences.append(f"{plural(count, 'trial')} failed for another reason{names}.")
    if losses and not (broken or risen):
        sentences.append("No loss diverged." if are_told else "No loss became NaN or infinite.")
    return sentences


def _trial(variant: str, trial: TrialRow) -> str:
    at = f" (step {trial.failure.step})" if trial.failure and trial.failure.step else ""
    return f"{variant}, seed {trial.seed}{at}"


def _reason(found: Sequence[Trend], is_search: bool) -> str:
    shown = [each for each in found if math.isfinite(each.half) and each.direction != SILENT]
    if not shown:
        return ""
    spans = {(each.first, each.last) for each in shown}
    over = f"epochs {shown[0].first} to {shown[0].last}" if len(spans) == 1 else "the last quarter of the epochs"
    figures = [
        f"{each.variant} {decimal(each.slope, signed=True)} ({decimal(each.slope - each.half, signed=True)} to "
        f"{decimal(each.slope + each.half, signed=True)})"
        for each in shown
    ]
    by_variant = f"with 95% intervals: {first_of(figures, MOST_FIGURES)}"
    if is_search:
        slopes = [each.slope for each in shown]
        low, high = (decimal(end(slopes), signed=True) for end in (min, max))
        by_variant = f"from {low} to {high} among the trials, each judged by its 95% interval"
    noise = []
    if any(each.seeds > 1 for each in shown):
        noise.append("the spread of the slopes over seeds")
    if any(each.seeds == 1 for each in shown):
        noise.append(
            f"with one seed, the scatter of the epochs about a line, as though consecutive epochs correlate by {CORRELATION:g}; it shows "
            "nothing of other seeds"
        )
    return (
        f"AP points an epoch over {over}, {by_variant}. "
        f"Noise: {'; '.join(noise)}. Level within noise: the interval holds 0, which does not show that the curve is flat."
    )
