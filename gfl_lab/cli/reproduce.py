"""`gfl-lab reproduce`: train a finished trial once more, and compare."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from pathlib import Path

import click

from gfl_lab import naming
from gfl_lab.cli.lookup import find_trial, require_done
from gfl_lab.cli.output import consoles, print_json, say
from gfl_lab.errors import ExitCode, InputError, Problem, StoreError
from gfl_lab.processes import hide_gpus
from gfl_lab.records.result import Done, Failed
from gfl_lab.rundir import TrialDir
from gfl_lab.session.refusals import require_output
from gfl_lab.wording import duration


@click.command("reproduce")
@click.argument("trial")
@click.option("--keep", type=click.Path(path_type=Path), help="New folder that keeps the run tree of the second training.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(trial: str, keep: Path | None, as_json: bool) -> None:
    """Train TRIAL once more from its manifest alone, beside the run tree, and compare its numbers with the recorded ones.

    Exit code 4 when they differ. The recorded trial is left as it is.
    """
    from gfl_lab.integrity import UNSTABLE
    from gfl_lab.orchestrate import driver
    from gfl_lab.orchestrate.executor import run_jobs
    from gfl_lab.orchestrate.inline import InlineExecutor
    from gfl_lab.orchestrate.supervisor import Job
    from gfl_lab.report.differences import ENVIRONMENT, NUMBERS, differences
    from gfl_lab.report.lock import digest_of
    from gfl_lab.results.store import Store
    from gfl_lab.rundir import RunTree, TrialState
    from gfl_lab.session.entries import TRIAL_ENTRY

    tree = RunTree.default()
    first = find_trial(tree, trial)
    require_done(first)
    store = Store(tree)
    try:
        recorded, records = store.recorded(first.id), store.records(first.id)
    except StoreError as error:
        raise InputError(error.problems) from None
    if keep is not None and keep.exists():
        raise InputError(Problem("it is there already", str(keep), "Give a folder that is not there yet."))
    if keep is not None:
        require_output(keep, folder=True)
    _require_inputs(first)
    result = first.result()
    took = result.seconds.get("total") if result else None
    say(f"trial {first.id}: seed {recorded.seed}, data {recorded.data.get('name')}; it took {duration(took)} the first time")
    with contextlib.ExitStack() as stack:
        root = keep if keep is not None else Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gfl-lab-reproduce-")))
        again = RunTree(root.absolute()).trial(first.id)
        again.path.mkdir(parents=True)
        shutil.copy(first.file(naming.MANIFEST), again.file(naming.MANIFEST))
        if first.file(naming.COMPONENTS_DIR).is_dir():
            shutil.copytree(first.file(naming.COMPONENTS_DIR), again.file(naming.COMPONENTS_DIR))
        stop = driver.StopSwitch(root / naming.STOP_REQUEST)
        stop.install()
        try:
            if isinstance(result, Done) and result.device == "cpu":
                hide_gpus()  # a GPU would compute other last digits
            # The number of threads decides in which order sums are made, so it is the recorded one.
            how = {"stop_file": str(stop.file), "threads": int(recorded.environment.get("threads", 1))}
            run_jobs(InlineExecutor(stop), [Job(str(again.path), TRIAL_ENTRY, "", how)])
        finally:
            stop.restore()
        if stop.signal:
            say("stopped; nothing of the recorded trial has changed")
            sys.exit(int(ExitCode.SIGINT))
        state = again.state()
        if state is not TrialState.DONE:
            ended = again.result()
            reason = f": {ended.failure.kind} {ended.failure.reason}" if isinstance(ended, Failed) else ""
            say(f"the second training {state}{reason}")
            if keep is None:
                say("give --keep FOLDER to keep its log")
            sys.exit(int(ExitCode.TRIALS_FAILED))
        fresh = Store(RunTree(root.absolute()))
        second, same = fresh.recorded(first.id), fresh.records(first.id)
    found = [each for each in differences(recorded, second) if not (each.group == NUMBERS and each.name in UNSTABLE)]
    numbers = [each for each in found if each.group == NUMBERS]
    equal = records is not None and same is not None and digest_of(records) == digest_of(same)
    if as_json:
        print_json(
            {
                "trial": first.id, "detections_equal": equal,
                "differences": [{"group": each.group, "name": each.name, "recorded": each.first, "again": each.second} for each in found],
            }
        )  # fmt: skip
    else:
        out = consoles()[0]
        for each in found:
            out.print(f"{each.name}: recorded {each.first}, again {each.second}" + (" (environment)" if each.group == ENVIRONMENT else ""))
        words = "every detection is the same to the last bit" if equal else "the detections are not the same"
        out.print(
            f"AP: recorded {recorded.metrics.get('AP', float('nan')):.4f}, again {second.metrics.get('AP', float('nan')):.4f}; {words}"
        )
    sys.exit(int(ExitCode.UNFAIR if numbers or not equal else ExitCode.DONE))


def _require_inputs(trial: TrialDir) -> None:
    """Refuse a trial whose data, weights or code are not where its manifest says. Raises InputError with all that is missing."""
    try:
        manifest = trial.manifest()
        files = [*map(Path, manifest.paths.to_json().values()), *manifest.component_files]
        files += [manifest.weights_file] if manifest.weights_file else []
    except StoreError as error:
        raise InputError(error.problems) from None
    missing = [path for path in files if not path.exists()]
    if missing:
        hint = "Put it back there: a trial is reproduced from the paths in its manifest."
        raise InputError([Problem("the trial was trained with this, and it is not there any more", str(path), hint) for path in missing])
