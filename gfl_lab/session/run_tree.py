"""The run tree that commands work on."""

from __future__ import annotations

from gfl_lab.rundir import RunTree, home


def default_tree() -> RunTree:
    """Return the run tree of ``$GFL_LAB_HOME``, or of ``runs`` in the current folder. It need not exist."""
    return RunTree(home())
