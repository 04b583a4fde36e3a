"""Runs the trials of a plan each when what it needs is there: the weights of other trials, or a training that it shares."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from gfl_lab import naming
from gfl_lab.errors import FailureKind, StoreError
from gfl_lab.integrity.file_checks import checkpoint_damage
from gfl_lab.orchestrate.executor import Ended, Executor, problems_of
from gfl_lab.orchestrate.supervisor import Job
from gfl_lab.orchestrate.trainings import Trainings
from gfl_lab.plan.plan import Trial
from gfl_lab.records.result import Failed, Failure, finished_now, write_result
from gfl_lab.rundir import RunTree, TrialState

LOOK_S = 1.0
"""Seconds between two looks at a needed trial that another driver runs."""


class Order:
    """The trials that are to run, and which of them can begin.

    Args:
        trials: to run, each behind those that it needs.
        trainings: that trials share; None where none do.
        evaluated: ids of trials that are only evaluated again, and need nothing.
    """

    def __init__(
        self, trials: Sequence[Trial], tree: RunTree, trainings: Trainings | None = None, evaluated: Collection[str] = ()
    ) -> None:  # fmt: skip
        self._tree, self._trainings, self._evaluated = tree, trainings, evaluated
        self._waiting = {trial.id: trial for trial in trials}
        self._running: set[str] = set()
        self._ended: set[str] | None = None

    def take(self) -> list[Trial]:
        """Return the trials that can begin now; they count as running. Those that never can, since one that they need has failed, fail."""
        ready = []
        for trial in list(self._waiting.values()):
            if reason := self._blocked(trial):
                del self._waiting[trial.id]
                self._fail(trial, reason)
            elif not self._missing(trial):
                ready.append(trial)
        if self._trainings:
            ready = self._trainings.next_ones(ready, self._running, self._ended)
        for trial in ready:
            del self._waiting[trial.id]
        self._running |= {trial.id for trial in ready}
        self._ended = set()
        return ready

    def end(self, trial: str) -> None:
        """Note that a trial does not run any more."""
        self._running.discard(trial)
        if self._ended is not None:
            self._ended.add(trial)

    def waits_for_others(self) -> bool:
        """Return True if a waiting trial needs one that another driver runs."""
        missing = {needed for trial in self._waiting.values() for needed in self._missing(trial) if not self._is_coming(needed)}
        return any(self._state(needed) is TrialState.RUNNING for needed in missing)

    def _needs(self, trial: Trial) -> Mapping[str, str]:
        """Return what a trial needs in this session."""
        only_evaluated = trial.id in self._evaluated or (self._trainings is not None and self._trainings.weights_of(trial.id))
        return {} if only_evaluated else trial.spec.needs

    def _missing(self, trial: Trial) -> list[str]:
        """Return the ids of the needed trials that are not done."""
        return [needed for needed in self._needs(trial).values() if self._is_coming(needed) or self._state(needed) is not TrialState.DONE]

    def _is_coming(self, needed: str) -> bool:
        """Return True if this driver is still going to end the trial."""
        return needed in self._running or needed in self._waiting

    def _state(self, trial: str) -> TrialState:
        return self._tree.trial(trial).state()

    def _blocked(self, trial: Trial) -> str:
        """Return why a trial cannot run in this session; empty if it can, now or later."""
        for role, needed in self._needs(trial).items():
            if not self._is_coming(needed) and (why := self._unusable(needed)):
                return f"it needs trial {needed} ({role}), {why}"
        return ""

    def _unusable(self, needed: str) -> str:
        folder = self._tree.trial(needed)
        with contextlib.suppress(StoreError):  # another gfl-lab's: the trial itself has the message
            if folder.state() is TrialState.FAILED:
                result = folder.result()
                return "which failed" + (f": {result.failure.reason}" if isinstance(result, Failed) else "")
            if folder.state() is TrialState.DONE and (damage := checkpoint_damage(folder.file(naming.LAST_CHECKPOINT))):
                return f"whose weights are lost: {naming.LAST_CHECKPOINT} {damage}. To train it once more, move {folder.path} away"
        return ""

    def _fail(self, trial: Trial, reason: str) -> None:
        folder = self._tree.trial(trial.id)
        if not folder.lease_alive():
            folder.log(reason)
            result = Failed(trial=trial.id, failure=Failure(FailureKind.NEEDED_TRIAL, reason))
            write_result(folder.file(naming.RESULT), finished_now(result))


def run_in_order(
    executor: Executor,
    order: Order,
    jobs: Callable[[list[Trial]], Iterable[Job]],
    watch: Callable[[], None],
    should_stop: Callable[[], bool],
    arrive: Callable[[str], None] = lambda trial: None,
) -> list[str]:
    """Run the trials of ``order``, each as soon as it can begin.

    Args:
        jobs: returns the jobs of trials that begin.
        watch: called in this thread, several times a second while trials run.
        arrive: called with the id of each trial that has ended, before others that need it are looked at.

    Returns:
        What went wrong outside of the trials (`problems_of`).
    """
    done: list[Ended] = []
    while True:
        _submit(executor, order, jobs, should_stop)
        for ended in executor.results(watch):
            done.append(ended)
            trial = ended.job.path.rpartition("/")[2]
            arrive(trial)
            order.end(trial)
            _submit(executor, order, jobs, should_stop)
        watch()
        if should_stop() or not order.waits_for_others():
            return problems_of(done)
        time.sleep(LOOK_S)


def _submit(executor: Executor, order: Order, jobs: Callable[[list[Trial]], Iterable[Job]], should_stop: Callable[[], bool]) -> None:
    if not should_stop():
        for job in jobs(order.take()):
            executor.submit(job)
