"""A sheet as one HTML file that stands alone: no script, no external resource, light and dark, printable."""

from __future__ import annotations

from collections.abc import Sequence

from gfl_lab.report.formatting import format_number
from gfl_lab.report.grid import LABEL, PUBLISHED, Cell, Grid, Interval, Row, Sheet, Tone
from gfl_lab.report.writers.escape import escaped
from gfl_lab.report.writers.svg import ticks

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

_TONES = {Tone.GOOD: "up", Tone.BAD: "down"}


def to_html(sheet: Sheet, after: str = "") -> str:
    """Return the page. ``after`` is HTML below the notes."""
    blocks = [block for grid in sheet.grids if not grid.shares for block in _blocks(grid)]
    notes = "".join(f"<li>{escaped(note)}</li>" for note in sheet.notes)
    blocks += [f'<ul class="notes">{notes}</ul>'] if notes else []
    blocks += [after] if after else []
    about = " · ".join(part for part in (sheet.subject, sheet.data) if part)
    heading = [f"<h1>{escaped(sheet.heading)}</h1>", f'<p class="about">{escaped(about)}</p>']
    return document(sheet.title, STYLE, "\n".join([*heading, *blocks]))


def document(title: str, style: str, body: str) -> str:
    """Return a page that stands alone. ``title`` is plain text, ``style`` CSS, ``body`` HTML."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escaped(title)}</title>
<style>
{style}
</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


# --- grids ----------------------------------------------------------------------------------------


def _blocks(grid: Grid) -> list[str]:
    """Return heading, plot and table of a grid."""
    table = "\n".join(
        [
            '<div class="scroll">',
            "<table>",
            "<thead>",
            *_head(grid),
            "</thead>",
            "<tbody>",
            *(_row(grid, row) for row in grid.rows),
            "</tbody>",
            "</table>",
            "</div>",
        ]
    )
    return [
        *([f"<h2>{escaped(grid.title)}</h2>"] if grid.title else []),
        *([_plot(grid.intervals)] if grid.intervals else []),
        table,
    ]


def _head(grid: Grid) -> list[str]:
    """Return the rows of headings and titles."""
    lines = []
    if grid.headings:
        labels = "<th></th>" * len(grid.group(LABEL))
        spans = "".join(
            f'<th scope="colgroup" colspan="{heading.span}" class="first{" published" if heading.group == PUBLISHED else ""}">'
            f"{escaped(heading.title)}</th>"
            for heading in grid.headings
        )
        lines.append(f"<tr>{labels}{spans}</tr>")
    return [*lines, "<tr>" + "".join(_title(grid, i) for i in grid.shown) + "</tr>"]


def _title(grid: Grid, position: int) -> str:
    column = grid.columns[position]
    if position == 0 and grid.named:
        return f'<th scope="col" style="text-align:left">{escaped(column.title)}</th>'
    help_ = column.help + (f" [{column.unit}]" if column.unit else "")
    title = f' title="{escaped(help_)}"' if help_ else ""
    return f'<th scope="col"{_classes(grid, position)}{title}>{escaped(column.title)}</th>'


def _row(grid: Grid, row: Row) -> str:
    return "<tr>" + "".join(_cell(grid, i, row.cells[i]) for i in grid.shown) + "</tr>"


def _cell(grid: Grid, position: int, cell: Cell) -> str:
    if position == 0 and grid.named:
        tag = f' <span class="tag">{escaped(cell.detail)}</span>' if cell.detail else ""
        return f'<th scope="row">{escaped(cell.text)}{tag}</th>'
    tone = _TONES.get(cell.tone, "")
    if cell.detail:
        detail = f'<span class="delta{" " + tone if tone else ""}">{escaped(cell.detail)}</span>'
        return f"<td{_classes(grid, position, 'best' if cell.best else '')}>{escaped(cell.text)}{detail}</td>"
    return f"<td{_classes(grid, position, tone, 'best' if cell.best or cell.strong else '')}>{escaped(cell.text)}</td>"


def _classes(grid: Grid, position: int, *more: str) -> str:
    group = grid.columns[position].group
    is_first = group not in ("", LABEL) and grid.group(group)[0] == position
    names = [*(["first"] if is_first else []), *(["published"] if group == PUBLISHED else []), *(name for name in more if name)]
    return f' class="{" ".join(names)}"' if names else ""


# --- plot of intervals ----------------------------------------------------------------------------

_LONGEST = 30
_ROW, _LABEL, _WIDTH = 26, 220, 720
"""px of the plot: height of a row, room for names, width in all."""


def _plot(intervals: Sequence[Interval]) -> str:
    """Return the differences with their intervals as an SVG."""
    low, high = min(0.0, *(each.low for each in intervals)), max(0.0, *(each.high for each in intervals))
    room = 0.06 * (high - low) or 1.0
    low, high = low - room, high + room
    height = _ROW * len(intervals) + 34

    def x(value: float) -> float:
        return round(_LABEL + (value - low) / (high - low) * (_WIDTH - _LABEL - 16), 1)

    parts = [f'<line class="zero" x1="{x(0)}" x2="{x(0)}" y1="4" y2="{height - 28}"/>']
    for tick in ticks(low, high):
        text = escaped(format_number("AP", tick, True))
        parts.append(f'<text class="tick" x="{x(tick)}" y="{height - 10}" text-anchor="middle">{text}</text>')
    for index, each in enumerate(intervals):
        y = 4 + _ROW * index + _ROW / 2
        name = escaped(each.name if len(each.name) <= _LONGEST else each.name[: _LONGEST - 1] + "…")
        parts += [
            f'<text x="{_LABEL - 12}" y="{y + 4}" text-anchor="end">{name}</text>',
            f'<g class="{_TONES.get(each.tone, "")}"><title>{escaped(each.name)}</title>'
            f'<line x1="{x(each.low)}" x2="{x(each.high)}" y1="{y}" y2="{y}"/>'
            f'<circle cx="{x(each.mean)}" cy="{y}" r="4.5"/></g>',
        ]
    label = "differences in AP with 95% intervals"
    return f'<svg class="plot" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
