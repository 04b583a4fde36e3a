"""Comparison of variants: ``report.statistics`` over an experiment's finished trials.

``compare`` is a table's rows against the baseline, ``compare_two`` any two variants. Both pool the spread over seeds over the same rows, so
a row of the table and the comparison of its two variants are the same numbers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gfl_lab.metrics.coco_ap import RESAMPLED
from gfl_lab.records.plan import Design
from gfl_lab.report import looks, power
from gfl_lab.report.looks import LookedAt
from gfl_lab.report.noise import LEVEL
from gfl_lab.report.statistics import (
    NO_LOOK,
    NO_RECORDS,
    NO_SIGNAL,
    Difference,
    Paired,
    image_variance,
    judge,
    paired,
    too_low,
)
from gfl_lab.report.unpaired import Arm, compare_arms
from gfl_lab.results.rows import ExperimentRow, Resampled, TrialRow, VariantRow

MIN_EFFECT = 0.3
"""Default of the smallest difference, in AP points, that matters. Papers of this family claim about as much."""
BETTER, WORSE, EQUIVALENT, INCONCLUSIVE = "better", "worse", "equivalent", "inconclusive"
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
        p_equivalent: of a true difference of at least ``min_effect``, corrected in the same way; None as ``p``.
        rows: how many rows both are corrected for.
        detectable: the smallest true difference that this number of seeds can show; None if there is no interval.
        min_effect: the smallest difference that matters, AP points; needed: seeds that can show it; None if no number does, or nothing is
            known.
        images_resolve: the smallest true difference that these images can show with any number of seeds; None as ``detectable``.
        images_needed: images that ``min_effect`` wants at least, where those there are do not suffice however many seeds there are; else None.
        looked_at: the row at its last look, in an experiment with looks that were fixed beforehand (``report.looks``); else None.
    """

    variant: str
    metric: str
    found: Difference
    p: float | None
    rows: int
    detectable: float | None
    needed: int | None
    min_effect: float
    p_equivalent: float | None = None
    images_resolve: float | None = None
    images_needed: int | None = None
    looked_at: LookedAt | None = None

    @property
    def verdict(self) -> str:
        """``better``, ``worse``, ``equivalent`` (within ``min_effect``) or ``inconclusive``, at 5% after correction.

        If nothing can be concluded: ``one seed``, ``no signal``, ``no spread``, ``no records`` or ``no look yet``; ``why`` has the reason.
        """
        if self.p is None:
            return self.found.verdict
        if self.p < 1 - LEVEL:
            return BETTER if self.found.mean > 0 else WORSE
        if not self.within:
            return INCONCLUSIVE
        return NO_SIGNAL if too_low(self.found, self.min_effect) else EQUIVALENT

    @property
    def why(self) -> str:
        """Why nothing can be concluded, as a sentence goes on; empty where something can."""
        return self.found.why or (too_low(self.found, self.min_effect) if self.verdict == NO_SIGNAL else "")

    @property
    def within(self) -> bool:
        """True if the difference is shown to be smaller than ``min_effect``: then also a better variant is so by less than matters."""
        return self.p_equivalent is not None and self.p_equivalent < 1 - LEVEL

    @property
    def weak(self) -> bool:
        """True for a verdict that rests on two seeds."""
        return self.p is not None and self.found.seeds <= FEW_SEEDS and self.verdict != NO_SIGNAL

    @property
    def better(self) -> bool | None:
        """The verdict as a colour shows it: True for better, False for worse, None for all others."""
        return {BETTER: True, WORSE: False}.get(self.verdict)


def min_effect_of(experiment: ExperimentRow, asked: float | None = None) -> float:
    """Return the smallest difference that matters, AP points: ``asked``, or the design's, or the experiment's, or ``MIN_EFFECT``."""
    return asked or (experiment.design.min_effect if experiment.design else None) or experiment.min_effect or MIN_EFFECT


def by_seed(variant: VariantRow, metric: str) -> dict[int, tuple[float, TrialRow]]:
    """Return the finite values of ``metric`` over finished trials, with their trials; of two trials with one seed the last counts."""
    values = {trial.seed: (trial.metrics.get(metric), trial) for trial in variant.done}
    return {seed: (float(value), trial) for seed, (value, trial) in values.items() if value is not None and math.isfinite(value)}


def shared(
    variant: VariantRow, reference: VariantRow, metric: str = "AP"
) -> dict[int, tuple[tuple[float, TrialRow], tuple[float, TrialRow]]]:
    """Return what ``by_seed`` has of both, by the seeds that both have finished, in order."""
    first, second = by_seed(variant, metric), by_seed(reference, metric)
    return {seed: (first[seed], second[seed]) for seed in sorted(first.keys() & second.keys())}


def compare(experiment: ExperimentRow, resampled: Lookup | None = None, min_effect: float | None = None) -> tuple[Comparison, ...]:
    """Return the comparison of each variant that shares a finished seed with the baseline, in AP, AP50 and AP75.

    With looks that were fixed beforehand a row rests on the seeds of its last look. Before its first one it is preliminary: NO_LOOK, without
    interval and p.

    Args:
        resampled: without it intervals are over seeds alone. A row without the samples of all its trials has no interval.
        min_effect: AP points, the smallest difference that matters; None for the experiment's own.
    """
    if experiment.baseline is None:
        return ()
    least = min_effect_of(experiment, min_effect)
    comparisons: list[Comparison] = []
    if experiment.is_imported:
        others = [variant for variant in experiment.variants if variant.name != experiment.baseline.name]
        return _unpaired([(variant, experiment.baseline) for variant in others], resampled, least)
    if experiment.design is not None:
        looked_at = look_at(experiment, resampled)
        for metric in RESAMPLED:
            found = _at_looks(experiment, experiment.baseline, looked_at, metric, resampled)
            each = _comparisons(metric, found, least, len(looked_at))
            comparisons += [dataclasses.replace(one, looked_at=looked_at[one.variant]) for one in each]
        return tuple(comparisons)
    for metric in RESAMPLED:
        rows = _rows(experiment, experiment.baseline, metric, resampled)
        comparisons += _comparisons(metric, _named(rows, judge([found for _, found in rows])), least)
    return tuple(comparisons)


def look_at(experiment: ExperimentRow, resampled: Lookup | None = None) -> dict[str, LookedAt]:
    """Return each row of an experiment with a baseline and a design at its last look."""
    design, baseline = experiment.design, experiment.baseline
    assert design is not None and baseline is not None  # the callers' promise
    rows = {variant.name: variant for variant in experiment.variants if variant.name != baseline.name}
    lost = {name for name, variant in rows.items() if variant.failed}
    complete = {name: len(design.first(shared(variant, baseline), design.looks[-1])) for name, variant in rows.items()}

    def paired_at(name: str, metric: str, seeds: int) -> Paired | None:
        return _paired(rows[name], baseline, metric, resampled, seeds)

    return looks.look(design.looks, complete, paired_at, design.min_effect, lost)


def _at_looks(
    experiment: ExperimentRow, baseline: VariantRow, looked_at: Mapping[str, LookedAt], metric: str, resampled: Lookup | None
) -> dict[str, Difference]:
    """Return each row at its last look; before its first one, the preliminary difference over the seeds that there are."""
    found = {}
    for variant in (each for each in experiment.variants if each.name in looked_at):
        row = looked_at[variant.name]
        early = None if row.seeds else _preliminary(experiment.design, variant, baseline, metric, resampled)
        if each := row.found.get(metric, early):
            found[variant.name] = each
    return found


def _before_first_look(
    design: Design | None, variant: VariantRow, reference: VariantRow, metric: str, resampled: Lookup | None
) -> Difference | None:
    """Return the preliminary difference of two variants that have not come to the first look; else None."""
    if design is None or len(design.first(shared(variant, reference), design.looks[0])) == design.looks[0]:
        return None
    return _preliminary(design, variant, reference, metric, resampled)


def _preliminary(
    design: Design | None, variant: VariantRow, reference: VariantRow, metric: str, resampled: Lookup | None
) -> Difference | None:
    """Return the difference of two variants before the first look, without interval and p; None if they share no seed."""
    found = _paired(variant, reference, metric, resampled)
    if design is None or found is None:
        return None
    done = len(design.first(shared(variant, reference), design.looks[0]))
    why = looks.before_first_look(done, design.looks)
    return Difference(
        found.mean, None, None, found.seed_variance, found.image_variance, found.seeds, images=found.images, verdict=NO_LOOK, why=why
    )


def compare_two(
    experiment: ExperimentRow, variant: VariantRow, reference: VariantRow, resampled: Lookup | None = None, min_effect: float | None = None
) -> tuple[Comparison, ...]:
    """Return the comparison of ``variant`` minus ``reference`` in AP, AP50 and AP75.

    With the baseline as one of them the numbers are those of the table's row. For two others the spread over seeds is pooled over the
    table's rows and this pair, and p is not corrected, since there is one pair. Before the first look they are preliminary too.
    Imported arms rest on the two alone. Either order of the two gives the same, but for signs.
    """
    if experiment.baseline is not None and experiment.baseline.name in (variant.name, reference.name):
        table = compare(experiment, resampled, min_effect)
        if reference.name == experiment.baseline.name:
            return tuple(each for each in table if each.variant == variant.name)
        reversed_ = [each for each in table if each.variant == reference.name]
        return tuple(dataclasses.replace(each, variant=variant.name, found=each.found.reversed()) for each in reversed_)
    if experiment.is_imported:
        return _unpaired([(variant, reference)], resampled, min_effect_of(experiment, min_effect))
    comparisons: list[Comparison] = []
    seeds, level = _last_look(experiment.design, variant, reference)
    for metric in RESAMPLED:
        if early := _before_first_look(experiment.design, variant, reference, metric, resampled):
            comparisons += _comparisons(metric, {variant.name: early}, min_effect_of(experiment, min_effect))
            continue
        found = _paired(variant, reference, metric, resampled, seeds)
        if found is not None:
            judged = judge([*others(experiment, variant, reference, metric, resampled), found], level)[-1]
            comparisons += _comparisons(metric, {variant.name: judged}, min_effect_of(experiment, min_effect))
    return tuple(comparisons)


def compare_alone(
    variant: VariantRow, reference: VariantRow, resampled: Lookup | None, min_effect: float, *, is_paired: bool = True
) -> tuple[Comparison, ...]:
    """Return the comparison of variants of two experiments in AP, AP50 and AP75.

    The spread over seeds is that of this pair alone, since no table holds both, and p is not corrected.

    Args:
        min_effect: AP points, the smallest difference that matters.
        is_paired: False where one of them is imported: trainings of two projects do not pair.
    """
    if not is_paired:
        return _unpaired([(variant, reference)], resampled, min_effect)
    comparisons: list[Comparison] = []
    for metric in RESAMPLED:
        found = _paired(variant, reference, metric, resampled)
        if found is not None:
            comparisons += _comparisons(metric, {variant.name: judge([found])[0]}, min_effect)
    return tuple(comparisons)


def _last_look(design: Design | None, variant: VariantRow, reference: VariantRow) -> tuple[int | None, float]:
    """Return the seeds of the last look that two variants have come to, and its level; without a design, or before it, (None, 5%)."""
    if design is not None:
        complete = len(design.first(shared(variant, reference), design.looks[-1]))
        for seeds, level in reversed(list(zip(design.looks, looks.levels(design.looks), strict=True))):
            if seeds <= complete:
                return seeds, level
    return None, 1 - LEVEL


def others(
    experiment: ExperimentRow, variant: VariantRow, reference: VariantRow, metric: str, resampled: Lookup | None = None
) -> list[Paired]:
    """Return the rows over which the spread over seeds of ``variant`` minus ``reference`` is pooled, beside those two: the others of the table.

    Without a baseline all are compared with the first variant.
    """
    common = experiment.baseline or experiment.variants[0]
    rows = _rows(experiment, common, metric, resampled)
    return [each for name, each in rows if {name, common.name} != {variant.name, reference.name}]


def _rows(experiment: ExperimentRow, reference: VariantRow, metric: str, resampled: Lookup | None) -> list[tuple[str, Paired]]:
    """Return the pairs of each other variant with ``reference``, by name."""
    variants = [variant for variant in experiment.variants if variant.name != reference.name]
    return [(variant.name, found) for variant in variants if (found := _paired(variant, reference, metric, resampled))]


def _named(rows: Sequence[tuple[str, Paired]], judged: Sequence[Difference]) -> dict[str, Difference]:
    return {name: found for (name, _), found in zip(rows, judged, strict=True)}


def _comparisons(metric: str, judged: Mapping[str, Difference], min_effect: float, rows: int | None = None) -> list[Comparison]:
    """Return ``judged`` with both kinds of p corrected over them, or over so many ``rows`` if some have no difference yet."""
    rows = sum(found.p is not None for found in judged.values()) if rows is None else rows
    p, equivalent = looks.corrected(judged, rows, min_effect)
    return [
        Comparison(
            variant=name,
            metric=metric,
            found=found,
            p=p.get(name),
            rows=rows,
            detectable=power.detectable(found),
            needed=None if found.half is None else power.seeds_needed(found, min_effect),
            min_effect=min_effect,
            p_equivalent=equivalent.get(name),
            images_resolve=power.images_resolve(found),
            images_needed=power.images_needed(found, min_effect),
        )
        for name, found in judged.items()
    ]


def _paired(variant: VariantRow, reference: VariantRow, metric: str, resampled: Lookup | None, seeds: int | None = None) -> Paired | None:
    """Return the difference over the seeds that both have finished, or those below ``seeds`` alone; None where there are none."""
    pairs = [pair for seed, pair in shared(variant, reference, metric).items() if seeds is None or seed < seeds]
    if not pairs:
        return None
    values = [(one[0], other[0]) for one, other in pairs]
    if resampled is None:
        return paired(values)
    trials = [(one[1], other[1]) for one, other in pairs]
    known, images, why = _samples([trial for pair in trials for trial in pair], metric, resampled)
    samples = None if known is None else [(known[one.id], known[other.id]) for one, other in trials]
    if samples is not None and not math.isfinite(image_variance(samples)):
        samples, images, why = None, 0, f"{metric} is defined on no sample of the images"
    found = paired(values, samples, images)
    if found.image_variance is None and not found.verdict:
        found = dataclasses.replace(found, verdict=NO_RECORDS, why=why)
    return found


def _samples(trials: Sequence[TrialRow], metric: str, resampled: Lookup) -> tuple[dict[str, np.ndarray] | None, int, str]:
    """Return (the metric on bootstrap samples of the images by trial, number of images, ""); or (None, 0, why not)."""
    found = {trial.id: resampled(trial.id) for trial in trials}
    if missing := [trial for trial, each in found.items() if each is None]:
        named = f"trial {missing[0]}" if len(missing) == 1 else f"trials {', '.join(missing)}"
        return None, 0, f"the evaluation records (eval.npz) of {named} are missing or damaged"
    known = {trial: each for trial, each in found.items() if each is not None}
    sizes = {(each.images, len(each.values[metric])) for each in known.values()}
    if len(sizes) > 1:
        return None, 0, "its trials were evaluated on different numbers of images"
    ((images, _),) = sizes
    if images < 2:
        return None, 0, "one validation image cannot show what the choice of images does"
    return {trial: each.values[metric] for trial, each in known.items()}, images, ""


# --- imported arms, whose trainings do not pair ---------------------------------------------------


def arm(variant: VariantRow, metric: str, resampled: Lookup | None = None) -> Arm | None:
    """Return all finished trainings of an imported arm; None where there is none with a finite number."""
    found = list(by_seed(variant, metric).values())
    if not found:
        return None
    values = [value for value, _ in found]
    if resampled is None:
        return Arm(values)
    known, images, why = _samples([trial for _, trial in found], metric, resampled)
    if known is None:
        return Arm(values, why=why)
    samples = np.stack([known[trial.id] for _, trial in found])
    if not np.isfinite(samples).all(0).any():
        return Arm(values, why=f"{metric} is defined on no sample of the images")
    return Arm(values, samples, images)


def _unpaired(pairs: Sequence[tuple[VariantRow, VariantRow]], resampled: Lookup | None, min_effect: float) -> tuple[Comparison, ...]:
    """Return the comparison of (variant, reference) pairs of imported arms in AP, AP50 and AP75."""
    comparisons: list[Comparison] = []
    for metric in RESAMPLED:
        arms = [(variant.name, arm(variant, metric, resampled), arm(reference, metric, resampled)) for variant, reference in pairs]
        found = {name: compare_arms(one, other) for name, one, other in arms if one is not None and other is not None}
        comparisons += _comparisons(metric, found, min_effect)
    return tuple(comparisons)
