"""A session runs the trials of one experiment, from its files to its table, and leaves nothing half done.

Ablation and search are two kinds of `Work` that go through the same steps. The session holds what both need: the run tree,
the lock of the experiment, the stop signal, the workers, the mirror to MLflow and the budget.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from gfl_lab import naming
from gfl_lab.errors import InputError, Problem
from gfl_lab.orchestrate import resources
from gfl_lab.orchestrate.budget import Budget, Meter
from gfl_lab.orchestrate.cost import Timings
from gfl_lab.orchestrate.driver import StopSwitch, only_driver
from gfl_lab.orchestrate.expected import Cost
from gfl_lab.orchestrate.watcher import Progress
from gfl_lab.plan.plan import Plan, Trial
from gfl_lab.rundir import RunTree, TrialState
from gfl_lab.session.ablation import AblationWork
from gfl_lab.session.costs import parse_budget
from gfl_lab.session.executor_names import EXECUTORS, ExecutorName
from gfl_lab.session.inputs import Files
from gfl_lab.session.outcome import Outcome, Stopped
from gfl_lab.session.planning import PlanOptions
from gfl_lab.session.refusals import check_address
from gfl_lab.session.reporting import Reporter
from gfl_lab.session.search import SearchWork
from gfl_lab.session.workers import Workers
from gfl_lab.tracking.background import BackgroundMirror
from gfl_lab.tracking.mirror import Mirror

LAST_SYNC_S = 5.0
"""A session that is stopped waits this long for MLflow to show it; the next one completes what is missing."""


@dataclass(frozen=True)
class RunOptions:
    """Choices of a person about how trials run.

    Attributes:
        executor: "ray", or "inline" for one trial after the other in this process.
        address: of a Ray cluster, instead of this machine.
        storage: S3-compatible storage for a cluster whose nodes share no file system.
        cpus, gpus: of each trial, instead of the profile's.
        budget: such as ``12h``, ``8cpuh`` or ``40gpuh``.
        relock: replace the table's lock file, also where locked numbers differ.
    """

    executor: ExecutorName = "ray"
    address: str | None = None
    storage: str | None = None
    cpus: int | None = None
    gpus: float | None = None
    budget: str | None = None
    relock: bool = False

    def __post_init__(self) -> None:
        """Refuse an executor that there is not. Raises InputError."""
        if self.executor not in EXECUTORS:
            known = " or ".join(EXECUTORS)
            raise InputError(Problem(f"there is no executor {self.executor!r}", hint=f"Give {known}."))


class Work(Protocol):
    """The trials of a session: those of an ablation's plan, or those that a search suggests. Methods are called in this order."""

    def prepare(self) -> None:
        """Make the plan. Raises SpecError, DataError, InputError."""
        ...

    def open(self, killed: bool) -> None:
        """Read what former sessions left, now that the experiment is held. ``killed``: the one before was killed."""
        ...

    @property
    def waiting(self) -> bool:
        """Return True if trials are left to run."""
        ...

    @property
    def trials(self) -> Sequence[Trial]:
        """Return the trials to run, or trials like them. Their measured memory decides how many run at once."""
        ...

    def describe(self, workers: Workers, budget: Budget | None) -> None:
        """Print what will run, and its cost. Raises BudgetError."""
        ...

    def save(self) -> Plan:
        """Write the plan and all that trials read; return the plan that the mirror shows."""
        ...

    def run(self, workers: Workers, stop: StopSwitch, watch: Callable[[Sequence[Progress]], None]) -> list[str]:
        """Run the trials until none is left or a stop is asked for; return what went wrong outside of them."""
        ...

    def finish(self, mirror: BackgroundMirror, *, stopped: bool) -> Outcome:
        """Write and report the table."""
        ...

    @property
    def complete(self) -> bool:
        """Return True if all trials have finished."""
        ...


@dataclass
class Session:
    """Run an experiment: train what is missing, mirror it, write its table. The same call resumes, retries and adds seeds.

    Args:
        files: of the experiment.
        tree: the run tree that holds its trials.
        reporter: receives lines, progress and the table.
        spent: by this command so far, where it runs several sessions; each adds its own.
    """

    files: Files
    tree: RunTree
    reporter: Reporter
    plan: PlanOptions = field(default_factory=PlanOptions)
    options: RunOptions = field(default_factory=RunOptions)
    spent: Cost = Cost(0.0, 0.0, 0.0)

    @property
    def folder(self) -> Path:
        """Return the folder of the experiment in the run tree."""
        return self.tree.experiment(self.files.experiment.name, self.files.profile.name)

    def run(self) -> Outcome:
        """Run it and return how it ended.

        A first SIGINT or SIGTERM asks the trials to write a checkpoint and stop; a second one ends them at once.

        Raises:
            SpecError, DataError, InputError, ResourceError, BudgetError: before any trial has started.
            KeyboardInterrupt: only if it was raised by something else than the signals of this session.
        """
        options, say = self.options, self.reporter.say
        work = self._work()
        check_address(options.address, options.executor)
        stop = StopSwitch(self.folder / naming.STOP_REQUEST)
        machine = resources.look()
        workers = Workers(
            machine, self.files.profile.resources, stop, executor=options.executor, address=options.address, cpus=options.cpus,
            gpus=options.gpus,
        )  # fmt: skip
        budget = self._budget(workers)
        self._introduce(machine)
        if budget is None and self._certain():
            workers.start()  # Ray takes seconds to start; meanwhile the data set is generated
        ending = _Ending()
        stop.listen()
        try:
            work.prepare()
            with only_driver(self.folder) as killed:
                work.open(killed)
                self._fit(workers, work.trials)
                if work.waiting and workers.on_cluster:
                    workers.connect(say)
                    budget = self._budget(workers)
                work.describe(workers, budget)
                ending.mirror = start_mirror(self.tree, work.save())
                if work.waiting:
                    workers.ready()
                    ending.meter = Meter(self.folder / naming.COST, workers.resources, budget, stop=_interrupt)
                    for sentence in self._train(work, workers, stop, ending.meter):
                        say(f"error: {sentence}")
                workers.close(wait=False)
                ending.outcome = work.finish(ending.mirror, stopped=bool(stop.signal))
        except KeyboardInterrupt:
            if not stop.signal:
                raise
        finally:
            stop.restore()
            workers.close()
        return self._ended(ending, stop.signal, work)

    def _certain(self) -> bool:
        """Return True if trials will run: in a first ablation with generated data no input can be wrong any more."""
        given = self.plan.data is not None or self.plan.init_weights or self.files.code
        generated = self.files.profile.data != "required" and not given
        first = not self._measured and not (self.folder / naming.PLAN).exists()
        return self.files.experiment.kind != "search" and generated and first

    @property
    def _measured(self) -> bool:
        """True if trials of this tree were measured; then the resources of a trial follow from the plan."""
        return (self.tree.root / naming.MEASURED_DIR).exists()

    def _budget(self, workers: Workers) -> Budget | None:
        """Return what is left of the budget."""
        budget = parse_budget(self.options.budget, workers.resources.gpus)
        return budget and replace(budget, amount=max(0.0, budget.amount - budget.of(self.spent)))

    def _fit(self, workers: Workers, trials: Sequence[Trial]) -> None:
        """Adapt the workers to the measured memory of ``trials``."""
        workers.fit(Timings(self.tree).peak(trials, gpu=bool(workers.resources.gpus)) if self._measured else None)

    def _introduce(self, machine: resources.Machine) -> None:
        experiment, options = self.files.experiment, self.options
        question = f" ({experiment.question})" if experiment.question else ""
        self.reporter.say(f"gfl-lab: {experiment.name} on profile {self.files.profile.name}{question}")
        where = f"; Ray cluster at {options.address}" if options.address else ""
        self.reporter.say(f"machine: {machine}{where}" + (f" over {options.storage}" if options.storage else ""))

    def _work(self) -> Work:
        options = self.options
        if self.files.experiment.kind == "search":
            if options.storage:
                raise InputError("a search needs a file system that its nodes share: --storage serves ablations alone")
            return SearchWork(self.files, self.tree, self.folder, self.plan, self.reporter)
        return AblationWork(self.files, self.tree, self.folder, self.plan, self.reporter, storage=options.storage, relock=options.relock)

    def _train(self, work: Work, workers: Workers, stop: StopSwitch, meter: Meter) -> list[str]:
        stop.install()
        meter.look(0)  # sessions before this one of the same command may have spent the budget
        with self.reporter.progress() as listener:

            def watch(progress: Sequence[Progress]) -> None:
                meter.look(sum(trial.state is TrialState.RUNNING for trial in progress))
                listener(progress)

            try:
                return work.run(workers, stop, watch)
            finally:
                meter.save()
                self.spent = self.spent.plus(meter.spent)

    def _ended(self, ending: _Ending, number: int, work: Work) -> Outcome:
        over = ending.meter is not None and ending.meter.exhausted
        found = ending.outcome
        if not number or (over and found and work.complete):
            assert found is not None  # without a signal it has come to its end
            return found
        if ending.mirror:
            ending.mirror.finish(LAST_SYNC_S)
        stopped = Stopped(number, f"--budget {self.options.budget}" if over else "")
        return Outcome(stopped.code, found.table if found else None, found.ranking if found else None, stopped)


@dataclass
class _Ending:
    """The parts of a session that exist by the time it ends."""

    mirror: BackgroundMirror | None = None
    meter: Meter | None = None
    outcome: Outcome | None = None


def start_mirror(tree: RunTree, plan: Plan) -> BackgroundMirror:
    """Mirror the plan's experiment to MLflow from now on."""
    mirror = BackgroundMirror(Mirror(tree), plan.experiment.name, plan.profile.name)
    mirror.start()
    return mirror


def _interrupt() -> None:
    """Stop this session as Ctrl-C does."""
    os.kill(os.getpid(), signal.SIGINT)
