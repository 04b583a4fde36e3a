"""The base of all readers of a run tree."""

from __future__ import annotations

import os

from gfl_lab.errors import GflLabError
from gfl_lab.rundir import RunTree


class TreeReader:
    """Reads the run tree ``tree``. Never writes. Safe to share between threads."""

    def __init__(self, tree: RunTree) -> None:
        self._tree = tree

    def _reason(self, error: BaseException) -> str:
        """Return why something could not be read, without the place of the tree on this machine."""
        if isinstance(error, KeyError):
            return f"{error.args[0]!r} is missing"
        if isinstance(error, GflLabError):
            text = "; ".join(problem.message for problem in error.problems)
        elif isinstance(error, OSError) and error.strerror:
            text = error.strerror
        else:
            text = str(error)
        return text.replace(str(self._tree.root) + os.sep, "")
