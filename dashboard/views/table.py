"""The AP table: variants with their differences to the baseline, published rows beside them, export, speed against AP."""

from __future__ import annotations

import streamlit as st

from dashboard import charts, live, look
from gfl_lab.report import export, series
from gfl_lab.report.table import Table, build_table
from gfl_lab.results.rows import ExperimentRow

_GROUPS = {export.TRUTH: "against the known edges", export.PUBLISHED: "published, not comparable"}
_EXPORTS = (
    ("JSON", export.to_json, "json", "application/json"),
    ("Markdown", export.to_markdown, "md", "text/markdown"),
    ("CSV", export.to_csv, "csv", "text/csv"),
    ("LaTeX", export.to_latex, "tex", "application/x-tex"),
    ("HTML", export.to_html, "html", "text/html"),
)


def _units(column: export.Column) -> str:
    """The part of a column's help that is its unit."""
    return column.help[column.help.rindex("[") + 1 : -1] if column.help.endswith("]") else ""


def _spread(value: str) -> str:
    """A value as HTML, its spread smaller."""
    mean, sign, spread = value.partition(" ± ")
    return look.text(mean) + (f'<span class="pm"> ± {look.text(spread)}</span>' if sign else "")


def _table(table: Table, palette: dict[str, str]) -> str:
    found = export.layout(table)
    starts = {found.group(group)[0] for group in (export.TRUTH, export.PUBLISHED) if found.group(group)}
    groups, spans = "", []
    for column in found.columns:
        if spans and spans[-1][0] == column.group:
            spans[-1][1] += 1
        else:
            spans.append([column.group, 1])
    for group, span in spans:
        title = _GROUPS.get(group, "measured here") if group != export.PUBLISHED or not table.comparable else "published"
        groups += f'<th colspan="{span}" class="num{"" if group == export.OURS else " first"}" scope="colgroup">{look.text(title)}</th>'
    head = "".join(
        f'<th scope="col" class="num{" first" if i in starts else ""}{" truth" if c.group == export.TRUTH else ""}" '
        f'title="{look.text(c.help)}">{look.text(c.title)}'
        + (f'<br><span class="dim small" style="font-weight:400">{look.text(unit)}</span>' if (unit := _units(c)) else "")
        + "</th>"
        for i, c in enumerate(found.columns)
    )
    body = ""
    for row, cells in zip(table.rows, found.rows, strict=True):
        note = ' <span class="dim small">baseline</span>' if row.baseline else ""
        name = f"{look.swatch(palette[row.variant])}{look.text(row.variant)}{note}"
        line = f'<th scope="row" class="name">{name}</th><td class="num">{export.seeds_text(row)}</td>'
        for i, (column, cell) in enumerate(zip(found.columns, cells, strict=True)):
            css = "num" + (" first" if i in starts else "") + (" published" if column.group == export.PUBLISHED else "")
            delta = ""
            if cell.delta:
                sign = {True: " better", False: " worse", None: ""}[cell.better]
                delta = f'<span class="delta{sign}">{look.text(cell.delta)}</span>'
            line += f'<td class="{css}"><span class="{"best" if cell.best else ""}">{_spread(cell.value)}</span>{delta}</td>'
        body += f"<tr>{line}</tr>"
    return (
        f'<div class="wrap"><table><thead><tr class="groups"><th></th><th></th>{groups}</tr><tr><th scope="col">variant</th>'
        f'<th scope="col" class="num">seeds</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _body(experiment: ExperimentRow) -> None:
    table = build_table(experiment)
    palette = look.colours(experiment)
    counts = experiment.counts
    look.header(experiment.question or experiment.name, under=live.data_line(experiment))
    if any(n for state, n in counts.items() if state.value != "done"):
        look.show(look.counts_html(counts))
    look.show(_table(table, palette))
    if not any(row.metrics for row in table.rows):
        look.empty(
            "No trial has finished", "The numbers appear here one by one as trials end. Until then, the curves show how far they are."
        )
    notes = [look.redact(note) for note in table.footnotes]
    if notes:
        look.show('<ol class="notes small dim">' + "".join(f"<li>{look.text(note)}</li>" for note in notes) + "</ol>")
    buttons = st.container(horizontal=True, gap="small", vertical_alignment="center")
    for label, write, suffix, mime in _EXPORTS:
        buttons.download_button(
            label,
            write(table),
            file_name=f"{experiment.name}-{experiment.profile}.{suffix}",
            mime=mime,
            key=f"export-{suffix}",
            icon=":material/download:",
            on_click="ignore",
        )
    points = series.speed_accuracy(experiment)
    if len(points) > 1:
        look.heading("Speed against AP", "Upper right is better. Published speeds are of another machine and are not drawn.")
        figure = charts.speed_accuracy(points, palette, [variant.name for variant in experiment.variants])
        st.plotly_chart(figure, key="speed", config=charts.CONFIG, alt="AP against images per second, one point a variant")


live.follow(_body)
