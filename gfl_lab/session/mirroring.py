"""Bringing a tracking server up to date with all of a run tree, and showing MLflow's own pages over the mirror."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gfl_lab.errors import GflLabError
from gfl_lab.rundir import RunTree
from gfl_lab.tracking.database import ui_command, ui_pages
from gfl_lab.tracking.experiment import SyncReport
from gfl_lab.tracking.mirror import Mirror
from gfl_lab.tracking.server import PATIENCE_S, redacted


@dataclass(frozen=True)
class Sent:
    """The report of one experiment that was mirrored."""

    experiment: str
    profile: str
    report: SyncReport

    def to_json(self) -> dict[str, object]:
        """Return it as `gfl-lab sync --json` shows it."""
        report = self.report
        sent = {"runs": report.runs, "points": report.points, "artifacts": report.artifacts, "seconds": round(report.seconds, 3)}
        return {"experiment": self.experiment, "profile": self.profile, **sent}


class FullSync:
    """Mirrors every experiment of a run tree once.

    Args:
        uri: of the tracking server; None for that of the environment, or the database beside the runs.
    """

    def __init__(self, tree: RunTree, uri: str | None) -> None:
        self._tree, self._mirror = tree, Mirror(tree, uri)
        self._failed: dict[str, GflLabError] = {}  # by text: an error of the server is reported once

    @property
    def uri(self) -> str:
        """Return the server's address without its password."""
        return redacted(self._mirror.uri)

    def run(self) -> Iterator[Sent]:
        """Mirror, and yield the report of each experiment; `error` holds the reason if something could not be sent.

        Raises:
            MirrorError: the server cannot be reached at all.
        """
        self._mirror.prepare()
        for name, profile in self._tree.experiments():
            try:
                report = self._mirror.sync(name, profile, final=True)
            except GflLabError as error:
                self._failed[str(error)] = error
                if getattr(error, "waited", 0.0) > PATIENCE_S:
                    break  # the server hangs: it would do so for each experiment
                continue
            yield Sent(name, profile, report)

    @property
    def error(self) -> GflLabError | None:
        """Return what went wrong so far as one error, with the worst exit code."""
        if not self._failed:
            return None
        worst = max(self._failed.values(), key=lambda error: error.exit_code)
        return type(worst)([problem for error in self._failed.values() for problem in error.problems])


@dataclass(frozen=True)
class TrackingPages:
    """MLflow's own server over the database beside the runs: its command line, its environment, and addresses by experiment."""

    command: list[str]
    environment: dict[str, str]
    pages: list[tuple[str, str]]


def tracking_pages(tree: RunTree, port: int) -> TrackingPages:
    """Prepare the database beside the runs, and return the server that shows it."""
    Mirror(tree, tree.mlflow_uri).prepare()
    command, environment = ui_command(tree, port)
    return TrackingPages(command, environment, list(ui_pages(tree, port)))
