"""The AP table for other programs: every number of every metric, as JSON and as one flat grid for CSV."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gfl_lab import naming
from gfl_lab.metrics.coco_ap import RESAMPLED
from gfl_lab.report.comparison import Comparison
from gfl_lab.report.fairness import plain_value
from gfl_lab.report.formatting import one_line
from gfl_lab.report.grid import Cell, Column, Grid, Row
from gfl_lab.report.table import Table
from gfl_lab.report.table_rows import Delta, Stat, TableRow
from gfl_lab.results.rows import Reference, TrialRow

# --- JSON -----------------------------------------------------------------------------------------


def table_json(table: Table) -> dict[str, Any]:
    """Return the table as ``gfl-lab table --json`` prints it (docs/tables.md). Holds no NaN: what is unknown is null or absent."""
    compared = {(each.variant, each.metric): _comparison_json(each) for each in table.comparisons}
    return {
        "format": naming.FORMAT_VERSION,
        "experiment": table.experiment,
        "profile": table.profile,
        "question": table.question,
        "data": table.data,
        "baseline": table.baseline.variant if table.baseline else None,
        "columns": list(table.columns),
        "counts": table.counts,
        "rows": [_row_json(row, compared) for row in table.rows],
        "looks": None if table.design is None else table.design.to_json(),
        "extensions": [each.to_json() for each in table.extensions],
        "footnotes": list(table.footnotes),
    }


def _row_json(row: TableRow, compared: Mapping[tuple[str, str], dict[str, Any]]) -> dict[str, Any]:
    return {
        "variant": row.variant,
        "settings": plain_value(row.axes),
        "baseline": row.baseline,
        "unfair": row.unfair,
        "metrics": {key: _stat_json(found) for key, found in row.metrics.items()},
        "delta": {
            key: _stat_json(found) | {"seeds": list(found.seeds)} | compared.get((row.variant, key), {}) for key, found in row.delta.items()
        },
        "reference": None if row.reference is None else _reference_json(row.reference),
        "trials": [_trial_json(trial) for trial in row.trials],
        "counts": row.counts,
    }


def _stat_json(found: Stat) -> dict[str, Any]:
    return {"mean": _number(found.mean), "std": _number(found.std), "n": found.n}


def _reference_json(reference: Reference) -> dict[str, Any]:
    return {
        "row": reference.row,
        "metrics": {key: _number(value) for key, value in reference.metrics.items()},
        "source": reference.source,
        "split": reference.split,
        "comparable": reference.comparable,
        "why_not": reference.why_not,
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
        "seeds_needed_for": each.min_effect,
        "p_equivalent": _p(each.p_equivalent),
        "within_min_effect": each.within,
        "min_effect": each.min_effect,
        "look": None
        if each.looked_at is None or not each.looked_at.seeds
        else {"seeds": each.looked_at.seeds, "level": found.level, "stopped": each.looked_at.stopped or None},
        "images": found.images or None,
        "images_resolve": _number(each.images_resolve),
        "images_needed": each.images_needed,
        "verdict": each.verdict,
        "weak": each.weak,
        "why": each.why,
    }


def _p(value: float | None) -> float | None:
    """Return p with four significant digits, since p-values are small."""
    return None if value is None else float(f"{value:.4g}")


def _trial_json(trial: TrialRow) -> dict[str, Any]:
    found: dict[str, Any] = {"id": trial.id, "seed": trial.seed, "state": trial.state.value}
    if trial.failure:
        found["failure"] = {"kind": trial.failure.kind, "reason": trial.failure.reason, "step": trial.failure.step}
    return found


def _number(value: float | None) -> float | None:
    """Return ``value`` rounded to 6 decimals: far below any noise, and 0.1 + 0.2 does not print as 0.30000000000000004."""
    return round(value, 6) + 0.0 if value is not None and math.isfinite(value) else None


# --- CSV ------------------------------------------------------------------------------------------

_COMPARED = (
    "low", "high", "p", "p_holm", "resolves", "seeds_needed", "seeds_needed_for", "images_resolve", "images_needed", "rows_pooled",
    "verdict", "weak", "why", "p_equivalent", "min_effect",
)  # fmt: skip
_REFERENCE = ("published_source", "published_split", "published_comparable", "published_why_not")


def data_grid(table: Table) -> Grid:
    """Return one row a variant, with flat columns for every metric: ``AP_mean, AP_std, AP_n, AP_delta, AP_delta_std, AP_delta_n, …``.

    AP, AP50 and AP75 also have ``AP_delta_low`` and the other parts of ``_COMPARED``. Unknown values are empty. Published values are
    ``published_AP`` and so on, with source, split and comparability.
    """
    axes = list(dict.fromkeys(key for row in table.rows for key in row.axes))
    published = list(dict.fromkeys(key for row in table.rows if row.reference for key in row.reference.metrics))
    titles = ["experiment", "profile", "variant", "baseline", *axes, "trials", "done", "trial_ids"]
    for key in table.all_metrics:
        titles += [f"{key}_{part}" for part in ("mean", "std", "n", "delta", "delta_std", "delta_n")]
        titles += [f"{key}_delta_{part}" for part in _COMPARED] if key in RESAMPLED else []
    titles += ["published_row", *(f"published_{key}" for key in published), *_REFERENCE]

    compared = {(each.variant, each.metric): each for each in table.comparisons}
    rows = []
    for row in table.rows:
        texts = [table.experiment, table.profile, one_line(row.variant), lower(row.baseline)]
        texts += [lower(row.axes[key]) if key in row.axes else "" for key in axes]
        texts += [str(len(row.trials)), str(row.counts.get("done", 0)), " ".join(trial.id for trial in row.trials)]
        for key in table.all_metrics:
            texts += [*_stat_texts(row.metrics.get(key)), *_stat_texts(row.delta.get(key))]
            texts += _comparison_texts(compared.get((row.variant, key))) if key in RESAMPLED else []
        texts += _reference_texts(row.reference, published)
        rows.append(Row(row.variant, tuple(Cell(text) for text in texts)))
    return Grid(tuple(Column(title) for title in titles), tuple(rows), named=False)


def _stat_texts(found: Stat | Delta | None) -> list[str]:
    return ["", "", "0"] if found is None else [_text(found.mean), _text(found.std), str(found.n)]


def _comparison_texts(each: Comparison | None) -> list[str]:
    if each is None:
        return [""] * len(_COMPARED)
    found = each.found
    return [
        _text(found.low),
        _text(found.high),
        *("" if p is None else f"{p:.4g}" for p in (found.p, each.p)),
        _text(each.detectable),
        "" if each.needed is None else str(each.needed),
        _text(each.min_effect),
        _text(each.images_resolve),
        "" if each.images_needed is None else str(each.images_needed),
        "" if found.half is None else str(found.rows),
        each.verdict,
        lower(each.weak),
        one_line(each.why),
        "" if each.p_equivalent is None else f"{each.p_equivalent:.4g}",
        _text(each.min_effect),
    ]


def _reference_texts(reference: Reference | None, keys: list[str]) -> list[str]:
    if reference is None:
        return [""] * (1 + len(keys) + len(_REFERENCE))
    values = [_text(reference.metrics.get(key)) for key in keys]
    about = [one_line(reference.source), one_line(reference.split), lower(reference.comparable), one_line(reference.why_not)]
    return [one_line(reference.row), *values, *about]


def _text(value: float | None) -> str:
    """Return a number with all digits that matter; empty for None."""
    return "" if value is None else repr(round(float(value), 6) + 0.0)


def lower(value: object) -> str:
    """Return a setting as other programs read it: true, 16, [8, 16]."""
    return str(value).lower() if isinstance(value, bool) else naming.setting_text(value)
