"""The terminal that a session reports to: lines on stderr, the table on stdout, a display while trials run."""

from __future__ import annotations

from contextlib import AbstractContextManager

from gfl_lab.cli.display import display
from gfl_lab.cli.output import consoles, print_json, say
from gfl_lab.report.ranking import Ranking
from gfl_lab.report.ranking_grid import ranking_json, ranking_sheet
from gfl_lab.report.table import Table
from gfl_lab.report.table_data import table_json
from gfl_lab.report.table_grid import table_sheet
from gfl_lab.report.writers.terminal import TableReport, ranking_report
from gfl_lab.session.reporting import Listener


class Terminal:
    """See `session.reporting.Reporter`.

    Args:
        as_json: print tables as JSON.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self._as_json = as_json

    def say(self, text: str) -> None:
        """Print a line on stderr."""
        say(text)

    def table(self, table: Table) -> None:
        """Print a table on stdout."""
        if self._as_json:
            print_json(table_json(table))
        else:
            consoles()[0].print(TableReport(table_sheet(table)))

    def ranking(self, ranking: Ranking) -> None:
        """Print a ranked table on stdout."""
        if self._as_json:
            print_json(ranking_json(ranking))
        else:
            consoles()[0].print(ranking_report(ranking_sheet(ranking)))

    def progress(self) -> AbstractContextManager[Listener]:
        """Return the display of running trials."""
        return display(consoles()[1])
