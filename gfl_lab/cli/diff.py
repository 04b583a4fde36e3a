"""`gfl-lab diff`: in what two trials differ."""

from __future__ import annotations

import dataclasses

import click

from gfl_lab.cli.output import consoles, print_json, say
from gfl_lab.errors import InputError, StoreError


@click.command("diff")
@click.argument("first")
@click.argument("second")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(first: str, second: str, as_json: bool) -> None:
    """Show the differences between trials FIRST and SECOND: settings, data, code, environment, numbers.

    A trial is named EXPERIMENT:VARIANT:SEED, or by the beginning of its id.

    Example:  gfl-lab diff "table3_qfl_dfl:qfl=on dfl=off:0" "table3_qfl_dfl:qfl=on dfl=on:0"
    """
    from gfl_lab.report.differences import GROUPS, differences
    from gfl_lab.results.store import Store
    from gfl_lab.session.run_tree import default_tree
    from gfl_lab.session.trial_lookup import find_trial

    tree = default_tree()
    store = Store(tree)
    try:
        trials = [store.recorded(find_trial(tree, named).id) for named in (first, second)]
    except StoreError as error:
        raise InputError(error.problems) from None
    found = differences(*trials)
    if as_json:
        print_json(
            {
                "first": trials[0].id, "second": trials[1].id,
                "differences": [{key: value for key, value in dataclasses.asdict(each).items() if value or key != "text"} for each in found],
            }
        )  # fmt: skip
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    out = consoles()[0]
    for group in GROUPS:
        lines = [each for each in found if each.group == group]
        if not lines:
            continue
        grid = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), header_style="bold")
        for title in (group, trials[0].id, trials[1].id):
            grid.add_column(title, overflow="fold")
        for each in lines:
            grid.add_row(Text(each.name), Text(each.first), Text(each.second))
        out.print(grid)
        for each in lines:
            if each.text:
                out.print(Text(each.text))
        out.print("")
    for trial in trials:
        if not trial.environment:
            say(f"note: trial {trial.id} ({trial.state}) has no environment on record")
    if not found:
        say("the two differ in nothing that is on record")
