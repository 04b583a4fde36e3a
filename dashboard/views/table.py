"""The AP table: variants with their differences to the baseline, published rows beside them, export, speed against AP.

Of a search the ranked table, since trials that were stopped early cannot be compared like variants.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import streamlit as st

from dashboard import charts, data, live, state, theme
from gfl_lab import naming
from gfl_lab.errors import FormatError
from gfl_lab.report import export, series
from gfl_lab.report import search as searching
from gfl_lab.report.comparison import SMALLEST
from gfl_lab.report.formatting import (
    MISSING,
    OURS,
    PUBLISHED,
    TRUTH,
    Column,
    Layout,
    comparison_head,
    comparison_rows,
    comparison_title,
    format_number,
    layout,
    metric_title,
    ranked,
    seeds_text,
)
from gfl_lab.report.table import Table, build_table
from gfl_lab.results.rows import ExperimentRow
from gfl_lab.results.search import DONE, FAILED, STOPPED, SuggestionRow
from gfl_lab.spec.search import dimensions_of

_GROUPS = {TRUTH: "against the known edges", PUBLISHED: "published, not comparable"}
_EXPORTS = (
    ("JSON", export.to_json, "json", "application/json"),
    ("Markdown", export.to_markdown, "md", "text/markdown"),
    ("CSV", export.to_csv, "csv", "text/csv"),
    ("LaTeX", export.to_latex, "tex", "application/x-tex"),
    ("HTML", export.to_html, "html", "text/html"),
)
MOST_ROWS = 200
FEW = 3  # with fewer rows there is nothing to sort or to find
PLAN = "the plan's order"
DIFFERENCES = ("0.1", "0.2", "0.3", "0.5", "1", "2", "5")


def _units(column: Column) -> str:
    """The part of a column's help that is its unit."""
    return column.help[column.help.rindex("[") + 1 : -1] if column.help.endswith("]") else ""


def _spread(value: str) -> str:
    """A value as HTML, its spread smaller."""
    mean, sign, spread = value.partition(" ± ")
    return theme.text(mean) + (f'<span class="pm"> ± {theme.text(spread)}</span>' if sign else "")


def _order(table: Table, found: Layout) -> list[int]:
    """Positions of the rows to show, as the choices above the table say."""
    if len(table.rows) < FEW:
        return list(range(len(table.rows)))
    by = _columns(found).get(st.session_state.get("w:sort", PLAN))
    words = str(st.session_state.get("w:rows", "")).casefold().split()
    rows = range(len(table.rows)) if by is None else ranked(table, by)
    return [i for i in rows if all(word in table.rows[i].variant.casefold() for word in words)]


def _columns(found: Layout) -> dict[str, Column]:
    """The columns by what they are called in the choice."""
    return {(f"published {column.title}" if column.group == PUBLISHED else column.title): column for column in found.columns}


def _table(table: Table, found: Layout, palette: dict[str, str], order: list[int]) -> str:
    starts = {found.group(group)[0] for group in (TRUTH, PUBLISHED) if found.group(group)}
    groups, spans = "", []
    for column in found.columns:
        if spans and spans[-1][0] == column.group:
            spans[-1][1] += 1
        else:
            spans.append([column.group, 1])
    for group, span in spans:
        title = _GROUPS.get(group, "measured here") if group != PUBLISHED or not table.comparable else "published"
        groups += f'<th colspan="{span}" class="num{"" if group == OURS else " first"}" scope="colgroup">{theme.text(title)}</th>'
    head = "".join(
        f'<th scope="col" class="num{" first" if i in starts else ""}{" truth" if c.group == TRUTH else ""}" '
        f'title="{theme.text(c.help)}">{theme.text(c.title)}'
        + (f'<br><span class="dim small" style="font-weight:400">{theme.text(unit)}</span>' if (unit := _units(c)) else "")
        + "</th>"
        for i, c in enumerate(found.columns)
    )
    body = ""
    for row, cells in ((table.rows[i], found.rows[i]) for i in order):
        note = ' <span class="dim small">baseline</span>' if row.baseline else ""
        name = f"{theme.swatch(palette[row.variant])}{theme.text(row.variant)}{note}"
        line = f'<th scope="row" class="name">{name}</th><td class="num">{seeds_text(row)}</td>'
        for i, (column, cell) in enumerate(zip(found.columns, cells, strict=True)):
            css = "num" + (" first" if i in starts else "") + (" published" if column.group == PUBLISHED else "")
            delta = ""
            if cell.delta:
                sign = {True: " better", False: " worse", None: ""}[cell.better]
                delta = f'<span class="delta{sign}">{theme.text(cell.delta)}</span>'
            line += f'<td class="{css}"><span class="{"best" if cell.best else ""}">{_spread(cell.value)}</span>{delta}</td>'
        body += f"<tr>{line}</tr>"
    return (
        f'<div class="wrap"><table><thead><tr class="groups"><th></th><th></th>{groups}</tr><tr><th scope="col">variant</th>'
        f'<th scope="col" class="num">seeds</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _comparisons(table: Table, order: list[int]) -> str:
    """Every variant that is shown against the baseline, the verdict by colour and in words."""
    head = [(title, "name" if i == 0 else "num") for i, title in enumerate(comparison_head(table))]
    lines = []
    known = {each.variant: (line, each) for line, each in zip(comparison_rows(table), table.compared, strict=True)}
    for line, each in (known[name] for i in order if (name := table.rows[i].variant) in known):
        css = {True: "better", False: "worse", None: "dim"}[each.better]
        lines.append([*map(theme.text, line[:-1]), f'<span class="{css}">{theme.text(line[-1])}</span>'])
    return theme.table_html(head, lines)


def _buttons(experiment: ExperimentRow, files: dict[str, str | Callable[[], str]]) -> None:
    """A button for each form of a table; a function makes its form only when it is asked for."""
    buttons = st.container(horizontal=True, gap="small", vertical_alignment="center")
    for label, _, suffix, mime in _EXPORTS:
        if suffix in files:
            buttons.download_button(
                label,
                files[suffix],
                file_name=f"{experiment.name}-{experiment.profile}.{suffix}",
                mime=mime,
                key=f"export-{suffix}",
                icon=":material/download:",
                on_click="ignore",
            )


def _ablation(experiment: ExperimentRow) -> None:
    table = build_table(experiment, data.store().resampled_or_none, float(st.session_state.get("w:difference", SMALLEST)))
    palette = theme.colours(experiment)
    counts = experiment.counts
    if any(n for each, n in counts.items() if each.value != "done"):
        theme.show(theme.counts_html(counts))
    found = layout(table)
    order = _order(table, found)
    if order:
        theme.show(_table(table, found, palette, order))
    else:
        theme.empty("No row has these words", "They are looked for in the names of the variants.")
    if not any(row.metrics for row in table.rows):
        theme.empty(
            "No trial has finished", "The numbers appear here one by one as trials end. Until then, the curves show how far they are."
        )
    if any(table.rows[i].variant in {each.variant for each in table.compared} for i in order):
        theme.heading(comparison_title(table), "Is a difference more than other seeds and other images would make?")
        theme.show(_comparisons(table, order))
    notes = [theme.redact(note) for note in table.footnotes]
    if notes:
        theme.show('<ol class="notes small dim">' + "".join(f"<li>{theme.text(note)}</li>" for note in notes) + "</ol>")
    _buttons(experiment, {suffix: write(table) for _, write, suffix, _ in _EXPORTS})
    _speed(experiment, palette)


def _speed(experiment: ExperimentRow, palette: dict[str, str]) -> None:
    """Speed against AP, ours and the published in plots of their own: their machines differ."""
    order = [variant.name for variant in experiment.variants]
    found = {"ours": series.speed_accuracy(experiment), "published": series.published_speed(experiment)}
    shown = {name: points for name, points in found.items() if len(points) > 1}
    if not shown:
        return
    theme.heading("Speed against AP", "Upper right is better; the dotted line joins what no other variant beats in both.")
    where = {"ours": "on this machine", "published": "as published, on the authors' machine"}
    for column, (name, points) in zip(st.columns(len(shown), gap="medium"), shown.items(), strict=True):
        figure = charts.speed_accuracy(points, series.pareto(points), palette, order, where[name])
        with column:
            st.plotly_chart(figure, key=f"speed-{name}", config=charts.CONFIG, alt=f"AP against images per second, {where[name]}")


# --- searches -------------------------------------------------------------------------------------


def _value(found: searching.Ranking, row: SuggestionRow) -> str:
    if row.value is None or row.state == FAILED:
        return MISSING
    shown = theme.text(format_number(found.search.metric, row.value))
    if row.state == DONE:
        return shown
    return shown + ("*" if row.state == STOPPED else ' <span class="small">so far</span>')


def _ranked(found: searching.Ranking) -> str:
    head = [("rank", "num"), ("no.", "num"), *((key, "setting") for key in found.keys), (charts.metric_title(found.search.metric), "num")]
    head += [("state", "name"), ("trial", "name")]
    lines = []
    for place, row in found.rows[:MOST_ROWS]:
        settings = [theme.text(naming.setting_text(row.settings[key])) for key in found.keys]
        there = f' <span class="small">at {row.epoch} of {row.epochs}</span>' if row.epochs and row.state != DONE else ""
        trial = f'<span class="mono">{theme.text(row.trial)}</span>'
        cells = [str(place or MISSING), str(row.number), *settings, _value(found, row), theme.state_html(row.state) + there, trial]
        css = "best" if place == 1 and row.state == DONE else "" if row.state == DONE else "dim"
        lines.append([f'<span class="{css}">{cell}</span>' if css else cell for cell in cells])
    return theme.table_html(head, lines)


def _plots(found: searching.Ranking, about: str) -> None:
    marks = theme.search_marks()
    if isinstance(found.importance, searching.Importance):
        theme.heading("How much each setting mattered", about)
        figure = charts.importance(found.importance.shares, marks[DONE][0])
        st.plotly_chart(figure, key="importance", config=charts.CONFIG, alt="Importance of each setting as a bar")
    else:
        theme.heading("How much each setting mattered")
        theme.show(f'<div class="dim">{theme.text(about)}</div>')
    valued = [row for place, row in found.rows if place]
    if not valued:
        return
    metric = naming.METRICS[found.search.metric].title
    theme.heading(f"{metric} over each setting", "One mark a trial, over all that is searched.")
    said = {DONE: "finished", STOPPED: "stopped early, at the value of its last epoch"}
    theme.show(
        '<div class="legend">'
        + "".join(f'<span><b style="color:{colour}">{sign}</b> {said[state]}</span>' for state, (colour, _, sign) in marks.items())
        + "</div>"
    )
    dimensions = dimensions_of(found.search.space)
    columns = st.columns(3 if len(dimensions) in (3, 5, 6, 9) else 2, gap="medium")
    for index, dimension in enumerate(dimensions):
        figure = charts.over_setting(dimension, valued, found.search.metric, marks)
        with columns[index % len(columns)]:
            st.plotly_chart(
                figure, key=f"over-{dimension.key}", config=charts.CONFIG, alt=f"{metric} over {dimension.key}, one mark a trial"
            )


def _search(experiment: ExperimentRow) -> None:
    try:
        found = data.ranking(experiment)
    except data.StoreError as error:
        theme.alert(str(error))
        if not isinstance(error, FormatError):
            theme.empty(
                "The ranked table cannot be shown",
                f"It is made from {naming.SEARCH} beside the plan. Without that file the same command searches anew; "
                "what its trials have computed is kept and used again.",
            )
        return
    search = found.search
    way = "high" if naming.METRICS[search.metric].higher_is_better else "low"
    space = "".join(f"<dt>{theme.text(dimension.key)}</dt><dd>{theme.text(dimension)}</dd>" for dimension in dimensions_of(search.space))
    theme.show(
        f'<div style="margin:.2rem 0 .5rem">{theme.counts_html(*data.ledger_counts(found))}</div>'
        f'<div class="dim">A search for {way} {theme.text(naming.METRICS[search.metric].title)} over</div><dl>{space}</dl>'
    )
    if found.rows:
        theme.show(_ranked(found))
    if len(found.rows) > MOST_ROWS:
        theme.show(f'<div class="dim small">and {len(found.rows) - MOST_ROWS} more, which the files below hold</div>')
    if not any(place for place, _ in found.rows):
        theme.empty("Nothing to rank yet", "Trials are ranked here one by one as they finish or are stopped early.")
    notes = [theme.redact(note) for note in found.notes]
    about = next((note for note in notes if note.startswith("Importance")), "")
    theme.show('<ul class="notes small dim">' + "".join(f"<li>{theme.text(note)}</li>" for note in notes if note != about) + "</ul>")
    if found.rows:
        _buttons(experiment, {form: partial(searching.exported, found, form) for form in searching.FORMATS})
    if found.best:
        theme.heading("Is the best one better?", "This compares it with the defaults, over seeds that it was not chosen on.")
        st.code(f"gfl-lab confirm EXPERIMENT.yaml --profile {experiment.profile}", language=None)
    if any(place for place, _ in found.rows):
        _plots(found, about)


def _body(experiment: ExperimentRow) -> None:
    (_search if experiment.kind == data.SEARCH else _ablation)(experiment)


def _choices(experiment: ExperimentRow) -> None:
    """By what the rows are sorted, and which of them are shown."""
    columns = list(_columns(layout(build_table(experiment))))
    if experiment.data.truth:  # their columns come with the first finished trial
        columns += [title for key in naming.TRUTH_METRICS if (title := metric_title(key)) not in columns]
    with st.container(horizontal=True, gap="medium"):
        state.choose("Sorted by", "sort", [PLAN, *columns], PLAN, width=240)
        state.typed("Only variants with", "rows", placeholder="words of their names", width=240)
        state.choose("Seeds needed for", "difference", DIFFERENCES, f"{SMALLEST:g}", names=lambda points: f"{points} AP", width=150)


experiment = live.current()
theme.header(experiment.question or experiment.name, under=live.data_line(experiment))
if experiment.kind != data.SEARCH and len(experiment.variants) >= FEW:
    _choices(experiment)
live.follow(_body)
