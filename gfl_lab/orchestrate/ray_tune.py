"""The executor over Ray Tune. Only ray_cluster.py and tune_parts.py import Ray, and only when it is used.

Tune schedules, and keeps no state of ours: it is handed each job as a suggestion of a searcher, makes no checkpoints, and whether a
trial is done is read from its run directory. A job whose actor was lost is handed out again as a new trial of Tune's.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from queue import Empty
from typing import TYPE_CHECKING

from gfl_lab.errors import Problem, ResourceError
from gfl_lab.mlflow_import import importing_mlflow
from gfl_lab.orchestrate.executor import Ended, nothing
from gfl_lab.orchestrate.job_queue import JobQueue
from gfl_lab.orchestrate.ray_cluster import RayConnection, scratch_dir
from gfl_lab.orchestrate.resources import resources_on_nodes
from gfl_lab.orchestrate.supervisor import Job
from gfl_lab.wording import plural

if TYPE_CHECKING:
    from ray import tune

WATCH_S = 0.2
NODES_S = 5.0
"""Seconds between two requests for a cluster's nodes."""

GONE_END_S = 5.0
"""Seconds to leave a cluster whose head does not answer: Ray ends this process a minute after the last answer."""

END_S = 30.0
"""Seconds for Tune to end its actors when all trials have ended."""


class TuneExecutor:
    """Schedules jobs with Ray Tune, each on an actor with the stated resources (`Executor`).

    Args:
        cpus, gpus: what one trial takes.
        gpu_optional: take no GPU where no node has one.
        machine_cpus, machine_gpus: what Ray may use on this machine; ignored with ``address``.
        address: of a running cluster; None starts Ray here, for this executor alone.
        should_stop: no further trial starts once it returns True.
    """

    def __init__(
        self, *, cpus: int, gpus: float, gpu_optional: bool, machine_cpus: int, machine_gpus: int, address: str | None,
        should_stop: Callable[[], bool],
    ) -> None:  # fmt: skip
        self.cpus, self.gpus, self._gpu_optional = cpus, gpus, gpu_optional
        self.nodes: list[dict[str, float]] = []
        """Resources of each living node, certain after ``capacity``."""
        self._ray = RayConnection(address, cpus=machine_cpus, gpus=machine_gpus)
        self._thread = threading.Thread(target=self._own, name="ray", daemon=True)
        self._tune = threading.Thread(target=self._schedule, name="tune", daemon=True)
        self._ready, self._closing = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._tune_error: BaseException | None = None
        self._open: dict[str, Job] = {}
        self._queue = JobQueue(should_stop)
        self._keep_logs = False

    # --- the contract -----------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to connect to Ray, or to start it, in a thread of its own."""
        if self._thread.ident is None:
            self._thread.start()

    def capacity(self) -> int:
        """Wait until Ray is there; return for how many trials it has room now.

        Raises:
            ResourceError: there is no Ray, or no node that a trial fits on.
        """
        self.start()
        self._ready.wait()
        if self._error:
            raise self._error
        return resources_on_nodes(self.nodes, self.cpus, self.gpus).slots

    def submit(self, job: Job) -> None:
        """Give it a job."""
        self._open[job.path] = job
        self._queue.submit(job)

    def results(self, watch: Callable[[], None] = nothing) -> Iterator[Ended]:
        """Yield each job as it ends.

        Raises:
            ResourceError: the cluster does not answer any more, or Tune has ended without a request.
        """
        self.capacity()
        while self._open:
            watch()
            self._ray.check()
            for ended in self._just_ended():
                self._keep_logs |= bool(ended.problem)
                del self._open[ended.job.path]
                yield ended

    def _just_ended(self) -> list[Ended]:
        """Wait WATCH_S for a job to end; return it, or all that are left if Tune has ended after a stop.

        Raises:
            ResourceError: Tune has ended without a stop.
        """
        alive = self._tune.is_alive()  # asked first: all that it has put is in the queue if it is not
        try:
            return [self._queue.events.get(timeout=WATCH_S if alive else 0)]
        except Empty:
            if alive:
                return []
        if self._tune_error is not None or not self._queue.over:
            self._keep_logs = True
            raise ResourceError(tune_ended(self._tune_error, len(self._open)))
        return [Ended(job) for job in self._open.values()]

    def close(self, *, wait: bool = True) -> None:
        """End Tune and leave Ray."""
        self._queue.close()
        self._closing.set()
        if wait and self._thread.ident is not None:
            self._thread.join(GONE_END_S if self._ray.gone else None)

    # --- the thread of Ray ---------------------------------------------------------------------

    def _own(self) -> None:
        """Start Ray, and close it when the executor is closed."""
        try:
            self._ray.open()
        except BaseException as error:
            self._error = error
            self._ready.set()
            return
        try:
            self._look()
            self._tune.start()
        except BaseException as error:
            self._error = error
        self._ready.set()
        while not self._closing.wait(NODES_S if self._ray.address else None):
            with contextlib.suppress(Exception):  # the head may end just now
                self.nodes = (self._ray.answers() and self._ray.nodes()) or self.nodes
        if self._tune.ident is not None and not self._open:
            self._tune.join(END_S)
        with contextlib.suppress(Exception):
            self._ray.close(keep_logs=self._keep_logs)

    def _look(self) -> None:
        """Look which nodes there are.

        Raises:
            ResourceError: a trial fits on none.
        """
        self.nodes = self._ray.nodes()
        if self._gpu_optional and not any(node.get("GPU", 0) for node in self.nodes):
            self.gpus = 0
        if resources_on_nodes(self.nodes, self.cpus, self.gpus).slots:
            return
        shown = "; ".join(f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in self.nodes)
        hint = "Ask for less with --cpus or --gpus."
        if self._ray.address:
            hint += " Nodes that have just been started, or the head of which has, take up to a minute to join."
        raise ResourceError(
            Problem(f"a trial asks for {self.cpus} CPUs and {self.gpus:g} GPUs on one node, but the nodes have: {shown}", hint=hint)
        )

    # --- Tune's thread ----------------------------------------------------------------------------

    def _schedule(self) -> None:
        """Run Tune until the executor is closed or stopped."""
        storage = ""
        try:
            storage = tempfile.mkdtemp(prefix="tune-", dir=scratch_dir())
            with importing_mlflow():
                import ray.air.integrations.mlflow  # noqa: F401  (else Tune itself does, beside the mirror's import of MLflow)
            self._tuner(storage).fit()
        except BaseException as error:
            self._tune_error = error
        finally:
            shutil.rmtree(storage, ignore_errors=True)

    def _tuner(self, storage: str) -> tune.Tuner:
        from ray import tune

        from gfl_lab.orchestrate.tune_parts import Begun, Handover, Stop, TrialActor

        return tune.Tuner(
            tune.with_resources(TrialActor, {"CPU": self.cpus, "GPU": self.gpus}),
            tune_config=tune.TuneConfig(search_alg=Handover(self._queue), num_samples=-1, reuse_actors=True),
            run_config=tune.RunConfig(
                name="tune", storage_path=storage, stop=Stop(self._queue), callbacks=[Begun(self._queue)], verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )  # fmt: skip


def tune_ended(error: BaseException | None, left: int) -> Problem:
    """Return why no trial runs any more although ``left`` jobs have not ended."""
    lines = str(error or "").strip().splitlines()
    reason = f": {type(error).__name__}: {lines[-1] if lines else 'no message'}" if error is not None else " without a reason"
    hint = (
        f"Repeat the command: finished trials are reused, the others continue from their checkpoints. Ray's logs are in "
        f"{scratch_dir() / 'r'}; --executor inline trains without Ray."
    )
    return Problem(f"Ray Tune has ended with {plural(left, 'trial')} left{reason}", hint=hint)
