"""The states of experiments, in lines for `gfl-lab status` and as JSON."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from gfl_lab import naming
from gfl_lab.errors import StoreError
from gfl_lab.results.rows import ExperimentRow
from gfl_lab.results.search import read_search, state_text
from gfl_lab.rundir import RunTree, TrialState
from gfl_lab.wording import plural


def status_lines(row: ExperimentRow, tree: RunTree, cost: str) -> list[str]:
    """Return the lines of an ablation or a search: its trials by state, its cost, and each trial."""
    return _search_lines(tree, row.name, row.profile, cost) if row.kind == "search" else _ablation_lines(row, cost)


def trials_json(rows: Sequence[ExperimentRow], early: Collection[str]) -> list[dict[str, object]]:
    """Return a row for each trial, as `gfl-lab status --json` prints them (docs/command-line.md).

    Args:
        early: ids of trials that a search stopped early.
    """
    return [
        {
            "experiment": row.name, "profile": row.profile, "variant": variant.name, "seed": trial.seed, "trial": trial.id,
            "state": "stopped" if trial.id in early else str(trial.state), "epoch": trial.epoch, "epochs": trial.epochs,
            "step": trial.step, "steps": trial.steps, "AP": trial.metrics.get("AP"),
            "needed": needed,
            "failure": {"kind": trial.failure.kind, "reason": trial.failure.reason, "step": trial.failure.step} if trial.failure else None,
        }
        for row in rows
        for needed, variants in ((True, row.needed), (False, row.variants))
        for variant in variants
        for trial in variant.trials
    ]  # fmt: skip


def _ablation_lines(row: ExperimentRow, cost: str) -> list[str]:
    """Return the lines of an ablation: its trials by state, its cost, and each trial."""
    counts: dict[str, int] = {}
    for trial in row.trials:
        counts[str(trial.state)] = counts.get(str(trial.state), 0) + 1
    cost = "imported detections: nothing to train" if row.is_imported else cost
    lines = [f"{row.name} on {row.profile}: " + ", ".join(f"{count} {state}" for state, count in counts.items()), f"  {cost}"]
    if row.needed:
        done = sum(trial.state is TrialState.DONE for needed in row.needed for trial in needed.trials)
        lines.append(f"  {done} of {plural(len(row.needed), 'trial')} done that others need:")
    rows = [*row.needed, *row.variants]
    width = max((len(variant.name) for variant in rows), default=0)
    for number, variant in enumerate(rows):
        if row.needed and number == len(row.needed):
            lines.append("  trials of the table:")
        for trial in variant.trials:
            tail = f"AP {trial.metrics['AP']:.1f}" if "AP" in trial.metrics else ""
            if trial.failure:
                tail = f"{trial.failure.kind}: {trial.failure.reason}"
            about = f"{trial.id}  {trial.state:11}" + ("" if row.is_imported else f"  epoch {trial.epoch}/{trial.epochs}")
            lines.append(f"  {variant.name:{width}}  seed {trial.seed}  {about}  {tail}".rstrip())
    return lines


def _search_lines(tree: RunTree, name: str, profile: str, cost: str) -> list[str]:
    """Return the lines of a search, with the states of its record: a trial that was stopped early is neither failed nor unfinished."""
    try:
        search = read_search(tree, name, profile)
    except StoreError as error:
        return [f"{name} on {profile}: {error.problems[0].message}"]
    shown = [row for row in search.suggestions if row.trial and row.state != "repeat"]
    counts: dict[str, int] = {}
    for row in shown:
        counts[row.state] = counts.get(row.state, 0) + 1
    lines = [
        f"{name} on {profile}: a search, " + ", ".join([*(f"{count} {state}" for state, count in counts.items()), f"of {search.trials}"])
    ]
    lines += [f"  {cost}", "  ranked table:  gfl-lab table EXPERIMENT.yaml"]
    width = max((len(naming.variant_name(dict(row.settings))) for row in shown), default=0)
    for row in shown:
        value = "" if row.value is None else f"  {search.metric} {row.value:.{naming.METRICS[search.metric].digits}f}"
        reason = f"  {row.reason}" if row.reason else ""
        lines.append(f"  {row.number:3}  {naming.variant_name(dict(row.settings)):{width}}  {row.trial}  {state_text(row)}{value}{reason}")
    return lines
