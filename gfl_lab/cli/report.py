"""`gfl-lab report`: one page for a claim on two variants."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from gfl_lab.cli.options import min_effect_option, profile_option, stored_argument
from gfl_lab.cli.output import say
from gfl_lab.errors import ExitCode
from gfl_lab.session.refusals import require_new_file


@click.command("report")
@stored_argument
@click.option("--claim", "variant", metavar="VARIANT", required=True, help='Variant of the claim, as the table names it: "qfl=on dfl=on".')
@click.option("--against", metavar="VARIANT", help="Variant to compare it with.  [default: the baseline]")
@profile_option
@min_effect_option
@click.option("-o", "--out", type=click.Path(path_type=Path), help="File to write.  [default: the page goes to stdout]")
@click.option("--force", is_flag=True, help="Replace the file to write where it exists.")
def command(
    experiment: Path, variant: str, against: str | None, profile: str | None, min_effect: float | None, out: Path | None, force: bool
) -> None:
    """Write one HTML page on a claim: that a variant of EXPERIMENT is better than, worse than or equivalent to another one.

    The page stands alone and prints on one sheet of A4 paper. Exit code 4 when the two variants differ in more than the declared axes.

    Example:  gfl-lab report experiments/table3_qfl_dfl.yaml --claim "qfl=on dfl=on" -o claim.html
    """
    if out is not None:
        require_new_file(out, force)
    from gfl_lab.report.writers.claim_page import to_claim_page
    from gfl_lab.session.claim import read_claim, write_claim
    from gfl_lab.session.lookup import stored_experiment
    from gfl_lab.session.run_tree import default_tree

    tree = default_tree()
    _, row = stored_experiment(tree, experiment, profile)
    claim = read_claim(tree, row, variant, against, min_effect)
    if out is None:
        sys.stdout.write(to_claim_page(claim))
    else:
        write_claim(claim, out)
        say(f"written: {out}")
    for problem in claim.unfair:
        say(f"unfair: {problem}")
    sys.exit(int(ExitCode.UNFAIR if claim.unfair else ExitCode.DONE))
