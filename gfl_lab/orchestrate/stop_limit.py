"""The time that a trial has to stop once it is asked to, after which it is ended: a trial that hangs keeps no worker for ever."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from gfl_lab.errors import Interrupted

STOP_WAIT_S = 120.0
"""Time in s for a trial to reach its next step and write its checkpoint. A longer evaluation is lost, and done again."""

LOOK_S = 0.5
"""Time between two checks for a request to stop, in s."""

AGAIN_S = 5.0
"""Time for an ended trial to leave, in s."""


class StopLimit:
    """Says when a trial that was asked to stop has had its time.

    Args:
        asked: whether the trial is asked to stop.
        wait_s: its time in s.
    """

    def __init__(self, asked: Callable[[], bool], wait_s: float) -> None:
        self._asked, self._wait_s = asked, wait_s
        self._since: float | None = None

    @property
    def exceeded(self) -> bool:
        """Return True if the time is over. It runs from the first call that finds the trial asked, so call it often."""
        if self._since is None and self._asked():
            self._since = time.monotonic()
        return self._since is not None and time.monotonic() - self._since >= self._wait_s

    @property
    def reason(self) -> str:
        """Return why a trial was ended, one sentence."""
        return f"it was asked to stop, still ran {self._wait_s:g} s later, and was ended; it continues from its last checkpoint"


@contextlib.contextmanager
def interrupting(limit: StopLimit) -> Iterator[None]:
    """Raise Interrupted in the body once ``limit`` is exceeded, if this is the main thread: no other one can be interrupted.

    Python code and system calls are interrupted; native code that never returns is not.
    """
    main = threading.main_thread()
    if threading.current_thread() is not main:
        yield
        return
    over = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not over.is_set():
            raise Interrupted(limit.reason)

    def look() -> None:
        pause = LOOK_S
        while not over.wait(pause):
            if limit.exceeded and main.ident is not None:
                signal.pthread_kill(main.ident, signal.SIGALRM)
                pause = AGAIN_S  # the trial's code may have caught the exception

    watcher = threading.Thread(target=look, name="stop limit", daemon=True)
    before = signal.signal(signal.SIGALRM, interrupt)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        signal.signal(signal.SIGALRM, before)
