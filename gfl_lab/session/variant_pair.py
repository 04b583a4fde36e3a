"""Two variants that have been run, chosen by their names and compared seed by seed."""

from __future__ import annotations

from gfl_lab.errors import InputError, Problem
from gfl_lab.report.variant_pair import VariantPair as VariantPair
from gfl_lab.report.variant_pair import pair_of
from gfl_lab.results.rows import ExperimentRow, VariantRow
from gfl_lab.wording import plural


def find_pair(experiment: ExperimentRow, variant: str, reference: str | None = None) -> VariantPair:
    """Return two variants of an experiment and the trials that can be compared; never none.

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
    return _with_trials(pair_of(experiment, first, second))


def find_pair_of(first: tuple[ExperimentRow, VariantRow], second: tuple[ExperimentRow, VariantRow]) -> VariantPair:
    """Return two variants, each of any experiment, and the trials that can be compared; never none.

    Raises:
        InputError: both are the same, they share no finished seed, or both experiments share all these trials.
    """
    (experiment, variant), (other, reference) = first, second
    pair = pair_of(experiment, variant, reference, other)
    if pair.is_planned and variant.name == reference.name:
        raise InputError(f"both are {variant.name} of {experiment.name}")
    if pair.equal_problem:
        raise InputError(pair.equal_problem.removesuffix("."))
    return _with_trials(pair)


def _with_trials(pair: VariantPair) -> VariantPair:
    """Return the pair if it has trials. Raises InputError with the way to some."""
    if pair.trials:
        return pair
    first, second = pair.names
    imported = "Repeat `gfl-lab import-results` with a file of the same seed for each."
    commands = dict.fromkeys(each.run_command() for each in (pair.experiment, pair.other) if not each.is_imported)
    train = "Train what is missing:  " + "  and  ".join(commands)
    raise InputError(Problem(f"{first} and {second} share no finished seed", hint=train if commands else imported))


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
