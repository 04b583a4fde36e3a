"""An overview of a plan: each trial, what is done, and what the rest will cost. Nothing is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from gfl_lab.errors import InputError, Problem, ResourceError
from gfl_lab.orchestrate import resources
from gfl_lab.orchestrate.budget import Budget
from gfl_lab.orchestrate.cost import Timings, estimates
from gfl_lab.orchestrate.expected import Cost, Estimate, cost_of, rests_on
from gfl_lab.orchestrate.measure import WarmUp, distinct, measure
from gfl_lab.orchestrate.search import open_ledger
from gfl_lab.orchestrate.trainings import Trainings
from gfl_lab.plan.plan import Plan, Trial, Variant
from gfl_lab.plan.search import definition_of, search_of
from gfl_lab.rundir import RunTree
from gfl_lab.session import entries
from gfl_lab.session.costs import check_budget, cost_text, parse_budget
from gfl_lab.session.inputs import Files
from gfl_lab.session.looks import Prospect, Resolve, plan_next_look
from gfl_lab.session.plan_text import needed_by, needed_names, way_out
from gfl_lab.session.planning import PlanOptions, Prepared, prepare
from gfl_lab.session.search import search_lines
from gfl_lab.session.standing import Standing
from gfl_lab.session.unassigned import unassigned_groups, unassigned_lines
from gfl_lab.session.workers import Workers
from gfl_lab.wording import duration, plural


@dataclass(frozen=True)
class PlannedTrial:
    """One trial of a plan.

    Attributes:
        name: of its variant, or what a needed trial is called. variant: None for a needed trial, which is no row of the table.
        needed_by: the trials that need it.
        state: of the trial, as the run tree has it. damage: of its files, or empty.
        again: it is evaluated again from its checkpoint.
        weights_from: the trial whose weights it evaluates, or None.
        estimate: of the time that it still takes; None if nothing is left to do.
    """

    name: str
    variant: Variant | None
    trial: Trial
    needed_by: Sequence[str]
    state: str
    damage: str
    again: bool
    weights_from: str | None
    estimate: Estimate | None

    def to_json(self) -> dict[str, Any]:
        """Return the row of ``gfl-lab plan --json``."""
        return {
            "variant": self.name,
            "settings": self.variant.axes if self.variant else {},
            "seed": self.trial.spec.seed,
            "trial": self.trial.id,
            "needs": dict(self.trial.spec.needs),
            "needed_by": list(self.needed_by),
            "state": self.state,
            "baseline": self.variant is not None and self.variant.baseline,
            "damage": self.damage or None,
            "weights_from": self.weights_from,
            "expected_seconds": _rounded(self.estimate.seconds) if self.estimate else 0.0,
            "rests_on": self.estimate.rests_on if self.estimate else None,
        }

    def line(self, width: int) -> str:
        """Return the line of ``gfl-lab plan``; ``width`` is that of the longest variant name."""
        takes = f"  {duration(_rounded(self.estimate.seconds))}" if self.estimate else ""
        mark = f"  (weights of {self.weights_from})" if self.weights_from else ""
        mark += "  (evaluated again from its checkpoint)" if self.again else ""
        mark += "  (baseline)" if self.variant and self.variant.baseline else ""
        mark += f"  (for {plural(len(self.needed_by), 'trial')})" if self.needed_by else ""
        state = "damaged" if self.damage else self.state
        return f"{self.name:{width}}  seed {self.trial.spec.seed}  {self.trial.id}  {state}{takes}{mark}"


@dataclass(frozen=True)
class PlanOverview:
    """A plan with its states and its cost.

    Attributes:
        trials: those that others need, and those of every variant. trainings: how many of them are trained.
        expected: estimates of the trials to run. cost: of all of them; None if one is not known.
        unassigned: boxes that no location learns, by groups of variants.
        prospect: of an experiment that is run until each row has a verdict; then ``trials`` are those up to the next look.
    """

    files: Files
    plan: Plan
    standing: Standing
    workers: Workers
    budget: Budget | None
    trials: Sequence[PlannedTrial]
    trainings: int
    expected: Sequence[Estimate]
    cost: Cost | None
    unassigned: list[dict[str, Any]]
    prospect: Prospect | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what ``gfl-lab plan --json`` prints."""
        taken, machine = self.workers.resources, self.workers.machine
        over = self.budget.exceeded(self.expected, taken) if self.budget else None
        return {
            "experiment": self.plan.experiment.name,
            "profile": self.plan.profile.name,
            "data": self.plan.data.model_dump(mode="json"),
            "rows": [trial.to_json() for trial in self.trials if trial.variant],
            "needed": [trial.to_json() for trial in self.trials if not trial.variant],
            "trainings": self.trainings,
            "expected_seconds": _rounded(self.cost.wall_s) if self.cost else None,
            "expected": self.cost.to_json() if self.cost else None,
            "rests_on": rests_on(self.expected) if self.expected else None,
            "unassigned": self.unassigned,
            "looks": self.prospect.to_json() if self.prospect else None,
            "at_once": taken.slots,
            "share": {"cpus": taken.cpus, "gpus": taken.gpus},
            "budget": {"given": self.budget.text, "enough": None if over is None else not over} if self.budget else None,
            "machine": {
                "cpus": machine.cpus, "gpus": list(machine.gpus), "gpu_memory_gib": machine.gpu_memory,
                "memory_gib": round(machine.memory_gib, 1),
            },
        }  # fmt: skip

    def trial_lines(self) -> list[str]:
        """Return a line for each trial."""
        width = max(len(trial.name) for trial in self.trials)
        return [trial.line(width) for trial in self.trials]

    def notes(self, options: PlanOptions) -> list[str]:
        """Return damage, boxes without a location, the machine, and the cost."""
        lines = []
        for trial, damage in self.standing.damaged.items():
            lines.append(f"warning: trial {trial} is damaged: {damage}")
            if damage.beyond_repair:
                lines.append(f"    {way_out(damage, self.standing.tree)}.")
        lines += unassigned_lines(self.unassigned, self.plan, options.data, self.files.folder)
        lines.append(f"machine: {self.workers.machine}")
        shared = sum(trial.weights_from is not None for trial in self.trials)
        again = sum(trial.again for trial in self.trials)
        parts = [f"{self.trainings} of {plural(len(self.trials), 'trial')} to train"]
        parts += [f"{shared} to evaluate with the weights of another"] if shared else []
        parts += [f"{again} to evaluate again"] if again else []
        taken = self.workers.resources
        at_once = min(taken.slots, max(1, len(self.expected)))
        lines.append(f"{', '.join(parts)}, {at_once} at once; {cost_text(self.cost, self.expected, taken)}")
        known = [estimate.seconds for estimate in self.expected if estimate.seconds is not None]
        return [*lines, *(self.prospect.lines(fmean(known) if known else None, taken) if self.prospect else [])]

    def check_budget(self, say: Callable[[str], None]) -> None:
        """Raise BudgetError if the plan is expected to cost more than its budget."""
        check_budget(self.budget, self.expected, self.workers.resources, say)


def plan_overview(
    files: Files, tree: RunTree, options: PlanOptions, say: Callable[[str], None], *, budget: str | None = None, warm_up: bool = False,
    resolve: Resolve | None = None,
) -> PlanOverview:  # fmt: skip
    """Make the plan of an ablation and look where its trials stand.

    Args:
        resolve: the wish that seeds are trained until each row has a verdict; then the plan is that of the next look.
        budget: to compare the cost with, as ``--budget`` has it.
        warm_up: run some iterations of each distinct model first, for a better estimate.

    Raises:
        SpecError, DataError, InputError, ResourceError: every problem of the first step that has one.
    """
    workers = Workers(resources.look(), files.profile.resources, lambda: False)
    limit = parse_budget(budget, workers.resources.gpus)
    if warm_up and workers.resources.gpus > 1:
        raise InputError(
            f"--measure warms trials up on one GPU, and these take {workers.resources.gpus:g} each; the first finished one gives an estimate"
        )
    prepared, prospect = plan_next_look(files, tree, options, resolve or Resolve(), say)
    plan = prepared.plan
    unassigned = unassigned_groups(plan, prepared.paths, tree)
    standing = Standing(plan, tree, running_too=True)
    standing.look()
    pending, unfinished = standing.pending, standing.unfinished
    if warm_up and unfinished:
        _warm_up(unfinished, tree, prepared, workers, say)
    timings = Timings(tree)
    workers.fit(timings.peak(pending, gpu=bool(workers.resources.gpus)))
    weights_of = Trainings(unfinished, tree).evaluated()
    again = standing.to_repair
    expected = estimates(pending, plan, tree, workers.resources, workers.device, timings, evaluated={*again, *weights_of})
    trials = _planned_trials(standing, dict(zip([trial.id for trial in pending], expected, strict=True)), weights_of)
    cost = cost_of([estimate.seconds for estimate in expected], workers.resources)
    trainings = len(unfinished) - len(weights_of)
    return PlanOverview(files, plan, standing, workers, limit, trials, trainings, expected, cost, unassigned, prospect)


def _planned_trials(standing: Standing, estimate_of: Mapping[str, Estimate], weights_of: Mapping[str, str]) -> list[PlannedTrial]:
    again, plan = standing.to_repair, standing.plan
    names, users = needed_names(plan), needed_by(plan)
    trials: list[tuple[str, Variant | None, Trial]] = [(names[each.trial.id], None, each.trial) for each in plan.needed]
    trials += [(variant.name, variant, trial) for variant in plan.variants for trial in variant.trials]
    return [
        PlannedTrial(
            name, variant, trial, users.get(trial.id, []), str(standing.states[trial.id]),
            str(standing.damaged.get(trial.id) or ""), trial.id in again, weights_of.get(trial.id), estimate_of.get(trial.id),
        )
        for name, variant, trial in trials
    ]  # fmt: skip


def _warm_up(pending: Sequence[Trial], tree: RunTree, prepared: Prepared, workers: Workers, say: Callable[[str], None]) -> None:
    taken = workers.resources
    say(f"warming up {len(distinct(pending))} of {len(pending)} trials to train (the others are like them)")
    loaders = resources.loaders(workers.preferred.loader_workers, taken.cpus, taken.gpus)
    warm_up = WarmUp(entries.WARM_UP_ENTRY, prepared.paths, prepared.code, loaders)
    problems = measure(pending, tree, warm_up, taken, workers.machine, say)
    if problems:
        raise ResourceError([Problem(problem) for problem in problems])


@dataclass(frozen=True)
class SearchOverview:
    """A search before or after its trials: what is searched, and what has ended."""

    files: Files
    plan: Plan
    lines: Sequence[str]
    ended: int
    suggestions: int
    unassigned: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """Return what ``gfl-lab plan --json`` prints."""
        return {
            "experiment": self.plan.experiment.name,
            "profile": self.plan.profile.name,
            "kind": "search",
            "data": self.plan.data.model_dump(mode="json"),
            "search": search_of(self.files.experiment).model_dump(mode="json"),
            "ended": self.ended,
            "suggestions": self.suggestions,
            "unassigned": self.unassigned,
        }

    def notes(self, options: PlanOptions) -> list[str]:
        """Return boxes without a location, the space, and the cost."""
        return [*unassigned_lines(self.unassigned, self.plan, options.data, self.files.folder), *self.lines]


def search_overview(
    files: Files, tree: RunTree, options: PlanOptions, say: Callable[[str], None], *, budget: str | None = None
) -> SearchOverview:  # fmt: skip
    """Make the plan of a search and look what has ended. Raises as ``plan_overview``."""
    workers = Workers(resources.look(), files.profile.resources, lambda: False)
    parse_budget(budget, workers.resources.gpus)
    prepared = prepare(files, tree, options, say)
    definition = definition_of(files.experiment, prepared.plan)
    folder = tree.experiment(files.experiment.name, files.profile.name)
    ledger, _ = open_ledger(folder, definition, search_of(files.experiment).trials, look=True)
    plan = replace(prepared.plan, experiment=files.experiment)
    unassigned = unassigned_groups(prepared.plan, prepared.paths, tree)
    lines = search_lines(plan, search_of(files.experiment), ledger, tree, workers)
    return SearchOverview(files, plan, lines, ledger.ended, len(ledger.suggestions), unassigned)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
