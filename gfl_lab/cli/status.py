"""`gfl-lab status`: where experiments and their trials stand."""

from __future__ import annotations

from pathlib import Path

import click

from gfl_lab.cli.options import profile_option
from gfl_lab.cli.output import print_json, say


@click.command("status")
@click.argument("experiment", required=False, type=click.Path(path_type=Path))
@profile_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(experiment: Path | None, profile: str | None, as_json: bool) -> None:
    """Show the states and costs of all experiments, or the trials of EXPERIMENT."""
    from gfl_lab.results.store import Store
    from gfl_lab.session.accounts import accounts, stopped_early
    from gfl_lab.session.lookup import experiment_name
    from gfl_lab.session.run_tree import default_tree
    from gfl_lab.session.status_text import status_lines, trials_json

    tree = default_tree()
    store = Store(tree)
    name = None if experiment is None else experiment_name(tree, experiment)
    rows = [row for row in store.experiments() if name in (None, row.name) and profile in (None, row.profile)]
    early = stopped_early(rows, tree)
    costs = accounts(rows, tree, early)
    problems = store.problems()
    if as_json:
        shown = [{"experiment": row.name, "profile": row.profile, **cost.to_json()} for row, cost in zip(rows, costs, strict=True)]
        print_json({"home": str(tree.root), "problems": list(problems), "experiments": shown, "rows": trials_json(rows, early)})
        return
    for problem in problems:
        say(f"warning: {problem}")
    if not rows:
        if not problems or experiment:  # else there are runs, and no plan that can be read
            which = f" of {experiment}" if experiment else ""
            say(f"no runs under {tree.root}{which}. Start with:  gfl-lab run {experiment or 'experiments/table3_qfl_dfl.yaml'}")
        return
    for row, cost in zip(rows, costs, strict=True):
        print("\n".join(status_lines(row, tree, str(cost))))
