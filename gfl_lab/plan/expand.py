"""Expand an experiment into the combinations of its values, before any setting is resolved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

from gfl_lab import naming
from gfl_lab.errors import Problem, SpecError
from gfl_lab.spec.file_models import ExperimentFile
from gfl_lab.spec.limits import MAX_TRIALS
from gfl_lab.spec.settings import Settings
from gfl_lab.spec.value_text import same


@dataclass(frozen=True)
class Combination:
    """A combination of an experiment's values.

    Attributes:
        name: of the variant. axes: values by axis. settings: those that override the settings of all variants.
        baseline: True if the other variants are compared with this one.
    """

    name: str
    axes: dict[str, Any]
    settings: dict[str, Any]
    baseline: bool


@dataclass(frozen=True)
class Resolved(Combination):
    """A combination with all of its settings."""

    resolved: Settings


def combinations(experiment: ExperimentFile, seeds: Sequence[int], *, source: str = "", max_trials: int = MAX_TRIALS) -> list[Combination]:
    """Return the combinations of an experiment's values, the baseline first where it is named.

    An axis with a condition belongs to a combination if every axis of the condition does and has its value. The order in
    which conditions are written has no influence.

    Raises:
        SpecError: together with the seeds there are more than ``max_trials``, counted before they are made; or the
            conditions form a cycle.
    """
    most = max_trials // max(1, len(seeds))
    if experiment.variants:
        if len(experiment.variants) > most:
            raise _too_many(f"{len(experiment.variants):,} variants", len(experiment.variants), len(seeds), max_trials, source)
        return sorted(
            (
                Combination(name, {naming.NAMED_AXIS: name}, dict(settings), name == experiment.baseline)
                for name, settings in experiment.variants.items()
            ),
            key=lambda each: not each.baseline,
        )
    axes = experiment.axes
    order = experiment.table.rows + [axis for axis in axes if axis not in experiment.table.rows]
    when = {axis: condition for axis, condition in experiment.when.items() if axis in axes}
    factors = " x ".join(f"{len(axes[axis]):,} {axis}" for axis in order)
    at_most = math.prod(len(axes[axis]) for axis in order)
    if at_most > most and not when:
        raise _too_many(factors, at_most, len(seeds), max_trials, source)
    try:
        sequence = [axis for axis in TopologicalSorter({axis: when.get(axis, {}) for axis in order}).static_order() if axis in axes]
    except CycleError as error:
        raise SpecError(
            Problem(f"the conditions form a cycle: {' -> '.join(error.args[1])}", f"{source}: when" if source else "when")
        ) from None
    found: list[dict[str, int]] = [{}]  # {axis: index of its value}; each stays one combination at least, so they are counted as they grow
    for axis in sequence:
        condition = {key: {i for i, each in enumerate(axes.get(key, ())) if same(each, value)} for key, value in when.get(axis, {}).items()}
        grown: list[dict[str, int]] = []
        for chosen in found:
            if all(chosen.get(key, -1) in indices for key, indices in condition.items()):
                if len(grown) + len(axes[axis]) > most:
                    raise _too_many(factors, at_most, len(seeds), max_trials, source, conditions=True)
                grown += [{**chosen, axis: index} for index in range(len(axes[axis]))]
            else:
                grown.append(chosen)
        found = grown
    found.sort(key=lambda chosen: [chosen.get(axis, 0) for axis in order])
    made = []
    for chosen in found:
        values = {axis: axes[axis][chosen[axis]] for axis in order if axis in chosen}
        baseline = isinstance(experiment.baseline, dict) and all(same(values.get(k, v), v) for k, v in experiment.baseline.items())
        made.append(Combination(naming.variant_name(values), values, dict(values), baseline))
    return sorted(made, key=lambda each: not each.baseline)


def _too_many(factors: str, variants: int, seeds: int, max_trials: int, source: str, conditions: bool = False) -> SpecError:
    times = f" x {seeds:,} seeds" if seeds != 1 else ""
    size = f"{'up to ' if conditions else ''}{variants * seeds:,} trials ({factors}{times})"
    more = f", and more than {max_trials:,} by its conditions" if conditions else ""
    return too_many(f"{size}{more}", max_trials, source)


def too_many(size: str, max_trials: int, source: str) -> SpecError:
    """Return the error of an experiment with more trials than are planned; ``size`` says how many."""
    return SpecError(
        Problem(
            f"the experiment has {size}; at most {max_trials:,} are planned",
            source,
            "List fewer values or seeds, vary axes only where they matter (`when`), or search instead (`kind: search`). "
            "`--max-trials N` raises the limit.",
        )
    )
