"""Every variant against the baseline: what ``report.statistics`` says of an experiment's finished trials."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from gfl_lab.cocoap import RESAMPLED
from gfl_lab.report.statistics import LEVEL, Difference, detectable, difference, holm, image_variance, seeds_needed
from gfl_lab.results.rows import ExperimentRow, Resampled, TrialRow, VariantRow

SMALLEST = 0.3
"""AP points: the difference for which the seeds needed are told, if no other is asked for. Papers of this family claim about as much."""

Lookup = Callable[[str], Resampled | None]
"""A trial's AP on bootstrap samples of its images, by the trial's id."""


@dataclass(frozen=True)
class Comparison:
    """A variant minus the baseline in one metric.

    Attributes:
        found: mean, interval and p before correction.
        p: after Holm's correction over all rows of this metric; None with one seed.
        rows: how many rows p is corrected for.
        detectable: the smallest true difference that so many seeds would tell from none; None with one seed.
        smallest: a difference in AP points; needed: seeds that would tell it from none; None where none would do, or with one seed.
    """

    variant: str
    metric: str
    found: Difference
    p: float | None
    rows: int
    detectable: float | None
    needed: int | None
    smallest: float

    @property
    def verdict(self) -> str:
        """``better``, ``worse``, ``not resolved`` at 5% after correction; ``one seed`` where nothing can be said."""
        if self.p is None:
            return "one seed"
        if self.p >= 1 - LEVEL:
            return "not resolved"
        return "better" if self.found.mean > 0 else "worse"


def by_seed(variant: VariantRow, metric: str) -> dict[int, tuple[float, TrialRow]]:
    """The finite values of ``metric`` over finished trials, with their trials; of two trials with one seed the last counts."""
    values = {trial.seed: (trial.metrics.get(metric), trial) for trial in variant.done}
    return {seed: (float(value), trial) for seed, (value, trial) in values.items() if value is not None and math.isfinite(value)}


def shared(ours: VariantRow, theirs: VariantRow, metric: str = "AP") -> dict[int, tuple[tuple[float, TrialRow], tuple[float, TrialRow]]]:
    """What ``by_seed`` has of both, by the seeds that both have finished, in order."""
    first, second = by_seed(ours, metric), by_seed(theirs, metric)
    return {seed: (first[seed], second[seed]) for seed in sorted(first.keys() & second.keys())}


def compare(experiment: ExperimentRow, resampled: Lookup | None = None, smallest: float = SMALLEST) -> tuple[Comparison, ...]:
    """Each variant that shares a finished seed with the baseline, in AP, AP50 and AP75.

    Args:
        resampled: where it is not given, or does not know all trials of a row, that row's interval knows of seeds alone.
        smallest: AP points, the difference for which the seeds needed are told.
    """
    comparisons = []
    for metric in RESAMPLED:
        rows = list(_differences(experiment, metric, resampled))
        tested = {name: found.p for name, found, _ in rows if found.p is not None}
        corrected = holm(tested)
        for name, found, images in rows:
            needed = None if found.seed_variance is None else seeds_needed(found, smallest, images)
            comparisons.append(
                Comparison(name, metric, found, corrected.get(name), len(tested), detectable(found, images), needed, smallest)
            )
    return tuple(comparisons)


def _differences(experiment: ExperimentRow, metric: str, resampled: Lookup | None) -> Iterator[tuple[str, Difference, int]]:
    baseline = experiment.baseline
    if baseline is None:
        return
    for variant in experiment.variants:
        pairs = shared(variant, baseline, metric).values()
        if variant.baseline or not pairs:
            continue
        found = _samples([(ours[1], theirs[1]) for ours, theirs in pairs], metric, resampled)
        variance, images = found or (None, 0)
        yield variant.name, difference([(ours[0], theirs[0]) for ours, theirs in pairs], variance, images), images


def _samples(pairs: list[tuple[TrialRow, TrialRow]], metric: str, resampled: Lookup | None) -> tuple[float, int] | None:
    """(variance through the choice of images, number of images); None where it is not known for every trial."""
    if resampled is None:
        return None
    arrays: list[tuple[np.ndarray, np.ndarray]] = []
    sizes = set()
    for pair in pairs:
        known = [resampled(trial.id) for trial in pair]
        if None in known:
            return None
        sizes |= {(one.images, len(one.values[metric])) for one in known}
        arrays.append((known[0].values[metric], known[1].values[metric]))
    if len(sizes) != 1 or next(iter(sizes))[0] < 2:
        return None
    variance = image_variance(arrays)
    return (variance, next(iter(sizes))[0]) if math.isfinite(variance) else None


def explain(comparisons: tuple[Comparison, ...]) -> list[str]:
    """What a reader must know to read the comparisons of one metric."""
    if not comparisons:
        return []
    told = []
    tested = [each for each in comparisons if each.p is not None]
    if tested:
        rows, smallest = tested[0].rows, f"{tested[0].smallest:g}"
        several = f", corrected by Holm's method for {rows} rows" if rows > 1 else ""
        told.append(
            f"The 95% interval is of the mean difference, over other seeds and other validation images; p is two-sided{several}. "
            f'"resolves" is the smallest true difference that these seeds tell from none 8 times in 10, and "{smallest} needs" how many '
            f"seeds would do so for {smallest} AP."
        )
        if blind := [each.variant for each in tested if each.found.image_variance is None]:
            told.append(f"The interval knows of seeds alone for {', '.join(blind)}: the evaluation records of a trial are missing.")
    if len(tested) < len(comparisons):
        images = any(each.found.image_half is not None for each in comparisons if each.p is None)
        told.append(
            "With one seed there is no interval"
            + (
                ": ± is what the choice of validation images alone makes uncertain; other seeds add what cannot be known."
                if images
                else "."
            )
        )
    return told
