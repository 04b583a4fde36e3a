"""A plan in words: what is done, what will run, how long it will take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gfl_lab import naming
from gfl_lab.orchestrate.damaged import Damaged
from gfl_lab.orchestrate.expected import Estimate, cost_of
from gfl_lab.orchestrate.resources import TrialResources
from gfl_lab.plan.plan import Plan
from gfl_lab.rundir import RunTree, TrialState
from gfl_lab.session.costs import cost_text
from gfl_lab.session.standing import Standing
from gfl_lab.spec.trial import DataSpec
from gfl_lab.wording import plural

LISTED = 100
"""Trials of a plan that are listed before they run."""

STATE_WORDS = {
    TrialState.DONE: "done, reused",
    TrialState.PLANNED: "to train",
    TrialState.INTERRUPTED: "goes on from its checkpoint",
    TrialState.FAILED: "failed before, tried again",
    TrialState.RUNNING: "run by another process",
}


def data_line(data: DataSpec) -> str:
    """Return one line about a data set."""
    classes = "1 class" if len(data.classes) == 1 else f"{len(data.classes)} classes"
    return f"data: {data.name} {data.digest}, {data.train_images} training and {data.val_images} validation images, {classes}"


def plan_lines(standing: Standing, weights_of: Mapping[str, str]) -> list[str]:
    """Return the data set, the first trials of the plan with their states, and the damage.

    Args:
        weights_of: trials that evaluate the weights of another one, by id.
    """
    plan = standing.plan
    going = {trial.id for trial in standing.pending}
    names, users = needed_names(plan), needed_by(plan)
    width = max(len(name) for name in [*names.values(), *(variant.name for variant in plan.variants)])
    trials = [
        f"  {names[trial.id]:{width}}  seed {trial.spec.seed}  {trial.id}  "
        + _needed_state(trial.id, len(users[trial.id]), standing, going, weights_of)
        for trial in (each.trial for each in plan.needed)
    ]
    trials += [
        f"  {variant.name:{width}}  seed {trial.spec.seed}  {trial.id}  {_state(trial.id, standing, going, weights_of)}"
        + ("  (baseline)" if variant.baseline else "")
        for variant in plan.variants
        for trial in variant.trials
    ]
    lines = [data_line(plan.data), "plan:", *trials[:LISTED]]
    if len(trials) > LISTED:
        lines.append(f"  and {len(trials) - LISTED} more, which `gfl-lab plan` lists")
    own = {trial.id for trial in plan.all_trials}
    for trial, damage in standing.damaged.items():
        seed = "" if trial in own else ", of a seed that an earlier run left in the table,"
        lines.append(f"warning: trial {trial}{seed} is damaged: {damage}" + ("; it is evaluated again" if seed and trial in going else ""))
    return lines


def needed_names(plan: Plan) -> dict[str, str]:
    """Return what each needed trial of a plan is called, by its id."""
    return {each.trial.id: f"{' and '.join(each.roles)}: {each.name}" for each in plan.needed}


def needed_by(plan: Plan) -> dict[str, list[str]]:
    """Return {needed trial: trials of the plan that need it}, by id."""
    found: dict[str, list[str]] = {}
    for trial in plan.all_trials:
        for needed in trial.spec.needs.values():
            found.setdefault(needed, []).append(trial.id)
    return found


def _needed_state(trial: str, users: int, standing: Standing, going: set[str], weights_of: Mapping[str, str]) -> str:
    if trial not in going and standing.states[trial] in (TrialState.PLANNED, TrialState.INTERRUPTED, TrialState.FAILED):
        return "not needed now: the trials that need it are done"
    return f"{_state(trial, standing, going, weights_of)}  (for {plural(users, 'trial')})"


def _state(trial: str, standing: Standing, going: set[str], weights_of: Mapping[str, str]) -> str:
    if trial in weights_of:
        return f"to evaluate, with the weights of {weights_of[trial]}"
    if (damage := standing.damaged.get(trial)) is None:
        return STATE_WORDS[standing.states[trial]]
    if trial in going:
        return "damaged, evaluated again from its checkpoint"
    return "damaged" if damage.lost or damage.evaluated or damage.beyond_repair else "done, reused; its manifest is written anew"


def summary_lines(standing: Standing, weights_of: Mapping[str, str], expected: Sequence[Estimate], resources: TrialResources) -> list[str]:
    """Return one line: how many trials run, how many at once, and their cost."""
    pending = standing.pending
    going = {trial.id for trial in pending}
    beyond = {trial for trial, damage in standing.damaged.items() if trial not in going and damage.beyond_repair}
    own = {trial.id: standing.states[trial.id] for trial in standing.plan.trials}
    needed = {each.trial.id for each in standing.plan.needed}
    done = sum(state is TrialState.DONE and trial not in going and trial not in beyond for trial, state in own.items())
    if not pending:
        if beyond:
            return [f"{done} of {plural(len(own), 'trial')} of this plan are reused, {len(beyond)} damaged; nothing to train"]
        return [f"all {plural(len(own), 'trial')} of this plan are done already: nothing to train"]
    again = sum(trial in standing.damaged for trial in going)
    others = sum(trial in needed for trial in going)
    parts = [f"{plural(len(pending) - again - len(weights_of), 'trial')} to train" + (f" ({others} that others need)" if others else "")]
    parts += [f"{len(weights_of)} to evaluate with the weights of another"] if weights_of else []
    parts += [f"{again} to evaluate again"] if again else []
    parts += [f"{done} reused"] + ([f"{len(beyond)} damaged"] if beyond else [])
    at_once = min(resources.slots, len(pending))
    takes = f"{plural(resources.cpus, 'core')}" + (f" and {resources.gpus:g} GPU" if resources.gpus else "")
    cost = cost_of([estimate.seconds for estimate in expected], resources)
    return [f"{', '.join(parts)}; {at_once} at once, each on {takes}; {cost_text(cost, expected, resources)}"]


def way_out(damage: Damaged, tree: RunTree) -> str:
    """Return what to do with a trial that no command can repair."""
    unneeded = {each.file for each in damage.found} == {naming.LAST_CHECKPOINT}
    may = f"No table needs {naming.LAST_CHECKPOINT}, which may be deleted. " if unneeded else ""
    return f"{may}To train it once more, move {tree.trial(damage.trial).path} away"
