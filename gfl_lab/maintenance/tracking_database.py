"""Check of `gfl-lab doctor` on MLflow's database: its pages, its schema, and runs that no process runs any more."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path

from gfl_lab import naming
from gfl_lab.addresses import sqlite_path, sqlite_reader
from gfl_lab.errors import StoreError
from gfl_lab.maintenance.finding import REPAIR_HINT, Findings
from gfl_lab.orchestrate.driver import is_driven
from gfl_lab.rundir import RunTree
from gfl_lab.tracking import database as mlflow_db
from gfl_lab.tracking.mirror import Mirror, default_uri
from gfl_lab.tracking.server import DamagedDatabase, quiet_import
from gfl_lab.wording import plural


def database(tree: RunTree, repair: bool) -> Findings:
    """Compare the database's schema with that of the installed MLflow, and find runs that are RUNNING while no process runs their trial.

    Args:
        repair: raise the schema, correct the runs, and replace a damaged database of the run tree by a new one.
    """
    path = sqlite_path(default_uri(tree))
    if path is None:
        yield True, "MLflow is a server: `gfl-lab sync` completes what it has"
        return
    try:
        if mlflow_db.check(path):
            yield True, "no MLflow database yet"
            return
        mlflow_db.check_pages(path)
    except DamagedDatabase as error:
        yield _replaced(error, tree, repair)
        return
    mirror = Mirror(tree)
    stored, installed = mlflow_db.schema(path), _installed_schema()
    if stored == installed:
        yield True, f"{path} has the schema of the installed MLflow"
    else:
        if repair:
            mirror.prepare()  # keeps a copy; refuses one of a newer MLflow
        yield repair, f"{path} has schema {stored}, the installed MLflow {installed}" + (", raised" if repair else f"; {REPAIR_HINT}")
        if not repair:
            return
    stale = _running_without_process(path, tree)
    if repair:
        for name, profile in stale:
            mirror.sync(name, profile, final=not is_driven(tree.experiment(name, profile)))
    for (name, profile), count in stale.items():
        yield (
            repair,
            f"MLflow shows {plural(count, 'run')} of {name} ({profile}) as running that no process runs"
            + (", corrected" if repair else f"; {REPAIR_HINT}"),
        )
    if not stale:
        yield True, "no run of MLflow is RUNNING without a process"


def _replaced(error: DamagedDatabase, tree: RunTree, repair: bool) -> tuple[bool, str]:
    """Return the line on a damaged database; with ``repair`` it is set aside for a new one if it is the run tree's own."""
    problem = error.problems[0].message
    if error.path != tree.root.resolve() / naming.MLFLOW_DB:
        return False, f"{problem}; it is not the one beside the runs: move it away, and `gfl-lab sync` fills a new one"
    if not repair:
        return False, f"{problem}; {REPAIR_HINT}: it is kept under another name, and a new one filled from the run directories"
    with mlflow_db.exclusive(mlflow_db.lock_path(tree, tree.mlflow_uri)):
        kept = mlflow_db.set_aside(error.path)
    mirror = Mirror(tree, tree.mlflow_uri)
    mirror.prepare()
    for name, profile in tree.experiments():
        with contextlib.suppress(StoreError):  # a plan that cannot be read has a line of its own
            mirror.sync(name, profile, final=not is_driven(tree.experiment(name, profile)))
    return True, f"{problem}; kept as {kept.name}, and a new one filled from the run directories"


def _running_without_process(path: Path, tree: RunTree) -> Counter[tuple[str, str]]:
    """Count the runs that are RUNNING in MLflow by (experiment, profile): of trials without a living lease, or of the experiment without a driver."""
    with sqlite_reader(path) as connection:
        rows = connection.execute(
            "SELECT r.run_uuid, t.key, t.value FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid "
            "WHERE r.status = 'RUNNING' AND r.lifecycle_stage = 'active' AND t.key LIKE 'gfl.%'"
        ).fetchall()
    runs: dict[str, dict[str, str]] = {}
    for run, key, value in rows:
        runs.setdefault(run, {})[key] = value
    found: Counter[tuple[str, str]] = Counter()
    for tags in runs.values():
        own = tags.get(naming.TAG_EXPERIMENT, ""), tags.get(naming.TAG_PROFILE, "")
        if own not in tree.experiments():
            continue
        trial = tags.get(naming.TAG_TRIAL, "")
        if tree.trial(trial).lease_alive() if naming.is_trial_id(trial) else is_driven(tree.experiment(*own)):
            continue
        found[own] += 1
    return found


def _installed_schema() -> str:
    quiet_import()
    return mlflow_db.schemas()[0]
