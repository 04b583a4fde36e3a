"""Jobs between the thread that submits them and the loop of a scheduler that hands them to workers and may lose those."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

from gfl_lab.errors import FailureKind, GflLabError
from gfl_lab.orchestrate.executor import Ended
from gfl_lab.orchestrate.supervisor import MAX_LOST, Attempts, Job
from gfl_lab.rundir import TrialDir


@dataclass
class _Handed:
    """A job that the scheduler has. Lost workers are counted as lost processes are: only while the trial gets no further."""

    job: Job
    attempts: Attempts


class JobQueue:
    """Hands out jobs in order, and those again whose workers were lost.

    ``submit``, ``close`` and ``events`` are for the thread that submits; the rest is for the scheduler's loop, which has a name for
    each handing out.

    Args:
        should_stop: no job is handed out once it returns True.
    """

    def __init__(self, should_stop: Callable[[], bool]) -> None:
        self.events: SimpleQueue[Ended] = SimpleQueue()
        """Jobs that have ended. When the loop is over, jobs that are not here will not run."""
        self._should_stop, self._closed = should_stop, False
        self._waiting: SimpleQueue[_Handed | Job] = SimpleQueue()
        self._handed: dict[str, _Handed] = {}
        self._running: set[str] = set()

    def submit(self, job: Job) -> None:
        """Append a job."""
        self._waiting.put(job)

    def close(self) -> None:
        """Stop handing out jobs."""
        self._closed = True

    @property
    def over(self) -> bool:
        """True if no job is handed out any more."""
        return self._closed or self._should_stop()

    @property
    def idle(self) -> bool:
        """True if no worker has a job."""
        return not self._running

    def hand_out(self, name: str, wait_s: float) -> Job | None:
        """Return the next job; None if there is none. If the scheduler has nothing to do at all, wait ``wait_s`` for one."""
        try:
            found = self._waiting.get_nowait() if self._handed else self._waiting.get(timeout=wait_s)
        except Empty:
            return None
        job = found.job if isinstance(found, _Handed) else found
        try:
            handed = found if isinstance(found, _Handed) else _Handed(job, Attempts(TrialDir(Path(job.path))))
        except (OSError, GflLabError) as error:  # of one trial, and no reason to end the loop
            self.events.put(Ended(job, f"its run directory cannot be read: {error}"))
            return None
        self._handed[name] = handed
        return job

    def begun(self, name: str) -> None:
        """Note that a worker has the job."""
        self._running.add(name)

    def ended(self, name: str, problem: str = "") -> None:
        """Note that a worker is done with the job. With a ``problem``, something outside of the trial, it is handed out again.

        Not without end: three times in a row without getting further than the trial ever was.
        """
        self._running.discard(name)
        handed = self._handed.pop(name, None)
        if handed is None:
            return
        if not problem or self.over:
            self.events.put(Ended(handed.job, problem))
            return
        folder = TrialDir(Path(handed.job.path))
        try:
            if handed.attempts.another(FailureKind.LOST_PROCESS):
                folder.log(f"{problem}; another worker takes the trial")
                self._waiting.put(handed)
                return
        except (OSError, GflLabError) as error:
            problem = f"{problem}, and its run directory cannot be read: {error}"
        else:
            problem = f"{problem}, {MAX_LOST + 1} times without getting further"
        folder.log(problem)
        self.events.put(Ended(handed.job, problem))
