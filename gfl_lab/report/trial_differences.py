"""In what a trial differs from the baseline's trial of the same seed: settings and numbers."""

from __future__ import annotations

import math

from gfl_lab import naming
from gfl_lab.report.formatting import MISSING
from gfl_lab.results.rows import TrialRow, VariantRow


def setting_differences(variant: VariantRow, baseline: VariantRow) -> dict[str, tuple[str, str]]:
    """Return the settings in which a variant differs from the baseline: (its value, the baseline's) as tables show them."""
    keys = sorted(variant.settings.keys() | baseline.settings.keys())
    return {key: (_shown(variant, key), _shown(baseline, key)) for key in keys if variant.settings.get(key) != baseline.settings.get(key)}


def same_seed(baseline: VariantRow | None, trial: TrialRow) -> TrialRow | None:
    """Return the baseline's finished trial of the same seed; None where there is none, and for that trial itself."""
    found = (each for each in (baseline.done if baseline else ()) if each.seed == trial.seed and each.id != trial.id)
    return next(found, None)


def number_differences(trial: TrialRow, other: TrialRow) -> dict[str, float]:
    """Return the trial's metric minus the other's, by the metrics of ``naming.METRICS`` that both have with a finite value."""
    return {
        key: trial.metrics[key] - other.metrics[key]
        for key in naming.METRICS
        if key in trial.metrics and key in other.metrics and math.isfinite(trial.metrics[key] - other.metrics[key])
    }


def _shown(variant: VariantRow, key: str) -> str:
    return naming.setting_text(variant.settings[key]) if key in variant.settings else MISSING
