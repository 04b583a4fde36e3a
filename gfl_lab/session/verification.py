"""Checking that a table is still what its trials give: against its lock file, and every file of its trials."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gfl_lab import naming
from gfl_lab.errors import InputError, Problem, StoreError
from gfl_lab.orchestrate.damaged import examine
from gfl_lab.records.table_lock import read_table_lock
from gfl_lab.report.fairness import unfair
from gfl_lab.report.lock import Deviation, deviations, make_lock
from gfl_lab.report.table import build_table
from gfl_lab.rundir import RunTree, TrialState
from gfl_lab.session.lookup import stored_experiment


@dataclass(frozen=True)
class Verification:
    """A table beside its lock file.

    Attributes:
        lock: the lock file. locked: number of trials in it.
        finished, recomputed: number of trials that have finished, and of those whose AP their detections give.
        deviations: everything that is not as locked, or damaged. unfair: differences of variants beyond the declared ones.
    """

    experiment: str
    profile: str
    lock: Path
    locked: int
    finished: int
    recomputed: int
    deviations: tuple[Deviation, ...]
    unfair: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Return True if every number is as locked, and the comparison is fair."""
        return not self.deviations and not self.unfair


def verify(tree: RunTree, experiment: Path, profile: str | None, lock: Path | None) -> Verification:
    """Rebuild the table of an experiment, and compare it with its lock file.

    Args:
        tree: where it was run.
        experiment: the experiment file.
        profile: instead of the experiment's own.
        lock: lock file, instead of the one beside the table.

    Raises:
        InputError: the experiment has not been run, or there is no readable lock file.
    """
    store, row = stored_experiment(tree, experiment, profile)
    path = lock or tree.experiment(row.name, row.profile) / naming.LOCK
    if not path.is_file():
        hint = "" if lock else f"gfl-lab run {experiment} writes it with the table."
        raise InputError(Problem("there is no such lock file", str(path), hint))
    try:
        known = read_table_lock(path)
        found = list(deviations(known, make_lock(row, build_table(row, store.resampled_or_none), store.records_or_none)))
    except StoreError as error:
        raise InputError(error.problems) from None
    done, sound = 0, 0
    rows = {trial.id for trial in row.trials}
    needed = [trial.id for each in row.needed for trial in each.trials]
    for trial in [tree.trial(trial_id) for trial_id in dict.fromkeys([*(trial.id for trial in row.trials), *needed])]:
        state = trial.state()
        damaged = examine(trial, state)
        damage = damaged.found if damaged else ()
        found += [Deviation(trial.id, each.file, "", each.what) for each in damage]
        if trial.id not in rows:
            continue
        done += state is TrialState.DONE
        sound += state is TrialState.DONE and not any(each.file == naming.EVAL_RECORDS for each in damage)
    return Verification(row.name, row.profile, path, len(known.trials), done, sound, tuple(found), tuple(unfair(row)))
