"""Find what a person names in a run tree: an experiment that has been run, a trial by the beginning of its id."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from gfl_lab import naming, shipped
from gfl_lab.errors import InputError, Problem, StoreError
from gfl_lab.integrity.trial_check import is_imported
from gfl_lab.records.plan import read_plan
from gfl_lab.results.rows import ExperimentRow
from gfl_lab.results.store import Store
from gfl_lab.rundir import RunTree, TrialDir, TrialState
from gfl_lab.session.inputs import read_files
from gfl_lab.spec.choices import IMPORTED
from gfl_lab.spec.files import load_experiment
from gfl_lab.wording import plural

LIKE_A_TRIAL = re.compile(r"[0-9a-f]{1,12}")


@dataclass(frozen=True)
class Stored:
    """An experiment of a run tree, found by its file or by its name.

    Attributes:
        name, profile, kind: of the experiment. argument: as it was given, for commands in messages.
    """

    name: str
    profile: str
    kind: str
    argument: str


def require_run(tree: RunTree, given: Path, profile: str | None) -> Stored:
    """Return the experiment of ``tree`` that a person names by its file, or by its name alone. A file goes before a name.

    Raises:
        InputError: it has not been run there, or the name stands for several.
    """
    if (found := by_name(tree, given, profile)) is not None:
        return found
    path = _file_of(tree, given)
    files = read_files(path, profile)
    name, chosen = files.experiment.name, files.profile.name
    if (name, chosen) not in tree.experiments():
        known = [p for e, p in tree.experiments() if e == name]
        again = f"Run it first:  gfl-lab run {path}" + (f" --profile {profile}" if profile else "")
        hint = f"It has been run on: {', '.join(known)}." if known else again
        raise InputError(Problem(f"experiment {name} has not been run on profile {chosen} under {tree.root}", hint=hint))
    return Stored(name, chosen, files.experiment.kind, str(path))


def by_name(tree: RunTree, given: Path, profile: str | None) -> Stored | None:
    """Return the experiment of a plain name that no file has; None where a file is meant."""
    name = _plain_name(given)
    profiles = [known for experiment, known in tree.experiments() if experiment == name]
    if not profiles or (profile not in profiles and shipped.experiment_file(name) is not None):
        return None
    if profile is None and len(profiles) > 1:
        raise InputError(Problem(f"experiment {name} has been run on several profiles", hint=f"Give --profile: {', '.join(profiles)}"))
    chosen = profile or profiles[0]
    if chosen not in profiles:
        hint = f"It is there on: {', '.join(profiles)}."
        raise InputError(Problem(f"experiment {name} has not been run on profile {chosen} under {tree.root}", hint=hint))
    return Stored(name, chosen, read_plan(tree.experiment(name, chosen) / naming.PLAN).kind, name)


def _plain_name(given: Path) -> str:
    """Return the name if ``given`` can be that of an experiment: no path, no ending of YAML, no file; else nothing."""
    plain = len(given.parts) == 1 and given.suffix not in (".yaml", ".yml") and not given.is_file()
    return given.name if plain and naming.is_valid_name(given.name) else ""


def _file_of(tree: RunTree, given: Path) -> Path:
    """Return the file of an experiment. Raises InputError, with the experiment of ``tree`` whose name is close."""
    try:
        return shipped.find_experiment(given)
    except InputError:
        import difflib

        near = difflib.get_close_matches(given.name, {name for name, _ in tree.experiments()}, n=1)
        if not near or not _plain_name(given):
            raise
        raise InputError(Problem(f"there is no experiment {given.name!r}", hint=f"Did you mean {near[0]!r}?")) from None


def experiment_name(tree: RunTree, given: Path) -> str:
    """Return the name of an experiment that a person names by its file, or by its name. Raises InputError."""
    name = _plain_name(given)
    if name and shipped.experiment_file(name) is None and any(name == known for known, _ in tree.experiments()):
        return name
    return load_experiment(_file_of(tree, given))[0].name


def file_to_run(tree: RunTree, given: Path) -> Path:
    """Return the file of an experiment of ``tree`` that a person names where a file is needed.

    Raises:
        InputError: it has no file, because its detections were imported; or the file is not found.
    """
    name = _plain_name(given)
    found = [tree.experiment(known, profile) for known, profile in tree.experiments() if known == name]
    if not found:
        return _file_of(tree, given)
    plan = read_plan(found[0] / naming.PLAN)
    if plan.kind == IMPORTED:
        hint = f"Add files with `gfl-lab import-results {name}`, or see the results with `gfl-lab table {name}`."
        raise InputError(Problem(f"{name} is made of imported detections: there is nothing to train", hint=hint))
    if plan.source and (file := shipped.experiment_file(Path(plan.source).stem)) is not None:
        return file
    raise InputError(Problem(f"{name} was run from the file {plan.source}, which is not found by its name", hint="Give its path."))


def stored_experiment(tree: RunTree, given: Path, profile: str | None) -> tuple[Store, ExperimentRow]:
    """Return the store of ``tree``, and the row of an experiment there that is no search. Raises InputError."""
    found = require_run(tree, given, profile)
    if found.kind == "search":
        raise InputError(Problem(f"{found.name} is a search", hint=f"Confirm its best with:  gfl-lab confirm {found.argument}"))
    store = Store(tree)
    try:
        return store, store.experiment(found.name, found.profile)
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
    if is_imported(trial):
        hint = "Use the project that the detections are from. `gfl-lab table` and `gfl-lab compare` show what is known."
        message = f"trial {trial.id} is of imported detections: it has no weights, so it cannot be evaluated, reproduced or used on images"
        raise InputError(Problem(message, hint=hint))
    if state is TrialState.DONE:
        return
    if state is TrialState.RUNNING:
        raise InputError(Problem(f"trial {trial.id} is still being trained", hint="Wait for its end; gfl-lab status shows where it is."))
    rows = [row for row in Store(tree).experiments() if any(known.id == trial.id for known in row.trials)]
    command = f"gfl-lab run {rows[0].source} --profile {rows[0].profile}" if rows else "gfl-lab run EXPERIMENT"
    words = {TrialState.PLANNED: "has not been trained", TrialState.FAILED: "failed"}.get(state, "was interrupted")
    raise InputError(Problem(f"trial {trial.id} {words}", hint=f"Finish it first, with the options that it was started with:  {command}"))
