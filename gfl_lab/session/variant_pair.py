"""Two variants of an ablation that has been run, chosen by their names and compared seed by seed."""

from __future__ import annotations

from dataclasses import dataclass

from gfl_lab.errors import InputError, Problem
from gfl_lab.metrics.coco_records import Records
from gfl_lab.metrics.error_types import RIGHT_IOU
from gfl_lab.report.comparison import shared
from gfl_lab.report.variant_comparison import DifferenceRow, compare_variants, comparison_json, context
from gfl_lab.results.rows import ExperimentRow, VariantRow
from gfl_lab.results.store import Store
from gfl_lab.wording import plural


@dataclass(frozen=True)
class VariantPair:
    """A variant and the one that it is compared with.

    Attributes:
        trials: (variant's, reference's) trial by the seeds that both have finished, in order; never empty.
    """

    experiment: ExperimentRow
    variant: VariantRow
    reference: VariantRow
    trials: dict[int, tuple[str, str]]

    def compare(self, store: Store, min_effect: float | None = None, error_iou: float = RIGHT_IOU) -> list[DifferenceRow]:
        """Return the differences by metric, size, class and type of error.

        Args:
            min_effect: AP points, the smallest difference that matters; None for the experiment's own.
            error_iou: IoU from which a detection is right in the analysis of errors: 0.5, 0.55, ..., 0.95.

        Raises:
            InputError: a trial has no evaluation records, they are of other images, or ``error_iou`` is no such threshold. StoreError: they cannot be read.
        """
        pairs = [(_records(store, first), _records(store, second)) for first, second in self.trials.values()]
        try:
            known = context(self.experiment, self.variant, self.reference, store.resampled_or_none, min_effect)
            return compare_variants(pairs, known=known, error_iou=error_iou)
        except ValueError as error:
            raise InputError(str(error)) from None

    def to_json(self, rows: list[DifferenceRow]) -> dict[str, object]:
        """Return the comparison as `gfl-lab compare --json` prints it (docs/command-line.md)."""
        return {
            "experiment": self.experiment.name,
            "profile": self.experiment.profile,
            "variant": self.variant.name,
            "reference": self.reference.name,
            "seeds": list(self.trials),
            "rows": comparison_json(rows),
        }


def find_pair(experiment: ExperimentRow, variant: str, reference: str | None = None) -> VariantPair:
    """Return two variants of an experiment and the trials that can be compared.

    Args:
        variant: name, or a part of it that no other variant's name has.
        reference: likewise; None is the baseline.

    Raises:
        InputError: there is no such variant, both are the same, or they share no finished seed.
    """
    first = find_variant(experiment, variant)
    second = experiment.baseline if reference is None else find_variant(experiment, reference)
    if second is None:
        raise InputError(f"{experiment.name} has no baseline: name both variants")
    if first.name == second.name:
        raise InputError(f"both are {first.name}" + (", which is the baseline" if reference is None else ""))
    trials = {seed: (one.id, other.id) for seed, ((_, one), (_, other)) in shared(first, second).items()}
    if not trials:
        missing = f"Train what is missing:  gfl-lab run {experiment.source}"
        hint = "Repeat `gfl-lab import-results` with a file of the same seed for each." if experiment.is_imported else missing
        raise InputError(Problem(f"{first.name} and {second.name} share no finished seed", hint=hint))
    return VariantPair(experiment, first, second, trials)


def find_variant(experiment: ExperimentRow, name: str) -> VariantRow:
    """Return the variant of that name, the one with the same words in another order, or the only one whose name contains it.

    Raises:
        InputError: there is none, or several.
    """
    exact = [variant for variant in experiment.variants if variant.name == name]
    exact = exact or [variant for variant in experiment.variants if sorted(variant.name.split()) == sorted(name.split())]
    found = exact or [variant for variant in experiment.variants if name in variant.name]
    if len(found) == 1:
        return found[0]
    problem = f"{experiment.name} has no variant {name!r}"
    if found:
        problem = f"{plural(len(found), 'variant')} of {experiment.name} have {name!r} in their name"
    known = ", ".join(repr(variant.name) for variant in found or experiment.variants)
    raise InputError(Problem(problem, hint=f"Name one of: {known}"))


def _records(store: Store, trial: str) -> Records:
    found = store.records(trial)
    if found is None:
        raise InputError(f"trial {trial} has no evaluation records")
    return found
