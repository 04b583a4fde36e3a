"""The person or program that a session reports to: a terminal, a notebook, or none."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from gfl_lab.orchestrate.driver import Progress as Progress
from gfl_lab.report.ranking import Ranking
from gfl_lab.report.table import Table
from gfl_lab.rundir import TrialState as TrialState

Listener = Callable[[Sequence[Progress]], None]
"""Called again and again with the progress of all trials."""


class Reporter(Protocol):
    """Receives the messages of a session, in their order."""

    def say(self, text: str) -> None:
        """Take a line about what happens."""
        ...

    def table(self, table: Table) -> None:
        """Take the table of an ablation."""
        ...

    def ranking(self, ranking: Ranking) -> None:
        """Take the ranked table of a search."""
        ...

    def progress(self) -> AbstractContextManager[Listener]:
        """Return a context in which trials run; it yields the listener for their progress."""
        ...


class LineReporter:
    """Prints lines on stderr and leaves table and ranking to the caller, who has them in the outcome.

    Args:
        verbose: False prints warnings and errors alone.
    """

    def __init__(self, *, verbose: bool = True) -> None:
        self.verbose = verbose

    def say(self, text: str) -> None:
        """Print a line."""
        if self.verbose or text.startswith(("warning", "error", "failed", "unfair")):
            print(text, file=sys.stderr, flush=True)

    def table(self, table: Table) -> None:
        """Do nothing."""

    def ranking(self, ranking: Ranking) -> None:
        """Do nothing."""

    def progress(self) -> AbstractContextManager[Listener]:
        """Return a context without a display."""
        return contextlib.nullcontext(_ignore)


def _ignore(progress: Sequence[Progress]) -> None:
    """Take progress and show nothing."""
