"""The cost of experiments so far, and of what is left of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gfl_lab import naming
from gfl_lab.errors import StoreError
from gfl_lab.orchestrate.budget import last_resources, spent
from gfl_lab.orchestrate.expected import Cost, Estimate, cost_of, rests_on
from gfl_lab.orchestrate.resources import Machine, TrialResources, device_of, look, processes_of
from gfl_lab.results.rows import ExperimentRow, TrialRow, VariantRow
from gfl_lab.results.search import STOPPED, read_search
from gfl_lab.rundir import RunTree, TrialState
from gfl_lab.wording import duration

if TYPE_CHECKING:
    from gfl_lab.orchestrate.cost import Timings


@dataclass(frozen=True)
class Account:
    """The cost of an experiment.

    Attributes:
        spent: None if its runs have not recorded it.
        left: None if it is not known.
        gpus: of each trial.
        rests_on: what the estimate of ``left`` is made from; empty if nothing is left to train.
    """

    spent: Cost | None
    left: Cost | None
    gpus: float
    rests_on: str

    def to_json(self) -> dict[str, object]:
        """Return it as `gfl-lab status --json` shows it."""
        spent, left = (cost.to_json() if cost else None for cost in (self.spent, self.left))
        total = {key: round(left[key] + value, 4) for key, value in spent.items()} if spent and left else None
        return {"spent": spent, "left": left, "expected": total, "rests_on": self.rests_on or None}

    def __str__(self) -> str:
        text = f"spent {duration(self.spent.wall_s)}, {self._machine(self.spent)}" if self.spent else "spent: not recorded"
        if self.left is None:
            return f"{text}; time left unknown"
        if not self.rests_on:
            return f"{text}; nothing left to train"
        return f"{text}; left about {duration(self.left.wall_s)}, {self._machine(self.left)} (from {self.rests_on})"

    def _machine(self, cost: Cost) -> str:
        return f"{cost.core_s / 3600:.2f} core-hours" + (f", {cost.gpu_s / 3600:.2f} GPU-hours" if self.gpus else "")


def stopped_early(rows: Sequence[ExperimentRow], tree: RunTree) -> set[str]:
    """Return the ids of the trials that searches have ended before their last epoch: nothing of them is left to train."""
    found: set[str] = set()
    for row in rows:
        if row.kind != "search":
            continue
        try:
            search = read_search(tree, row.name, row.profile)
        except StoreError:
            continue
        found |= {each.trial for each in search.suggestions if each.state == STOPPED}
    return found


def accounts(rows: Sequence[ExperimentRow], tree: RunTree, early: Collection[str]) -> list[Account]:
    """Return the account of each experiment, estimated with the trial resources of its last command.

    Args:
        early: ids of trials that were stopped early, see `stopped_early`.
    """
    if not rows:
        return []
    machine = look()
    timings: Timings | None = None  # every trial is read for them, and most experiments have nothing left to estimate
    found = []
    for row in rows:
        file = tree.experiment(row.name, row.profile) / naming.COST
        resources = last_resources(file) or TrialResources(1, 0, 1)
        left = [
            (variant, trial)
            for variant in _unfinished(row)
            for trial in variant.trials
            if trial.state is not TrialState.DONE and trial.id not in early
        ]
        estimates = []
        if left:
            from gfl_lab.orchestrate.cost import Timings

            timings = timings or Timings(tree)
            estimates = [_estimate(timings, machine, resources, row, variant, trial) for variant, trial in left]
        found.append(Account(spent(file), cost_of([each.seconds for each in estimates], resources), resources.gpus, rests_on(estimates)))
    return found


def _unfinished(row: ExperimentRow) -> Sequence[VariantRow]:
    """Return the variants, and the trials that they need while one of them is unfinished."""
    unfinished = any(trial.state is not TrialState.DONE for trial in row.trials)
    return (*row.needed, *row.variants) if unfinished else row.variants


def _estimate(
    timings: Timings, machine: Machine, resources: TrialResources, row: ExperimentRow, variant: VariantRow, trial: TrialRow
) -> Estimate:
    data = {"name": row.data.name, "digest": row.data.digest, "train_images": row.data.train_images, "val_images": row.data.val_images}
    return timings.estimate(
        variant.settings, data, cpus=resources.cpus, device=device_of(machine, resources.gpus),
        processes=processes_of(resources.gpus), done=trial.progress if trial.state is not TrialState.FAILED else 0.0,
    )  # fmt: skip
