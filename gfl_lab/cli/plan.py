"""`gfl-lab plan`: the trials of an experiment and what they will cost, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gfl_lab.cli.costs import budget_option, check_budget, cost_text, parse_budget, share_of
from gfl_lab.cli.output import duration, plural, print_json, say
from gfl_lab.cli.prepare import experiment_argument, plan_options, prepare, read_files
from gfl_lab.cli.unassigned import say_unassigned, unassigned_groups
from gfl_lab.errors import InputError, Problem, ResourceError

WARM_UP_ENTRY = "gfl_lab.train.warmup:measure"


@click.command("plan")
@experiment_argument
@plan_options
@budget_option
@click.option("--measure", is_flag=True, help="Warm each distinct model up for some iterations, for a better estimate and for packing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    experiment: Path, profile: str | None, data: Path | None, seeds: list[int] | None, weights: dict[str, str], max_trials: int, budget: str | None,
    measure: bool, as_json: bool,
) -> None:  # fmt: skip
    """Show the trials of EXPERIMENT, what is done and what the rest will cost; nothing is trained.

    A trial's id depends on the data, so a generated data set is made when it is not there yet. Exit code 5 when --budget is
    not enough.
    """
    from gfl_lab import naming
    from gfl_lab.integrity import Checked
    from gfl_lab.orchestrate import damaged as damages
    from gfl_lab.orchestrate import driver, resources
    from gfl_lab.orchestrate.cost import Paces, cost_of, estimates, rests_on
    from gfl_lab.orchestrate.trainings import Trainings
    from gfl_lab.rundir import RunTree

    files = read_files(experiment, profile)
    tree = RunTree.default()
    machine = resources.look()
    wish = files.profile.resources
    share = share_of(machine, wish)
    limit = parse_budget(budget, share.gpus)
    if measure and share.gpus > 1:
        raise InputError(
            f"--measure warms trials up on one GPU, and these take {share.gpus:g} each; the first finished one gives an estimate"
        )
    if files.experiment.kind == "search":
        from gfl_lab.cli.search import show_plan

        return show_plan(files, data=data, seeds=seeds, weights=weights, as_json=as_json)
    prepared = prepare(files, tree, data=data, seeds=seeds, weights=weights, say=say, max_trials=max_trials)
    plan = prepared.plan
    unassigned = unassigned_groups(plan, prepared.paths, tree)
    found = driver.states(plan.trials, tree)
    damaged = damages.examine_all(plan.trials, found, tree, Checked(tree))
    again = {trial for trial, damage in damaged.items() if damage.evaluated}
    pending = [
        trial for trial in plan.trials
        if trial.id in again or (found[trial.id] != "done" and not (trial.id in damaged and damaged[trial.id].lost))
    ]  # fmt: skip
    unfinished = [trial for trial in pending if trial.id not in again]
    if measure and unfinished:
        workers = resources.loaders(wish.loader_workers, share.cpus, share.gpus)
        _measure(unfinished, tree, prepared, share, machine, workers)
    paces = Paces(tree)
    share = share_of(machine, wish, peak=paces.peak(pending, gpu=bool(share.gpus)))
    weights_of = Trainings(unfinished, tree).evaluated()
    device = resources.device_of(machine, share.gpus)
    expected = estimates(pending, plan, tree, share, device, paces, evaluated={*again, *weights_of})
    cost = cost_of([estimate.seconds for estimate in expected], share)
    over = limit.exceeded(expected, share) if limit else None
    of_trial = dict(zip([trial.id for trial in pending], expected, strict=True))
    rows = [
        {
            "variant": variant.name,
            "settings": variant.axes,
            "seed": trial.spec.seed,
            "trial": trial.id,
            "state": str(found[trial.id]),
            "baseline": variant.baseline,
            "damage": str(damaged[trial.id]) if trial.id in damaged else None,
            "weights_from": weights_of.get(trial.id),
            "expected_seconds": _rounded(of_trial[trial.id].seconds) if trial.id in of_trial else 0.0,
            "rests_on": of_trial[trial.id].rests_on if trial.id in of_trial else None,
        }
        for variant in plan.variants
        for trial in variant.trials
    ]
    at_once = min(share.slots, max(1, len(pending)))
    if as_json:
        print_json(
            {
                "experiment": plan.experiment.name, "profile": plan.profile.name, "data": plan.data.model_dump(mode="json"), "rows": rows,
                "trainings": len(unfinished) - len(weights_of), "expected_seconds": _rounded(cost.wall_s) if cost else None,
                "expected": cost.to_json() if cost else None, "rests_on": rests_on(expected) if expected else None,
                "unassigned": unassigned, "at_once": share.slots, "share": {"cpus": share.cpus, "gpus": share.gpus},
                "budget": {"given": limit.text, "enough": None if over is None else not over} if limit else None,
                "machine": {
                    "cpus": machine.cpus, "gpus": list(machine.gpus), "gpu_memory_gib": machine.gpu_memory, "memory_gib": round(machine.memory_gib, 1),
                },
            }
        )  # fmt: skip
    else:
        width = max(len(row["variant"]) for row in rows)
        for row in rows:
            takes = f"  {duration(row['expected_seconds'])}" if row["trial"] in of_trial else ""
            mark = f"  (weights of {row['weights_from']})" if row["weights_from"] else ""
            mark += "  (evaluated again from its checkpoint)" if row["trial"] in again else ""
            mark += "  (baseline)" if row["baseline"] else ""
            state = "damaged" if row["damage"] else row["state"]
            print(f"{row['variant']:{width}}  seed {row['seed']}  {row['trial']}  {state}{takes}{mark}")
        for trial, damage in damaged.items():
            say(f"warning: trial {trial} is damaged: {damage}")
            if damage.beyond_repair:
                unneeded = {each.file for each in damage.found} == {naming.LAST_CHECKPOINT}
                may = f"No table needs {naming.LAST_CHECKPOINT}, which may be deleted. " if unneeded else ""
                say(f"    {may}To train it once more, move {tree.trial(trial).path} away.")
        say_unassigned(unassigned, plan, data, files.source.path.parent)
        say(f"machine: {machine}")
        parts = [f"{len(unfinished) - len(weights_of)} of {plural(len(rows), 'trial')} to train"]
        parts += [f"{len(weights_of)} to evaluate with the weights of another"] if weights_of else []
        parts += [f"{len(again)} to evaluate again"] if again else []
        say(f"{', '.join(parts)}, {at_once} at once; {cost_text(cost, expected, share)}")
    check_budget(limit, expected, share)


def _measure(pending: list[Any], tree: Any, prepared: Any, share: Any, machine: Any, loader_workers: int) -> None:
    from gfl_lab.orchestrate.measure import distinct, measure

    say(f"warming up {len(distinct(pending))} of {len(pending)} trials to train (the others are like them)")
    problems = measure(pending, tree, prepared.paths, prepared.code, share, machine, WARM_UP_ENTRY, loader_workers, say)
    if problems:
        raise ResourceError([Problem(problem) for problem in problems])


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
