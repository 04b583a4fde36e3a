"""A grid as CSV."""

from __future__ import annotations

import csv
import io

from gfl_lab.report.grid import Grid


def to_csv(grid: Grid) -> str:
    """Return one line of titles and one line a row."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([column.title for column in grid.columns])
    writer.writerows([[cell.text for cell in row.cells] for row in grid.rows])
    return out.getvalue()
