"""The dashboard's writer of grids: ``gfl_lab.report.grid`` to HTML with the classes of style.css."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dashboard import clicks, theme
from gfl_lab.report.comparison import BETTER, WORSE
from gfl_lab.report.formatting import VERDICT_SIGNS
from gfl_lab.report.grid import LABEL, MEASURED, PUBLISHED, TRUE_EDGES, Cell, Column, Grid, Row, Tone

TONES = {Tone.GOOD: "better", Tone.BAD: "worse"}
_SIGNS = {Tone.GOOD: VERDICT_SIGNS[BETTER], Tone.BAD: VERDICT_SIGNS[WORSE]}
_HEADINGS = {MEASURED: "measured here", TRUE_EDGES: "against the ground-truth edges"}


class SortHead(NamedTuple):
    """A column's head that sorts: the attributes that make a click do so, and whether the rows are sorted by it now."""

    put: str = ""
    is_sorted: bool = False


_UNSORTED = SortHead()


class Opened(NamedTuple):
    """The variant whose seeds are shown below its row: (title, values in the order of the columns) of each."""

    variant: str = ""
    seeds: Sequence[tuple[str, Sequence[str]]] = ()


def values_html(grid: Grid, order: Sequence[int], palette: Mapping[str, str], heads: Mapping[int, SortHead], opened: Opened) -> str:
    """Return the rows at the positions ``order`` with headings over the groups of columns.

    Args:
        palette: colour by variant. heads: of the columns that sort, by their position. opened: the row whose seeds are shown.
    """
    shown = [i for i in grid.shown if i not in grid.group(LABEL)]
    starts = {grid.group(group)[0] for group in (TRUE_EDGES, PUBLISHED) if grid.group(group)}
    groups = "".join(_heading(heading.group, heading.span, heading.title) for heading in grid.headings)
    titles = "".join(_title(grid.columns[i], "num", i in starts, heads.get(i, _UNSORTED)) for i in shown)
    labels = "".join(_title(grid.columns[i], "" if grid.columns[i].left else "num") for i in grid.group(LABEL))
    body = "".join(_row(grid, grid.rows[i], shown, starts, palette) + _seeds(grid.rows[i], shown, starts, opened) for i in order)
    return (
        f'<div class="wrap"><table><thead><tr class="groups"><th></th><th></th>{groups}</tr><tr>{labels}{titles}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _heading(group: str, span: int, title: str) -> str:
    text = _HEADINGS.get(group) or ("published" if title == "published" else "published, not comparable")
    return f'<th colspan="{span}" class="num{"" if group == MEASURED else " first"}" scope="colgroup">{theme.text(text)}</th>'


def _title(column: Column, css: str, is_first: bool = False, head: SortHead = _UNSORTED) -> str:
    css += (" first" if is_first else "") + (" truth" if column.group == TRUE_EDGES else "") + (" sorted" if head.is_sorted else "")
    help_ = column.help + (f" [{column.unit}]" if column.unit else "")
    unit = f'<br><span class="dim small" style="font-weight:400">{theme.text(column.unit)}</span>' if column.unit else ""
    link = theme.about_link(column.key, column.title) if column.help and column.group != PUBLISHED else ""
    return f'<th scope="col" class="{css}" title="{theme.text(help_)}" {head.put}>{theme.text(column.title)}{link}{unit}</th>'


def _row(grid: Grid, row: Row, shown: Sequence[int], starts: set[int], palette: Mapping[str, str]) -> str:
    name, seeds = (row.cells[i] for i in grid.group(LABEL))
    note = f' <span class="dim small">{theme.text(name.detail)}</span>' if name.detail else ""
    line = (
        f'<th scope="row" class="name">{theme.swatch(palette[row.name])}{theme.text(row.name)}{note}</th>'
        f'<td class="num"><span class="opens" title="show its seeds" {clicks.put_attribute(open=row.name)}>{seeds.text}</span></td>'
    )
    for i in shown:
        css = "num" + (" first" if i in starts else "") + (" published" if grid.columns[i].group == PUBLISHED else "")
        line += f'<td class="{css}">{_value(row.cells[i])}</td>'
    return f"<tr>{line}</tr>"


def _seeds(row: Row, shown: Sequence[int], starts: set[int], opened: Opened) -> str:
    """Return the lines of the seeds of an opened row."""
    if row.name != opened.variant:
        return ""
    lines = ""
    for title, values in opened.seeds:
        cells = "".join(
            f'<td class="num{" first" if i in starts else ""}">{theme.text(value)}</td>' for i, value in zip(shown, values, strict=True)
        )
        lines += f'<tr class="seed"><th scope="row" class="name dim">{theme.text(title)}</th><td></td>{cells}</tr>'
    close = f'<span class="opens small dim" {clicks.put_attribute(open="")}>close the seeds</span>'
    return lines + f'<tr><td class="name" style="padding-left:1.4rem">{close}</td><td colspan="{len(shown) + 1}"></td></tr>'


def _value(cell: Cell) -> str:
    tone, sign = (f" {TONES[cell.tone]}", f"{_SIGNS[cell.tone]} ") if cell.tone in TONES else ("", "")
    detail = f'<span class="delta{tone}">{sign}{theme.text(cell.detail)}</span>' if cell.detail else ""
    return f'<span class="{"best" if cell.best else ""}">{_spread(cell.text)}</span>{detail}'


def _spread(text: str) -> str:
    """Return a value as HTML, its spread smaller."""
    mean, sign, spread = text.partition(" ± ")
    return theme.text(mean) + (f'<span class="pm"> ± {theme.text(spread)}</span>' if sign else "")


def rows_html(grid: Grid, rows: Sequence[Row], verdicts: Mapping[str, str]) -> str:
    """Return rows of text, the last cell as the verdict that it is. ``verdicts``: by the name of the row."""
    head = "".join(_title(column, "name" if column.left or column is grid.columns[-1] else "num") for column in grid.columns)
    body = ""
    for row in rows:
        name, *texts, verdict = row.cells
        cells = "".join(f'<td class="num">{theme.text(cell.text)}</td>' for cell in texts)
        cells += f'<td class="name">{theme.verdict_html(verdicts.get(row.name, ""), verdict.text)}</td>'
        body += f'<tr><th scope="row" class="name">{theme.text(name.text)}</th>{cells}</tr>'
    return f'<div class="wrap rows"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
