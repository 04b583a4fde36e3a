"""The comparison of two variants as grids: metrics, sizes, classes and types of error."""

from __future__ import annotations

from collections.abc import Sequence

from gfl_lab.metrics.error_types import RIGHT_IOU, about
from gfl_lab.report import columns
from gfl_lab.report.claim_sentences import preliminary
from gfl_lab.report.differences import Differing, budget_note, differing_title
from gfl_lab.report.formatting import format_number, format_size, p_text, verdict_text
from gfl_lab.report.grid import Cell, Column, Grid, Row, Sheet, Tone
from gfl_lab.report.variant_comparison import CLASS, ERROR, METRIC, SIZE, DifferenceRow, notes
from gfl_lab.results.rows import ExperimentRow

MAX_CLASSES = 12
"""Classes that are shown: those that differ most."""
_MORE = {METRIC: (columns.PAIR_P, columns.PAIR_VERDICT), ERROR: (columns.PAIR_COUNT, columns.PAIR_ABOUT)}


def comparison_sheet(
    rows: Sequence[DifferenceRow],
    experiment: ExperimentRow,
    variant: str,
    reference: str,
    pair_notes: Sequence[str] = (),
    differing: Sequence[Differing] = (),
) -> Sheet:
    """Return the comparison as a terminal shows it.

    Args:
        rows: of ``compare_variants``.
        variant, reference: names of the two.
        pair_notes: of ``VariantPair.notes``. differing: in what the two differ; shown for variants of two experiments.
    """
    names = (variant, reference)
    titles = group_titles(rows)
    grids = [(title, [row for row in rows if row.group == group]) for group, title in titles.items()]
    return Sheet(
        name=experiment.name,
        title=f"{experiment.name} · {experiment.profile}",
        heading=f"{variant} against {reference}",
        subject=f"{experiment.name} on {experiment.profile}",
        data="",
        grids=(
            *(_grid(title, found, names) for title, found in grids if found),
            *([settings_grid(differing, names)] if differing else []),
        ),
        notes=(
            f"difference: {variant} minus {reference}",
            *pair_notes,
            *filter(None, [budget_note(differing), preliminary([row.comparison for row in rows if row.comparison and row.name == "AP"])]),
            _interval_note(rows),
            *notes(rows),
        ),
    )


def group_titles(rows: Sequence[DifferenceRow]) -> dict[str, str]:
    """Return the titles of the groups of ``rows``, in the order in which they are shown."""
    iou = next((row.iou for row in rows if row.group == ERROR), RIGHT_IOU)
    errors = f"AP{round(100 * iou)} that errors cost (lower is better)"
    return {METRIC: "AP", SIZE: "AP by size", CLASS: "AP by class", ERROR: errors}


def row_verdict(row: DifferenceRow) -> str:
    """Return a row's verdict as people read it; marked ``(weak)`` on two seeds."""
    return verdict_text(row.comparison) if row.comparison else row.verdict + (" (weak)" if row.weak else "")


def settings_grid(differing: Sequence[Differing], names: tuple[str, str]) -> Grid:
    """Return what differs between two variants but their numbers, one row each."""
    shown = (columns.DIFFERING, *(Column(name, name, left=True) for name in names))
    rows = tuple(Row(each.name, (Cell(differing_title(each)), Cell(each.first), Cell(each.second))) for each in differing)
    return Grid(shown, rows)


def _grid(title: str, rows: Sequence[DifferenceRow], names: tuple[str, str]) -> Grid:
    """Return the grid of one group; of the classes those that differ most, and a note on the others."""
    group, shown, note = rows[0].group, rows, ""
    if group == CLASS:
        shown = sorted(rows, key=lambda row: -abs(row.found.mean))[:MAX_CLASSES]
        if left := len(rows) - len(shown):
            note = f"and {left} {'class' if left == 1 else 'classes'} with smaller differences (--json has all)"
    shown_columns = (*columns.pair_columns(title, *names), *_MORE.get(group, ()))
    return Grid(shown_columns, tuple(_row(row) for row in shown), note=note)


def _row(row: DifferenceRow) -> Row:
    tone = Tone.of(row.better)
    cells = [
        Cell(row.name),
        Cell(format_number("AP", row.value), value=row.value),
        Cell(format_number("AP", row.reference), value=row.reference),
        Cell(format_number("AP", row.found.mean, True), value=row.found.mean, tone=tone),
        Cell(format_size(row.half), value=row.half),
    ]
    if row.group == METRIC:
        p, verdict = (row.comparison.p, verdict_text(row.comparison)) if row.comparison else (row.found.p, row.verdict)
        cells += [Cell(p_text(p), value=p), Cell(verdict, tone=tone)]
    if row.counts:
        cells += [Cell(f"{row.counts[0]:.0f} / {row.counts[1]:.0f}"), Cell(about(row.name, row.iou), tone=Tone.FAINT)]
    return Row(row.name, tuple(cells))


def _interval_note(rows: Sequence[DifferenceRow]) -> str:
    one_seed = all(row.found.seeds == 1 for row in rows)
    about = "over the choice of images alone: one seed is no evidence on others" if one_seed else "over seeds and images"
    return f"± 95%: half width of the interval of the difference, {about}; not corrected for the number of rows."
