"""The executor without Ray and without processes: trials one after the other in this process, so that a debugger works."""

from __future__ import annotations

import gc
import importlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gfl_lab.errors import Interrupted, StoreError
from gfl_lab.orchestrate.executor import Ended, nothing
from gfl_lab.orchestrate.stop_limit import StopLimit, interrupting
from gfl_lab.orchestrate.supervisor import Attempts, Job
from gfl_lab.rundir import TrialDir


class InlineExecutor:
    """Runs jobs in the thread that reads its results (`Executor`).

    Args:
        should_stop: no further trial starts, and the one that runs stops, once it returns True.
    """

    def __init__(self, should_stop: Callable[[], bool]) -> None:
        self.gpus = 0.0
        self._should_stop = should_stop
        self._jobs: deque[Job] = deque()

    def start(self) -> None:
        """Do nothing: there is nothing to start."""

    def capacity(self) -> int:
        """Return 1."""
        return 1

    def submit(self, job: Job) -> None:
        """Give it a job."""
        self._jobs.append(job)

    def results(self, watch: Callable[[], None] = nothing) -> Iterator[Ended]:
        """Run each job and yield it."""
        while self._jobs:
            job = self._jobs.popleft()
            if not self._should_stop():
                self._run(job, watch)
            yield Ended(job)

    def close(self, *, wait: bool = True) -> None:
        """Do nothing: there is nothing to close."""

    def _run(self, job: Job, watch: Callable[[], None]) -> None:
        """Run a trial to its end, as often as the retry policy allows. A trial of another driver is left to it."""

        def asked() -> bool:
            return self._should_stop() or os.path.exists(job.stop_file)

        def stops() -> bool:
            watch()
            return asked()

        module, _, name = job.entry.partition(":")
        function = getattr(importlib.import_module(module), name)
        with _imports_left_alone():
            self._attempt(job, function, asked, stops)

    def _attempt(self, job: Job, function: Callable[..., None], asked: Callable[[], bool], stops: Callable[[], bool]) -> None:
        trial = TrialDir(Path(job.path))
        attempts = Attempts(trial)
        try:
            with interrupting(StopLimit(asked, job.stop_wait_s)):
                function(path=job.path, **job.kwargs, should_stop=stops)
                while not stops() and attempts.another_after(trial.state()):
                    function(path=job.path, **job.kwargs, should_stop=stops)
        except Interrupted:
            pass
        except StoreError:
            if not trial.lease_alive():
                raise


@contextmanager
def _imports_left_alone() -> Iterator[None]:
    """Exclude all present objects from garbage collection: mmengine collects at each data set, 0.5 s for the imports alone."""
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
