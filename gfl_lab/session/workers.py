"""Workers: the resources of each trial on this machine or on a cluster, and the executor that runs the trials."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from gfl_lab.errors import InputError, Problem
from gfl_lab.orchestrate.executor import Executor
from gfl_lab.orchestrate.resources import Machine, Peak, TrialResources, device_of, loaders, processes_of, trial_resources
from gfl_lab.processes import hide_gpus
from gfl_lab.session.executor_names import ExecutorName
from gfl_lab.spec.file_models import Resources
from gfl_lab.wording import plural


class Workers:
    """The workers of a session. Nothing is started before ``start``, ``connect`` or ``ready``.

    Args:
        machine: this one.
        preferred: of the profile, for each trial.
        should_stop: no further trial starts once it returns True.
        executor: "ray", or "inline" for one trial after the other in this process.
        address: of a Ray cluster, instead of this machine.
        cpus, gpus: for each trial, instead of the profile's.

    Attributes:
        resources: of each trial, and how many run at once.

    Raises:
        InputError, ResourceError: a trial does not fit.
    """

    def __init__(
        self, machine: Machine, preferred: Resources, should_stop: Callable[[], bool], *, executor: ExecutorName = "ray",
        address: str | None = None, cpus: int | None = None, gpus: float | None = None,
    ) -> None:  # fmt: skip
        self.machine, self.preferred, self.address = machine, preferred, address
        self._name, self._should_stop, self._asked = executor, should_stop, (cpus, gpus)
        if address:
            self.resources = TrialResources(cpus or preferred.cpus, preferred.gpus if gpus is None else gpus, 1)
        else:
            self.resources = trial_resources(machine, preferred, cpus=cpus, gpus=gpus)
        _check_gpus(self.resources.gpus, executor)
        if executor == "inline" and not self.resources.gpus:
            hide_gpus()  # the trials' process is this one
        self._executor: Executor | None = None

    @property
    def executor(self) -> Executor:
        """Return the executor; it may not have started yet."""
        if self._executor is None:
            self._executor = self._make()
        return self._executor

    @property
    def on_cluster(self) -> bool:
        """Return True if the trials run on a cluster."""
        return bool(self.address) and self._name == "ray"

    @property
    def device(self) -> str:
        """Return the kind of device that trials run on; empty for a cluster's GPUs, whose kind is not known here."""
        if self.address:
            return "" if self.resources.gpus else "cpu"
        return device_of(self.machine, self.resources.gpus)

    def start(self) -> None:
        """Begin to start the executor, and return at once."""
        self.executor.start()

    def fit(self, peak: Peak | None) -> None:
        """Adapt the resources to the measured memory of a trial; a cluster's are not changed."""
        if peak is not None and not self.address and self._executor is None:
            cpus, gpus = self._asked
            self.resources = trial_resources(self.machine, self.preferred, cpus=cpus, gpus=gpus, peak=peak)
        if self._name == "inline":
            self.resources = dataclasses.replace(self.resources, slots=1)

    def connect(self, say: Callable[[str], None]) -> None:
        """Wait until the executor has reached its cluster, and adapt the resources to what that has.

        Raises:
            ResourceError: it cannot be reached.
        """
        if self._name == "inline":
            return
        from gfl_lab.orchestrate.ray_tune import TuneExecutor

        executor = self.executor
        assert isinstance(executor, TuneExecutor)  # a cluster has no other
        slots = executor.capacity()
        cpus, gpus = (sum(node.get(key, 0) for node in executor.nodes) for key in ("CPU", "GPU"))
        has = f"{plural(round(cpus), 'CPU core')}, {plural(round(gpus), 'GPU') if gpus else 'no GPU'}"
        say(f"cluster: {plural(len(executor.nodes), 'node')} with {has}; room for {plural(slots, 'trial')} at once now")
        self.resources = TrialResources(executor.cpus, executor.gpus, slots)

    def ready(self) -> None:
        """Wait until the executor has started.

        Raises:
            ResourceError: it could not start.
        """
        self.executor.capacity()

    def process_settings(self) -> dict[str, Any]:
        """Return the settings of a trial's process. A cluster may have no GPU to give."""
        return process_settings(self.resources, self.preferred, self.executor.gpus)

    def close(self, *, wait: bool = True) -> None:
        """Stop the executor and all its processes. With ``wait`` False this continues in the background."""
        if self._executor is not None:
            self._executor.close(wait=wait)

    def _make(self) -> Executor:
        if self._name == "inline":
            from gfl_lab.orchestrate.inline import InlineExecutor

            return InlineExecutor(self._should_stop)
        from gfl_lab.orchestrate.ray_tune import TuneExecutor

        taken = self.resources
        return TuneExecutor(
            cpus=taken.cpus, gpus=taken.gpus, gpu_optional=self._asked[1] is None and not self.preferred.gpu_required,
            machine_cpus=taken.slots * taken.cpus, machine_gpus=len(self.machine.gpus), address=self.address, should_stop=self._should_stop,
        )  # fmt: skip


def process_settings(taken: TrialResources, preferred: Resources, gpus: float) -> dict[str, Any]:
    """Return the settings of a trial's process: threads, loader processes, processes.

    Args:
        gpus: of the process; 0 inline, where a trial has no process of its own, and no loaders unless they are asked for.
    """
    return {
        "threads": taken.cpus,
        "loader_workers": loaders(preferred.loader_workers, taken.cpus, gpus),
        "processes": processes_of(gpus),
    }


def _check_gpus(gpus: float, executor: str) -> None:
    """Raise InputError for GPUs that no trial can take, here or on a cluster."""
    if gpus > 1 and executor == "inline":
        problem = f"--executor inline runs a trial in this process alone, and {gpus:g} GPUs take one each"
        raise InputError(Problem(problem, hint="Give --gpus 1, or leave --executor out."))
    if gpus > 1 and gpus != int(gpus):
        raise InputError(Problem(f"{gpus:g} GPUs: a trial takes a part of one or several whole ones", hint=f"Give --gpus {int(gpus)}."))
