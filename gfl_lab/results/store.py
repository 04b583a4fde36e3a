"""The one way to read a run tree: experiments, trials, curves, distributions, images, logs.

Reads while trials run; repeated reads are cheap, because what has not changed on disk is not read again. One damaged
run directory never hides the others: its trial is shown as failed with kind ``unreadable`` and the reason. No message
holds a path outside the tree.
"""

from __future__ import annotations

from pathlib import Path

from gfl_lab import rundir
from gfl_lab.errors import StoreError as StoreError
from gfl_lab.results.artifacts import ArtifactReader
from gfl_lab.results.cache import Stamp as Stamp
from gfl_lab.results.cache import stamp_of as stamp_of
from gfl_lab.results.curves import CurveReader
from gfl_lab.results.experiments import UNREADABLE as UNREADABLE
from gfl_lab.results.experiments import ExperimentReader
from gfl_lab.rundir import RunTree


class Store(ExperimentReader, CurveReader, ArtifactReader):
    """Reads a run tree. Never writes. Safe to share between threads."""


def store_root() -> Path:
    """Return the default folder of ``open_store()``: ``$GFL_LAB_HOME``, or ``runs`` in the current folder. Absolute."""
    return rundir.home()


def open_store(root: Path | None = None) -> Store:
    """Return the store at ``root``, by default ``$GFL_LAB_HOME`` or ``./runs``. The folder need not exist."""
    return Store(RunTree(store_root() if root is None else Path(root)))
