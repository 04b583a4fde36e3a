"""The dashboard's writer of grids: ``gfl_lab.report.grid`` to HTML with the classes of style.css."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dashboard import theme
from gfl_lab.report.grid import LABEL, MEASURED, PUBLISHED, TRUE_EDGES, Cell, Column, Grid, Row, Tone

TONES = {Tone.GOOD: "better", Tone.BAD: "worse"}
_HEADINGS = {MEASURED: "measured here", TRUE_EDGES: "against the known edges"}


def values_html(grid: Grid, order: Sequence[int], palette: Mapping[str, str]) -> str:
    """Return the rows at the positions ``order`` with headings over the groups of columns; ``palette`` is colour by variant."""
    shown = [i for i in grid.shown if i not in grid.group(LABEL)]
    starts = {grid.group(group)[0] for group in (TRUE_EDGES, PUBLISHED) if grid.group(group)}
    groups = "".join(_heading(heading.group, heading.span, heading.title) for heading in grid.headings)
    titles = "".join(_title(grid.columns[i], i in starts) for i in shown)
    body = "".join(_row(grid, grid.rows[i], shown, starts, palette) for i in order)
    return (
        f'<div class="wrap"><table><thead><tr class="groups"><th></th><th></th>{groups}</tr><tr><th scope="col">variant</th>'
        f'<th scope="col" class="num">seeds</th>{titles}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _heading(group: str, span: int, title: str) -> str:
    text = _HEADINGS.get(group) or ("published" if title == "published" else "published, not comparable")
    return f'<th colspan="{span}" class="num{"" if group == MEASURED else " first"}" scope="colgroup">{theme.text(text)}</th>'


def _title(column: Column, is_first: bool) -> str:
    css = "num" + (" first" if is_first else "") + (" truth" if column.group == TRUE_EDGES else "")
    help_ = column.help + (f" [{column.unit}]" if column.unit else "")
    unit = f'<br><span class="dim small" style="font-weight:400">{theme.text(column.unit)}</span>' if column.unit else ""
    return f'<th scope="col" class="{css}" title="{theme.text(help_)}">{theme.text(column.title)}{unit}</th>'


def _row(grid: Grid, row: Row, shown: Sequence[int], starts: set[int], palette: Mapping[str, str]) -> str:
    name, seeds = (row.cells[i] for i in grid.group(LABEL))
    note = f' <span class="dim small">{theme.text(name.detail)}</span>' if name.detail else ""
    line = (
        f'<th scope="row" class="name">{theme.swatch(palette[row.name])}{theme.text(row.name)}{note}</th><td class="num">{seeds.text}</td>'
    )
    for i in shown:
        css = "num" + (" first" if i in starts else "") + (" published" if grid.columns[i].group == PUBLISHED else "")
        line += f'<td class="{css}">{_value(row.cells[i])}</td>'
    return f"<tr>{line}</tr>"


def _value(cell: Cell) -> str:
    tone = f" {TONES[cell.tone]}" if cell.tone in TONES else ""
    detail = f'<span class="delta{tone}">{theme.text(cell.detail)}</span>' if cell.detail else ""
    return f'<span class="{"best" if cell.best else ""}">{_spread(cell.text)}</span>{detail}'


def _spread(text: str) -> str:
    """Return a value as HTML, its spread smaller."""
    mean, sign, spread = text.partition(" ± ")
    return theme.text(mean) + (f'<span class="pm"> ± {theme.text(spread)}</span>' if sign else "")


def rows_html(grid: Grid, rows: Sequence[Row]) -> str:
    """Return rows of text, the last cell in the colour of its verdict."""
    head = [(column.title, "name" if column.left else "num") for column in grid.columns]
    lines = []
    for row in rows:
        *texts, verdict = row.cells
        css = TONES.get(verdict.tone, "dim")
        lines.append([*(theme.text(cell.text) for cell in texts), f'<span class="{css}">{theme.text(verdict.text)}</span>'])
    return theme.table_html(head, lines)
