"""Two variants side by side: where their difference lies, by size, class and type of error, with intervals.

Each number is the mean over the seeds that both have finished. AP, AP50 and AP75 are those of the table (``report.comparison``), and AP by
size pools its spread over seeds over the table's rows too; classes and types of error stand by themselves. Intervals are not corrected for how
many there are: with 80 classes some four lie outside of second by chance.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gfl_lab.metrics import error_types
from gfl_lab.metrics.coco_ap import RESAMPLED, mean_ap
from gfl_lab.metrics.coco_matching import AREAS, match
from gfl_lab.metrics.coco_records import Records
from gfl_lab.report.columns import PAIR_COUNT
from gfl_lab.report.comparison import (
    BETTER,
    EQUIVALENT,
    FEW_SEEDS,
    INCONCLUSIVE,
    MIN_EFFECT,
    WORSE,
    Comparison,
    Lookup,
    compare_two,
    min_effect_of,
    others,
)
from gfl_lab.report.noise import LEVEL
from gfl_lab.report.statistics import (
    NO_LOOK,
    NO_SIGNAL,
    Difference,
    Paired,
    judge,
    p_equivalent,
    paired,
    possible_ends,
    too_low,
)
from gfl_lab.report.unpaired import Arm, compare_arms
from gfl_lab.results.rows import ExperimentRow, VariantRow

REPLICATES = 200
"""Bootstrap samples of the images for sizes, classes and types of error: the first ones of those that a table has. There are many numbers here,
and a fifth of the samples leaves 5% of doubt in a width."""
_SIZES = {"small": "AP_S", "medium": "AP_M", "large": "AP_L"}
METRIC, SIZE, CLASS, ERROR = "metric", "size", "class", "error"


@dataclass(frozen=True)
class DifferenceRow:
    """One number of both variants.

    Attributes:
        group: METRIC, SIZE, CLASS (AP of one class), or ERROR (AP points at one threshold that a type of error costs: lower is better).
        value, reference: means over seeds of the variant and of the one it is compared with. found: their difference.
        counts: for errors, how many both have, means over seeds. iou: for errors, the threshold from which a detection is right.
        comparison: for METRIC, the table's comparison of the two variants.
        min_effect: the smallest difference that matters, in points.
    """

    group: str
    name: str
    value: float
    reference: float
    found: Difference
    counts: tuple[float, float] | None = None
    iou: float = error_types.RIGHT_IOU
    comparison: Comparison | None = None
    min_effect: float = MIN_EFFECT

    @property
    def half(self) -> float | None:
        """Half width of the 95% interval, as a table has it; with one seed, of an interval over images alone. None without a signal."""
        if self.found.half is None and self.found.seeds == 1 and self.found.verdict not in (NO_SIGNAL, NO_LOOK):
            return self.found.image_half
        return self.found.half

    @property
    def ends(self) -> tuple[float, float] | None:
        """Ends of the interval of ``half``, cut where no difference can lie."""
        return None if self.half is None else possible_ends(self.found.mean, self.half)

    @property
    def better(self) -> bool | None:
        """True where the variant is better, False where it is worse: by the table's verdict if there is one, else by the interval.

        None where neither decides; colour follows this.
        """
        if self.comparison is not None:
            return self.comparison.better
        if self.found.p is None or self.found.p >= 1 - LEVEL:
            return None
        return (self.found.mean > 0) != (self.group == ERROR)

    @property
    def verdict(self) -> str:
        """``better``, ``worse``, ``equivalent``, ``inconclusive``, or why nothing can be concluded, as a table has them."""
        if self.comparison is not None:
            return self.comparison.verdict
        if self.found.verdict or self.better is not None:
            return self.found.verdict or (BETTER if self.better else WORSE)
        if p_equivalent(self.found, self.min_effect) >= 1 - LEVEL:
            return INCONCLUSIVE
        return NO_SIGNAL if self.group != ERROR and too_low(self.found, self.min_effect) else EQUIVALENT

    @property
    def why(self) -> str:
        """Why nothing can be concluded, as a sentence goes on; empty where something can."""
        return self.found.why or (too_low(self.found, self.min_effect) if self.verdict == NO_SIGNAL else "")

    @property
    def weak(self) -> bool:
        """True for a verdict that rests on two seeds."""
        return self.found.p is not None and self.found.seeds <= FEW_SEEDS and self.verdict != NO_SIGNAL


@dataclass(frozen=True)
class Context:
    """The numbers of an experiment's table on two variants, beside their own records.

    Attributes:
        totals: the two in AP, AP50 and AP75.
        others: by AP_S, AP_M and AP_L the other rows over which the spread over seeds is pooled.
        is_paired: trials are compared seed by seed; False for imported arms, whose trainings do not pair.
        min_effect: the smallest difference that matters, AP points.
    """

    totals: tuple[Comparison, ...] = ()
    others: Mapping[str, Sequence[Paired]] = field(default_factory=dict)
    min_effect: float = MIN_EFFECT
    is_paired: bool = True

    @property
    def preliminary(self) -> str:
        """Why no number has a verdict yet, before the first look that was fixed beforehand; else empty."""
        return next((each.found.why for each in self.totals if each.verdict == NO_LOOK), "")

    @property
    def level(self) -> float:
        """Error of each interval: that of AP in the table, which looks spend in parts."""
        return next((each.found.level for each in self.totals if each.metric == "AP"), 1 - LEVEL)


def context(
    experiment: ExperimentRow, variant: VariantRow, reference: VariantRow, resampled: Lookup | None, min_effect: float | None = None
) -> Context:
    """Return the table's numbers on two variants of ``experiment``.

    Args:
        min_effect: AP points, the smallest difference that matters; None for the experiment's own.
    """
    least = min_effect_of(experiment, min_effect)
    totals = compare_two(experiment, variant, reference, resampled, least)
    if experiment.is_imported:
        return Context(totals, min_effect=least, is_paired=False)
    by_size = {name: tuple(others(experiment, variant, reference, name)) for name in _SIZES.values()}
    return Context(totals, by_size, least)


def compare_variants(
    pairs: Sequence[tuple[Records | None, Records | None]],
    replicates: int = REPLICATES,
    known: Context | None = None,
    error_iou: float = error_types.RIGHT_IOU,
) -> list[DifferenceRow]:
    """Compare (variant, reference) of each seed.

    Args:
        pairs: the records of both, seed by seed. Of imported arms each training once, in any order, and None where one arm has fewer.
        replicates: bootstrap samples of the images for numbers that the table does not have.
        known: the table's numbers on the two; without it all numbers rest on the records alone.
        error_iou: IoU from which a detection is right in the analysis of errors, one of ``coco_ap.IOUS``.

    Raises:
        ValueError: they were not evaluated on the same images and classes, or ``error_iou`` is no such threshold.
    """
    known = known or Context()
    both = [[records for records in side if records is not None] for side in zip(*pairs, strict=True)]
    first = both[0][0]
    for records in (one for side in both for one in side):
        if set(records.image_ids) != set(first.image_ids) or records.classes != first.classes:
            raise ValueError("the trials were not evaluated on the same images and classes")
    totals = {each.metric: each for each in known.totals}
    images = len(np.unique(first.image_ids))
    rng = np.random.default_rng(0)
    weights = [None, *(np.bincount(rng.integers(0, images, images), minlength=images) for _ in range(replicates))]
    ours, theirs = ([_numbers(records, weights, error_iou) for records in side] for side in both)
    rows = []
    for group, name in ours[0][0]:
        values = tuple([found[group, name] for found, _ in side] for side in (ours, theirs))
        if any(math.isnan(each[0]) for side in values for each in side):
            continue
        means = [float(np.mean([each[0] for each in side])) for side in values]
        counts = None
        if group == ERROR:
            counted = [float(np.mean([number[name] for _, number in side])) for side in (ours, theirs)]
            counts = (counted[0], counted[1])
        total = totals.get(name) if group == METRIC else None
        if total is None:
            difference = _difference(known, group, name, values, images)
        else:
            difference = total.found
        rows.append(DifferenceRow(group, name, means[0], means[1], difference, counts, error_iou, total, known.min_effect))
    return rows


def _difference(known: Context, group: str, name: str, values: Sequence[Sequence[np.ndarray]], images: int) -> Difference:
    """Return the difference in a number that the table does not have.

    Args:
        values: of the trials of both variants, each (1 + samples,) with the number on the images themselves first.
    """
    signal = group != ERROR
    if not known.is_paired:
        one, other = (Arm([float(each[0]) for each in side], np.stack([each[1:] for each in side]), images) for side in values)
        return compare_arms(one, other, signal)
    pairs = list(zip(*values, strict=True))
    own = paired([(float(one[0]), float(other[0])) for one, other in pairs], [(one[1:], other[1:]) for one, other in pairs], images, signal)
    found = judge([*(known.others.get(name, ()) if group == SIZE else ()), own], known.level)[-1]
    if known.preliminary:
        return dataclasses.replace(found, half=None, p=None, verdict=NO_LOOK, why=known.preliminary)
    return found


def _numbers(
    records: Records, weights: Sequence[np.ndarray | None], error_iou: float
) -> tuple[dict[tuple[str, str], np.ndarray], dict[str, int]]:
    """Return every number on every sample of the images, (samples,) by (group, name); and the number of errors of each type."""
    whole = match(records)
    precision = np.stack([whole.precision(w) for w in weights])  # (samples, T, K)
    found = {(METRIC, name): np.array([mean_ap(one[list(at)]) for one in precision]) for name, at in RESAMPLED.items()}
    for area in list(AREAS)[1:]:
        part = match(records, area)
        found[SIZE, _SIZES[area]] = np.array([part.ap(w) for w in weights])
    found |= {(CLASS, name): 100 * precision[:, :, label].mean(1) for label, name in enumerate(records.classes)}
    errors = error_types.errors_of(records, error_iou)
    base = np.array([errors.found.ap(w) for w in weights])
    for name in error_types.TYPES:
        corrected = errors.corrected(name)
        found[ERROR, name] = np.array([corrected.ap(w) for w in weights]) - base
    return found, errors.counts


def comparison_json(rows: Sequence[DifferenceRow]) -> list[dict[str, Any]]:
    """Return the rows for JSON, with null for unknown values."""

    def number(value: float | None) -> float | None:
        return None if value is None or not math.isfinite(value) else round(value, 6)

    def p_number(value: float | None) -> float | None:
        return None if value is None else float(f"{value:.4g}")

    return [
        {
            "group": row.group, "name": row.name, "variant": number(row.value), "reference": number(row.reference), "difference": number(row.found.mean),
            "interval": None if row.found.half is None else [number(row.found.low), number(row.found.high)],
            "half_width_images": number(row.found.image_half), "seeds": row.found.seeds,
            "p": p_number(row.found.p), "p_holm": None if row.comparison is None else p_number(row.comparison.p),
            "rows_pooled": None if row.found.half is None else row.found.rows,
            "verdict": row.verdict, "min_effect": row.min_effect, "weak": row.weak, "why": row.why,
            **({} if row.counts is None else {"count_variant": number(row.counts[0]), "count_reference": number(row.counts[1]), "iou": row.iou}),
        }
        for row in rows
    ]  # fmt: skip


def notes(rows: Sequence[DifferenceRow]) -> list[str]:
    """Return the notes that a reader of these rows needs beside their numbers."""
    totals = [row for row in rows if row.comparison is not None]
    compared = [row.comparison for row in totals if row.comparison is not None]
    notes = []
    if several := next((each.rows for each in compared if each.p is not None and each.rows > 1), 0):
        notes.append(f"p and verdict of AP, AP50 and AP75 are those of the table: corrected by Holm's method for its {several} rows.")
    if looked_at := next((each.looked_at for each in compared if each.looked_at and each.looked_at.seeds), None):
        notes.append(
            f"Looks were fixed beforehand: AP, AP50 and AP75 are those of the table's look at {looked_at.seeds} seeds, corrected for all looks. "
            "Sizes, classes and errors have the same level."
        )
    if any(row.found.groups for row in rows):
        notes.append(
            "The trainings of the two arms do not pair: they are compared as independent groups over the same images (Welch), each with its own "
            "spread."
        )
    elif any(row.found.rows > 1 for row in rows):
        notes.append(
            "How much seeds differ is pooled over the table's rows for AP and its sizes; classes and errors rest on these two variants."
        )
    if any(row.weak for row in rows):
        notes.append("Two seeds: all verdicts are weak. Two numbers hardly show how much seeds differ; take three or more.")
    if any(row.counts for row in rows):
        notes.append(f"{PAIR_COUNT.title}: {PAIR_COUNT.help}.")
    notes += [f"{row.name}: {row.verdict}, since {row.why}." for row in totals if row.why and row.verdict != NO_LOOK]
    return notes
