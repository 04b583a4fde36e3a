"""The states of a plan's trials (done, damaged, left to run), and the weights that they can share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gfl_lab.integrity.trial_check import Checked
from gfl_lab.orchestrate.damaged import Damaged, examine_all
from gfl_lab.orchestrate.driver import states
from gfl_lab.plan.plan import Plan, Trial, Variant
from gfl_lab.rundir import RunTree, TrialState


@dataclass
class Standing:
    """The state of a plan's trials in a run tree.

    Attributes:
        others: trials of other seeds that an earlier run left in the table; they are repaired, not trained.
        repairs: False where no finished trial can be repaired (over a storage).
        running_too: trials that another process runs are pending too, for an estimate of the whole plan.
        states: by trial id. damaged: the damaged finished trials, by id.
    """

    plan: Plan
    tree: RunTree
    others: Sequence[tuple[Variant, Trial]] = ()
    repairs: bool = True
    running_too: bool = False
    states: dict[str, TrialState] = field(default_factory=dict)
    damaged: dict[str, Damaged] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._checked = Checked(self.tree)

    @property
    def known(self) -> list[Trial]:
        """Return all trials of the table, and those that they need."""
        return [*self.plan.all_trials, *(trial for _, trial in self.others)]

    @property
    def to_repair(self) -> set[str]:
        """Return the ids of the damaged trials that can be evaluated again from their last checkpoint."""
        return {trial for trial, each in self.damaged.items() if each.evaluated and self.repairs}

    @property
    def pending(self) -> list[Trial]:
        """Return the trials to run: those to train, each behind those that it needs, and those to repair."""
        repaired = self.to_repair
        own = [trial for trial in self.plan.all_trials if trial.id in repaired or trial.id in self._to_train]
        return own + [trial for _, trial in self.others if trial.id in repaired]

    @property
    def _to_train(self) -> set[str]:
        """Return the ids of the trials to train: those of the table, and what they need."""
        excluded = {trial for trial, each in self.damaged.items() if each.lost} | self.to_repair
        settled = {TrialState.DONE} if self.running_too else {TrialState.DONE, TrialState.RUNNING}
        graph = self.plan.all_trials
        unsettled = {trial.id for trial in graph if self.states[trial.id] not in settled} - excluded
        found = unsettled & {trial.id for trial in self.plan.trials}
        for trial in reversed(graph):  # what only finished trials need is not trained
            if trial.id in found:
                found |= unsettled & set(trial.spec.needs.values())
        return found

    @property
    def unfinished(self) -> list[Trial]:
        """Return the trials to run without those to repair."""
        repaired = self.to_repair
        return [trial for trial in self.pending if trial.id not in repaired]

    def look(self) -> None:
        """Read the states and the damage of all trials."""
        self.states = states(self.known, self.tree)
        self.damaged = examine_all(self.known, self.states, self.tree, self._checked)

    def damage_now(self) -> dict[str, Damaged]:
        """Return the damage as it is now, by trial id, and leave the attributes as they are."""
        return examine_all(self.known, states(self.known, self.tree), self.tree, self._checked)
