"""A sheet as rich draws it in a terminal.

Colour and weight are rich's to leave out where there is no terminal or NO_COLOR is set; the signs stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gfl_lab.report.formatting import MISSING, one_line
from gfl_lab.report.grid import MEASURED, PUBLISHED, TRUE_EDGES, Cell, Grid, Sheet, Tone

_COLOURS = {Tone.PLAIN: "", Tone.GOOD: "green", Tone.BAD: "red", Tone.FAINT: "dim"}
_BAR = 30
"""Characters of a share of 1."""


class TableReport:
    """The AP table: measured values with their differences below, the published ones dim in a column of their own.

    Fits 80 columns: where both do not fit side by side, the published values follow as a table of their own. The arrangement is chosen
    when the width is known.
    """

    def __init__(self, sheet: Sheet) -> None:
        self._sheet = sheet
        self._grid, *self._others = sheet.grids
        self._measured, self._published, self._edges = (self._grid.group(group) for group in (MEASURED, PUBLISHED, TRUE_EDGES))
        metrics = (*self._measured, *self._published, *self._edges)
        self._has_details = any(row.cells[i].detail for row in self._grid.rows for i in metrics)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        def fits(table: Table) -> bool:
            return Measurement.get(console, options.update(max_width=10_000), table).maximum <= options.max_width

        parts: list[RenderableType] = _captions(self._sheet)
        has_published = bool(self._published and self._grid.rows)
        together = has_published and fits(self._values(True, wrap=False))
        parts.append(_below(self._values(together, wrap=not (together or fits(self._values(False, wrap=False))))))
        if any(row.cells[i].text != MISSING for row in self._grid.rows for i in self._edges):
            parts += [_below(Text("Box distributions against the ground-truth edges", style="dim")), self._edge_scores()]
        for grid in self._others:
            parts += [_below(Text(one_line(grid.title), style="dim")), _comparisons(grid)]
        if has_published and not together:
            parts.append(_below(self._published_values()))
        if self._sheet.notes:
            parts.append(_below(_notes(self._sheet.notes)))
        yield Group(*parts)

    def _values(self, with_published: bool, wrap: bool) -> Table:
        table = _table(wrap)
        table.add_column("seeds", justify="right", no_wrap=True)
        for i in self._measured:
            table.add_column(Text(self._grid.columns[i].title), justify="right", no_wrap=not wrap)
        published: list[Text] = []
        if with_published:
            heading, published = self._published_column()
            table.add_column(heading, no_wrap=True)
        for j, row in enumerate(self._grid.rows):
            name = Text(one_line(row.name))
            if row.cells[0].detail:
                name.append("\n" + row.cells[0].detail, style="dim")
            table.add_row(name, row.cells[1].text, *(self._value(row.cells[i]) for i in self._measured), *published[j : j + 1])
        return table

    def _value(self, cell: Cell) -> Text:
        text = Text(cell.text, style="bold" if cell.best else "")
        if self._has_details:
            text.append("\n")
            text.append(cell.detail, style=f"not bold {_COLOURS[cell.tone]}".strip())
        return text

    def _published_column(self) -> tuple[Text, list[Text]]:
        """Return heading and cells of all published values as one column, the numbers spread evenly under the heading."""
        columns = [[self._grid.columns[i].title, *(row.cells[i].text for row in self._grid.rows)] for i in self._published]
        widths = [max(map(len, column)) for column in columns]
        title = next(heading.title for heading in self._grid.headings if heading.group == PUBLISHED)
        gap = max(2, -(-(len(title) - sum(widths)) // max(1, len(widths) - 1))) if len(widths) > 1 else 2
        lines = [(" " * gap).join(text.rjust(n) for text, n in zip(line, widths, strict=True)) for line in zip(*columns, strict=True)]
        return Text(f"{title}\n{lines[0]}", style="not bold dim"), [Text(line, style="dim") for line in lines[1:]]

    def _published_values(self) -> Table:
        table = _table()
        heading, texts = self._published_column()
        table.add_column(heading, no_wrap=True)
        for row, text in zip(self._grid.rows, texts, strict=True):
            table.add_row(Text(one_line(row.name), style="dim"), text)
        return table

    def _edge_scores(self) -> Table:
        table = _table()
        for i in self._edges:
            table.add_column(Text(self._grid.columns[i].title), justify="right")
        for row in self._grid.rows:
            table.add_row(Text(one_line(row.name)), *(row.cells[i].text for i in self._edges))
        return table


def ranking_report(sheet: Sheet) -> RenderableType:
    """Return the ranked table of a search, its shares as bars."""
    parts = _captions(sheet)
    for grid in sheet.grids:
        parts.append(Padding(_bars(grid), (0, 0, 1, 0)) if grid.shares else Padding(_rows(grid), (1, 0, 1, 0)))
    return Group(*parts, _notes(sheet.notes))


def comparison_report(sheet: Sheet) -> RenderableType:
    """Return the comparison of two variants: a table for each group of numbers, then the notes."""
    parts: list[RenderableType] = []
    for grid in sheet.grids:
        parts += [_rows(grid), Text(grid.note)]
    return Group(*parts, _notes(sheet.notes))


def _captions(sheet: Sheet) -> list[RenderableType]:
    return [Text(one_line(sheet.heading), style="bold"), Text(one_line(sheet.about), style="dim")]


def _below(part: RenderableType) -> Padding:
    return Padding(part, (1, 0, 0, 0))


def _empty_table() -> Table:
    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), collapse_padding=True, header_style="bold")


def _table(wrap: bool = True) -> Table:
    table = _empty_table()
    table.add_column("variant", overflow="fold", no_wrap=not wrap)
    return table


def _comparisons(grid: Grid) -> Table:
    table = _table()
    for column in grid.columns[1:]:
        table.add_column(column.title, justify="right", overflow="fold")
    for row in grid.rows:
        table.add_row(*(Text(cell.text, style=_COLOURS[cell.tone] + (" bold" if cell.strong else "")) for cell in row.cells))
    return table


def _rows(grid: Grid) -> Table:
    table = _empty_table()
    for column in grid.columns:
        table.add_column(Text(column.title), justify="left" if column.left else "right", overflow="fold" if grid.named else "ellipsis")
    for row in grid.rows:
        cells = (Text(cell.text, style=_COLOURS[cell.tone]) for cell in row.cells)
        table.add_row(*cells, style="bold" if row.strong else _COLOURS[row.tone])
    return table


def _bars(grid: Grid) -> Table:
    table = Table.grid(padding=(0, 1))
    for row in grid.rows:
        name, share = row.cells
        table.add_row(Text(name.text), Text(share.text), Text("━" * round(_BAR * float(share.value or 0)), style="cyan"))
    return table


def _notes(notes: Sequence[str]) -> Table:
    table = Table.grid(padding=(0, 1))
    for note in notes:
        table.add_row(Text("·", style="dim"), Text(one_line(note), style="dim", overflow="fold"))
    return table
