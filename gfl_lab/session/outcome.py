"""The end of a session, as its caller receives it."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from gfl_lab.errors import ExitCode
from gfl_lab.report.ranking import Ranking
from gfl_lab.report.table import Table


@dataclass(frozen=True)
class Stopped:
    """A session that a signal has stopped.

    Attributes:
        signal: its number.
        spent: the budget that has stopped it, as it was given; or empty.
    """

    signal: int
    spent: str = ""

    @property
    def code(self) -> ExitCode:
        """Return the exit code of a command that was stopped so."""
        if self.spent:
            return ExitCode.OVER_BUDGET
        return ExitCode.SIGINT if self.signal == signal.SIGINT else ExitCode.SIGTERM


@dataclass(frozen=True)
class Outcome:
    """The end of a session.

    Attributes:
        code: DONE, or the first reason why the numbers are not all there or not all as they should be.
        table: of an ablation. ranking: of a search. Both are None if the session was stopped before.
    """

    code: ExitCode
    table: Table | None = None
    ranking: Ranking | None = None
    stopped: Stopped | None = None
