"""Content of the grids of a table, for tests."""

from __future__ import annotations

from gfl_lab.report.grid import AXIS, LABEL, Cell
from gfl_lab.report.table import Table
from gfl_lab.report.table_grid import comparison_grid, values_grid


def metric_cells(table: Table) -> list[list[Cell]]:
    """Return the cells of measured and published values, row by row."""
    grid = values_grid(table)
    labels = grid.group(LABEL, AXIS)
    return [[cell for i, cell in enumerate(row.cells) if i not in labels] for row in grid.rows]


def comparison_texts(table: Table) -> list[tuple[str, ...]]:
    """Return the comparisons with the baseline, row by row."""
    return [tuple(cell.text for cell in row.cells) for row in comparison_grid(table).rows]


def comparison_titles(table: Table) -> list[str]:
    """Return the titles of the comparisons."""
    return [column.title for column in comparison_grid(table).columns]
