"""`gfl-lab reproduce`: train a finished trial once more, and compare."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from gfl_lab.cli.output import consoles, print_json, say
from gfl_lab.errors import ExitCode


@click.command("reproduce")
@click.argument("trial")
@click.option("--keep", type=click.Path(path_type=Path), help="New folder that keeps the run tree of the second training.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(trial: str, keep: Path | None, as_json: bool) -> None:
    """Train TRIAL once more from its manifest alone, beside the run tree, and compare its numbers with the recorded ones.

    TRIAL is a finished trial: EXPERIMENT:VARIANT:SEED, or the beginning of its id. Exit code 4 when the numbers differ. The recorded
    trial is left as it is.

    Example:  gfl-lab reproduce "table3_qfl_dfl:qfl=on dfl=on:0"
    """
    from gfl_lab.report.differences import ENVIRONMENT
    from gfl_lab.session.reproduction import reproduce
    from gfl_lab.session.run_tree import default_tree

    found = reproduce(default_tree(), trial, keep, say)
    if isinstance(found, ExitCode):
        sys.exit(int(found))
    if as_json:
        rows = [{"group": each.group, "name": each.name, "recorded": each.first, "again": each.second} for each in found.differing]
        print_json({"trial": found.recorded.id, "detections_equal": found.detections_equal, "differences": rows})
    else:
        out = consoles()[0]
        for each in found.differing:
            out.print(f"{each.name}: recorded {each.first}, again {each.second}" + (" (environment)" if each.group == ENVIRONMENT else ""))
        words = "every detection is the same to the last bit" if found.detections_equal else "the detections are not the same"
        recorded, again = (each.metrics.get("AP", float("nan")) for each in (found.recorded, found.again))
        out.print(f"AP: recorded {recorded:.4f}, again {again:.4f}; {words}")
    sys.exit(int(ExitCode.DONE if found.exact else ExitCode.UNFAIR))
