"""The AP table of an experiment, as numbers: mean and spread over seeds, paired differences, published rows, footnotes.

Pure functions of ``results.rows``; ``report.export`` writes what they return. AP is 0 to 100.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gfl_lab import naming
from gfl_lab.report.comparison import SMALLEST, Comparison, Lookup, by_seed, compare, explain, shared
from gfl_lab.report.statistics import FAINT
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
    """Paired difference, variant minus baseline: ``n`` = number of ``seeds`` that both have finished."""

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


@dataclass(frozen=True)
class Table:
    """The table of one experiment under one profile.

    ``columns`` are the metrics that people are shown: those of the experiment's ``table:``, then the scores against known
    edges where there are any. ``all_metrics`` are all that some row has; JSON and CSV hold them all. ``published`` are
    the columns that some published row has a value for.
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
    footnotes: tuple[str, ...] = field(default=())

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
        """Whether every published row shown may be compared with ours."""
        return all(row.reference.comparable for row in self.rows if row.reference)

    @property
    def counts(self) -> dict[str, int]:
        """Number of distinct trials by state, over all rows."""
        states = {trial.id: trial.state for row in self.rows for trial in row.trials}
        counted = {state.value: sum(found is state for found in states.values()) for state in TrialState}
        return {state: n for state, n in counted.items() if n}


def stat(values: Iterable[float]) -> Stat | None:
    """Mean, sample standard deviation and number of the finite ``values``; None when there are none."""
    finite = [float(value) for value in values if math.isfinite(value)]
    if not finite:
        return None
    return Stat(statistics.fmean(finite), statistics.stdev(finite) if len(finite) > 1 else None, len(finite))


def paired_delta(variant: VariantRow, baseline: VariantRow, metric: str) -> Delta | None:
    """Mean over the seeds that both have finished of (variant - baseline); None when they share none.

    Pairing removes what a seed does to both alike (initial weights of shared layers, order of images).
    """
    pairs = shared(variant, baseline, metric)
    found = stat(ours - theirs for (ours, _), (theirs, _) in pairs.values())
    return None if found is None else Delta(found.mean, found.std, found.n, tuple(pairs))


def _metric_order(keys: Iterable[str]) -> list[str]:
    """Known metrics in the order of ``naming.METRICS``, then the others by name."""
    found = set(keys)
    return [key for key in naming.METRICS if key in found] + sorted(found - naming.METRICS.keys())


def build_table(experiment: ExperimentRow, resampled: Lookup | None = None, smallest: float = SMALLEST) -> Table:
    """The table of ``experiment`` as it stands now: works while trials run, and with none finished.

    Args:
        resampled: gives trials' AP on bootstrap samples of the images; without it intervals rest on seeds alone. A row without the
            samples of all its trials has no interval, and says so.
        smallest: AP points, the difference for which the seeds needed are told.
    """
    existing = _metric_order(
        key for trial in experiment.trials if trial.state is TrialState.DONE for key, value in trial.metrics.items() if math.isfinite(value)
    )
    columns = list(dict.fromkeys(experiment.metrics)) or ["AP"]
    columns += [key for key in naming.TRUTH_METRICS if key in existing and key not in columns]
    kept = (*naming.AP_METRICS, "fps", "latency_ms", *naming.TRUTH_METRICS)
    wanted = _metric_order({*columns, *(key for key in kept if key in existing)})

    baseline = experiment.baseline
    problems = unfair(experiment)
    odd = unfair_rows(experiment) if problems else set()
    rows = []
    for variant in experiment.variants:
        metrics = {key: found for key in wanted if (found := stat(value for value, _ in by_seed(variant, key).values()))}
        delta = {}
        if baseline is not None and not variant.baseline:
            delta = {key: found for key in wanted if (found := paired_delta(variant, baseline, key))}
        rows.append(
            TableRow(
                variant.name, dict(variant.axes), variant.baseline, metrics, delta, variant.reference, variant.trials, variant.name in odd
            )
        )

    references = [row.reference for row in rows if row.reference]
    published = tuple(key for key in columns if any(key in reference.metrics for reference in references))
    keys = [tuple(row.axes) for row in rows]
    data = experiment.data
    described = f"{data.name}: {data.train_images} training and {data.val_images} validation images, {_classes(len(data.classes))}"
    comparisons = compare(experiment, resampled, smallest)
    shown = tuple(each for each in comparisons if each.metric == "AP")
    return Table(
        experiment=experiment.name,
        profile=experiment.profile,
        question=experiment.question,
        data=described,
        columns=tuple(columns),
        all_metrics=tuple(wanted),
        published=published,
        axes=keys[0] if keys and all(set(found) == set(keys[0]) for found in keys) else (),
        rows=tuple(rows),
        comparisons=comparisons,
        footnotes=(
            *(f"{UNFAIR} Unfair: {problem}." for problem in problems),
            *_footnotes(rows, columns, published, baseline),
            *explain(shown),
        ),
    )


def _classes(n: int) -> str:
    return "1 class" if n == 1 else f"{n} classes"


def _join(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def _footnotes(rows: list[TableRow], columns: Sequence[str], published: tuple[str, ...], baseline: VariantRow | None) -> list[str]:
    """What a reader must know to read the numbers: once each, plain text."""
    notes = []
    sizes = {found.n for row in rows for found in row.metrics.values()}
    if any(n > 1 for n in sizes):
        notes.append("± is the sample standard deviation over seeds.")
    if 1 in sizes:
        single = [row.variant for row in rows if any(found.n == 1 for found in row.metrics.values())]
        where = "" if len(single) == len([row for row in rows if row.metrics]) else f" ({', '.join(single)})"
        notes.append(f"One seed{where}: no spread can be given, so a difference may be chance.")
    if baseline is not None and any(row.delta for row in rows):
        notes.append(f"Signed numbers are differences to the baseline ({baseline.name}), paired over the seeds that both have finished.")
    if baseline is not None:
        unpaired = [row.variant for row in rows if not row.baseline and row.metrics and not row.delta]
        if unpaired:
            shared = f"no finished seed is shared with the baseline ({baseline.name})"
            notes.append(f"No difference can be given for {_join(unpaired)}: {shared}.")
    for row in rows:
        done = row.counts.get(TrialState.DONE.value, 0)
        if done < len(row.trials):
            rest = ", ".join(f"{n} {state}" for state, n in row.counts.items() if state != TrialState.DONE.value)
            notes.append(f"Incomplete: {row.variant} has {done} of {len(row.trials)} trials done ({rest}).")
    notes += _undefined(rows, columns)
    notes += _failures(rows)
    for row in rows:
        for trial in row.trials:
            if trial.parts > 1:
                notes.append(
                    f"{row.variant}, seed {trial.seed} (trial {trial.id}) ran out of memory: from step {trial.parts_since + 1} on its "
                    f"batches were done in {trial.parts} parts, so its numbers are not quite those of whole batches."
                )
    notes += _published(rows, published)
    devices = sorted({trial.device for row in rows for trial in row.trials if trial.device and trial.state is TrialState.DONE})
    if len(devices) > 1:
        notes.append(f"fps was measured on different devices ({', '.join(devices)}): do not compare it between rows.")
    return notes


def _undefined(rows: list[TableRow], columns: Sequence[str]) -> list[str]:
    """AP columns in which finished trials have no number, and rows whose AP is 0 throughout."""
    notes = []
    done = [row for row in rows if row.counts.get(TrialState.DONE.value)]
    for key in columns:
        if key in naming.AP_METRICS and (missing := [row.variant for row in done if key not in row.metrics]):
            where = "" if len(missing) == len(done) else f" for {_join(missing)}"
            kind = "no box of that size" if key in ("AP_S", "AP_M", "AP_L") else "no box"
            notes.append(
                f"No {naming.METRICS[key].title}{where}: it is undefined in every finished trial. Validation has {kind}, or the evaluation gave no number."
            )
    ends = {row.variant: [trial.metrics.get("AP") for trial in row.trials if trial.state is TrialState.DONE] for row in done}
    if silent := [name for name, values in ends.items() if all(value is not None and abs(value) < FAINT for value in values)]:
        notes.append(f"AP is 0.0 in every trial of {_join(silent)}: nothing was learned, or no detection lies on a box.")
    return notes


def _failures(rows: list[TableRow]) -> list[str]:
    notes = []
    for row in rows:
        for trial in row.trials:
            if trial.state is TrialState.FAILED:
                why = f"{trial.failure.kind}: {trial.failure.reason}" if trial.failure else "no reason recorded"
                notes.append(f"Failed: {row.variant}, seed {trial.seed} (trial {trial.id}): {' '.join(why.split())}")
    return notes


def _published(rows: list[TableRow], published: tuple[str, ...]) -> list[str]:
    """One sentence for each (source, split, reason), however many rows share it."""
    if not published:
        return []
    grouped: dict[tuple[str, str, bool, str], list[str]] = {}
    for row in rows:
        if row.reference:
            key = (row.reference.source, row.reference.split, row.reference.comparable, row.reference.why_not)
            grouped.setdefault(key, []).append(row.variant)
    notes = []
    for (source, split, comparable, why_not), variants in grouped.items():
        which = "" if len(grouped) == 1 else f" for {_join(variants)}"
        verdict = "comparable" if comparable else "not comparable" + (f" ({why_not})" if why_not else "")
        notes.append(f"Published values{which}: {source}{f', {split}' if split else ''}; {verdict}.")
    return notes


def _number(value: float | None) -> float | None:
    """Rounded to 6 decimals: far below any noise, and 0.1 + 0.2 does not print as 0.30000000000000004."""
    return round(value, 6) + 0.0 if value is not None and math.isfinite(value) else None


def _plain(value: Any) -> Any:
    """``value`` for JSON: tuples as lists, numbers that JSON does not know as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return value


def table_json(table: Table) -> dict[str, Any]:
    """The table as ``gfl-lab table --json`` prints it (docs/tables.md). Holds no NaN: what is unknown is null or absent."""
    rows = []
    compared = {(each.variant, each.metric): _comparison_json(each) for each in table.comparisons}
    for row in table.rows:
        reference = row.reference
        rows.append(
            {
                "variant": row.variant,
                "settings": _plain(row.axes),
                "baseline": row.baseline,
                "unfair": row.unfair,
                "metrics": {
                    key: {"mean": _number(found.mean), "std": _number(found.std), "n": found.n} for key, found in row.metrics.items()
                },
                "delta": {
                    key: {"mean": _number(found.mean), "std": _number(found.std), "n": found.n, "seeds": list(found.seeds)}
                    | compared.get((row.variant, key), {})
                    for key, found in row.delta.items()
                },
                "reference": None
                if reference is None
                else {
                    "row": reference.row,
                    "metrics": {key: _number(value) for key, value in reference.metrics.items()},
                    "source": reference.source,
                    "split": reference.split,
                    "comparable": reference.comparable,
                    "why_not": reference.why_not,
                },
                "trials": [_trial_json(trial) for trial in row.trials],
                "counts": row.counts,
            }
        )
    return {
        "format": naming.FORMAT_VERSION,
        "experiment": table.experiment,
        "profile": table.profile,
        "question": table.question,
        "data": table.data,
        "baseline": table.baseline.variant if table.baseline else None,
        "columns": list(table.columns),
        "counts": table.counts,
        "rows": rows,
        "footnotes": list(table.footnotes),
    }


def _comparison_json(each: Comparison) -> dict[str, Any]:
    found = each.found
    return {
        "interval": None if found.half is None else [_number(found.low), _number(found.high)],
        "p": _p(found.p),
        "p_holm": _p(each.p),
        "std_error_images": None if found.image_variance is None else _number(math.sqrt(found.image_variance)),
        "std_seeds": None if found.spread is None else _number(math.sqrt(found.spread)),
        "rows_pooled": None if found.half is None else found.rows,
        "guarded": found.guarded,
        "resolves": _number(each.detectable),
        "seeds_needed": each.needed,
        "seeds_needed_for": each.smallest,
        "images": found.images or None,
        "images_resolve": _number(each.images_resolve),
        "images_needed": each.images_needed,
        "verdict": each.verdict,
        "weak": each.weak,
        "why": found.why,
    }


def _p(value: float | None) -> float | None:
    """With four digits that matter: p-values are small."""
    return None if value is None else float(f"{value:.4g}")


def _trial_json(trial: TrialRow) -> dict[str, Any]:
    found: dict[str, Any] = {"id": trial.id, "seed": trial.seed, "state": trial.state.value}
    if trial.failure:
        found["failure"] = {"kind": trial.failure.kind, "reason": trial.failure.reason, "step": trial.failure.step}
    return found


# --- fairness -------------------------------------------------------------------------------------

UNFAIR = "†"
"""Marks a row that may not be compared."""


def unfair_rows(experiment: ExperimentRow) -> set[str]:
    """Variants that differ from the baseline (or else from the first one) in a setting that is no declared axis, or contradict their axes."""
    first = experiment.baseline or experiment.variants[0]

    def undeclared(variant: VariantRow) -> dict[str, str]:
        return {key: naming.canonical_json(_plain(value)) for key, value in variant.settings.items() if key not in experiment.declared}

    def contradicts(variant: VariantRow) -> bool:
        return any(key in variant.settings and _plain(variant.settings[key]) != _plain(value) for key, value in variant.axes.items())

    return {variant.name for variant in experiment.variants if undeclared(variant) != undeclared(first) or contradicts(variant)}


def unfair(experiment: ExperimentRow) -> list[str]:
    """Every way in which variants differ beyond the declared axes; empty when the comparison is fair.

    All settings of all variants are compared, so data set, budget and evaluation protocol are covered. The declared
    settings are the axes or, for named variants, the settings that they name, and what follows from them (``qfl`` from
    ``quality``).
    """
    variants = experiment.variants
    problems = []
    for key in sorted(set().union(*(variant.settings for variant in variants))) if variants else []:
        if key in experiment.declared:
            continue
        groups: dict[str, list[str]] = {}
        for variant in variants:
            text = naming.canonical_json(_plain(variant.settings[key])) if key in variant.settings else "missing"
            groups.setdefault(text, []).append(variant.name)
        if len(groups) > 1:
            values = "; ".join(f"{text} in {_join(names)}" for text, names in groups.items())
            problems.append(f"{key} differs but is no declared axis: {values}")
    for variant in variants:
        for key, value in variant.axes.items():
            if key in variant.settings and _plain(variant.settings[key]) != _plain(value):
                problems.append(
                    f"{variant.name}: the axis {key} says {naming.setting_text(value)}, "
                    f"its settings say {naming.setting_text(variant.settings[key])}"
                )
    return problems
