"""Checks of `gfl-lab doctor` on the files of a run tree: plans, leases, half-written files, finished trials."""

from __future__ import annotations

import shutil

from gfl_lab import naming
from gfl_lab.errors import FormatError, GflLabError, StoreError
from gfl_lab.integrity.trial_check import Checked, is_imported
from gfl_lab.maintenance.finding import REPAIR_HINT, Findings
from gfl_lab.orchestrate import orphans
from gfl_lab.orchestrate.damaged import examine
from gfl_lab.results.store import Store
from gfl_lab.rundir import RunTree
from gfl_lab.tracking.mlflow_payload import read_plan
from gfl_lab.wording import plural


def plans(tree: RunTree, repair: bool) -> Findings:
    """Move plans that cannot be read out of the way; without ``repair`` the check of the runs reports them."""
    for name, profile in tree.experiments() if repair else ():
        try:
            read_plan(tree, name, profile)
        except FormatError:  # another gfl-lab's, and whole
            continue
        except StoreError as error:
            path = tree.experiment(name, profile) / naming.PLAN
            kept = path.with_name(f"{path.name}.damaged")
            path.replace(kept)
            yield True, f"{error.problems[0].message}; moved to {kept.name}: run {name} again, finished trials are found by their ids"


def runs(tree: RunTree, repair: bool) -> Findings:
    """Find damaged trials, leases of dead processes and half-written files.

    Args:
        repair: remove the leases and the half-written files.
    """
    yield True, f"{len(tree.trials())} trials, {len(tree.experiments())} experiments in {tree.root}"
    for problem in Store(tree).problems():
        yield False, problem
    yield from _damaged(tree)
    for trial in orphans.stale_leases(tree):
        if repair:
            trial.drop_lease()
        yield repair, f"trial {trial.id} has the lease of a dead process" + (", removed" if repair else f"; {REPAIR_HINT}")
    for path in orphans.temporary_files(tree):
        if repair:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        yield repair, f"half-written: {path.relative_to(tree.root)}" + (", removed" if repair else f"; {REPAIR_HINT}")


def _damaged(tree: RunTree) -> Findings:
    """Find finished trials with missing or damaged files, and the command that makes them again, if there is one."""
    checked, commands, count = Checked(tree), dict[str, str](), 0
    for row in Store(tree).experiments():
        seeds = "" if row.kind == "search" else " --seeds " + ",".join(map(str, sorted({trial.seed for trial in row.trials})))
        command = f"`gfl-lab run {row.source} --profile {row.profile}{seeds}`"
        for shown in row.trials:
            commands.setdefault(shown.id, f"the same `gfl-lab import-results {row.name}`" if row.is_imported else command)
    for trial in tree.folders():
        try:
            found = examine(trial, trial.state(), checked)
        except (GflLabError, OSError) as error:
            yield False, f"trial {trial.id} cannot be checked: {error}"
            continue
        if found is None:
            count += trial.file(naming.RESULT).exists()
            continue
        again = commands.get(trial.id)
        if is_imported(trial):
            yield False, f"trial {trial.id} is damaged: {found}; {again or 'the command that imported it'} makes it again from its file"
        elif rest := found.beyond_repair:
            way = f"to train it once more, move {trial.path} away and give {again or 'its command again'}"
            yield False, f"trial {trial.id} is damaged: {rest}; {way}"
        else:
            yield False, f"trial {trial.id} is damaged: {found}; {again or 'the command that trained it'} makes it again, without training"
    checked.save()
    if count:
        yield True, f"{plural(count, 'trial')} that have ended have whole files, and the AP that their detections give"
