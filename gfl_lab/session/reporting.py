"""The person or program that a session reports to: a terminal, a notebook, or none."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from gfl_lab.orchestrate.watcher import Progress as Progress
from gfl_lab.report.ranking import Ranking
from gfl_lab.report.table import Table
from gfl_lab.rundir import TrialState as TrialState
from gfl_lab.session.progress_lines import ProgressLines

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
        progress: print a line when a trial starts, finishes an epoch or ends, if verbose.
    """

    def __init__(self, *, verbose: bool = True, progress: bool = True) -> None:
        self.verbose, self.shows_progress = verbose, verbose and progress

    def say(self, text: str) -> None:
        """Print a line."""
        if self.verbose or text.startswith(("warning", "error", "failed", "unfair")):
            print(text, file=sys.stderr, flush=True)

    def table(self, table: Table) -> None:
        """Do nothing."""

    def ranking(self, ranking: Ranking) -> None:
        """Do nothing."""

    def progress(self) -> AbstractContextManager[Listener]:
        """Return a context whose listener prints lines, or nothing."""
        return contextlib.nullcontext(ProgressLines(self.say) if self.shows_progress else _ignore)


def _ignore(progress: Sequence[Progress]) -> None:
    """Take progress and show nothing."""
