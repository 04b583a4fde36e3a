"""`gfl-lab verify`: is a table still what its trials give?"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from gfl_lab import naming
from gfl_lab.cli.lookup import stored_experiment
from gfl_lab.cli.options import experiment_argument, profile_option
from gfl_lab.cli.output import consoles, print_json, say
from gfl_lab.errors import ExitCode, InputError, Problem, StoreError
from gfl_lab.wording import plural


@click.command("verify")
@experiment_argument
@profile_option
@click.option("--lock", type=click.Path(path_type=Path), help="Lock file to check against, instead of the one beside the table.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(experiment: Path, profile: str | None, lock: Path | None, as_json: bool) -> None:
    """Rebuild the table of EXPERIMENT from the run directories, and compare it with its lock file.

    Every file of the finished trials is read, and their AP recomputed from their detections. Exit code 4 when anything differs,
    is missing or damaged.
    """
    from gfl_lab.orchestrate.damaged import examine
    from gfl_lab.records.table_lock import read_table_lock
    from gfl_lab.report.fairness import unfair
    from gfl_lab.report.lock import Deviation, deviations, make_lock
    from gfl_lab.report.table import build_table
    from gfl_lab.rundir import RunTree, TrialState

    store, row = stored_experiment(experiment, profile)
    path = lock or RunTree.default().experiment(row.name, row.profile) / naming.LOCK
    if not path.is_file():
        hint = "" if lock else f"gfl-lab run {experiment} writes it with the table."
        raise InputError(Problem("there is no such lock file", str(path), hint))
    try:
        known = read_table_lock(path)
        found = deviations(known, make_lock(row, build_table(row, store.resampled_or_none), store.records_or_none))
    except StoreError as error:
        raise InputError(error.problems) from None
    tree, done, sound = RunTree.default(), 0, 0
    for trial in {trial.id: tree.trial(trial.id) for trial in row.trials}.values():
        state = trial.state()
        done += state is TrialState.DONE
        damage = examine(trial, state)
        found += [Deviation(trial.id, each.file, "", each.what) for each in (damage.found if damage else ())]
        sound += state is TrialState.DONE and not any(each.file == naming.EVAL_RECORDS for each in (damage.found if damage else ()))
    recomputed = f"recomputed the AP of {sound} of {plural(done, 'trial')} from their detections"
    problems = unfair(row)
    if as_json:
        print_json(
            {
                "experiment": row.name, "profile": row.profile, "lock": str(path), "trials": len(known.trials),
                "finished": done, "recomputed": sound, "unfair": problems,
                "deviations": [{"trial": each.trial, "what": each.what, "locked": each.locked, "found": each.found} for each in found],
            }
        )  # fmt: skip
    else:
        out = consoles()[0]
        for each in found:
            out.print(str(each))
        for problem in problems:
            out.print(f"unfair: {problem}")
        same = "every number is as locked" if not found else plural(len(found), "deviation")
        say(f"{row.name} on {row.profile}: {plural(len(known.trials), 'trial')} locked; {recomputed}; {same}")
    sys.exit(int(ExitCode.UNFAIR if found or problems else ExitCode.DONE))
