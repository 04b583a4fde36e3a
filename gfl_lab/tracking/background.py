"""The mirror in a thread of the driver, which never waits for it."""

from __future__ import annotations

import threading
import time

from gfl_lab.tracking.mirror import Mirror
from gfl_lab.tracking.server import PATIENCE_S, DamagedDatabase, redacted

FINISH_S = 30.0
"""Longest wait for the last sync when the server answers; a call without an answer is waited for PATIENCE_S."""


class BackgroundMirror(threading.Thread):
    """Mirrors one experiment every few seconds while it runs. Never raises into the driver: see ``error``.

    ``start()`` prepares the server, then syncs until ``finish``. A daemon: a driver that ends while a call hangs is not kept,
    and the next sync completes what is missing.
    """

    def __init__(self, mirror: Mirror, experiment: str, profile: str, every: float = 3.0) -> None:
        super().__init__(name="mlflow-mirror", daemon=True)
        self.mirror, self.experiment, self.profile, self.every = mirror, experiment, profile, every
        self.error: Exception | None = None
        """Error of the last attempt, or None when it succeeded."""
        self._end = threading.Event()

    def run(self) -> None:
        """Run the thread."""
        self._attempt(final=False)
        while not self._end.wait(self.every):
            self._attempt(final=False)
        self._attempt(final=True)

    def _attempt(self, final: bool) -> None:
        try:
            self.mirror.sync(self.experiment, self.profile, final=final)
            self.error = None
        except Exception as error:  # a mirror never stops the driver
            self.error = error

    def finish(self, timeout: float = FINISH_S) -> bool:
        """Sync completely once more, and end the thread. Return True if that worked; ``shortfall`` has the reason if not.

        Waits for ``timeout`` seconds at most, and less for a server that hangs.
        """
        self._end.set()
        deadline = time.monotonic() + timeout
        while self.is_alive() and time.monotonic() < deadline and self.mirror.waited < PATIENCE_S:
            self.join(0.05)
        return not self.is_alive() and self.error is None

    @property
    def shortfall(self) -> str:
        """After ``finish``: why the server is not complete, what is missing, and the way out."""
        way_out = "Complete it later with:  gfl-lab sync"
        if self.error is not None:
            problem = getattr(self.error, "problems", [self.error])[0]
            reason = getattr(problem, "message", str(problem))
            if isinstance(self.error, DamagedDatabase):
                way_out = problem.hint
        else:
            waits = self.mirror.waited >= PATIENCE_S
            reason = f"MLflow at {redacted(self.mirror.uri)} {'does not answer' if waits else 'is slow'}"
        behind = self.mirror.behind(self.experiment, self.profile)
        missing = (
            f"{behind} {'trial is' if behind == 1 else 'trials are'} not complete there"
            if behind
            else "the experiment's own run is not complete there"
        )
        return f"{reason}; {missing}. {way_out}"
