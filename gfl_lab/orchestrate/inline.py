"""The executor without Ray and without processes: trials one after the other in this process, so that a debugger works."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

from gfl_lab.errors import Interrupted, StoreError
from gfl_lab.orchestrate.supervisor import Attempts, Job
from gfl_lab.rundir import TrialDir


class InlineExecutor:
    """Runs jobs in the calling thread."""

    def __init__(self, should_stop: Callable[[], bool]) -> None:
        self.should_stop = should_stop

    def start(self) -> None:
        """Nothing to start."""

    def run(self, jobs: Sequence[Job]) -> list[str]:
        """Run every job; stops between or within trials when asked to."""
        for job in jobs:
            if self.should_stop():
                break
            module, _, name = job.entry.partition(":")
            function = getattr(importlib.import_module(module), name)
            trial = TrialDir(Path(job.path))
            attempts = Attempts(trial)
            try:
                function(path=job.path, **job.kwargs, should_stop=self.should_stop)
                while not self.should_stop() and attempts.another_after(trial.state()):
                    function(path=job.path, **job.kwargs, should_stop=self.should_stop)
            except Interrupted:
                break
            except StoreError:
                if not trial.lease_alive():
                    raise
                # another driver runs it (two experiments may share a trial): it is left to that one
        return []

    def close(self) -> None:
        """Nothing to close."""
