"""`gfl-lab plan`: the trials of an experiment, before anything is trained."""

from __future__ import annotations

from pathlib import Path

import click

from gfl_lab.cli.output import duration, print_json, say
from gfl_lab.cli.prepare import experiment_argument, plan_options, prepare, read_files


@click.command("plan")
@experiment_argument
@plan_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    experiment: Path, profile: str | None, data: Path | None, seeds: list[int] | None, weights: dict[str, str], as_json: bool
) -> None:
    """Show the trials of EXPERIMENT and what is done; nothing is trained.

    A trial's id depends on the data, so a generated data set is made when it is not there yet.
    """
    from gfl_lab.orchestrate import driver, resources
    from gfl_lab.rundir import RunTree

    files = read_files(experiment, profile)
    tree = RunTree.default()
    machine = resources.look()
    wish = files.profile.resources
    share = resources.share(machine, cpus=wish.cpus, gpus=wish.gpus, gpu_required=wish.gpu_required, asked_cpus=None, asked_gpus=None)
    plan = prepare(files, tree, data=data, seeds=seeds, weights=weights, say=say).plan
    found = driver.states(plan.trials, tree)
    pending = [trial for trial in plan.trials if found[trial.id] != "done"]
    expected = driver.wall_seconds(driver.expected_seconds(pending, plan, tree, share.cpus), min(share.slots, max(1, len(pending))))
    rows = [
        {
            "variant": variant.name,
            "settings": variant.axes,
            "seed": trial.spec.seed,
            "trial": trial.id,
            "state": str(found[trial.id]),
            "baseline": variant.baseline,
        }
        for variant in plan.variants
        for trial in variant.trials
    ]
    if as_json:
        print_json(
            {
                "experiment": plan.experiment.name, "profile": plan.profile.name, "data": plan.data.model_dump(mode="json"), "rows": rows,
                "expected_seconds": expected, "at_once": share.slots,
                "machine": {"cpus": machine.cpus, "gpus": list(machine.gpus), "memory_gib": round(machine.memory_gib, 1)},
            }
        )  # fmt: skip
        return
    width = max(len(row["variant"]) for row in rows)
    for row in rows:
        print(f"{row['variant']:{width}}  seed {row['seed']}  {row['trial']}  {row['state']}{'  (baseline)' if row['baseline'] else ''}")
    say(f"machine: {machine}")
    say(
        f"{len(pending)} of {len(rows)} trials to train, {min(share.slots, max(1, len(pending)))} at once; expected time {'about ' if expected else ''}{duration(expected if pending else 0)}"
    )
