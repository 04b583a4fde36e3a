"""The contract of what runs trials: an ablation and a search use every executor in the same way.

    executor.start()                      begins to connect, returns at once
    executor.submit(job)                  at any time, also while results are read
    for ended in executor.results(watch): until every job that was submitted has ended
    executor.close()

The outcome of a trial stands in its run directory. An executor reports only *that* it ended, and errors outside of it.
``tests/test_executors.py`` holds each executor to this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gfl_lab import naming
from gfl_lab.orchestrate.supervisor import Job
from gfl_lab.wording import first_of, plural

SHOWN = 3
"""Trials that a message lists by their ids."""


@dataclass(frozen=True)
class Ended:
    """A job that will not run any more.

    Attributes:
        problem: what went wrong outside of the trial (a worker that could not start, or was lost too often); or nothing. It names no trial.
    """

    job: Job
    problem: str = ""


def problems_of(ended: Iterable[Ended]) -> list[str]:
    """Return what went wrong outside of the trials, one sentence for each problem: with its trials, a log, and the way out."""
    jobs: dict[str, list[Job]] = {}
    for each in ended:
        if each.problem:
            jobs.setdefault(each.problem, []).append(each.job)
    return [_sentence(problem, found) for problem, found in sorted(jobs.items())]


def _sentence(problem: str, jobs: Sequence[Job]) -> str:
    folders = [Path(job.path) for job in jobs]
    names = first_of((folder.name for folder in folders), SHOWN)
    trials = f"trial {names}" if len(folders) == 1 else f"{plural(len(folders), 'trial')} ({names})"
    log = f"{'log' if len(folders) == 1 else 'log of the first'}: {folders[0] / naming.LOG}"
    return f"{trials}: {problem}. The same command continues {'it' if len(folders) == 1 else 'them'}; {log}"


def nothing() -> None:
    """Do nothing."""


class Executor(Protocol):
    """Runs jobs, as many at once as there is room for.

    It is made with a function that returns True once no further trial may start. Trials that run are asked to stop by the file
    that their jobs name (``stop_file``). A trial that still runs ``stop_wait_s`` later is ended, and its place is free.

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
            ResourceError: the workers could not start, have ended by themselves, or no longer answer. Errors of ``watch`` pass through.
        """
        ...

    def close(self, *, wait: bool = True) -> None:
        """Stop everything: running trials are killed. With ``wait`` False this continues in the background."""
        ...


def run_jobs(executor: Executor, jobs: Iterable[Job], watch: Callable[[], None] = nothing) -> list[str]:
    """Run ``jobs`` to their ends; return what went wrong outside of the trials (`problems_of`)."""
    for job in jobs:
        executor.submit(job)
    return problems_of(executor.results(watch))
