"""All checks of `gfl-lab doctor`, in the order in which they are printed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gfl_lab.errors import GflLabError
from gfl_lab.maintenance import installation, machine, run_files, tracking_database
from gfl_lab.maintenance.finding import Findings

CHECKS: dict[str, Callable[[bool], Findings]] = {
    "packages": lambda repair: installation.packages(),
    "opencv": lambda repair: installation.opencv(),
    "files": lambda repair: installation.shipped_files(),
    "detector": lambda repair: installation.detector(),
    "machine": lambda repair: machine.resources(),
    "disk": lambda repair: machine.disk(),
    "processes": lambda repair: machine.processes(repair),
    "ray": lambda repair: machine.ray_sessions(repair),
    "sockets": lambda repair: machine.sockets(),
    "plans": lambda repair: run_files.plans(repair),
    "runs": lambda repair: run_files.runs(repair),
    "mlflow": lambda repair: tracking_database.database(repair),
}
"""By name; each takes whether to repair what it finds."""


@dataclass(frozen=True)
class Row:
    """One line of the answer: ``ok`` is False for what stays wrong."""

    check: str
    ok: bool
    message: str


def examine(repair: bool) -> Iterator[Row]:
    """Check the environment and the run tree; an error in a check is a line of it.

    Args:
        repair: repair what can be repaired.
    """
    for name, check in CHECKS.items():
        try:
            for ok, message in check(repair):
                yield Row(name, ok, message)
        except (GflLabError, ImportError, OSError, RuntimeError, sqlite3.Error) as error:
            yield Row(name, False, str(error) if isinstance(error, GflLabError) else f"{type(error).__name__}: {error}")
