"""`gfl-lab table`: the table of an experiment from what is on disk."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gfl_lab.cli.options import min_effect_option, profile_option, stored_argument
from gfl_lab.cli.output import consoles, say
from gfl_lab.errors import ExitCode, InputError

if TYPE_CHECKING:
    from gfl_lab.report.ranking import Ranking
    from gfl_lab.report.table import Table


@click.command("table")
@stored_argument
@profile_option
@click.option("--json", "as_json", is_flag=True, help="JSON; the same as --format json.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "md", "csv", "tex", "html"]),
    default="text",
    show_default=True,
    help="Form of the table.",
)
@min_effect_option
def command(experiment: Path, profile: str | None, as_json: bool, form: str, min_effect: float | None) -> None:
    """Print the AP table of EXPERIMENT: its file, or its name in the run tree.

    Exit code 4 when the variants differ in more than the declared axes.
    """
    from gfl_lab.session.lookup import require_run
    from gfl_lab.session.run_tree import default_tree
    from gfl_lab.session.tables import stored_ranking, stored_table

    tree = default_tree()
    found = require_run(tree, experiment, profile)
    form = "json" if as_json else form
    if found.kind == "search":
        _print_ranking(stored_ranking(tree, found), form)
        return
    table, unfair = stored_table(tree, found, min_effect)
    _print_table(table, form)
    for problem in unfair:
        say(f"unfair: {problem}")
    sys.exit(int(ExitCode.UNFAIR if unfair else ExitCode.DONE))


def _print_table(table: Table, form: str) -> None:
    from gfl_lab.report.exports import TABLE_FORMS
    from gfl_lab.report.table_grid import table_sheet
    from gfl_lab.report.writers.terminal import TableReport

    if form == "text":
        consoles()[0].print(TableReport(table_sheet(table)))
    else:
        sys.stdout.write(TABLE_FORMS[form](table))


def _print_ranking(ranking: Ranking, form: str) -> None:
    """Print the ranked table of a search. Raises InputError for a form that it does not have."""
    from gfl_lab.report.exports import RANKING_FORMS
    from gfl_lab.report.ranking_grid import ranking_sheet
    from gfl_lab.report.writers.terminal import ranking_report

    if form == "text":
        consoles()[0].print(ranking_report(ranking_sheet(ranking)))
    elif form in RANKING_FORMS:
        sys.stdout.write(RANKING_FORMS[form](ranking))
    else:
        raise InputError("the ranked table of a search has no LaTeX form; `gfl-lab confirm` makes a table for a paper")
