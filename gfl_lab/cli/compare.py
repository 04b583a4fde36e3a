"""`gfl-lab compare`: two variants of an experiment in detail."""

from __future__ import annotations

from pathlib import Path

import click

from gfl_lab.cli.options import error_iou_option, min_effect_option, profile_option, stored_argument
from gfl_lab.cli.output import consoles, print_json, say
from gfl_lab.wording import plural


@click.command("compare")
@stored_argument
@click.argument("variant")
@click.argument("other", required=False)
@profile_option
@min_effect_option
@error_iou_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    experiment: Path, variant: str, other: str | None, profile: str | None, min_effect: float | None, error_iou: float, as_json: bool
) -> None:
    """Compare VARIANT of EXPERIMENT with OTHER (by default the baseline): by size, class and type of error.

    A variant is named as the table names it; a part of the name that no other has is enough.

    Example:  gfl-lab compare experiments/table3_qfl_dfl.yaml "qfl=on dfl=on"
    """
    from gfl_lab.report.variant_comparison_grid import comparison_sheet
    from gfl_lab.report.writers.terminal import comparison_report
    from gfl_lab.session.lookup import stored_experiment
    from gfl_lab.session.run_tree import default_tree
    from gfl_lab.session.variant_pair import find_pair

    store, row = stored_experiment(default_tree(), experiment, profile)
    pair = find_pair(row, variant, other)
    say(f"{pair.variant.name} against {pair.reference.name}, {plural(len(pair.trials), 'seed')}")
    rows = pair.compare(store, min_effect, error_iou)
    if as_json:
        print_json(pair.to_json(rows))
    else:
        consoles()[0].print(comparison_report(comparison_sheet(rows, row, pair.variant.name, pair.reference.name)))
