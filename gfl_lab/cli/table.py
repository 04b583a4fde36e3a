"""`gfl-lab table`: the table of an experiment from what is on disk."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from gfl_lab.cli.numbers import Number
from gfl_lab.cli.options import experiment_argument, profile_option, renamed_option
from gfl_lab.cli.output import consoles, print_json, say
from gfl_lab.errors import ExitCode, InputError, StoreError


@click.command("table")
@experiment_argument
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
@renamed_option(
    "--difference",
    "--min-effect",
    "min_effect",
    metavar="AP",
    type=Number(0, 100, min_open=True),
    help="Difference in AP points for which the table counts the seeds needed.  [default: 0.3]",
)
def command(experiment: Path, profile: str | None, as_json: bool, form: str, min_effect: float | None) -> None:
    """Print the AP table of EXPERIMENT.

    Exit code 4 when the variants differ in more than the declared axes.
    """
    from gfl_lab.report.comparison import SMALLEST
    from gfl_lab.report.exports import TABLE_FORMS
    from gfl_lab.report.fairness import unfair
    from gfl_lab.report.table import build_table
    from gfl_lab.report.table_data import table_json
    from gfl_lab.report.table_grid import table_sheet
    from gfl_lab.report.writers.terminal import TableReport
    from gfl_lab.results.store import Store
    from gfl_lab.session.lookup import require_run
    from gfl_lab.session.run_tree import default_tree

    tree = default_tree()
    files = require_run(tree, experiment, profile)
    name, profile_name = files.experiment.name, files.profile.name
    form = "json" if as_json else form
    if files.experiment.kind == "search":
        from gfl_lab.cli.search import print_table

        print_table(tree, name, profile_name, form)
        return
    try:
        store = Store(tree)
        row = store.experiment(name, profile_name)
    except StoreError as error:
        raise InputError(error.problems) from None
    table = build_table(row, store.resampled_or_none, min_effect or SMALLEST)
    if form == "json":
        print_json(table_json(table))
    elif form == "text":
        consoles()[0].print(TableReport(table_sheet(table)))
    else:
        sys.stdout.write(TABLE_FORMS[form](table))
    problems = unfair(row)
    for problem in problems:
        say(f"unfair: {problem}")
    sys.exit(int(ExitCode.UNFAIR if problems else ExitCode.DONE))
