"""`gfl-lab plan`: what would be trained, what is there, and what the rest will cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gfl_lab.cli.options import budget_option, experiment_argument, plan_options, resolve_options
from gfl_lab.cli.output import print_json, say

if TYPE_CHECKING:
    from gfl_lab.session.looks import Resolve
    from gfl_lab.session.planning import PlanOptions


@click.command("plan")
@experiment_argument
@plan_options
@resolve_options
@budget_option
@click.option(
    "--measure", is_flag=True, help="First run some iterations of each distinct model, for better estimates now and later, and for packing."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    experiment: Path, profile: str | None, plan: PlanOptions, resolve: Resolve, budget: str | None, measure: bool, as_json: bool
) -> None:
    """Show the trials of EXPERIMENT, their states and estimated times; nothing is trained.

    A trial's id depends on the data, so a generated data set is made when it is not there yet. Exit code 5 when --budget is
    not enough.
    """
    from gfl_lab.session.inputs import read_files
    from gfl_lab.session.overview import plan_overview, search_overview
    from gfl_lab.session.run_tree import default_tree

    files, tree = read_files(experiment, profile), default_tree()
    if files.experiment.kind == "search":
        search = search_overview(files, tree, plan, say, budget=budget)
        if as_json:
            print_json(search.to_json())
        else:
            say("\n".join(search.notes(plan)))
        return
    overview = plan_overview(files, tree, plan, say, budget=budget, warm_up=measure, resolve=resolve)
    if as_json:
        print_json(overview.to_json())
    else:
        print("\n".join(overview.trial_lines()))
        say("\n".join(overview.notes(plan)))
    overview.check_budget(say)
