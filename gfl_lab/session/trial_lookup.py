"""Find the trial that a person names in a run tree: by the beginning of its id, as EXPERIMENT:VARIANT:SEED, or by its last checkpoint."""

from __future__ import annotations

import re
from pathlib import Path

from gfl_lab import naming
from gfl_lab.errors import InputError, Problem
from gfl_lab.integrity.trial_check import is_imported
from gfl_lab.results.rows import ExperimentRow, VariantRow
from gfl_lab.results.store import Store
from gfl_lab.rundir import RunTree, TrialDir, TrialState
from gfl_lab.session.named_variant import TRIAL, find_experiment_of, form_hint, is_experiment, split
from gfl_lab.session.variant_pair import find_variant
from gfl_lab.wording import plural

LIKE_A_TRIAL = re.compile(r"[0-9a-f]{1,12}")
_FORM = "EXPERIMENT:VARIANT:SEED"
_SEED = re.compile(r"[0-9]{1,10}")


def find_trial(tree: RunTree, given: str) -> TrialDir:
    """Return the one trial of ``tree`` that a person names.

    Args:
        given: the beginning of the trial's id, or else ``EXPERIMENT:VARIANT:SEED``. EXPERIMENT is a file, or the name of an experiment
            in the tree; ``EXPERIMENT@PROFILE`` if the tree has it on several profiles. VARIANT is as ``find_variant`` takes it. SEED
            may be left out if the variant has one.

    Raises:
        InputError: there is none, or several.
    """
    found = [trial for trial in tree.trials() if trial.id.startswith(given)]
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(trial.id for trial in found[:5]) + (", ..." if len(found) > 5 else "")
        raise InputError(Problem(f"{plural(len(found), 'trial')} begin with {given}: {listed}", hint="Give more digits."))
    if ":" in given:
        return _by_variant(tree, given)
    if is_experiment(tree, given):
        experiment = find_experiment_of(tree, given, given, TRIAL)
        raise InputError(Problem(f"{given} is an experiment, not a trial", hint=form_hint(given, experiment, TRIAL)))
    hint = f"Write {_FORM}, or an id. gfl-lab status lists trials and their ids."
    raise InputError(Problem(f"no trial's id begins with {given} under {tree.root}", hint=hint))


def trial_of_checkpoint(path: Path) -> TrialDir | None:
    """Return the trial whose last checkpoint ``path`` is, if its manifest lies beside it; None for other weights.

    Raises:
        InputError: there is no such file.
    """
    if not path.is_file():
        hint = f"Give a trial as {_FORM} or by its id (gfl-lab status lists them), or a file with weights."
        raise InputError(Problem(f"{path} is neither a trial's id nor a file", hint=hint))
    folder = path.resolve().parent
    return TrialDir(folder) if path.name == naming.LAST_CHECKPOINT and (folder / naming.MANIFEST).exists() else None


def trial_or_file(tree: RunTree, what: str) -> TrialDir | None:
    """Return the trial that ``what`` names, as ``find_trial``; None for a file, and for text that can name no trial. Raises InputError."""
    if Path(what).is_file():
        return None
    names_a_trial = LIKE_A_TRIAL.fullmatch(what) or ":" in what or is_experiment(tree, what)
    return find_trial(tree, what) if names_a_trial else None


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
    command = rows[0].run_command() if rows else "gfl-lab run EXPERIMENT"
    words = {TrialState.PLANNED: "has not been trained", TrialState.FAILED: "failed"}.get(state, "was interrupted")
    raise InputError(Problem(f"trial {trial.id} {words}", hint=f"Finish it first:  {command}"))


# --- EXPERIMENT:VARIANT:SEED ------------------------------------------------------------------------


def _by_variant(tree: RunTree, given: str) -> TrialDir:
    """Return the trial that ``EXPERIMENT:VARIANT[:SEED]`` names. Raises InputError."""
    text, rest = split(given)
    experiment = find_experiment_of(tree, text, given, TRIAL)
    if not rest.strip():
        raise InputError(Problem(f"{given!r} names no variant", hint=form_hint(text, experiment, TRIAL)))
    row, seed = _variant_and_seed(experiment, rest)
    if not row.trials:
        raise InputError(Problem(f"variant {row.name!r} of {experiment.name} has no trial", hint=f"Plan it:  gfl-lab run {text}"))
    found = [trial for trial in row.trials if seed is None or trial.seed == seed]
    if len(found) == 1:
        return tree.trial(found[0].id)
    seeds = ", ".join(str(trial.seed) for trial in row.trials)
    if seed is None:
        hint = f"Add the seed: '{text}:{row.name}:{row.trials[0].seed}'. Known: {seeds}."
        raise InputError(Problem(f"variant {row.name!r} of {experiment.name} has {plural(len(found), 'seed')}", hint=hint))
    raise InputError(Problem(f"variant {row.name!r} of {experiment.name} has no seed {seed}", hint=f"Known: {seeds}."))


def _variant_and_seed(experiment: ExperimentRow, rest: str) -> tuple[VariantRow, int | None]:
    """Return what ``VARIANT[:SEED]`` names. A number at the end is the seed, unless a variant has exactly this name. Raises InputError."""
    variant, colon, last = rest.rpartition(":")
    if colon and _SEED.fullmatch(last) and not any(known.name == rest for known in experiment.variants):
        return find_variant(experiment, variant), int(last)
    try:
        return find_variant(experiment, rest), None
    except InputError:
        if not colon or not variant.strip():
            raise
    row = find_variant(experiment, variant)  # so the last part is meant as the seed
    known = ", ".join(str(trial.seed) for trial in row.trials)
    hint = f"Write digits. Seeds of variant {row.name!r}: {known}."
    raise InputError(Problem(f"the seed {last!r} of {experiment.name}:{rest} is no whole number", hint=hint))
