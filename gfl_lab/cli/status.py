"""`gfl-lab status`: where experiments and their trials stand."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gfl_lab.cli.options import profile_option
from gfl_lab.cli.output import print_json, say
from gfl_lab.cli.search import status_lines

if TYPE_CHECKING:
    from gfl_lab.results.rows import ExperimentRow
    from gfl_lab.session.accounts import Account


@click.command("status")
@click.argument("experiment", required=False, type=click.Path(path_type=Path))
@profile_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(experiment: Path | None, profile: str | None, as_json: bool) -> None:
    """Show where all experiments stand, what they have cost and what is left, or the trials of EXPERIMENT."""
    from gfl_lab.results.store import Store
    from gfl_lab.session.accounts import accounts, stopped_early
    from gfl_lab.session.run_tree import default_tree
    from gfl_lab.spec.files import load_experiment

    tree = default_tree()
    store = Store(tree)
    name = None if experiment is None else load_experiment(experiment)[0].name
    rows = [row for row in store.experiments() if name in (None, row.name) and profile in (None, row.profile)]
    early = stopped_early(rows, tree)
    costs = accounts(rows, tree, early)
    problems = store.problems()
    if as_json:
        shown = [{"experiment": row.name, "profile": row.profile, **cost.to_json()} for row, cost in zip(rows, costs, strict=True)]
        print_json({"home": str(tree.root), "problems": list(problems), "experiments": shown, "rows": _trials_json(rows, early)})
        return
    for problem in problems:
        say(f"warning: {problem}")
    if not rows:
        if not problems or experiment:  # else there are runs, and no plan that can be read
            which = f" of {experiment}" if experiment else ""
            say(f"no runs under {tree.root}{which}. Start with:  gfl-lab run experiments/table3_qfl_dfl.yaml")
        return
    for row, cost in zip(rows, costs, strict=True):
        lines = status_lines(tree, row.name, row.profile, str(cost)) if row.kind == "search" else _lines(row, cost)
        print("\n".join(lines))


def _trials_json(rows: Sequence[ExperimentRow], early: Collection[str]) -> list[dict[str, object]]:
    return [
        {
            "experiment": row.name, "profile": row.profile, "variant": variant.name, "seed": trial.seed, "trial": trial.id,
            "state": "stopped" if trial.id in early else str(trial.state), "epoch": trial.epoch, "epochs": trial.epochs,
            "step": trial.step, "steps": trial.steps, "AP": trial.metrics.get("AP"),
            "failure": {"kind": trial.failure.kind, "reason": trial.failure.reason, "step": trial.failure.step} if trial.failure else None,
        }
        for row in rows
        for variant in row.variants
        for trial in variant.trials
    ]  # fmt: skip


def _lines(row: ExperimentRow, cost: Account) -> list[str]:
    """Return the lines of an ablation: its trials by state, its cost, and each trial."""
    counts: dict[str, int] = {}
    for trial in row.trials:
        counts[str(trial.state)] = counts.get(str(trial.state), 0) + 1
    lines = [f"{row.name} on {row.profile}: " + ", ".join(f"{count} {state}" for state, count in counts.items()), f"  {cost}"]
    width = max((len(variant.name) for variant in row.variants), default=0)
    for variant in row.variants:
        for trial in variant.trials:
            tail = f"AP {trial.metrics['AP']:.1f}" if "AP" in trial.metrics else ""
            if trial.failure:
                tail = f"{trial.failure.kind}: {trial.failure.reason}"
            about = f"{trial.id}  {trial.state:11}  epoch {trial.epoch}/{trial.epochs}"
            lines.append(f"  {variant.name:{width}}  seed {trial.seed}  {about}  {tail}".rstrip())
    return lines
