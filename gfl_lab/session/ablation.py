"""The work of an ablation: the trials of a plan that are missing or damaged, and the table of all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from gfl_lab import naming
from gfl_lab.orchestrate import driver
from gfl_lab.orchestrate.budget import Budget
from gfl_lab.orchestrate.cost import Timings, estimates
from gfl_lab.orchestrate.driver import StopSwitch
from gfl_lab.orchestrate.expected import Estimate
from gfl_lab.orchestrate.needs import Order, run_in_order
from gfl_lab.orchestrate.run_sync import DriverSide
from gfl_lab.orchestrate.supervisor import Job
from gfl_lab.orchestrate.trainings import Trainings
from gfl_lab.orchestrate.watcher import Progress, Watcher
from gfl_lab.plan.plan import Plan, Trial
from gfl_lab.rundir import RunTree, TrialState
from gfl_lab.session import entries
from gfl_lab.session.ablation_end import AblationEnd
from gfl_lab.session.costs import check_budget
from gfl_lab.session.inputs import Files
from gfl_lab.session.outcome import Outcome
from gfl_lab.session.plan_text import needed_names, plan_lines, summary_lines
from gfl_lab.session.planning import PlanOptions, Prepared, prepare
from gfl_lab.session.reporting import Reporter
from gfl_lab.session.standing import Standing
from gfl_lab.session.unassigned import unassigned_groups, unassigned_lines
from gfl_lab.session.weights import fetch_weights
from gfl_lab.session.workers import Workers
from gfl_lab.tracking.background import BackgroundMirror
from gfl_lab.wording import plural


class AblationWork:
    """See `session.Work`.

    Args:
        folder: of the experiment in the run tree.
        storage: address of the storage that the nodes of a cluster share, if they share no file system.
        relock: replace the table's lock file, also where locked numbers differ.
    """

    def __init__(
        self, files: Files, tree: RunTree, folder: Path, options: PlanOptions, reporter: Reporter, *, storage: str | None, relock: bool
    ) -> None:  # fmt: skip
        self.files, self.tree, self.folder, self.options, self.reporter = files, tree, folder, options, reporter
        self._storage = DriverSide(storage, tree) if storage else None
        self._relock = relock
        self._prepared: Prepared | None = None
        self._standing: Standing | None = None
        self._pending: list[Trial] = []
        self._trainings: Trainings | None = None

    @property
    def trials(self) -> Sequence[Trial]:
        """Return the trials to run."""
        return self._pending

    @property
    def waiting(self) -> bool:
        """Return True if trials are to be trained or evaluated."""
        return bool(self._pending)

    @property
    def complete(self) -> bool:
        """Return True if every trial of the plan has finished."""
        found = driver.states(self.plan.trials, self.tree).values() if self._prepared else []
        return bool(found) and all(state is TrialState.DONE for state in found)

    @property
    def plan(self) -> Plan:
        """Return the plan; ``prepare`` has made it."""
        return self.prepared.plan

    @property
    def prepared(self) -> Prepared:
        """Return the plan with its paths and code."""
        assert self._prepared is not None  # after prepare()
        return self._prepared

    @property
    def standing(self) -> Standing:
        """Return where the trials stood when the session began."""
        assert self._standing is not None  # after open()
        return self._standing

    def prepare(self) -> None:
        """Make the plan."""
        self._prepared = prepare(self.files, self.tree, self.options, self.reporter.say)

    def open(self, killed: bool) -> None:
        """Read the states of all trials, from the storage too."""
        plan, storage = self.plan, self._storage
        if storage:
            storage.refresh(trial.id for trial in plan.all_trials)
        if killed:
            driver.wait_for_orphans(plan.all_trials, self.tree)
        if storage:  # trials that others have finished have no manifest here yet
            done = [trial for trial in plan.all_trials if self.tree.trial(trial.id).state() is TrialState.DONE]
            self._write_manifests([trial for trial in done if not self.tree.trial(trial.id).file(naming.MANIFEST).exists()])
        self._standing = Standing(plan, self.tree, driver.of_other_seeds(plan, self.folder), repairs=storage is None)
        self._standing.look()
        if storage and self._standing.damaged:
            storage.fetch_again(self._standing.damaged)
            self._standing.look()
        self._pending = self._standing.pending
        # A node that shares a storage alone does not see another trial's weights: there each trial trains.
        self._trainings = None if storage else Trainings(self._standing.unfinished, self.tree)

    def describe(self, workers: Workers, budget: Budget | None) -> None:
        """Print what is done, what will run, and its cost."""
        say, standing = self.reporter.say, self.standing
        weights_of = self._trainings.evaluated() if self._trainings else {}
        expected = self._estimates(workers, {*standing.to_repair, *weights_of})
        for line in [*plan_lines(standing, weights_of), *summary_lines(standing, weights_of, expected, workers.resources)]:
            say(line)
        several = len(self._pending) - len({trial.spec.training_id for trial in self._pending})
        if self._storage and several:
            say(f"note: {plural(several, 'trial')} could share the training of others, but not over --storage: each one trains")
        if self._pending:
            groups = unassigned_groups(self.plan, self.prepared.paths, self.tree)
            for line in unassigned_lines(groups, self.plan, self.options.data, self.files.folder, notes=False):
                say(line)
        check_budget(budget, expected, workers.resources, say)

    def save(self) -> Plan:
        """Write the plan and the manifests; put what nodes read into the storage."""
        fetch_weights(trial.spec.settings for trial in self._pending)
        for note in driver.save_plan(self.plan, self.folder, self.tree):
            self.reporter.say(f"note: {note}")
        damaged = self.standing.damaged
        rewritten = [trial for trial in self.standing.known if trial.id in damaged and damaged[trial.id].rewritten]
        self._write_manifests([*rewritten, *self._pending])
        if self._storage and self._pending:
            pending = {trial.id: trial for trial in self._pending}
            needed = {each for trial in self._pending for each in trial.spec.needs.values()} - set(pending)
            done = [each for each in needed if self.tree.trial(each).state() is TrialState.DONE]
            self._storage.publish(pending, done, self.reporter.say)
        return self.plan

    def run(self, workers: Workers, stop: StopSwitch, watch: Callable[[Sequence[Progress]], None]) -> list[str]:
        """Run the pending trials: each behind those that it needs, and of those that share a training one first."""
        kwargs = {**workers.process_settings(), "stop_file": str(stop.file)}
        planned = [(variant, trial) for variant in self.plan.variants for trial in variant.trials]
        labels = {trial.id: f"{variant.name} seed {trial.spec.seed}" for variant, trial in [*planned, *self.standing.others]}
        names = needed_names(self.plan)
        labels |= {each.trial.id: f"{names[each.trial.id]} seed {each.trial.spec.seed}" for each in self.plan.needed}
        watcher = Watcher(self.tree, self.plan, self._pending, labels, watch)
        if self._storage:
            self._storage.start()
        watcher.start()
        problems: list[str] = []
        interrupted = True
        order = Order(self._pending, self.tree, self._trainings, self.standing.to_repair)

        def jobs(ready: list[Trial]) -> list[Job]:
            found = driver.jobs_for(ready, self.tree, entries.TRIAL_ENTRY, kwargs, gpus=workers.executor.gpus)
            if self._storage:
                return self._storage.watch(found)
            return self._trainings.jobs(found) if self._trainings else found

        def arrive(trial: str) -> None:
            if self._storage:
                self._storage.fetch(trial, stop)

        try:
            problems += [f"Ray: {sentence}" for sentence in run_in_order(workers.executor, order, jobs, stop.ask, stop, arrive)]
            interrupted = False
        finally:
            if self._storage:
                problems += self._storage.finish(interrupted)
            watcher.finish()
        return problems

    def finish(self, mirror: BackgroundMirror, *, stopped: bool) -> Outcome:
        """Write and report the table, its lock file, failures and repairs."""
        end = AblationEnd(self.standing, self.folder, self.reporter, experiment=str(self.files.source.path))
        return end.report(mirror, stopped=stopped, over_storage=self._storage is not None, relock=self._relock)

    def _estimates(self, workers: Workers, evaluated: set[str]) -> list[Estimate]:
        return estimates(
            self._pending, self.plan, self.tree, workers.resources, workers.device, Timings(self.tree), evaluated=evaluated
        )  # fmt: skip

    def _write_manifests(self, trials: Sequence[Trial]) -> None:
        driver.write_manifests(trials, self.tree, self.prepared.paths, self.prepared.code, self.prepared.other_paths)
