"""The AP table: variants with their differences to the baseline, published rows beside them, exports, speed against AP."""

from __future__ import annotations

from functools import partial

import streamlit as st

from dashboard import clicks, downloads, grid_html, state, theme
from dashboard.figures import CONFIG
from dashboard.reader import reader
from dashboard.views import table_figures
from gfl_lab import naming
from gfl_lab.metrics.coco_ap import RESAMPLED
from gfl_lab.report import claim_sentences as sentences
from gfl_lab.report import columns, speed
from gfl_lab.report.comparison import INCONCLUSIVE, Comparison, min_effect_of
from gfl_lab.report.exports import TABLE_FORMS
from gfl_lab.report.formatting import format_number, metric_title, verdict_text
from gfl_lab.report.grid import LABEL, PUBLISHED, Column, Grid
from gfl_lab.report.statistics import NO_LOOK, ONE_SEED
from gfl_lab.report.table import Table, build_table
from gfl_lab.report.table_grid import comparison_grid, comparison_title, metric_columns, ranked, values_grid
from gfl_lab.results.rows import ExperimentRow

FEW = 3
"""With fewer rows there is nothing to sort or to find."""
PLAN = "the plan's order"
DIFFERENCES = ("0.1", "0.2", "0.3", "0.5", "1", "2", "5")
_INTERVAL = "with its 95% interval"
_EXTENTS = {ONE_SEED: "with its ± over the validation images alone (one seed)", NO_LOOK: "preliminary, without intervals"}


def choices(experiment: ExperimentRow) -> None:
    """Draw the choices above the table: the column that rows are sorted by, a filter, the smallest effect, the metric of the verdicts."""
    if len(experiment.variants) < FEW:
        return
    columns = [_choice(column) for column in metric_columns(build_table(experiment))]
    if experiment.data.truth:  # their columns come with the first finished trial
        columns += [title for key in naming.TRUTH_METRICS if (title := metric_title(key)) not in columns]
    with st.container(horizontal=True, gap="medium"):
        state.choose("Sorted by", "sort", [PLAN, *columns], PLAN, width=240)
        state.typed("Filter variants by name", "rows", placeholder="words of a name", width=240)
        own = f"{min_effect_of(experiment):g}"
        sizes = sorted({*DIFFERENCES, own}, key=float)
        state.choose("Smallest effect that matters", "difference", sizes, own, names=lambda points: f"{points} AP", width=200)
        state.choose("Verdicts on", "verdicts", tuple(RESAMPLED), widget=st.segmented_control, required=True)


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
    names = [grid.rows[i].name for i in order]
    _answer(table, names)
    _forest(experiment, table, names)
    if order:
        opened = str(state.chosen("open") or "")
        theme.show(grid_html.values_html(grid, order, palette, _heads(grid), grid_html.Opened(opened, _seeds(experiment, grid, opened))))
    else:
        theme.empty("No row has these words", "They are looked for in the names of the variants.")
    if not any(row.metrics for row in table.rows):
        theme.empty(
            "No trial has finished", "The numbers appear here one by one as trials end. Until then, the curves show how far they are."
        )
    _comparisons(table, names)
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


def _heads(grid: Grid) -> dict[int, grid_html.SortHead]:
    """Return the head of each column, by its position: a click sorts by the column, a second click undoes it."""
    if len(grid.rows) < FEW:
        return {}
    asked = st.session_state.get("w:sort", PLAN)
    by = {i: _choice(grid.columns[i]) for i in grid.shown if grid.columns[i].group != LABEL}
    return {
        i: grid_html.SortHead(clicks.put_attribute(sort=PLAN if choice == asked else choice), is_sorted=choice == asked)
        for i, choice in by.items()
    }


def _seeds(experiment: ExperimentRow, grid: Grid, variant: str) -> list[tuple[str, list[str]]]:
    """Return the trials of a variant as (title, values in the order of the shown columns)."""
    found = next((each for each in experiment.variants if each.name == variant), None)
    lines = []
    for trial in found.trials if found else ():
        shown = [grid.columns[i] for i in grid.shown if grid.columns[i].group != LABEL]
        values = [
            format_number(column.key, trial.metrics[column.key]) if column.group != PUBLISHED and column.key in trial.metrics else ""
            for column in shown
        ]
        lines.append((f"seed {trial.seed} · {theme.state_title(trial.state)} · {trial.id}", values))
    return lines


def _answer(table: Table, variants: list[str]) -> None:
    """Draw the verdict of each row on AP in one line: the variants by verdict."""
    verdicts: dict[str, list[str]] = {}
    for each in table.comparisons:
        if each.metric == "AP" and each.variant in variants:
            verdicts.setdefault(each.verdict, []).append(each.variant)
    found = [f"{theme.verdict_html(verdict, verdict + ':')} {theme.text(', '.join(names))}" for verdict, names in verdicts.items()]
    if found and table.baseline:
        theme.show(f'<div class="answer">In AP, against {theme.text(table.baseline.variant)}: {"; ".join(found)}.</div>')
    if early := sentences.preliminary([each for each in table.compared if each.variant in variants]):
        theme.show(f'<div class="dim">{theme.text(early)}</div>')


def _forest(experiment: ExperimentRow, table: Table, variants: list[str]) -> None:
    """Draw the differences with their intervals, the band of the smallest effect, and the verdicts as colours."""
    shown = [each for each in table.comparisons if each.variant in variants]
    if not shown:
        return
    figure = table_figures.forest(shown, variants, theme.ink())
    baseline = table.baseline.variant if table.baseline else ""
    least = f"{shown[0].min_effect:g}"
    extent = _EXTENTS.get(shown[0].verdict, _INTERVAL) if len({each.verdict for each in shown}) == 1 else _INTERVAL
    legend = "".join(theme.verdict_html(verdict) for verdict in columns.VERDICTS if any(each.verdict == verdict for each in shown))
    theme.show(
        f'<div class="legend"><b>Difference to {theme.text(baseline)}, {extent}</b>{legend}'
        f'<span class="dim">grey band: ±{least} AP, the smallest effect that matters</span></div>'
    )
    st.plotly_chart(figure, key="forest", config=CONFIG, alt=f"difference to the baseline, {extent}, one row a variant")
    verdicts = "; ".join(f"{each.variant}: {verdict_text(each)}" for each in shown if each.metric == "AP")
    words = f"Difference to {baseline}, {extent}; grey band ±{least} AP. Verdicts on AP: {verdicts}."
    downloads.figure("forest", experiment, words)


def _comparisons(table: Table, variants: list[str]) -> None:
    """Draw every variant that is shown against the baseline, with the verdict, and what would resolve open ones."""
    metric = str(st.session_state.get("w:verdicts", "AP"))
    metric = metric if metric in RESAMPLED else "AP"
    grid = comparison_grid(table, metric)
    by_name = {row.name: row for row in grid.rows}
    rows = [by_name[name] for name in variants if name in by_name]
    if rows:
        theme.heading(comparison_title(table, metric), "Is a difference more than other seeds and other images would make?")
        compared = {each.variant: each for each in table.comparisons if each.metric == metric}
        verdicts = {name: each.verdict for name, each in compared.items()}
        theme.show(grid_html.rows_html(grid, rows, verdicts))
        _resolve([compared[row.name] for row in rows])


def _resolve(compared: list[Comparison]) -> None:
    """Say what each open verdict needs, seeds or images."""
    open_ = [each for each in compared if each.verdict in (INCONCLUSIVE, ONE_SEED)]
    if open_:
        with st.expander("What would resolve this?", icon=":material/help:"):
            lines = [[theme.text(each.variant), theme.text(" ".join(sentences.caveats(each)))] for each in open_]
            theme.show(theme.table_html([("variant", "name"), ("seeds or images", "")], lines))


def _speed(experiment: ExperimentRow, palette: dict[str, str]) -> None:
    """Draw speed against AP, measured and published in plots of their own: their machines differ."""
    order = [variant.name for variant in experiment.variants]
    found = {"measured": speed.speed_accuracy(experiment), "published": speed.published_speed(experiment)}
    shown = {name: points for name, points in found.items() if len(points) > 1}
    if not shown:
        return
    theme.heading("Speed against AP", "Upper right is better; the dotted line joins what no other variant beats in both.")
    where = {"measured": "on this machine", "published": "as published, on the authors' machine"}
    for column, (name, points) in zip(st.columns(len(shown), gap="medium"), shown.items(), strict=True):
        figure = table_figures.speed_accuracy(points, speed.pareto(points), palette, order, where[name])
        with column:
            st.plotly_chart(figure, key=f"speed-{name}", config=CONFIG, alt=f"AP against images per second, {where[name]}")
