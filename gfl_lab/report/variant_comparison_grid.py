"""The comparison of two variants as grids: metrics, sizes, classes and types of error."""

from __future__ import annotations

from collections.abc import Sequence

from gfl_lab.metrics.error_types import ABOUT
from gfl_lab.report import columns
from gfl_lab.report.formatting import MISSING, format_number, p_text, verdict_text
from gfl_lab.report.grid import Cell, Grid, Row, Sheet, Tone
from gfl_lab.report.variant_comparison import CLASS, ERROR, METRIC, SIZE, DifferenceRow, notes
from gfl_lab.results.rows import ExperimentRow

MAX_CLASSES = 12
"""Classes that are shown: those that differ most."""
_TITLES = {METRIC: "AP", SIZE: "AP by size", CLASS: "AP by class", ERROR: "AP50 that errors cost (lower is better)"}
_MORE = {METRIC: (columns.PAIR_P, columns.PAIR_VERDICT), ERROR: (columns.PAIR_COUNT, columns.PAIR_ABOUT)}


def comparison_sheet(rows: Sequence[DifferenceRow], experiment: ExperimentRow, variant: str, reference: str) -> Sheet:
    """Return the comparison as a terminal shows it.

    Args:
        rows: of ``compare_variants``.
        variant, reference: names of the two.
    """
    grids = [(group, [row for row in rows if row.group == group]) for group in _TITLES]
    return Sheet(
        name=experiment.name,
        title=f"{experiment.name} · {experiment.profile}",
        heading=f"{variant} against {reference}",
        subject=f"{experiment.name} on {experiment.profile}",
        data="",
        grids=tuple(_grid(group, found, variant, reference) for group, found in grids if found),
        notes=(_interval_note(rows), *notes(rows)),
    )


def _grid(group: str, rows: Sequence[DifferenceRow], variant: str, reference: str) -> Grid:
    """Return the grid of one group; of the classes those that differ most, and a note on the others."""
    shown, note = rows, ""
    if group == CLASS:
        shown = sorted(rows, key=lambda row: -abs(row.found.mean))[:MAX_CLASSES]
        if left := len(rows) - len(shown):
            note = f"and {left} {'class' if left == 1 else 'classes'} with smaller differences (--json has all)"
    shown_columns = (*columns.pair_columns(_TITLES[group], variant, reference), *_MORE.get(group, ()))
    return Grid(shown_columns, tuple(_row(row) for row in shown), note=note)


def _row(row: DifferenceRow) -> Row:
    tone = Tone.of(row.better)
    cells = [
        Cell(row.name),
        Cell(format_number("AP", row.value), value=row.value),
        Cell(format_number("AP", row.reference), value=row.reference),
        Cell(format_number("AP", row.found.mean, True), value=row.found.mean, tone=tone),
        Cell(MISSING if row.half is None else format_number("AP", row.half), value=row.half),
    ]
    if row.group == METRIC:
        p, verdict = (row.comparison.p, verdict_text(row.comparison)) if row.comparison else (row.found.p, row.verdict)
        cells += [Cell(p_text(p), value=p), Cell(verdict, tone=tone)]
    if row.counts:
        cells += [Cell(f"{row.counts[0]:.0f} / {row.counts[1]:.0f}"), Cell(ABOUT[row.name], tone=Tone.FAINT)]
    return Row(row.name, tuple(cells))


def _interval_note(rows: Sequence[DifferenceRow]) -> str:
    one_seed = all(row.found.seeds == 1 for row in rows)
    about = "over the choice of images alone: one seed is no evidence on others" if one_seed else "over seeds and images"
    return f"± 95%: half width of the interval of the difference, {about}; not corrected for the number of rows."
