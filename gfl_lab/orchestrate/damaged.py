"""Finished trials whose files are missing or damaged: which of them a run can make whole again, and how."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gfl_lab import naming
from gfl_lab.errors import StoreError
from gfl_lab.integrity.damage import Cure, Damage, phrase
from gfl_lab.integrity.file_checks import checkpoint_damage
from gfl_lab.integrity.trial_check import Checked, damage, has_finished
from gfl_lab.plan.plan import Trial
from gfl_lab.records.marks import read_failed_repair
from gfl_lab.records.result import Done
from gfl_lab.rundir import RunTree, TrialDir, TrialState


@dataclass(frozen=True)
class Damaged:
    """A finished trial with damaged files.

    Attributes:
        trial: its id. found: every damage. ap: the recorded AP, as it stands in the result.
        lost: why its records cannot be made again from its checkpoint; empty where they can, and where they need not be.
    """

    trial: str
    found: tuple[Damage, ...]
    lost: str
    ap: float | None = None

    @property
    def rewritten(self) -> bool:
        """True if the manifest, or a component beside it, is to be written anew."""
        return any(each.cure is Cure.REWRITE for each in self.found)

    @property
    def evaluated(self) -> bool:
        """True if its records can be made again from the last checkpoint."""
        return not self.lost and any(each.cure is Cure.EVALUATE for each in self.found)

    @property
    def beyond_repair(self) -> str:
        """The damage that stays, and why; empty where everything can be repaired."""
        rest = [each for each in self.found if each.cure is Cure.TRAIN or (each.cure is Cure.EVALUATE and self.lost)]
        needed = any(each.cure is Cure.EVALUATE for each in rest)
        return phrase(rest) + (f"; it cannot be evaluated again: {self.lost}" if needed else "")

    def __str__(self) -> str:
        return phrase(self.found)


def examine(trial: TrialDir, state: TrialState, checked: Checked | None = None) -> Damaged | None:
    """Return the damage of a finished trial, also of one with an unreadable result; None for all others.

    Args:
        checked: the trials that have passed before; None reads everything.
    """
    if state not in (TrialState.DONE, TrialState.INTERRUPTED) or not has_finished(trial):
        return None
    found = damage(trial) if checked is None else checked.damage(trial)
    if not found:
        return None
    lost = ""
    if any(each.cure is Cure.EVALUATE for each in found):
        what = checkpoint_damage(trial.file(naming.LAST_CHECKPOINT), whole=True)
        lost = f"{naming.LAST_CHECKPOINT} {what}" if what else ""
    return Damaged(trial.id, tuple(found), lost, recorded_ap(trial))


def examine_all(trials: Sequence[Trial], states: Mapping[str, TrialState], tree: RunTree, checked: Checked) -> dict[str, Damaged]:
    """Return the damaged ones of a plan's trials, by id. Trials that have passed are recorded for the next command."""
    found = {trial.id: examine(tree.trial(trial.id), states[trial.id], checked) for trial in trials}
    checked.save()
    return {trial: each for trial, each in found.items() if each is not None}


def recorded_ap(trial: TrialDir) -> float | None:
    """Return AP in a trial's result; None if there is none."""
    with contextlib.suppress(StoreError, OSError):
        result = trial.result()
        return (result.metrics or {}).get("AP") if isinstance(result, Done) else None
    return None


def failure(trial: TrialDir) -> str:
    """Return why the last attempt to repair a trial failed; empty if none has."""
    failed = read_failed_repair(trial.file(naming.REPAIR))
    return failed.reason if failed else ""
