"""`gfl-lab published`: every published row, and the experiment and variant that runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from gfl_lab import shipped
from gfl_lab.cli.output import consoles, print_json, say
from gfl_lab.errors import InputError, Problem

if TYPE_CHECKING:
    from gfl_lab.plan.published import Entry


@click.command("published")
@click.option("--table", "table_id", metavar="ID", help="Only the rows of one published table.")
@click.option("--runnable", is_flag=True, help="Only rows that an experiment runs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(table_id: str | None, runnable: bool, as_json: bool) -> None:
    """List every published row, with the experiment and variant that runs it or the reason why none does.

    Experiments and published tables are those in the current folder, ./experiments and gfl-lab's own. The last line counts all rows, also
    those that --table and --runnable leave out.

    Example:  gfl-lab published --table gfl_t1a_quality_representation
    """
    from gfl_lab.session.published_rows import survey_folders
    from gfl_lab.spec.hints import nearest

    entries = survey_folders(shipped.experiment_folders(), say)
    tables = {entry.table.id for entry in entries}
    if table_id is not None and table_id not in tables:
        raise InputError(Problem(f"there is no published table {table_id!r}", "--table", nearest(table_id, tables)))
    shown = [entry for entry in entries if table_id in (None, entry.table.id) and (entry.runnable or not runnable)]
    if as_json:
        print_json({"rows": [_row(entry) for entry in shown]})
        return
    _print(shown)
    running = [entry for entry in entries if entry.runnable]
    hidden = sum("test-dev" in entry.table.split for entry in running)
    print(f"{hidden} of the rows that can be run were published on test-dev, whose annotations are not public")
    print(f"{len(running)} of {len(entries)} published rows can be run")


def _row(entry: Entry) -> dict[str, object]:
    table, row = entry.table, entry.row
    return {
        "table": table.id, "row": row.name, "settings": row.settings, "metrics": row.metrics, "runnable": entry.runnable,
        "experiment": entry.experiment, "variant": entry.variant, "why_not": entry.why_not,
        "title": table.title, "source": table.source, "split": table.split, "evidence": row.evidence or table.evidence,
    }  # fmt: skip


def _print(entries: Sequence[Entry]) -> None:
    from itertools import groupby

    from rich.table import Table

    out, _ = consoles()
    for _, group in groupby(entries, key=lambda entry: entry.table.id):
        rows = list(group)
        table = rows[0].table
        out.print(f"{table.id}: {table.title}\n{table.source}; {table.split}, {table.evidence}", soft_wrap=True)
        grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        grid.add_column("published row")
        grid.add_column("AP", justify="right", no_wrap=True)
        grid.add_column("experiment: variant, or why not")
        for entry in rows:
            ap = entry.row.metrics.get("AP")
            gain = entry.row.metrics.get("AP_gain")
            # where a row's number was read in another place than its table's, e.g. off a figure
            note = f" ({entry.row.evidence.replace('_', ' ')})" if entry.row.evidence else ""
            text = f"{ap:.1f}" if ap is not None else f"{gain:+.1f}" if gain is not None else "-"
            grid.add_row(entry.row.name + note, text, f"{entry.experiment}: {entry.variant}" if entry.runnable else entry.why_not)
        out.print(grid)
        out.print()
