"""`gfl-lab verify`: is a table still what its trials give?"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

from gfl_lab.cli.options import profile_option, stored_argument
from gfl_lab.cli.output import consoles, print_json, say
from gfl_lab.errors import ExitCode
from gfl_lab.wording import plural


@click.command("verify")
@stored_argument
@profile_option
@click.option("--lock", type=click.Path(path_type=Path), help="Lock file to check against, instead of the one beside the table.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(experiment: Path, profile: str | None, lock: Path | None, as_json: bool) -> None:
    """Rebuild the table of EXPERIMENT from the run directories, and compare it with its lock file.

    Every file of the finished trials is read, and their AP recomputed from their detections. Exit code 4 when anything differs,
    is missing or damaged.
    """
    from gfl_lab.session.run_tree import default_tree
    from gfl_lab.session.verification import verify

    found = verify(default_tree(), experiment, profile, lock)
    if as_json:
        print_json(
            {
                "experiment": found.experiment, "profile": found.profile, "lock": str(found.lock), "trials": found.locked,
                "finished": found.finished, "recomputed": found.recomputed, "unfair": list(found.unfair),
                "deviations": [asdict(each) for each in found.deviations],
            }
        )  # fmt: skip
    else:
        out = consoles()[0]
        for each in found.deviations:
            out.print(str(each))
        for problem in found.unfair:
            out.print(f"unfair: {problem}")
        recomputed = f"recomputed the AP of {found.recomputed} of {plural(found.finished, 'trial')} from their detections"
        same = plural(len(found.deviations), "deviation") if found.deviations else "every number is as locked"
        say(f"{found.experiment} on {found.profile}: {plural(found.locked, 'trial')} locked; {recomputed}; {same}")
    sys.exit(int(ExitCode.DONE if found.holds else ExitCode.UNFAIR))
