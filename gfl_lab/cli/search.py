"""The ranked table and the status of a search, printed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from gfl_lab import naming
from gfl_lab.cli.output import consoles
from gfl_lab.errors import InputError

if TYPE_CHECKING:
    from gfl_lab.rundir import RunTree


def print_table(tree: RunTree, name: str, profile: str, form: str) -> None:
    """Print `gfl-lab table` of a search on stdout. Raises InputError."""
    from gfl_lab.errors import StoreError
    from gfl_lab.report.exports import RANKING_FORMS
    from gfl_lab.report.ranking import rank
    from gfl_lab.report.ranking_grid import ranking_sheet
    from gfl_lab.report.writers.terminal import ranking_report
    from gfl_lab.results.search import read_search

    if form == "tex":
        raise InputError("the ranked table of a search has no LaTeX form; `gfl-lab confirm` makes a table for a paper")
    try:
        ranking = rank(read_search(tree, name, profile))
    except StoreError as error:
        raise InputError(error.problems) from None
    if form == "text":
        consoles()[0].print(ranking_report(ranking_sheet(ranking)))
    else:
        sys.stdout.write(RANKING_FORMS[form](ranking))


def status_lines(tree: RunTree, name: str, profile: str, cost: str) -> list[str]:
    """Return the lines of `gfl-lab status` on a search, with the states of its ledger: a trial that was stopped early is neither failed nor
    unfinished.
    """
    from gfl_lab.errors import StoreError
    from gfl_lab.report.ranking_grid import state_text
    from gfl_lab.results.search import read_search

    try:
        search = read_search(tree, name, profile)
    except StoreError as error:
        return [f"{name} on {profile}: {error.problems[0].message}"]
    shown = [row for row in search.suggestions if row.trial and row.state != "repeat"]
    counts: dict[str, int] = {}
    for row in shown:
        counts[row.state] = counts.get(row.state, 0) + 1
    lines = [
        f"{name} on {profile}: a search, " + ", ".join([*(f"{count} {state}" for state, count in counts.items()), f"of {search.trials}"])
    ]
    lines += [f"  {cost}", "  ranked table:  gfl-lab table EXPERIMENT.yaml"]
    width = max((len(naming.variant_name(dict(row.settings))) for row in shown), default=0)
    for row in shown:
        value = "" if row.value is None else f"  {search.metric} {row.value:.{naming.METRICS[search.metric].digits}f}"
        reason = f"  {row.reason}" if row.reason else ""
        lines.append(f"  {row.number:3}  {naming.variant_name(dict(row.settings)):{width}}  {row.trial}  {state_text(row)}{value}{reason}")
    return lines
