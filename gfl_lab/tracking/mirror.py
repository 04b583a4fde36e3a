"""Mirrors run directories to MLflow, as often as one likes, with nothing doubled (docs/mlflow.md).

The run directory is the truth; MLflow shows it. One process mirrors; training never waits for it. If something goes wrong,
the next ``sync`` makes the server complete: on first contact with a run it reads which (metric, step) the server has,
and sends the rest.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Iterator

from gfl_lab import naming
from gfl_lab.addresses import sqlite_path
from gfl_lab.errors import StoreError
from gfl_lab.rundir import RunTree
from gfl_lab.tracking import database
from gfl_lab.tracking.experiment import ExperimentMirror, SyncReport
from gfl_lab.tracking.server import PATIENCE_S, MirrorError, Server, StorageError


def default_uri(tree: RunTree) -> str:
    """Return ``$MLFLOW_TRACKING_URI``, or the database beside the runs."""
    return os.environ.get("MLFLOW_TRACKING_URI") or tree.mlflow_uri


class Mirror:
    """Mirrors the experiments of ``tree`` to the tracking server ``uri``.

    Args:
        uri: None for ``$MLFLOW_TRACKING_URI``, or where that is not set the sqlite database beside the runs.

    Constructing it costs nothing; mlflow is imported by the first ``prepare`` or ``sync``.
    """

    def __init__(self, tree: RunTree, uri: str | None = None) -> None:
        self.tree = RunTree(tree.root.resolve())
        self.uri = uri or default_uri(self.tree)
        self._token = uuid.uuid4().hex
        self._guard = threading.Lock()
        self._server: Server | None = None
        self._experiments: dict[tuple[str, str], ExperimentMirror] = {}
        self._queueing: float | None = None
        self._identity: tuple[int, int] | None = None

    def prepare(self) -> None:
        """Make the server usable: a sqlite database is created (WAL) or its schema raised, under a lock between processes.

        Raises:
            MirrorError: the database cannot be made, or is of a newer MLflow.
        """
        with self._guard, self._turn():
            self._connect()

    def sync(self, experiment: str, profile: str, final: bool = False) -> SyncReport:
        """Bring the server up to date with one experiment under a profile; sends only what is missing.

        Args:
            final: no trial will start any more, so the parent run ends too: FINISHED when all trials are done, FAILED
                when one failed, KILLED when some are missing.

        Raises:
            MirrorError: the server cannot be used now; call again later.
            StoreError: there is no such plan, or its trials cannot be read.
        """
        started = time.perf_counter()
        report = SyncReport()
        with self._guard:
            one = self._experiments.setdefault((experiment, profile), ExperimentMirror(self.tree, experiment, profile))
            one.plan()
            with self._turn() as turn:
                try:
                    self._sync(one, turn, final, report)
                except StorageError:
                    raise
                except MirrorError as error:
                    # Once more, after a look at what is there: an answer was lost, or the database is another one. A server
                    # that hangs has no second chance.
                    if error.waited > PATIENCE_S:
                        raise
                    self._sync(one, turn, final, report)
        report.seconds = time.perf_counter() - started
        return report

    def behind(self, experiment: str, profile: str) -> int:
        """Return the trials that have run but were not complete on the server at the last ``sync``."""
        one = self._experiments.get((experiment, profile))
        return one.behind if one else 0

    @property
    def waited(self) -> float:
        """Seconds for which it has been waiting for the server, or for another process that mirrors; 0 while it works."""
        since = self._queueing or (self._server and self._server.call_since)
        return time.monotonic() - since if since else 0.0

    def _sync(self, one: ExperimentMirror, turn: database.Turn, final: bool, report: SyncReport) -> None:
        try:
            server = self._connect()
            if not turn.take_over(naming.digest([self.uri, one.experiment, one.profile]), self._token):
                one.forget()
            one.sync(server, final, report)
        except StorageError:
            raise
        except MirrorError:
            one.forget()
            raise
        except OSError as error:
            raise StoreError(f"the runs of {one.experiment} on {one.profile} cannot be read: {error}") from error

    @contextlib.contextmanager
    def _turn(self) -> Iterator[database.Turn]:
        """Hold the lock between processes."""
        self._queueing = time.monotonic()
        try:
            with database.exclusive(database.lock_path(self.tree, self.uri)) as turn:
                self._queueing = None
                yield turn
        finally:
            self._queueing = None

    def _connect(self) -> Server:
        """Connect to the server; a missing database is made."""
        path = sqlite_path(self.uri)
        if self._server is not None and (path is None or database.identity(path) == self._identity):
            return self._server
        artifacts = self.tree.root / naming.MLFLOW_ARTIFACTS
        for one in self._experiments.values():
            one.forget()
        if path is not None:
            database.make_usable(path, self.uri, artifacts)
            self._identity = database.identity(path)
        # A server over HTTP decides by itself where artifacts go. One that is no file may be filled by other trees, too.
        over_http = self.uri.startswith(("http://", "https://"))
        self._server = Server(self.uri, None if over_http else artifacts, shared=path is None)
        return self._server
