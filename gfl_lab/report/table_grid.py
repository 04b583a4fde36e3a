"""The AP table as grids: values with their differences below, and the comparisons with the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gfl_lab import naming
from gfl_lab.report.columns import SEEDS, VARIANT, difference_columns
from gfl_lab.report.comparison import EQUIVALENT, MIN_EFFECT, Comparison
from gfl_lab.report.fairness import UNFAIR
from gfl_lab.report.formatting import (
    MISSING,
    format_number,
    format_size,
    format_spread,
    metric_title,
    needed_text,
    p_text,
    rounded,
    verdict_text,
)
from gfl_lab.report.grid import AXIS, MEASURED, PUBLISHED, TRUE_EDGES, Cell, Column, Grid, Heading, Interval, Row, Sheet, Tone
from gfl_lab.report.statistics import NO_LOOK, NO_SIGNAL
from gfl_lab.report.table import Table
from gfl_lab.report.table_rows import TableRow

_GROUPS = (MEASURED, PUBLISHED, TRUE_EDGES)


def table_sheet(table: Table) -> Sheet:
    """Return the table as every form for people shows it. Differences are shown for AP metrics; JSON and CSV hold them for all."""
    return Sheet(
        name=table.experiment,
        title=f"{table.experiment} · {table.profile}",
        heading=table.question or table.experiment,
        subject=f"{table.experiment} on {table.profile}",
        data=table.data,
        grids=(values_grid(table), *([comparison_grid(table)] if table.compared else [])),
        notes=table.footnotes,
    )


# --- values ---------------------------------------------------------------------------------------


def values_grid(table: Table) -> Grid:
    """Return the grid of names, seeds, measured and published values."""
    metrics = metric_columns(table)
    labels = [VARIANT, SEEDS]
    axes = [Column("variant" if axis == naming.NAMED_AXIS else axis, axis, AXIS) for axis in table.axes]
    best = {key: value for key in table.columns if (value := _best(table, key)) is not None}
    verdicts = {(each.variant, each.metric): each.better for each in table.comparisons}
    rows = []
    for row in table.rows:
        cells = [Cell(row.variant, "baseline" if row.baseline else "", tone=Tone.FAINT), Cell(seeds_text(row))]
        cells += [Cell(naming.setting_text(row.axes[axis]), value=row.axes[axis]) for axis in table.axes]
        cells += [_cell(table, row, column, best, verdicts) for column in metrics]
        rows.append(Row(row.variant, tuple(cells)))
    titles = {MEASURED: table.profile, PUBLISHED: published_title(table), TRUE_EDGES: "against the ground-truth edges"}
    spans = {group: sum(column.group == group for column in metrics) for group in _GROUPS}
    headings = tuple(Heading(titles[group], span, group) for group, span in spans.items() if span)
    return Grid((*labels, *axes, *metrics), tuple(rows), headings=headings)


def metric_columns(table: Table) -> list[Column]:
    """Return the columns of metrics, group by group. A metric that ``naming.METRICS`` does not have is titled by its key."""
    columns = []
    for key in table.columns:
        metric = naming.METRICS.get(key)
        group = TRUE_EDGES if key in naming.TRUTH_METRICS else MEASURED
        columns.append(Column(metric_title(key), key, group, metric.help if metric else "", metric.unit if metric else ""))
    columns += [Column(metric_title(key), key, PUBLISHED, "as published") for key in table.published]
    return sorted(columns, key=lambda column: _GROUPS.index(column.group))


def _cell(table: Table, row: TableRow, column: Column, best: Mapping[str, float], verdicts: Mapping[tuple[str, str], bool | None]) -> Cell:
    key = column.key
    if column.group == PUBLISHED:
        value = row.reference.metrics.get(key) if row.reference else None
        return Cell(MISSING) if value is None else Cell(format_number(key, value), value=value, italic=not table.comparable)
    found = row.metrics.get(key)
    if found is None:
        return Cell(MISSING)
    delta = row.delta.get(key) if key in naming.AP_METRICS else None
    return Cell(
        format_spread(key, found.mean, found.std),
        "" if delta is None else format_spread(key, delta.mean, delta.std, signed=True),
        found.mean,
        Tone.PLAIN if delta is None else Tone.of(verdicts.get((row.variant, key))),
        # Scores against the ground-truth edges have no best: a Dirac box has no false modes for free.
        best=column.group == MEASURED and key in best and rounded(key, found.mean) == best[key],
    )


def _best(table: Table, key: str) -> float | None:
    """Return the best mean of a metric, as printed; None where all are equal, or the metric has no direction or is the machine's speed."""
    means = {rounded(key, row.metrics[key].mean) for row in table.rows if key in row.metrics}
    if len(means) < 2 or key not in naming.METRICS or key in naming.MACHINE_METRICS:
        return None
    return max(means) if naming.METRICS[key].higher_is_better else min(means)


def seeds_text(row: TableRow) -> str:
    """Return the finished trials of a row: 3, or 2/3 while some are missing; marked where the row may not be compared."""
    done = row.counts.get("done", 0)
    return (str(done) if done == len(row.trials) else f"{done}/{len(row.trials)}") + (f" {UNFAIR}" if row.unfair else "")


def published_title(table: Table) -> str:
    """Return the heading over the published columns."""
    return "published" if table.comparable else "published (not comparable)"


def ranked(grid: Grid, position: int) -> list[int]:
    """Return the positions of the rows by a column's value, the best first; rows without a value last, equal ones in the plan's order."""
    key = grid.columns[position].key
    sign = -1 if key not in naming.METRICS or naming.METRICS[key].higher_is_better else 1
    values = [row.cells[position].value for row in grid.rows]
    known = [(sign * float(value), i) for i, value in enumerate(values) if value is not None]
    first = [i for _, i in sorted(known)]
    return first + [i for i in range(len(grid.rows)) if i not in first]


# --- comparisons ----------------------------------------------------------------------------------


def comparison_grid(table: Table, metric: str = "AP") -> Grid:
    """Return the grid of differences to the baseline, one row a variant. ``metric``: of ``coco_ap.RESAMPLED``."""
    compared = tuple(each for each in table.comparisons if each.metric == metric)
    min_effect = compared[0].min_effect if compared else MIN_EFFECT
    rows = tuple(Row(each.variant, _comparison_cells(each)) for each in compared)
    return Grid(difference_columns(min_effect, metric), rows, comparison_title(table, metric), intervals=_intervals(compared))


def comparison_title(table: Table, metric: str = "AP") -> str:
    """Return the heading of the comparisons."""
    return f"Differences in {metric} to the baseline ({table.baseline.variant if table.baseline else ''})"


def _comparison_cells(each: Comparison) -> tuple[Cell, ...]:
    found = each.found
    strong = each.better is not None and not each.weak
    return (
        Cell(each.variant),
        Cell(_points(found.mean, signed=True), value=found.mean),
        Cell(_interval_text(each)),
        Cell(p_text(each.p), value=each.p),
        Cell(format_size(each.detectable), value=each.detectable),
        Cell(needed_text(each), value=each.needed),
        Cell(verdict_text(each), tone=Tone.PLAIN if each.verdict == EQUIVALENT else Tone.of(each.better), strong=strong),
    )


def _interval_text(each: Comparison) -> str:
    found = each.found
    if found.ends is not None:
        low, high = found.ends
        return f"{_points(low, signed=True)} to {_points(high, signed=True)}"
    images_only = found.image_half is not None and each.verdict not in (NO_SIGNAL, NO_LOOK)
    return f"± {_points(found.image_half)} (images)" if images_only else MISSING


def _points(value: float | None, signed: bool = False) -> str:
    return MISSING if value is None else format_number("AP", value, signed)


def _intervals(comparisons: Sequence[Comparison]) -> tuple[Interval, ...]:
    return tuple(
        Interval(each.variant, each.found.ends[0], each.found.mean, each.found.ends[1], Tone.of(each.better))
        for each in comparisons
        if each.found.ends is not None
    )
