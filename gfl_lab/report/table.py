"""The AP table of an experiment, as numbers: mean and spread over seeds, paired differences, published rows, footnotes.

Pure functions of ``results.rows``; ``report.table_grid`` lays them out and ``report.writers`` write them. AP is 0 to 100.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gfl_lab import naming
from gfl_lab.report.comparison import Comparison, Lookup, by_seed, compare
from gfl_lab.report.explanations import explain
from gfl_lab.report.fairness import UNFAIR, unfair, unfair_rows
from gfl_lab.report.footnotes import footnotes
from gfl_lab.report.look_notes import look_notes
from gfl_lab.report.table_rows import Stat, TableRow, delta_of, stat
from gfl_lab.results.rows import Design, ExperimentRow, Extension, VariantRow
from gfl_lab.rundir import TrialState


@dataclass(frozen=True)
class Table:
    """The table of one experiment under one profile.

    Attributes:
        columns: metrics that people are shown: those of the experiment's ``table:``, then scores against ground-truth edges and
            metrics that ``naming.METRICS`` does not have, where some trial has them.
        all_metrics: every metric that some trial has; JSON and CSV hold them all.
        published: the columns that some published row has a value for.
        design: looks that were fixed beforehand. extensions: what was added when verdicts could be read already.
    """

    experiment: str
    profile: str
    question: str
    data: str
    columns: tuple[str, ...]
    all_metrics: tuple[str, ...]
    published: tuple[str, ...]
    axes: tuple[str, ...]
    rows: tuple[TableRow, ...]
    comparisons: tuple[Comparison, ...] = ()
    footnotes: tuple[str, ...] = ()
    design: Design | None = None
    extensions: tuple[Extension, ...] = ()

    @property
    def baseline(self) -> TableRow | None:
        """The row that the others are compared with."""
        return next((row for row in self.rows if row.baseline), None)

    @property
    def compared(self) -> tuple[Comparison, ...]:
        """The comparisons that people are shown: those in AP."""
        return tuple(each for each in self.comparisons if each.metric == "AP")

    @property
    def comparable(self) -> bool:
        """True if every published row shown may be compared with ours."""
        return all(row.reference.comparable for row in self.rows if row.reference)

    @property
    def counts(self) -> dict[str, int]:
        """Number of distinct trials by state, over all rows."""
        states = {trial.id: trial.state for row in self.rows for trial in row.trials}
        counted = {state.value: sum(found is state for found in states.values()) for state in TrialState}
        return {state: n for state, n in counted.items() if n}


def build_table(experiment: ExperimentRow, resampled: Lookup | None = None, min_effect: float | None = None) -> Table:
    """Return the table of ``experiment`` as it stands now, also while trials run and with none finished.

    Args:
        resampled: gives trials' AP on bootstrap samples of the images; without it intervals rest on seeds alone. A row without the
            samples of all its trials has no interval, with a note.
        min_effect: AP points, the smallest difference that matters; None for the experiment's own.
    """
    recorded = _recorded(experiment)
    columns = list(dict.fromkeys(experiment.metrics)) or ["AP"]
    columns += [key for key in recorded if key not in columns and (key in naming.TRUTH_METRICS or key not in naming.METRICS)]
    every = tuple(_metric_order({*columns, *recorded}))
    problems = unfair(experiment)
    unfair_names = unfair_rows(experiment) if problems else set()
    rows = tuple(_row(experiment, variant, every, variant.name in unfair_names) for variant in experiment.variants)

    references = [row.reference for row in rows if row.reference]
    published = tuple(key for key in columns if any(key in reference.metrics for reference in references))
    comparisons = compare(experiment, resampled, min_effect)
    shown = tuple(each for each in comparisons if each.metric == "AP")
    return Table(
        experiment=experiment.name,
        profile=experiment.profile,
        question=experiment.question,
        data=experiment.data.text,
        columns=tuple(columns),
        all_metrics=every,
        published=published,
        axes=_common_axes([row.axes for row in rows]),
        rows=rows,
        comparisons=comparisons,
        footnotes=(
            *(f"{UNFAIR} Unfair: {problem}." for problem in problems),
            *footnotes(rows, columns, published, experiment.baseline),
            *explain(shown),
            *experiment.notes,
            *look_notes(experiment, shown),
        ),
        design=experiment.design,
        extensions=experiment.extensions,
    )


def _row(experiment: ExperimentRow, variant: VariantRow, keys: Iterable[str], is_unfair: bool) -> TableRow:
    baseline = experiment.baseline
    metrics = {key: found for key in keys if (found := _stat(variant, key))}
    delta = {}
    if baseline is not None and not variant.baseline:
        delta = {key: found for key in keys if (found := delta_of(experiment, variant, baseline, key))}
    return TableRow(variant.name, dict(variant.axes), variant.baseline, metrics, delta, variant.reference, variant.trials, is_unfair)


def _stat(variant: VariantRow, metric: str) -> Stat | None:
    return stat(value for value, _ in by_seed(variant, metric).values())


def _recorded(experiment: ExperimentRow) -> list[str]:
    """Return the metrics that finished trials have a finite value of."""
    done = [trial for trial in experiment.trials if trial.state is TrialState.DONE]
    return _metric_order({key for trial in done for key, value in trial.metrics.items() if math.isfinite(value)})


def _metric_order(keys: set[str]) -> list[str]:
    """Return known metrics in the order of ``naming.METRICS``, then the others by name."""
    return [key for key in naming.METRICS if key in keys] + sorted(keys - naming.METRICS.keys())


def _common_axes(axes: list[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the axes, if all variants have the same ones."""
    return tuple(axes[0]) if axes and all(set(each) == set(axes[0]) for each in axes) else ()
