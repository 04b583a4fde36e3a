"""The table as rich draws it in a terminal."""

from __future__ import annotations

from typing import Any

from gfl_lab.report.formatting import (
    MISSING,
    OURS,
    PUBLISHED,
    TRUTH,
    Cell,
    comparison_head,
    comparison_rows,
    comparison_title,
    layout,
    one_line,
    published_title,
    seeds_text,
)
from gfl_lab.report.table import Table, TableRow


def render_terminal(table: Table) -> Any:
    """A rich renderable: our numbers with the differences below them, the published ones dim in a column of their own.

    Colour and weight are rich's to leave out where there is no terminal or NO_COLOR is set; the signs stay. Fits 80
    columns: where both do not fit side by side, the published values follow as a table of their own.
    """
    from rich import box
    from rich.console import Console, ConsoleOptions, Group
    from rich.measure import Measurement
    from rich.padding import Padding
    from rich.table import Table as RichTable
    from rich.text import Text

    found = layout(table)
    ours, truth, published = (found.group(group) for group in (OURS, TRUTH, PUBLISHED))
    two_lines = any(cell.delta for cells in found.rows for cell in cells)

    def cell_text(cell: Cell) -> Text:
        text = Text(cell.value, style="bold" if cell.best else "")
        if two_lines:
            text.append("\n")
            text.append(cell.delta, style={True: "not bold green", False: "not bold red", None: "not bold dim"}[cell.better])
        return text

    def new_table(wrap: bool = True) -> RichTable:
        grid = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), collapse_padding=True, header_style="bold")
        grid.add_column("variant", overflow="fold", no_wrap=not wrap)
        return grid

    def name_text(row: TableRow, mark: bool) -> Text:
        text = Text(one_line(row.variant))
        if row.baseline and mark:
            text.append("\nbaseline", style="dim")
        return text

    def published_texts() -> tuple[Text, list[Text]]:
        """Heading and cells of all published values as one column, the numbers spread evenly under the heading."""
        columns = [[found.columns[i].title, *(cells[i].value for cells in found.rows)] for i in published]
        widths = [max(map(len, column)) for column in columns]
        title = published_title(table)
        gap = max(2, -(-(len(title) - sum(widths)) // max(1, len(widths) - 1))) if len(widths) > 1 else 2
        lines = [(" " * gap).join(text.rjust(n) for text, n in zip(line, widths, strict=True)) for line in zip(*columns, strict=True)]
        return Text(f"{title}\n{lines[0]}", style="not bold dim"), [Text(line, style="dim") for line in lines[1:]]

    def main_table(with_published: bool, wrap: bool) -> RichTable:
        grid = new_table(wrap)
        grid.add_column("seeds", justify="right", no_wrap=True)
        for i in ours:
            grid.add_column(Text(found.columns[i].title), justify="right", no_wrap=not wrap)
        texts: list[Text] = []
        if with_published:
            heading, texts = published_texts()
            grid.add_column(heading, no_wrap=True)
        for j, (row, cells) in enumerate(zip(table.rows, found.rows, strict=True)):
            grid.add_row(name_text(row, True), seeds_text(row), *(cell_text(cells[i]) for i in ours), *texts[j : j + 1])
        return grid

    def truth_table() -> RichTable:
        grid = new_table()
        for i in truth:
            grid.add_column(Text(found.columns[i].title), justify="right")
        for row, cells in zip(table.rows, found.rows, strict=True):
            grid.add_row(name_text(row, False), *(cells[i].value for i in truth))
        return grid

    def comparison_table() -> RichTable:
        grid = new_table()
        for title in comparison_head(table)[1:]:
            grid.add_column(title, justify="right", overflow="fold")
        for line, each in zip(comparison_rows(table), table.compared, strict=True):
            style = {True: "green", False: "red", None: "dim"}[each.better] + ("" if each.better is None or each.weak else " bold")
            grid.add_row(*(Text(cell) for cell in line[:-1]), Text(line[-1], style=style))
        return grid

    def published_table() -> RichTable:
        grid = new_table()
        heading, texts = published_texts()
        grid.add_column(heading, no_wrap=True)
        for row, text in zip(table.rows, texts, strict=True):
            grid.add_row(Text(one_line(row.variant), style="dim"), text)
        return grid

    class Terminal:
        """Chooses the arrangement when the width is known."""

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> Any:
            def fits(grid: RichTable) -> bool:
                return Measurement.get(console, options.update(max_width=10_000), grid).maximum <= options.max_width

            parts: list[Any] = [Text(one_line(table.question or table.experiment), style="bold")]
            parts.append(Text(one_line(f"{table.experiment} on {table.profile} ({table.data})"), style="dim"))
            together = bool(published and table.rows) and fits(main_table(True, wrap=False))
            grid = main_table(together, wrap=not (together or fits(main_table(False, wrap=False))))
            parts.append(Padding(grid, (1, 0, 0, 0)))
            if truth and any(cells[i].value != MISSING for cells in found.rows for i in truth):
                parts.append(Padding(Text("Learned distributions against the known edges", style="dim"), (1, 0, 0, 0)))
                parts.append(truth_table())
            if table.compared:
                parts.append(Padding(Text(one_line(comparison_title(table)), style="dim"), (1, 0, 0, 0)))
                parts.append(comparison_table())
            if published and not together and table.rows:
                parts.append(Padding(published_table(), (1, 0, 0, 0)))
            if table.footnotes:
                notes = RichTable.grid(padding=(0, 1))
                for note in table.footnotes:
                    notes.add_row(Text("·", style="dim"), Text(one_line(note), style="dim", overflow="fold"))
                parts.append(Padding(notes, (1, 0, 0, 0)))
            yield Group(*parts)

    return Terminal()
