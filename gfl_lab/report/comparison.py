"""Variants against each other: what ``report.statistics`` says of an experiment's finished trials.

``compare`` is a table's rows against the baseline, ``compare_two`` any two variants. Both pool the spread over seeds over the same rows, so
a row of the table and the comparison of its two variants are the same numbers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from gfl_lab.metrics.coco_ap import RESAMPLED
from gfl_lab.report import statistics
from gfl_lab.report.statistics import LEVEL, NO_RECORDS, NO_SIGNAL, NO_SPREAD, ONE_SEED, Difference, Paired, Sampled, holm, judge, paired
from gfl_lab.results.rows import ExperimentRow, Resampled, TrialRow, VariantRow

SMALLEST = 0.3
"""AP points: the difference for which the seeds needed are told, if no other is asked for. Papers of this family claim about as much."""
FEW_SEEDS = 2
"""With so many seeds a verdict is weak: two numbers hardly show how much seeds differ."""

Lookup = Callable[[str], Resampled | None]
"""A trial's AP on bootstrap samples of its images, by the trial's id."""


@dataclass(frozen=True)
class Comparison:
    """A variant minus the baseline in one metric.

    Attributes:
        found: mean, interval and p before correction.
        p: after Holm's correction over all rows of this metric; None where there is no interval.
        rows: how many rows p is corrected for.
        detectable: the smallest true difference that so many seeds would tell from none; None where there is no interval.
        smallest: a difference in AP points; needed: seeds that would tell it from none; None where none would do, or nothing is known.
        images_resolve: the smallest true difference that these images tell from none, however many seeds there are; None as ``detectable``.
        images_needed: images that ``smallest`` wants at least, where those there are do not suffice however many seeds there are; else None.
    """

    variant: str
    metric: str
    found: Difference
    p: float | None
    rows: int
    detectable: float | None
    needed: int | None
    smallest: float
    images_resolve: float | None = None
    images_needed: int | None = None

    @property
    def verdict(self) -> str:
        """``better``, ``worse`` or ``not resolved`` at 5% after correction.

        If nothing can be concluded: ``one seed``, ``no signal``, ``no spread`` or ``no records``; ``found.why`` says more.
        """
        if self.p is None:
            return self.found.verdict
        if self.p >= 1 - LEVEL:
            return "not resolved"
        return "better" if self.found.mean > 0 else "worse"

    @property
    def weak(self) -> bool:
        """True for a verdict that rests on two seeds."""
        return self.p is not None and self.found.seeds <= FEW_SEEDS

    @property
    def better(self) -> bool | None:
        """The verdict as a colour shows it: True for better, False for worse, None for all others."""
        return {"better": True, "worse": False}.get(self.verdict)


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
        resampled: without it intervals know of seeds alone. A row without the samples of all its trials has no interval.
        smallest: AP points, the difference for which the seeds needed are told.
    """
    if experiment.baseline is None:
        return ()
    comparisons: list[Comparison] = []
    for metric in RESAMPLED:
        rows = _rows(experiment, experiment.baseline, metric, resampled)
        comparisons += _comparisons(metric, rows, judge([found for _, found in rows]), smallest)
    return tuple(comparisons)


def compare_two(
    experiment: ExperimentRow, ours: VariantRow, theirs: VariantRow, resampled: Lookup | None = None, smallest: float = SMALLEST
) -> tuple[Comparison, ...]:
    """``ours`` minus ``theirs`` in AP, AP50 and AP75.

    With the baseline as one of them the numbers are those of the table's row. For two others the spread over seeds is pooled over the
    table's rows and this pair, and p is not corrected, since one pair is asked about. Either order of the two gives the same, but for signs.
    """
    if experiment.baseline is not None and experiment.baseline.name in (ours.name, theirs.name):
        table = compare(experiment, resampled, smallest)
        if theirs.name == experiment.baseline.name:
            return tuple(each for each in table if each.variant == ours.name)
        reversed_ = [each for each in table if each.variant == theirs.name]
        return tuple(dataclasses.replace(each, variant=ours.name, found=each.found.reversed()) for each in reversed_)
    comparisons: list[Comparison] = []
    for metric in RESAMPLED:
        found = _paired(ours, theirs, metric, resampled)
        if found is not None:
            judged = judge([*others(experiment, ours, theirs, metric, resampled), found])[-1:]
            comparisons += _comparisons(metric, [(ours.name, found)], judged, smallest)
    return tuple(comparisons)


def others(experiment: ExperimentRow, ours: VariantRow, theirs: VariantRow, metric: str, resampled: Lookup | None = None) -> list[Paired]:
    """The rows over which the spread over seeds of ``ours`` minus ``theirs`` is pooled, beside those two: the others of the table.

    Without a baseline all are compared with the first variant.
    """
    reference = experiment.baseline or experiment.variants[0]
    rows = _rows(experiment, reference, metric, resampled)
    return [each for name, each in rows if {name, reference.name} != {ours.name, theirs.name}]


def _rows(experiment: ExperimentRow, reference: VariantRow, metric: str, resampled: Lookup | None) -> list[tuple[str, Paired]]:
    """Return the pairs of each other variant with ``reference``, by name."""
    others = [variant for variant in experiment.variants if variant.name != reference.name]
    return [(variant.name, found) for variant in others if (found := _paired(variant, reference, metric, resampled))]


def _comparisons(metric: str, rows: Sequence[tuple[str, Paired]], judged: Sequence[Difference], smallest: float) -> list[Comparison]:
    """``judged`` with p corrected over them."""
    tested = {name: found.p for (name, _), found in zip(rows, judged, strict=True) if found.p is not None}
    corrected = holm(tested)
    return [
        Comparison(
            name,
            metric,
            found,
            corrected.get(name),
            len(tested),
            statistics.detectable(found),
            None if found.half is None else statistics.seeds_needed(found, smallest),
            smallest,
            statistics.images_resolve(found),
            statistics.images_needed(found, smallest),
        )
        for (name, _), found in zip(rows, judged, strict=True)
    ]


def _paired(ours: VariantRow, theirs: VariantRow, metric: str, resampled: Lookup | None) -> Paired | None:
    """Return the difference over the seeds that both have finished; None where there are none."""
    pairs = list(shared(ours, theirs, metric).values())
    if not pairs:
        return None
    values = [(one[0], other[0]) for one, other in pairs]
    if resampled is None:
        return paired(values)
    samples, images, why = _samples([(one[1], other[1]) for one, other in pairs], metric, resampled)
    found = paired(values, samples, images)
    if found.image_variance is None and not found.verdict:
        found = dataclasses.replace(found, verdict=NO_RECORDS, why=why)
    return found


def _samples(pairs: list[tuple[TrialRow, TrialRow]], metric: str, resampled: Lookup) -> tuple[Sampled | None, int, str]:
    """(both on bootstrap samples of the images, number of images, ""); or (None, 0, why not)."""
    known = {trial.id: resampled(trial.id) for pair in pairs for trial in pair}
    if missing := [trial for trial, found in known.items() if found is None]:
        trials = f"trial {missing[0]}" if len(missing) == 1 else f"trials {', '.join(missing)}"
        return None, 0, f"the evaluation records (eval.npz) of {trials} are missing or damaged"
    sizes = {(found.images, len(found.values[metric])) for found in known.values()}
    if len(sizes) > 1:
        return None, 0, "its trials were evaluated on different numbers of images"
    ((images, _),) = sizes
    if images < 2:
        return None, 0, "one validation image cannot show what the choice of images does"
    samples = [(known[one.id].values[metric], known[other.id].values[metric]) for one, other in pairs]
    if not math.isfinite(statistics.image_variance(samples)):
        return None, 0, f"{metric} is defined on no sample of the images"
    return samples, images, ""


# --- in words -------------------------------------------------------------------------------------


def explain(comparisons: tuple[Comparison, ...]) -> list[str]:
    """What a reader must know to read the comparisons of one metric."""
    told = []
    tested = [each for each in comparisons if each.p is not None]
    if tested:
        told += [_about_intervals(tested), *_about_spread(tested), *_about_images(tested)]
        if weak := [each.variant for each in tested if each.weak]:
            told.append(
                f"Weak: {_some(weak)} {_rest(weak)} on two seeds. Two numbers hardly show how much seeds differ; take three or more."
            )
        if blind := [each.variant for each in tested if each.found.image_variance is None]:
            told.append(f"The interval knows of seeds alone for {_some(blind)}: how AP varies with the images was not looked up.")
    for verdict, title in ((NO_SIGNAL, "No signal"), (NO_SPREAD, "No spread over seeds"), (NO_RECORDS, "No interval")):
        reasons: dict[str, list[str]] = {}
        for each in comparisons:
            if each.verdict == verdict:
                reasons.setdefault(each.found.why, []).append(each.variant)
        for why, variants in reasons.items():
            subject = f"{comparisons[0].metric} says nothing here, since {why}" if verdict == NO_SIGNAL else why
            out = ". `gfl-lab run` evaluates such trials again, and `gfl-lab doctor` lists them" if "eval.npz" in why else ""
            told.append(f"{title} for {_some(variants)}: {subject}{out}.")
    single = [each for each in comparisons if each.verdict == ONE_SEED]
    if single:
        images = any(each.found.image_half is not None for each in single)
        told.append(
            "With one seed there is no interval"
            + (
                ": ± is what the choice of validation images alone makes uncertain; other seeds add what cannot be known."
                if images
                else "."
            )
        )
    return told


def _about_intervals(tested: Sequence[Comparison]) -> str:
    rows, smallest = tested[0].rows, f"{tested[0].smallest:g}"
    several = f", corrected by Holm's method for {rows} rows" if rows > 1 else ""
    over = "over other seeds and other validation images" if any(each.found.image_variance is not None for each in tested) else "over seeds"
    return (
        f"The 95% interval is of the mean difference, {over}; p is two-sided{several}. "
        f'"resolves" is the smallest true difference that these seeds tell from none 8 times in 10, and "{smallest} needs" how many '
        f"seeds would do so for {smallest} AP."
    )


def _about_spread(tested: Sequence[Comparison]) -> list[str]:
    pooled = max(each.found.rows for each in tested)
    guarded = [each.variant for each in tested if each.found.guarded]
    told = []
    if pooled > 1:
        told.append(f"How much seeds differ is pooled over {pooled} rows" + (" that have two seeds or more." if not guarded else "."))
    if guarded:
        told.append(f"{_some(guarded)}: seeds differ far more here than in the other rows, so the interval rests on this row alone.")
    return told


def _about_images(tested: Sequence[Comparison]) -> list[str]:
    """Say what the images can resolve, and how many would be needed, for rows that no number of seeds helps."""
    limited = [each for each in tested if each.images_needed is not None]
    if not limited:
        return []
    resolve = _range([f"{each.images_resolve:.2g}" for each in limited], [each.images_resolve for each in limited])
    needed = _range([f"{about(each.images_needed):,}" for each in limited], [each.images_needed for each in limited])
    images = limited[0].found.images
    who = "" if len(limited) == len(tested) else f" for {_some([each.variant for each in limited])}"
    return [
        f"{limited[0].smallest:g} AP{who}: not with {images:,} validation images, however many seeds. They resolve {resolve} AP at best; "
        f"about {needed} images would be needed at least."
    ]


def about(count: int) -> int:
    """A number of images with two digits that matter, rounded up."""
    unit = 10 ** max(0, len(str(count)) - 2)
    return -(-count // unit) * unit


def _range(texts: Sequence[str], values: Sequence[float]) -> str:
    low, high = (texts[list(values).index(pick(values))] for pick in (min, max))
    return low if low == high else f"{low} to {high}"


def _some(names: Iterable[str], most: int = 6) -> str:
    """Names in a row; of many the first ones and how many more."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _rest(names: Sequence[str]) -> str:
    return "rests" if len(names) == 1 else "rest"
