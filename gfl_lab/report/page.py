"""The table as one HTML file that stands alone."""

from __future__ import annotations

import html
import math
from collections.abc import Callable

from gfl_lab.report.formatting import (
    PUBLISHED,
    comparison_head,
    comparison_rows,
    comparison_title,
    format_number,
    group_titles,
    layout,
    one_line,
    seeds_text,
)
from gfl_lab.report.table import Table

_LEFT = ' style="text-align:left"'

_LONGEST = 30

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5c6670; --rule: #c9d0d6; --paper: #fff; --up: #12713b; --down: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --soft: #9aa4ae; --rule: #3b434b; --paper: #14181c; --up: #63d297; --down: #ff8a80; }
}
* { box-sizing: border-box; }
body { margin: 0; padding: 2.5rem 1.5rem; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 84rem; margin: 0 auto; }
h1 { font-size: 1.35rem; line-height: 1.3; margin: 0 0 .25rem; text-wrap: balance; overflow-wrap: anywhere; }
h2 { font-size: 1rem; margin: 2rem 0 .5rem; overflow-wrap: anywhere; }
.about { color: var(--soft); margin: 0 0 1.5rem; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums;
  border-top: 2px solid var(--ink); border-bottom: 2px solid var(--ink); }
th, td { padding: .45rem .7rem; text-align: right; white-space: nowrap; vertical-align: top; }
th { font-weight: 600; }
thead tr:first-child th { padding-bottom: .15rem; color: var(--soft); font-weight: 500; font-size: .85rem; text-align: center; }
thead tr:last-child th { border-bottom: 1px solid var(--ink); }
tbody th { text-align: left; font-weight: 500; white-space: normal; min-width: 9rem; overflow-wrap: anywhere; }
tbody tr + tr > * { border-top: 1px solid var(--rule); }
.first { border-left: 1px solid var(--rule); }
.published { color: var(--soft); }
thead tr:last-child th { white-space: normal; vertical-align: bottom; max-width: 6.5rem; }
.best { font-weight: 700; }
.delta { display: block; font-size: .82rem; line-height: 1.25; font-weight: 400; color: var(--soft); }
.up { color: var(--up); } .down { color: var(--down); }
.tag { color: var(--soft); font-size: .82rem; font-weight: 400; }
.notes { margin: 1rem 0 0; padding-left: 1.1rem; color: var(--soft); font-size: .88rem; max-width: 62rem; overflow-wrap: anywhere; }
.plot { max-width: 46rem; width: 100%; display: block; margin: .5rem 0 1rem; font-size: 13px; fill: var(--ink); }
.plot line { stroke: var(--soft); stroke-width: 2; } .plot .zero { stroke: var(--ink); stroke-width: 1; } .plot .tick { fill: var(--soft); }
.plot circle { fill: var(--soft); } .plot .up circle { fill: var(--up); } .plot .down circle { fill: var(--down); }
@media print { body { padding: 0; } .scroll { overflow: visible; } }
""".strip()


def to_html(table: Table) -> str:
    """One file that stands alone: no script, no external resource, light and dark, printable."""
    esc, found = escaped, layout(table)
    firsts = {found.group(group)[0] for _, _, group in group_titles(table, found)}

    def classes(i: int, *more: str) -> str:
        names = [name for name, wanted in (("first", i in firsts), ("published", found.columns[i].group == PUBLISHED)) if wanted]
        names += [name for name in more if name]
        return f' class="{" ".join(names)}"' if names else ""

    heads = "".join(
        f'<th scope="colgroup" colspan="{n}" class="first{" published" if group == PUBLISHED else ""}">{esc(title)}</th>'
        for title, n, group in group_titles(table, found)
    )
    titles = "".join(
        f'<th scope="col"{classes(i)}{f" title={chr(34)}{esc(column.help)}{chr(34)}" if column.help else ""}>{esc(column.title)}</th>'
        for i, column in enumerate(found.columns)
    )
    body = []
    for row, cells in zip(table.rows, found.rows, strict=True):
        tag = ' <span class="tag">baseline</span>' if row.baseline else ""
        line = [f'<th scope="row">{esc(row.variant)}{tag}</th><td>{esc(seeds_text(row))}</td>']
        for i, cell in enumerate(cells):
            direction = {True: " up", False: " down", None: ""}[cell.better]
            delta = f'<span class="delta{direction}">{esc(cell.delta)}</span>' if cell.delta else ""
            line.append(f"<td{classes(i, 'best' if cell.best else '')}>{esc(cell.value)}{delta}</td>")
        body.append("<tr>" + "".join(line) + "</tr>")
    notes = "".join(f"<li>{esc(note)}</li>" for note in table.footnotes)
    newline = "\n"
    comparisons = _comparisons(table, esc) if table.compared else ""
    about = f"{table.experiment} on {table.profile} · {table.data}"
    return document(
        f"{table.experiment} · {table.profile}",
        table.question or table.experiment,
        about,
        f"""<div class="scroll">
<table>
<thead>
<tr><th></th><th></th>{heads}</tr>
<tr><th scope="col" style="text-align:left">variant</th><th scope="col">seeds</th>{titles}</tr>
</thead>
<tbody>
{newline.join(body)}
</tbody>
</table>
</div>
{comparisons}
{f'<ul class="notes">{notes}</ul>' if notes else ""}""",
    )


def escaped(text: str) -> str:
    """Any text on one line of HTML, as it is, in an element or an attribute."""
    return html.escape(one_line(text), quote=True)


def document(title: str, heading: str, about: str, body: str) -> str:
    """A page that stands alone, in the look that all reports share. ``body`` is HTML, the others are plain text."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escaped(title)}</title>
<style>
{STYLE}
</style>
</head>
<body>
<main>
<h1>{escaped(heading)}</h1>
<p class="about">{escaped(about)}</p>
{body}
</main>
</body>
</html>
"""


def _comparisons(table: Table, esc: Callable[[str], str]) -> str:
    head = "".join(f'<th scope="col"{_LEFT if i == 0 else ""}>{esc(title)}</th>' for i, title in enumerate(comparison_head(table)))
    body = []
    for row, each in zip(comparison_rows(table), table.compared, strict=True):
        css = {True: "up", False: "down", None: ""}[each.better] + ("" if each.better is None or each.weak else " best")
        css = f' class="{css}"' if css else ""
        cells = "".join(f"<td>{esc(cell)}</td>" for cell in row[1:-1])
        body.append(f'<tr><th scope="row">{esc(row[0])}</th>{cells}<td{css}>{esc(row[-1])}</td></tr>')
    newline = "\n"
    return f"""<h2>{esc(comparison_title(table))}</h2>
{_plot(table, esc)}
<div class="scroll">
<table>
<thead>
<tr>{head}</tr>
</thead>
<tbody>
{newline.join(body)}
</tbody>
</table>
</div>"""


_ROW, _LABEL, _WIDTH = 26, 220, 720
"""px of the plot: height of a row, room for names, width in all."""


def _plot(table: Table, esc: Callable[[str], str]) -> str:
    """Differences with their intervals as an SVG; empty where no interval is known."""
    known = [each for each in table.compared if each.found.low is not None and each.found.high is not None]
    if not known:
        return ""
    low, high = min(0.0, *(each.found.low for each in known)), max(0.0, *(each.found.high for each in known))
    room = 0.06 * (high - low) or 1.0
    low, high = low - room, high + room
    height = _ROW * len(known) + 34

    def x(value: float) -> float:
        return round(_LABEL + (value - low) / (high - low) * (_WIDTH - _LABEL - 16), 1)

    parts = [f'<line class="zero" x1="{x(0)}" x2="{x(0)}" y1="4" y2="{height - 28}"/>']
    for tick in _ticks(low, high):
        parts.append(
            f'<text class="tick" x="{x(tick)}" y="{height - 10}" text-anchor="middle">{esc(format_number("AP", tick, True))}</text>'
        )
    for index, each in enumerate(known):
        y = 4 + _ROW * index + _ROW / 2
        css = {True: "up", False: "down", None: ""}[each.better]
        name = esc(each.variant if len(each.variant) <= _LONGEST else each.variant[: _LONGEST - 1] + "…")
        parts += [
            f'<text x="{_LABEL - 12}" y="{y + 4}" text-anchor="end">{name}</text>',
            f'<g class="{css}"><title>{esc(each.variant)}</title><line x1="{x(each.found.low)}" x2="{x(each.found.high)}" y1="{y}" y2="{y}"/>'
            f'<circle cx="{x(each.found.mean)}" cy="{y}" r="4.5"/></g>',
        ]
    return f'<svg class="plot" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="differences in AP with 95% intervals">{"".join(parts)}</svg>'


def _ticks(low: float, high: float) -> list[float]:
    """A few round numbers between the two, 0 among them."""
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 7)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
