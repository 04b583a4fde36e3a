"""Rows of the AP table as numbers: means and spreads over seeds, paired differences. AP is 0 to 100."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gfl_lab.report.comparison import by_seed, shared
from gfl_lab.results.rows import ExperimentRow, Reference, TrialRow, VariantRow
from gfl_lab.rundir import TrialState


@dataclass(frozen=True)
class Stat:
    """Mean of ``n`` >= 1 values and their sample standard deviation (n-1 in the denominator); None for one value."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True)
class Delta(Stat):
    """Difference, variant minus baseline: paired, with ``n`` = number of ``seeds`` that both have finished.

    Of imported arms it is the difference of their means, without ``seeds``; ``n`` is the number of trainings of the smaller arm, ``std`` the
    standard deviation of the difference of any two trainings, one of each.
    """

    seeds: tuple[int, ...]


@dataclass(frozen=True)
class TableRow:
    """One variant. ``delta`` is empty for the baseline and where no seed is shared with it; ``unfair`` when its settings differ from
    the baseline's beyond the declared axes.
    """

    variant: str
    axes: Mapping[str, Any]
    baseline: bool
    metrics: Mapping[str, Stat]
    delta: Mapping[str, Delta]
    reference: Reference | None
    trials: tuple[TrialRow, ...]
    unfair: bool = False

    @property
    def counts(self) -> dict[str, int]:
        """Number of trials by state, in the order of ``TrialState``; states that do not occur are left out."""
        counted = {state.value: sum(trial.state is state for trial in self.trials) for state in TrialState}
        return {state: n for state, n in counted.items() if n}


def stat(values: Iterable[float]) -> Stat | None:
    """Return mean, sample standard deviation and number of the finite ``values``; None when there are none."""
    finite = [float(value) for value in values if math.isfinite(value)]
    if not finite:
        return None
    return Stat(statistics.fmean(finite), statistics.stdev(finite) if len(finite) > 1 else None, len(finite))


def paired_delta(variant: VariantRow, baseline: VariantRow, metric: str) -> Delta | None:
    """Return the mean over the seeds that both have finished of (variant - baseline); None when they share none.

    Pairing removes what a seed does to both alike (initial weights of shared layers, order of images).
    """
    pairs = shared(variant, baseline, metric)
    found = stat(value - other for (value, _), (other, _) in pairs.values())
    return None if found is None else Delta(found.mean, found.std, found.n, tuple(pairs))


def delta_of(experiment: ExperimentRow, variant: VariantRow, baseline: VariantRow, metric: str) -> Delta | None:
    """Return the difference of two variants in a metric: paired by seed, or of the means of imported arms; None where there is none."""
    if not experiment.is_imported:
        return paired_delta(variant, baseline, metric)
    one, other = (stat(value for value, _ in by_seed(each, metric).values()) for each in (variant, baseline))
    if one is None or other is None:
        return None
    std = None if one.std is None or other.std is None else math.hypot(one.std, other.std)
    return Delta(one.mean - other.mean, std, min(one.n, other.n), ())
