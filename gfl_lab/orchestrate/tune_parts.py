"""The classes that Ray Tune calls: the actor of a trial, and what connects Tune's loop to a queue of jobs. Imports Ray.

Tune pickles what it is given into a folder that is never read; the queue cannot be pickled and need not be.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from gfl_lab import rundir
from gfl_lab.orchestrate.job_queue import JobQueue
from gfl_lab.orchestrate.ray_cluster import scratch_dir
from gfl_lab.orchestrate.supervisor import Job, TrialProcess

IDLE_S = 0.5
"""Seconds that Tune's loop waits for a job when it has none."""

LOST = "its Ray actor, or the node of that, was lost"


class _Unpickled:
    """Leaves nothing behind when it is pickled."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return object, ()


class Handover(_Unpickled, Searcher):
    """Hands over jobs as suggestions."""

    def __init__(self, queue: JobQueue) -> None:
        super().__init__()
        self._queue = queue

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Return the configuration of the next trial; None when there is none now."""
        if self._queue.over:
            return Searcher.FINISHED  # type: ignore[return-value]  # Ray's type leaves out its own constant
        job = self._queue.hand_out(trial_id, IDLE_S)
        return None if job is None else {"job": asdict(job)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Pass on the end of a trial. With ``error`` its actor could not start, or has died."""
        self._queue.ended(trial_id, LOST if error else str((result or {}).get("problem", "")))

    def save(self, checkpoint_path: str) -> None:
        """Write nothing: run directories hold everything."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: it is never called, since each executor has a new Tuner."""


class Begun(_Unpickled, tune.Callback):
    """Passes on that a trial has an actor."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Pass it on."""
        self._queue.begun(trial.trial_id)


class Stop(_Unpickled, tune.Stopper):
    """Ends Tune once no further trial may begin and none runs. Trials are stopped by their stop files: Tune would kill them."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return False: no single trial is stopped by Tune."""
        return False

    def stop_all(self) -> bool:
        """Return True if Tune is to end."""
        return self._queue.over and self._queue.idle


class TrialActor(tune.Trainable):
    """One Tune trial: a supervisor of one trial process. Thin, so that Tune may reuse it for the next.

    A trial begins with the first step, not before: while an actor starts, Tune may give its trial to one that has become free.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Start the process that trials are forked from; it imports meanwhile."""
        self.job = Job(**config["job"])
        self.process = TrialProcess(self.job.preload)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take another trial."""
        self.job = Job(**new_config["job"])
        return True

    def step(self) -> dict[str, Any]:
        """Run the trial to its end. After a request to stop it does not begin."""
        if self.job.asked_to_stop:
            return {"done": True}
        try:
            _run(self.process, self.job)
        except Exception as error:
            self.process.close()
            self.process = TrialProcess(self.job.preload)
            return {"done": True, "problem": " ".join(f"{type(error).__name__}: {error}".split())}
        return {"done": True}

    def cleanup(self) -> None:
        """End the process and what it runs."""
        self.process.close()


def _run(process: TrialProcess, job: Job) -> None:
    """Run a trial on this node, which may share only a storage with the driver."""
    if job.link is None:
        process.run(job)
        return
    from gfl_lab.orchestrate.remote_worker import run_on_node

    run_on_node(process, job, (rundir.home() if os.environ.get("GFL_LAB_HOME") else scratch_dir()) / "node")
