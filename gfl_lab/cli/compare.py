"""`gfl-lab compare`: two variants in detail, of one experiment or of two."""

from __future__ import annotations

from pathlib import Path

import click

from gfl_lab.cli.options import error_iou_option, min_effect_option, profile_option, stored_argument
from gfl_lab.cli.output import consoles, print_json, say
from gfl_lab.errors import InputError


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

    A variant is named as the table names it; a part of the name that no other has is enough. Variants of two experiments are named
    EXPERIMENT:VARIANT each.

    Example:  gfl-lab compare experiments/table3_qfl_dfl.yaml "qfl=on dfl=on"

    Example:  gfl-lab compare "table3_qfl_dfl:qfl=on dfl=on" "table1c_beta:qfl_beta=1"
    """
    from gfl_lab.report.variant_comparison_grid import comparison_sheet
    from gfl_lab.report.writers.terminal import comparison_report
    from gfl_lab.results.store import Store
    from gfl_lab.session.lookup import stored_experiment
    from gfl_lab.session.named_variant import find_named_variant, names_a_variant
    from gfl_lab.session.run_tree import default_tree
    from gfl_lab.session.variant_pair import find_pair, find_pair_of

    tree = default_tree()
    if names_a_variant(str(experiment)):
        if other is not None or profile is not None:
            raise click.UsageError(
                "two variants as EXPERIMENT:VARIANT need no third name and no --profile: write EXPERIMENT@PROFILE:VARIANT"
            )
        store = Store(tree)
        pair = find_pair_of(find_named_variant(tree, str(experiment)), find_named_variant(tree, variant))
        if problem := pair.not_comparable(store.records):
            raise InputError(problem.removesuffix("."))
    else:
        store, row = stored_experiment(tree, experiment, profile)
        pair = find_pair(row, variant, other)
    say(f"{' against '.join(pair.names)}, {pair.about}")
    rows = pair.compare(store, min_effect, error_iou)
    differing = () if pair.is_planned else pair.differing(store.recorded)
    if as_json:
        print_json(pair.to_json(rows, differing))
    else:
        consoles()[0].print(comparison_report(comparison_sheet(rows, pair.experiment, *pair.names, pair.notes(), differing)))
