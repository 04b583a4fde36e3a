"""Find what a person names in a run tree: an experiment that has been run, a trial by the beginning of its id."""

from __future__ import annotations

import re
from pathlib import Path

from gfl_lab import naming
from gfl_lab.errors import InputError, Problem, StoreError
from gfl_lab.results.rows import ExperimentRow
from gfl_lab.results.store import Store
from gfl_lab.rundir import RunTree, TrialDir, TrialState
from gfl_lab.session.inputs import Files, read_files
from gfl_lab.wording import plural

LIKE_A_TRIAL = re.compile(r"[0-9a-f]{1,12}")


def require_run(tree: RunTree, path: Path, profile: str | None) -> Files:
    """Return the files of an experiment that has been run in ``tree``. Raises InputError if it has not."""
    files = read_files(path, profile)
    name, found = files.experiment.name, files.profile.name
    if (name, found) not in tree.experiments():
        known = [p for e, p in tree.experiments() if e == name]
        again = f"Run it first:  gfl-lab run {path}" + (f" --profile {profile}" if profile else "")
        hint = f"It has been run on: {', '.join(known)}." if known else again
        raise InputError(Problem(f"experiment {name} has not been run on profile {found} under {tree.root}", hint=hint))
    return files


def stored_experiment(tree: RunTree, path: Path, profile: str | None) -> tuple[Store, ExperimentRow]:
    """Return the store of ``tree``, and the row of an ablation that has been run there. Raises InputError."""
    files = require_run(tree, path, profile)
    if files.experiment.kind == "search":
        raise InputError(Problem(f"{files.experiment.name} is a search", hint=f"Confirm its best with:  gfl-lab confirm {path}"))
    store = Store(tree)
    try:
        return store, store.experiment(files.experiment.name, files.profile.name)
    except StoreError as error:
        raise InputError(error.problems) from None


def find_trial(tree: RunTree, prefix: str) -> TrialDir:
    """Return the one trial whose id begins with ``prefix``.

    Raises:
        InputError: there is none, or several.
    """
    found = [trial for trial in tree.trials() if trial.id.startswith(prefix)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise InputError(
            Problem(f"no trial's id begins with {prefix} under {tree.root}", hint="gfl-lab status lists trials and their ids.")
        )
    listed = ", ".join(trial.id for trial in found[:5]) + (", ..." if len(found) > 5 else "")
    raise InputError(Problem(f"{plural(len(found), 'trial')} begin with {prefix}: {listed}", hint="Give more digits."))


def trial_of_checkpoint(path: Path) -> TrialDir | None:
    """Return the trial whose last checkpoint ``path`` is, if its manifest lies beside it; None for other weights.

    Raises:
        InputError: there is no such file.
    """
    if not path.is_file():
        hint = "Give a trial's id (gfl-lab status lists them), or a file of gfl-lab import-checkpoint."
        raise InputError(Problem(f"{path} is neither a trial's id nor a file", hint=hint))
    folder = path.resolve().parent
    return TrialDir(folder) if path.name == naming.LAST_CHECKPOINT and (folder / naming.MANIFEST).exists() else None


def trial_or_file(tree: RunTree, what: str) -> TrialDir | None:
    """Return the trial whose id begins with ``what``; None for a file, and for what no id begins with. Raises InputError."""
    is_file = not LIKE_A_TRIAL.fullmatch(what) or Path(what).is_file()
    return None if is_file else find_trial(tree, what)


def require_done(tree: RunTree, trial: TrialDir) -> None:
    """Refuse a trial that has no final weights.

    Raises:
        InputError: with the command that goes on with it, if an experiment of ``tree`` has the trial.
    """
    state = trial.state()
    if state is TrialState.DONE:
        return
    if state is TrialState.RUNNING:
        raise InputError(Problem(f"trial {trial.id} is still being trained", hint="Wait for its end; gfl-lab status shows where it is."))
    rows = [row for row in Store(tree).experiments() if any(known.id == trial.id for known in row.trials)]
    command = f"gfl-lab run {rows[0].source} --profile {rows[0].profile}" if rows else "gfl-lab run EXPERIMENT"
    words = {TrialState.PLANNED: "has not been trained", TrialState.FAILED: "failed"}.get(state, "was interrupted")
    raise InputError(Problem(f"trial {trial.id} {words}", hint=f"Finish it first, with the options that it was started with:  {command}"))
