"""The AP table: variants with their differences to the baseline, published rows beside them, exports, speed against AP."""

from __future__ import annotations

from functools import partial

import streamlit as st

from dashboard import downloads, grid_html, state, theme
from dashboard.figures import CONFIG
from dashboard.reader import reader
from dashboard.views import table_figures
from gfl_lab import naming
from gfl_lab.report import speed
from gfl_lab.report.comparison import min_effect_of
from gfl_lab.report.exports import TABLE_FORMS
from gfl_lab.report.formatting import metric_title
from gfl_lab.report.grid import LABEL, PUBLISHED, Column, Grid
from gfl_lab.report.table import Table, build_table
from gfl_lab.report.table_grid import comparison_grid, comparison_title, metric_columns, ranked, values_grid
from gfl_lab.results.rows import ExperimentRow

FEW = 3
"""With fewer rows there is nothing to sort or to find."""
PLAN = "the plan's order"
DIFFERENCES = ("0.1", "0.2", "0.3", "0.5", "1", "2", "5")


def choices(experiment: ExperimentRow) -> None:
    """Draw the choices above the table: the column that rows are sorted by, a filter, the difference to detect."""
    if len(experiment.variants) < FEW:
        return
    columns = [_choice(column) for column in metric_columns(build_table(experiment))]
    if experiment.data.truth:  # their columns come with the first finished trial
        columns += [title for key in naming.TRUTH_METRICS if (title := metric_title(key)) not in columns]
    with st.container(horizontal=True, gap="medium"):
        state.choose("Sorted by", "sort", [PLAN, *columns], PLAN, width=240)
        state.typed("Only variants with", "rows", placeholder="words of their names", width=240)
        own = f"{min_effect_of(experiment):g}"
        sizes = sorted({*DIFFERENCES, own}, key=float)
        state.choose("Smallest effect that matters", "difference", sizes, own, names=lambda points: f"{points} AP", width=200)


def _choice(column: Column) -> str:
    return f"published {column.title}" if column.group == PUBLISHED else column.title


def show(experiment: ExperimentRow) -> None:
    """Draw everything below the choices."""
    table = build_table(experiment, reader().store.resampled_or_none, float(st.session_state.get("w:difference", 0)))
    grid = values_grid(table)
    palette = theme.colours(experiment)
    order = _order(grid)
    counts = experiment.counts
    if any(n for each, n in counts.items() if each.value != "done"):
        theme.show(theme.counts_html(counts))
    if order:
        theme.show(grid_html.values_html(grid, order, palette))
    else:
        theme.empty("No row has these words", "They are looked for in the names of the variants.")
    if not any(row.metrics for row in table.rows):
        theme.empty(
            "No trial has finished", "The numbers appear here one by one as trials end. Until then, the curves show how far they are."
        )
    _comparisons(table, [grid.rows[i].name for i in order])
    notes = [theme.redact(note) for note in table.footnotes]
    if notes:
        theme.show('<ol class="notes small dim">' + "".join(f"<li>{theme.text(note)}</li>" for note in notes) + "</ol>")
    downloads.buttons(experiment, {form: partial(write, table) for form, write in TABLE_FORMS.items()})
    _speed(experiment, palette)


def _order(grid: Grid) -> list[int]:
    """Return the positions of the rows to show, by the choices above the table."""
    if len(grid.rows) < FEW:
        return list(range(len(grid.rows)))
    by = {_choice(column): i for i, column in enumerate(grid.columns) if i in grid.shown and column.group != LABEL}
    position = by.get(st.session_state.get("w:sort", PLAN))
    words = str(st.session_state.get("w:rows", "")).casefold().split()
    rows = range(len(grid.rows)) if position is None else ranked(grid, position)
    return [i for i in rows if all(word in grid.rows[i].name.casefold() for word in words)]


def _comparisons(table: Table, variants: list[str]) -> None:
    """Draw every variant that is shown against the baseline, the verdict by colour and in words."""
    grid = comparison_grid(table)
    by_name = {row.name: row for row in grid.rows}
    rows = [by_name[name] for name in variants if name in by_name]
    if rows:
        theme.heading(comparison_title(table), "Is a difference more than other seeds and other images would make?")
        theme.show(grid_html.rows_html(grid, rows))


def _speed(experiment: ExperimentRow, palette: dict[str, str]) -> None:
    """Draw speed against AP, measured and published in plots of their own: their machines differ."""
    order = [variant.name for variant in experiment.variants]
    found = {"ours": speed.speed_accuracy(experiment), "published": speed.published_speed(experiment)}
    shown = {name: points for name, points in found.items() if len(points) > 1}
    if not shown:
        return
    theme.heading("Speed against AP", "Upper right is better; the dotted line joins what no other variant beats in both.")
    where = {"ours": "on this machine", "published": "as published, on the authors' machine"}
    for column, (name, points) in zip(st.columns(len(shown), gap="medium"), shown.items(), strict=True):
        figure = table_figures.speed_accuracy(points, speed.pareto(points), palette, order, where[name])
        with column:
            st.plotly_chart(figure, key=f"speed-{name}", config=CONFIG, alt=f"AP against images per second, {where[name]}")
