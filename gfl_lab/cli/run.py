"""`gfl-lab run`: train what is missing, mirror it, print the table. Run, resume and retry are this one command."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gfl_lab.cli.options import experiment_argument, plan_options, resolve_options, run_options
from gfl_lab.cli.output import say

if TYPE_CHECKING:
    from gfl_lab.session.looks import Resolve
    from gfl_lab.session.planning import PlanOptions
    from gfl_lab.session.session import RunOptions


@click.command("run")
@experiment_argument
@plan_options
@resolve_options
@run_options
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON on stdout.")
def command(experiment: Path, profile: str | None, plan: PlanOptions, resolve: Resolve, options: RunOptions, as_json: bool) -> None:
    """Train the missing trials of EXPERIMENT and print its table.

    The same command resumes after an interruption, retries failed trials, and adds seeds. Finished trials are never trained
    again; missing or damaged files of theirs are made again from the last checkpoint. Exit code 4 if that is impossible, or if
    numbers differ from the lock file.

    Example:  gfl-lab run experiments/table3_qfl_dfl.yaml --seeds 0,1,2

    Example:  gfl-lab run experiments/table3_qfl_dfl.yaml --until-resolved 0.5 --max-seeds 8
    """
    from gfl_lab.cli.terminal import Terminal
    from gfl_lab.session.inputs import read_files
    from gfl_lab.session.looks import run_experiment
    from gfl_lab.session.run_tree import default_tree

    outcome = run_experiment(read_files(experiment, profile), default_tree(), Terminal(as_json=as_json), plan, options, resolve)
    if outcome.stopped:
        if outcome.stopped.spent:
            say(f"{outcome.stopped.spent} is spent; the same command may spend as much again")
        say(f"stopped; continue with:  gfl-lab {shlex.join(sys.argv[1:])}")
    sys.exit(int(outcome.code))
