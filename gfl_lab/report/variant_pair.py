"""Two variants, of one experiment or of two: their paired trials, their comparison, and the settings in which they differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from gfl_lab.errors import InputError, StoreError
from gfl_lab.metrics.coco_records import Records
from gfl_lab.metrics.error_types import RIGHT_IOU
from gfl_lab.naming import setting_text
from gfl_lab.report.comparability import not_comparable
from gfl_lab.report.comparison import Lookup, by_seed, compare_alone, min_effect_of, shared
from gfl_lab.report.differences import CODE, DATA, ENVIRONMENT, SETTINGS, Differing, differences
from gfl_lab.report.formatting import MISSING
from gfl_lab.report.variant_comparison import Context, DifferenceRow, compare_variants, comparison_json, context
from gfl_lab.results.rows import ExperimentRow, Recorded, VariantRow
from gfl_lab.results.store import Store
from gfl_lab.spec.cfg_options import spread
from gfl_lab.wording import joined, plural

NOT_PLANNED = (
    "Not planned: no experiment has these two as rows of one table. p and verdict are of this one comparison, "
    "and are not corrected for others that you look at."
)


@dataclass(frozen=True)
class VariantPair:
    """A variant and the one that it is compared with.

    Attributes:
        experiment: of the variant. other: of the reference; in one experiment the same.
        trials: (variant's, reference's) trial by the seeds that both have finished, in order.
        equal: trials that two experiments share, by seed. They are in no comparison: their difference is 0 by definition.
    """

    experiment: ExperimentRow
    variant: VariantRow
    reference: VariantRow
    trials: Mapping[int, tuple[str, str]]
    other: ExperimentRow
    equal: Mapping[int, str] = field(default_factory=dict)

    @property
    def is_planned(self) -> bool:
        """Return True if both are variants of one experiment under one profile."""
        return (self.experiment.name, self.experiment.profile) == (self.other.name, self.other.profile)

    @property
    def is_paired(self) -> bool:
        """Return True if trials of one seed are compared; trainings of two projects do not pair."""
        return not (self.experiment.is_imported or self.other.is_imported)

    @property
    def compared(self) -> tuple[tuple[str | None, str | None], ...]:
        """The ids of the trials that are compared: pairs by seed, or all of both side by side, and None where one has fewer."""
        if self.is_paired:
            return tuple(self.trials.values())
        first, second = ([trial.id for _, trial in by_seed(each, "AP").values()] for each in self._without_equal())
        return tuple(zip_longest(first, second))

    @property
    def about(self) -> str:
        """The number of trials behind the comparison: ``3 seeds``, or ``3 and 5 files`` where they do not pair."""
        if self.is_paired:
            return plural(len(self.trials), "seed")
        first, second = (sum(pair[side] is not None for pair in self.compared) for side in (0, 1))
        return f"{first} and {plural(second, 'file')}"

    def _without_equal(self) -> tuple[VariantRow, VariantRow]:
        """Return both without the trials that they share."""
        equal = set(self.equal.values())
        first, second = (
            dataclasses.replace(each, trials=tuple(trial for trial in each.trials if trial.id not in equal))
            for each in (self.variant, self.reference)
        )
        return first, second

    @property
    def names(self) -> tuple[str, str]:
        """The names of both; of two experiments as the command line takes them, ``EXPERIMENT:VARIANT``."""
        if self.is_planned:
            return self.variant.name, self.reference.name
        sides = ((self.experiment, self.variant), (self.other, self.reference))
        several = self.experiment.name == self.other.name
        first, second = (f"{each.name}{f'@{each.profile}' if several else ''}:{variant.name}" for each, variant in sides)
        return first, second

    @property
    def equal_problem(self) -> str:
        """Why there is nothing to compare in trials that two experiments share, as a sentence; empty if there are others."""
        if self.trials or not self.equal:
            return ""
        trials = joined([f"{trial} (seed {seed})" for seed, trial in self.equal.items()])
        first, second = self.names
        return f"{first} and {second} are the same trials, so they are equal by definition: {trials}."

    def reversed(self) -> VariantPair:
        """Return the same two in the other order."""
        trials = {seed: (second, first) for seed, (first, second) in self.trials.items()}
        return VariantPair(self.other, self.reference, self.variant, trials, self.experiment, self.equal)

    def min_effect(self, asked: float | None = None) -> float:
        """Return the smallest difference that matters, AP points; of two experiments the smaller one."""
        return min(min_effect_of(each, asked) for each in (self.experiment, self.other))

    def not_comparable(self, records: Callable[[str], Records | None]) -> str:
        """Return why variants of two experiments may not be compared, as a sentence; empty if they may.

        Args:
            records: gives the evaluation of a trial. May raise StoreError, as this does then.
        """
        if self.is_planned or not self.trials:
            return ""
        first, second = (records(trial) for trial in next(iter(self.trials.values())))
        sides = ((self.experiment, self.variant, first), (self.other, self.reference, second))
        return not_comparable(sides, self.names)

    def context(self, resampled: Lookup | None, min_effect: float | None = None) -> Context:
        """Return the comparison in AP, AP50 and AP75: that of the table, or of two experiments that of the two variants alone.

        Args:
            min_effect: AP points, the smallest difference that matters; None for the experiments' own.
        """
        if self.is_planned:
            return context(self.experiment, self.variant, self.reference, resampled, min_effect)
        least = self.min_effect(min_effect)
        if not self.is_paired:
            return Context(compare_alone(*self._without_equal(), resampled, least, is_paired=False), min_effect=least, is_paired=False)
        variant, reference = (
            dataclasses.replace(each, trials=tuple(trial for trial in each.trials if trial.seed in self.trials))
            for each in (self.variant, self.reference)
        )
        return Context(compare_alone(variant, reference, resampled, least), min_effect=least)

    def compare(self, store: Store, min_effect: float | None = None, error_iou: float = RIGHT_IOU) -> list[DifferenceRow]:
        """Return the differences by metric, size, class and type of error.

        Args:
            min_effect: AP points, the smallest difference that matters; None for the experiments' own.
            error_iou: IoU from which a detection is right in the analysis of errors: 0.5, 0.55, ..., 0.95.

        Raises:
            InputError: a trial has no evaluation records, they are of other images, or ``error_iou`` is no such threshold. StoreError: they cannot be read.
        """
        pairs = [
            (None if first is None else _records(store, first), None if second is None else _records(store, second))
            for first, second in self.compared
        ]
        try:
            return compare_variants(pairs, known=self.context(store.resampled_or_none, min_effect), error_iou=error_iou)
        except ValueError as error:
            raise InputError(str(error)) from None

    def notes(self) -> list[str]:
        """Return the notes on a comparison of two experiments; none within one."""
        if self.is_planned:
            return []
        notes = [NOT_PLANNED]
        if len(self.trials) > 1:
            notes.append("How much seeds differ rests on these two variants alone.")
        if self.equal:
            seeds = joined([f"{seed} ({trial})" for seed, trial in self.equal.items()])
            notes.append(f"Left out: both experiments share the trial of seed {seeds}, so its difference is 0 by definition.")
        for each in (self.experiment, self.other):
            if each.design is not None:
                notes.append(f"Seeds of {each.name} were added until its rows had a verdict. p is not corrected for that here.")
        if min_effect_of(self.experiment) != min_effect_of(self.other):
            notes.append(f"The smallest effect that matters is the smaller one of the two experiments: {self.min_effect():g} AP.")
        if self.experiment.is_imported or self.other.is_imported:
            notes.append("NMS and image size of imported detections are not on record.")
        return notes

    def differing(self, recorded: Callable[[str], Recorded]) -> tuple[Differing, ...]:
        """Return everything in which the two differ but their numbers, by the records of their first shared seed.

        Args:
            recorded: gives the records of a trial. Where it raises StoreError, the plan's settings are compared.
        """
        trials = next(iter(self.trials.values()))
        try:
            first, second = (recorded(trial) for trial in trials)
        except StoreError:
            settings = [spread(each.settings) for each in (self.variant, self.reference)]
            shown = [
                (key, *(setting_text(each[key]) if key in each else MISSING for each in settings)) for key in {**settings[0], **settings[1]}
            ]
            return tuple(Differing(SETTINGS, *each) for each in shown if each[1] != each[2])
        return tuple(each for each in differences(first, second) if each.group in (SETTINGS, DATA, CODE, ENVIRONMENT))

    def to_json(self, rows: list[DifferenceRow], differing: Sequence[Differing] = ()) -> dict[str, object]:
        """Return the comparison as `gfl-lab compare --json` prints it (docs/command-line.md)."""
        return {
            "experiment": self.experiment.name,
            "profile": self.experiment.profile,
            "variant": self.variant.name,
            "reference_experiment": self.other.name,
            "reference_profile": self.other.profile,
            "reference": self.reference.name,
            "seeds": list(self.trials) if self.is_paired else [],
            "planned": self.is_planned,
            "rows": comparison_json(rows),
            **({} if self.is_planned else {"differing": _differing_json(differing), "notes": self.notes()}),
        }


def pair_of(experiment: ExperimentRow, variant: VariantRow, reference: VariantRow, other: ExperimentRow | None = None) -> VariantPair:
    """Return two variants with the trials that can be compared; there may be none.

    Args:
        other: experiment of ``reference``; None for the same.
    """
    pair = VariantPair(experiment, variant, reference, {}, experiment if other is None else other)
    found = {seed: (one.id, two.id) for seed, ((_, one), (_, two)) in shared(variant, reference).items()}
    if pair.is_planned:
        return dataclasses.replace(pair, trials=found)
    return dataclasses.replace(
        pair,
        trials={seed: trials for seed, trials in found.items() if trials[0] != trials[1]},
        equal={seed: first for seed, (first, second) in found.items() if first == second},
    )


def _differing_json(differing: Sequence[Differing]) -> list[dict[str, str]]:
    return [{"group": each.group, "name": each.name, "variant": each.first, "reference": each.second} for each in differing]


def _records(store: Store, trial: str) -> Records:
    found = store.records(trial)
    if found is None:
        raise InputError(f"trial {trial} has no evaluation records")
    return found
