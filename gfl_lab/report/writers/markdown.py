"""A sheet as Markdown with GitHub's tables."""

from __future__ import annotations

import re
from collections.abc import Iterable

from gfl_lab.report.formatting import one_line
from gfl_lab.report.grid import PUBLISHED, Cell, Column, Grid, Sheet

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$])")


def escaped(text: str) -> str:
    """Return ``text`` so that Markdown (with GitHub's tables and maths) shows it as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", one_line(text).replace("&", "&amp;"))


def to_markdown(sheet: Sheet) -> str:
    """Return the grids with caption and notes. Best values are bold, differences in brackets."""
    about = escaped(sheet.subject) + (f" ({escaped(sheet.data)})" if sheet.data else "")
    lines = [f"**{escaped(sheet.heading)}**", "", about]
    for grid in sheet.grids:
        lines += ["", *([escaped(grid.title), ""] if grid.title else []), *_table(grid)]
    if sheet.notes:
        lines += ["", *(f"- {escaped(note)}" for note in sheet.notes)]
    return "\n".join(lines) + "\n"


def _table(grid: Grid) -> list[str]:
    columns = [grid.columns[i] for i in grid.shown]
    lines = [_line(escaped(_title(column)) for column in columns)]
    lines.append("|" + "".join(" :-- |" if column.left else " --: |" for column in columns))
    return [*lines, *(_line(_cell(row.cells[i]) for i in grid.shown) for row in grid.rows)]


def _line(texts: Iterable[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def _title(column: Column) -> str:
    return ("published " if column.group == PUBLISHED else "") + column.title


def _cell(cell: Cell) -> str:
    text = escaped(cell.text)
    if cell.italic:
        text = f"*{text}*"
    elif cell.best:
        text = f"**{text}**"
    return text + (f" ({escaped(cell.detail)})" if cell.detail else "")
