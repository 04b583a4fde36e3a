"""Is the comparison fair? Settings in which variants differ beyond the declared axes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gfl_lab import naming
from gfl_lab.results.rows import ExperimentRow, VariantRow
from gfl_lab.spec.cfg_options import is_option, spread
from gfl_lab.spec.choices import ROLES
from gfl_lab.wording import joined

UNFAIR = "†"
"""Marks a row that may not be compared."""


def unfair_rows(experiment: ExperimentRow) -> set[str]:
    """Return the variants that contradict their axes, or differ from the baseline (else the first one) in a setting that is no declared axis."""
    first = experiment.baseline or experiment.variants[0]
    declared = _declared(experiment)

    def undeclared(variant: VariantRow) -> dict[str, str]:
        settings = spread(variant.settings)
        return {key: naming.canonical_json(plain_value(value)) for key, value in settings.items() if key not in declared}

    def contradicts(variant: VariantRow) -> bool:
        settings = spread(variant.settings)
        return any(key in settings and plain_value(settings[key]) != plain_value(value) for key, value in variant.axes.items())

    return {variant.name for variant in experiment.variants if undeclared(variant) != undeclared(first) or contradicts(variant)}


def unfair(experiment: ExperimentRow) -> list[str]:
    """Return every way in which variants differ beyond the declared axes; empty when the comparison is fair.

    All settings of all variants are compared, so data set, budget and evaluation protocol are covered. The declared
    settings are the axes or, for named variants, the settings that they name, and what follows from them (``qfl`` from
    ``quality``).
    """
    variants, declared = experiment.variants, _declared(experiment)
    settings_of = {variant.name: spread(variant.settings) for variant in variants}
    problems = []
    for key in sorted(set().union(*settings_of.values())) if variants else []:
        if key in declared:
            continue
        groups: dict[str, list[str]] = {}
        for variant in variants:
            settings = settings_of[variant.name]
            text = naming.canonical_json(plain_value(settings[key])) if key in settings else "missing"
            groups.setdefault(text, []).append(variant.name)
        if len(groups) > 1:
            values = "; ".join(f"{text} in {joined(names)}" for text, names in groups.items())
            problems.append(f"{key} differs but is no declared axis: {values}")
    for variant in variants:
        for key, value in variant.axes.items():
            settings = settings_of[variant.name]
            # a plan completes the descriptions of other trials, so they hold more than the axis gives
            if key in settings and key not in ROLES and plain_value(settings[key]) != plain_value(value):
                problems.append(
                    f"{variant.name}: the axis {key} is {naming.setting_text(value)}, its settings have {naming.setting_text(settings[key])}"
                )
    return problems


def _declared(experiment: ExperimentRow) -> set[str]:
    """Return the declared settings, each entry of a declared ``cfg_options`` among them."""
    options = {key for variant in experiment.variants for key in spread(variant.settings) if is_option(key)}
    return {*experiment.declared, *(options if "cfg_options" in experiment.declared else ())}


def plain_value(value: Any) -> Any:
    """Return ``value`` for JSON: tuples as lists, numbers that JSON does not have as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (list, tuple)):
        return [plain_value(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): plain_value(item) for key, item in value.items()}
    return value
