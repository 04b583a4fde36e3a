"""`gfl-lab doctor`: is this environment fit, and is the run tree sound."""

from __future__ import annotations

import sys
from dataclasses import asdict

import click

from gfl_lab.cli.output import print_json, say
from gfl_lab.errors import ExitCode


@click.command("doctor")
@click.option("--repair", is_flag=True, help="Repair what can be repaired: processes, leases and files of dead drivers, MLflow's database.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(repair: bool, as_json: bool) -> None:
    """Check the installation, the machine and the run tree; --repair repairs problems. Exit code 6 if a problem stays."""
    from gfl_lab.maintenance.doctor import examine
    from gfl_lab.session.run_tree import default_tree

    rows = list(examine(default_tree, repair))
    if as_json:
        print_json({"rows": [asdict(row) for row in rows]})
    else:
        for row in rows:
            print(f"{'ok  ' if row.ok else 'BAD '} {row.check:9} {row.message}")
    bad = sum(not row.ok for row in rows)
    say("everything is in order" if not bad else f"{bad} of {len(rows)} checks failed")
    sys.exit(int(ExitCode.UNFIT if bad else ExitCode.DONE))
