"""`gfl-lab status`: where experiments and their trials stand."""

from __future__ import annotations

from pathlib import Path

import click

from gfl_lab.cli.output import print_json, say
from gfl_lab.cli.prepare import profile_option


@click.command("status")
@click.argument("experiment", required=False, type=click.Path(path_type=Path))
@profile_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(experiment: Path | None, profile: str | None, as_json: bool) -> None:
    """Show where all experiments stand, or the trials of EXPERIMENT."""
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
    if as_json:
        print_json(
            {
                "home": str(tree.root),
                "problems": list(store.problems()),
                "rows": [
                    {
                        "experiment": row.name, "profile": row.profile, "variant": variant.name, "seed": trial.seed, "trial": trial.id,
                        "state": str(trial.state), "epoch": trial.epoch, "epochs": trial.epochs, "step": trial.step, "steps": trial.steps,
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
    for problem in store.problems():
        say(f"warning: {problem}")
    if not rows:
        say(
            f"no runs under {tree.root}"
            + (f" of {experiment}" if experiment else "")
            + ". Start with:  gfl-lab run experiments/table3_qfl_dfl.yaml"
        )
        return
    for row in rows:
        counts = {}
        for trial in row.trials:
            counts[str(trial.state)] = counts.get(str(trial.state), 0) + 1
        print(f"{row.name} on {row.profile}: " + ", ".join(f"{count} {state}" for state, count in counts.items()))
        width = max((len(variant.name) for variant in row.variants), default=0)
        for variant in row.variants:
            for trial in variant.trials:
                tail = f"AP {trial.metrics['AP']:.1f}" if "AP" in trial.metrics else ""
                if trial.failure:
                    tail = f"{trial.failure.kind}: {trial.failure.reason}"
                print(
                    f"  {variant.name:{width}}  seed {trial.seed}  {trial.id}  {trial.state:11}  epoch {trial.epoch}/{trial.epochs}  {tail}".rstrip()
                )
