"""All checks of `gfl-lab doctor`, in the order in which they are printed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gfl_lab.errors import GflLabError
from gfl_lab.maintenance import installation, machine, run_files, tracking_database
from gfl_lab.maintenance.finding import Findings
from gfl_lab.rundir import RunTree

CHECKS: dict[str, Callable[[Callable[[], RunTree], bool], Findings]] = {
    "packages": lambda tree, repair: installation.packages(),
    "opencv": lambda tree, repair: installation.opencv(),
    "files": lambda tree, repair: installation.shipped_files(),
    "detector": lambda tree, repair: installation.detector(),
    "machine": lambda tree, repair: machine.resources(),
    "disk": lambda tree, repair: machine.disk(tree()),
    "processes": lambda tree, repair: machine.processes(repair),
    "ray": lambda tree, repair: machine.ray_sessions(repair),
    "sockets": lambda tree, repair: machine.sockets(),
    "plans": lambda tree, repair: run_files.plans(tree(), repair),
    "runs": lambda tree, repair: run_files.runs(tree(), repair),
    "mlflow": lambda tree, repair: tracking_database.database(tree(), repair),
}
"""By name; each takes a function that returns the run tree, and whether to repair what it finds."""


@dataclass(frozen=True)
class Row:
    """One line of the answer: ``ok`` is False for what stays wrong."""

    check: str
    ok: bool
    message: str


def examine(tree: Callable[[], RunTree], repair: bool) -> Iterator[Row]:
    """Check the environment and the run tree; an error in a check is a line of it.

    Args:
        tree: returns the run tree, or raises why there can be none: the environment is checked all the same.
        repair: repair what can be repaired.
    """
    for name, check in CHECKS.items():
        try:
            for ok, message in check(tree, repair):
                yield Row(name, ok, message)
        except (GflLabError, ImportError, OSError, RuntimeError, sqlite3.Error) as error:
            yield Row(name, False, str(error) if isinstance(error, GflLabError) else f"{type(error).__name__}: {error}")
