"""`gfl-lab status`: where experiments and their trials stand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from gfl_lab.cli.options import profile_option
from gfl_lab.cli.output import print_json, say
from gfl_lab.wording import duration


@click.command("status")
@click.argument("experiment", required=False, type=click.Path(path_type=Path))
@profile_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(experiment: Path | None, profile: str | None, as_json: bool) -> None:
    """Show where all experiments stand, what they have cost and what is left, or the trials of EXPERIMENT."""
    from gfl_lab.results.store import Store
    from gfl_lab.rundir import RunTree
    from gfl_lab.spec.files import load_experiment

    tree = RunTree.default()
    store = Store(tree)
    rows = store.experiments()
    if experiment is not None:
        name = load_experiment(experiment)[0].name
        rows = tuple(row for row in rows if row.name == name)
    if profile is not None:
        rows = tuple(row for row in rows if row.profile == profile)
    early = _stopped_early(rows, tree)
    costs = _costs(rows, tree, early)
    if as_json:
        print_json(
            {
                "home": str(tree.root),
                "problems": list(store.problems()),
                "experiments": [
                    {"experiment": row.name, "profile": row.profile, **cost.to_json()} for row, cost in zip(rows, costs, strict=True)
                ],
                "rows": [
                    {
                        "experiment": row.name, "profile": row.profile, "variant": variant.name, "seed": trial.seed, "trial": trial.id,
                        "state": "stopped" if trial.id in early else str(trial.state), "epoch": trial.epoch, "epochs": trial.epochs, "step": trial.step, "steps": trial.steps,
                        "AP": trial.metrics.get("AP"),
                        "failure": {"kind": trial.failure.kind, "reason": trial.failure.reason, "step": trial.failure.step} if trial.failure else None,
                    }
                    for row in rows
                    for variant in row.variants
                    for trial in variant.trials
                ],
            }
        )  # fmt: skip
        return
    problems = store.problems()
    for problem in problems:
        say(f"warning: {problem}")
    if not rows and problems and not experiment:
        return  # there are runs, and no plan that can be read
    if not rows:
        say(
            f"no runs under {tree.root}"
            + (f" of {experiment}" if experiment else "")
            + ". Start with:  gfl-lab run experiments/table3_qfl_dfl.yaml"
        )
        return
    for row, cost in zip(rows, costs, strict=True):
        if row.kind == "search":
            from gfl_lab.cli.search import status_lines

            print("\n".join(status_lines(tree, row.name, row.profile, str(cost))))
            continue
        counts: dict[str, int] = {}
        for trial in row.trials:
            counts[str(trial.state)] = counts.get(str(trial.state), 0) + 1
        print(f"{row.name} on {row.profile}: " + ", ".join(f"{count} {state}" for state, count in counts.items()))
        print(f"  {cost}")
        width = max((len(variant.name) for variant in row.variants), default=0)
        for variant in row.variants:
            for trial in variant.trials:
                tail = f"AP {trial.metrics['AP']:.1f}" if "AP" in trial.metrics else ""
                if trial.failure:
                    tail = f"{trial.failure.kind}: {trial.failure.reason}"
                print(
                    f"  {variant.name:{width}}  seed {trial.seed}  {trial.id}  {trial.state:11}  epoch {trial.epoch}/{trial.epochs}  {tail}".rstrip()
                )


@dataclass(frozen=True)
class _Account:
    """What an experiment has cost (None: its runs have not recorded it), and what it will still cost (None: not known)."""

    spent: Any
    left: Any
    gpus: float
    rests_on: str

    def to_json(self) -> dict[str, Any]:
        spent, left = (cost.to_json() if cost else None for cost in (self.spent, self.left))
        total = {key: round(left[key] + value, 4) for key, value in spent.items()} if spent and left else None
        return {"spent": spent, "left": left, "expected": total, "rests_on": self.rests_on or None}

    def __str__(self) -> str:
        def machine(cost: Any) -> str:
            return f"{cost.core_s / 3600:.2f} core-hours" + (f", {cost.gpu_s / 3600:.2f} GPU-hours" if self.gpus else "")

        text = f"spent {duration(self.spent.wall_s)}, {machine(self.spent)}" if self.spent else "spent: not recorded"
        if self.left is None:
            return f"{text}; time left unknown"
        if not self.rests_on:
            return f"{text}; nothing left to train"
        return f"{text}; left about {duration(self.left.wall_s)}, {machine(self.left)} (rests on {self.rests_on})"


def _stopped_early(rows: Any, tree: Any) -> set[str]:
    """Ids of the trials that a search has ended before their last epoch: nothing of them is left to train."""
    if not any(row.kind == "search" for row in rows):
        return set()
    from gfl_lab.cli.search import stopped_early

    return set().union(*(stopped_early(tree, row.name, row.profile) for row in rows if row.kind == "search"))


def _costs(rows: Any, tree: Any, early: set[str]) -> list[_Account]:
    """The account of each experiment. What is left is reckoned with the share of the machine that the last command had."""
    from gfl_lab import naming
    from gfl_lab.orchestrate import resources
    from gfl_lab.orchestrate.budget import last_share, spent
    from gfl_lab.orchestrate.cost import Paces, cost_of, rests_on
    from gfl_lab.rundir import TrialState

    if not rows:
        return []
    paces, machine = Paces(tree), resources.look()
    accounts = []
    for row in rows:
        file = tree.experiment(row.name, row.profile) / naming.COST
        share = last_share(file) or resources.Share(1, 0, 1)
        data = {"name": row.data.name, "digest": row.data.digest, "train_images": row.data.train_images, "val_images": row.data.val_images}
        found = [
            paces.estimate(
                variant.settings, data, cpus=share.cpus, device=resources.device_of(machine, share.gpus),
                processes=resources.processes_of(share.gpus), done=trial.progress if trial.state is not TrialState.FAILED else 0.0,
            )
            for variant in row.variants
            for trial in variant.trials
            if trial.state is not TrialState.DONE and trial.id not in early
        ]  # fmt: skip
        accounts.append(_Account(spent(file), cost_of([each.seconds for each in found], share), share.gpus, rests_on(found)))
    return accounts
