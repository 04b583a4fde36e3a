"""The contract of what runs trials: an ablation and a search use every executor in the same way.

    executor.start()                      begins to connect, returns at once
    executor.submit(job)                  at any time, also while results are read
    for ended in executor.results(watch): until every job that was submitted has ended
    executor.close()

How a trial ended stands in its run directory. An executor reports only *that* it ended, and errors outside of it.
``tests/test_executors.py`` holds each executor to this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from gfl_lab.orchestrate.supervisor import Job


@dataclass(frozen=True)
class Ended:
    """A job that will not run any more.

    Attributes:
        problem: what went wrong outside of the trial (a worker that could not start, or was lost too often), one sentence; or nothing.
    """

    job: Job
    problem: str = ""


def nothing() -> None:
    """Do nothing."""


class Executor(Protocol):
    """Runs jobs, as many at once as there is room for.

    It is made with a function that returns True once no further trial may start. Trials that run are asked to stop by the file
    that their jobs name (``stop_file``).

    Attributes:
        gpus: GPUs of the process of a trial; 0 where trials have no process of their own. Certain after ``capacity``.
    """

    gpus: float

    def start(self) -> None:
        """Begin to connect to what runs the trials, and return at once."""
        ...

    def capacity(self) -> int:
        """Wait until it has started; return how many trials run at once now. A cluster's nodes come and go.

        Raises:
            ResourceError: it could not start.
        """
        ...

    def submit(self, job: Job) -> None:
        """Give it a job. They are handed out in this order."""
        ...

    def results(self, watch: Callable[[], None] = nothing) -> Iterator[Ended]:
        """Yield each submitted job once, as it ends; after a stop also those that never began. Ends when none is left.

        Args:
            watch: called in this thread, several times a second while trials run. It may submit, and create stop files.

        Raises:
            ResourceError: the workers could not start, or no longer answer. Errors of ``watch`` pass through.
        """
        ...

    def close(self, *, wait: bool = True) -> None:
        """Leave nothing behind: trials that still run are killed. With ``wait`` False this goes on while the caller does other things."""
        ...


def run_jobs(executor: Executor, jobs: Iterable[Job]) -> list[str]:
    """Run ``jobs`` to their ends; return what went wrong outside of the trials, each sentence once."""
    for job in jobs:
        executor.submit(job)
    return sorted({ended.problem for ended in executor.results() if ended.problem})
