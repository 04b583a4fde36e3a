"""The work of a search: the trials that its sampler suggests, and the ranked table of all of them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

from gfl_lab import naming
from gfl_lab.errors import ExitCode
from gfl_lab.orchestrate import driver
from gfl_lab.orchestrate.budget import Budget
from gfl_lab.orchestrate.cost import Timings, estimates
from gfl_lab.orchestrate.driver import StopSwitch
from gfl_lab.orchestrate.expected import Estimate, cost_of
from gfl_lab.orchestrate.pruner import Pruner, SuccessiveHalving
from gfl_lab.orchestrate.search import SearchState, SearchWatcher, open_ledger, run_search
from gfl_lab.orchestrate.supervisor import Job
from gfl_lab.orchestrate.watcher import Progress
from gfl_lab.plan.plan import Plan, Trial, Variant
from gfl_lab.plan.search import definition_of, plan_of, resolve, search_of
from gfl_lab.records.plan import write_plan
from gfl_lab.records.search import Outcome as SuggestionState
from gfl_lab.records.search import SearchFile
from gfl_lab.report.exports import write_ranking
from gfl_lab.report.ranking import rank
from gfl_lab.results.search import read_search
from gfl_lab.rundir import RunTree
from gfl_lab.session import entries
from gfl_lab.session.costs import check_budget, cost_text
from gfl_lab.session.inputs import Files
from gfl_lab.session.outcome import Outcome
from gfl_lab.session.planning import PlanOptions, Prepared, prepare
from gfl_lab.session.reporting import Reporter
from gfl_lab.session.unassigned import unassigned_groups, unassigned_lines
from gfl_lab.session.weights import fetch_weights
from gfl_lab.session.workers import Workers
from gfl_lab.spec.schedule import total_epochs
from gfl_lab.spec.search import SearchSpec
from gfl_lab.tracking.background import BackgroundMirror
from gfl_lab.wording import plural


class SearchWork:
    """See `session.Work`.

    Args:
        folder: of the experiment in the run tree.
    """

    def __init__(self, files: Files, tree: RunTree, folder: Path, options: PlanOptions, reporter: Reporter) -> None:
        self.files, self.tree, self.folder, self.options, self.reporter = files, tree, folder, options, reporter
        self.search = search_of(files.experiment)
        self._prepared: Prepared | None = None
        self._state: SearchState | None = None

    @property
    def trials(self) -> Sequence[Trial]:
        """Return the trials at the corners of the space, for those that will be suggested."""
        return self.prepared.plan.trials

    @property
    def waiting(self) -> bool:
        """Return True if the search has not ended."""
        return not self.state.ledger.complete

    @property
    def complete(self) -> bool:
        """Return True if the search has ended."""
        return self._state is not None and self._state.ledger.complete

    @property
    def prepared(self) -> Prepared:
        """Return the plan of the corners of the space."""
        assert self._prepared is not None  # after prepare()
        return self._prepared

    @property
    def state(self) -> SearchState:
        """Return the state of the search."""
        assert self._state is not None  # after open()
        return self._state

    @property
    def plan(self) -> Plan:
        """Return the plan with the experiment as its file has it."""
        return dataclasses.replace(self.prepared.plan, experiment=self.files.experiment)

    def prepare(self) -> None:
        """Make the plan of the corners."""
        self._prepared = prepare(self.files, self.tree, self.options, self.reporter.say)

    def open(self, killed: bool) -> None:
        """Read the ledger, and take everything in that is known."""
        self._clear_stop_requests()
        prepared, search, files = self.prepared, self.search, self.files
        ledger, notes = open_ledger(self.folder, definition_of(files.experiment, prepared.plan), search.trials)
        for note in notes:
            self.reporter.say(f"note: {note}")
        better = naming.METRICS[search.metric].higher_is_better
        self._state = SearchState(
            ledger, self.folder, self.tree, dimensions=search.dimensions, metric=search.metric, higher_is_better=better,
            seed=search.sampler_seed, pruner=self._pruner(better),
            resolve=lambda settings: resolve(files.experiment, settings, prepared.expand),
            prepare=lambda variant: driver.write_manifests(variant.trials, self.tree, prepared.paths, prepared.code),
        )  # fmt: skip
        if killed:
            driver.wait_for_orphans([trial for variant in self.state.all_variants for trial in variant.trials], self.tree)

    def describe(self, workers: Workers, budget: Budget | None) -> None:
        """Print the search space, and the cost at most."""
        say, ledger = self.reporter.say, self.state.ledger
        for line in search_lines(self.plan, self.search, ledger, self.tree, workers):
            say(line)
        if ledger.complete:
            return
        if self.search.scheduler == "none":  # a stopped trial costs less than any estimate
            check_budget(budget, expected_estimates(self.plan, ledger, self.tree, workers), workers.resources, say)
        groups = unassigned_groups(self.prepared.plan, self.prepared.paths, self.tree)
        for line in unassigned_lines(groups, self.plan, self.options.data, self.files.folder, notes=False):
            say(line)

    def save(self) -> Plan:
        """Write the ledger and the plan of all trials so far."""
        fetch_weights(variant.settings for variant in self.prepared.plan.variants)
        self.state.save()
        self._save_plan()
        return self.plan

    def run(self, workers: Workers, stop: StopSwitch, watch: Callable[[Sequence[Progress]], None]) -> list[str]:
        """Run suggestions until as many have ended as were asked for."""
        kwargs = workers.process_settings()
        watcher = SearchWatcher(self.state, self.plan, watch)

        def begin(variant: Variant, number: int, stop_file: Path) -> Job:
            self._save_plan()
            watcher.add(number, variant, self.plan.data.train_images)
            own = {**kwargs, "stop_file": str(stop_file)}
            return driver.jobs_for(variant.trials, self.tree, entries.TRIAL_ENTRY, own, gpus=workers.executor.gpus)[0]

        watcher.start()
        try:
            return [f"Ray: {sentence}" for sentence in run_search(self.state, begin, workers.executor, stop)]
        finally:
            self._clear_stop_requests()
            watcher.finish()

    def finish(self, mirror: BackgroundMirror, *, stopped: bool) -> Outcome:
        """Write and report the ranked table, with the failed and missing trials."""
        say, ledger = self.reporter.say, self.state.ledger
        self._save_plan()
        ranking = rank(read_search(self.tree, self.files.experiment.name, self.files.profile.name))
        write_ranking(ranking, self.folder)
        self.reporter.ranking(ranking)
        for entry in ledger.suggestions:
            if entry.state is SuggestionState.FAILED and not entry.final:
                why = f": {entry.failure.kind}: {entry.failure.reason}" if entry.failure else ""
                say(f"failed: suggestion {entry.number} ({entry.trial}){why}")
                say(f"        log: {self.tree.trial(entry.trial).file(naming.LOG)}")
        if not mirror.finish():
            say(f"warning: {mirror.shortfall}")
        say(f"table written to {self.folder} (json, md, csv, html)")
        if ranking.best and ledger.complete:
            say(f"confirm the best with:  gfl-lab confirm {self.files.quoted}")
        if not ledger.complete and (left := sum(entry.state is SuggestionState.OPEN for entry in ledger.suggestions)):
            say(f"note: {plural(left, 'trial')} begun and not ended; the same command continues them")
        return Outcome(ExitCode.DONE if ledger.complete else ExitCode.TRIALS_FAILED, ranking=ranking)

    def _clear_stop_requests(self) -> None:
        """Remove the files that have asked single trials to stop, also those of a session that was killed."""
        for file in self.folder.glob(naming.stop_request("*")):
            file.unlink(missing_ok=True)

    def _pruner(self, higher_is_better: bool) -> Pruner | None:
        if self.search.scheduler != "asha":
            return None
        epochs = total_epochs(self.prepared.plan.variants[0].settings)
        return SuccessiveHalving(
            higher_is_better=higher_is_better, max_epochs=epochs, grace_epochs=self.search.grace_epochs, reduction=self.search.reduction
        )  # fmt: skip

    def _save_plan(self) -> None:
        write_plan(self.folder / naming.PLAN, plan_of(self.plan, self.state.all_variants).record(self.state.ledger.created))


def search_lines(plan: Plan, search: SearchSpec, ledger: SearchFile, tree: RunTree, workers: Workers) -> list[str]:
    """Return the data, the space, the number of trials, and the cost of what is left."""
    data = plan.data
    lines = [f"data: {data.name} {data.digest}, {data.train_images} training and {data.val_images} validation images"]
    lines.append(f"search for {'high' if naming.METRICS[search.metric].higher_is_better else 'low'} {search.metric} over:")
    lines += [f"  {dimension.key}: {dimension}" for dimension in search.dimensions]
    how = "no trial is stopped early"
    if search.scheduler == "asha":
        how = f"ASHA stops early: each gets {plural(search.grace_epochs, 'epoch')}, then 1 in {search.reduction} continues"
    lines.append(f"{plural(search.trials, 'trial')}; {how}")
    if ledger.complete:
        return [*lines, f"{plural(ledger.ended, 'trial')} have ended already: nothing to train"]
    resources, expected = workers.resources, expected_estimates(plan, ledger, tree, workers)
    cost = cost_of([estimate.seconds for estimate in expected], resources)
    at_most = "" if search.scheduler == "none" else "if none were stopped early: "
    left = len(expected)
    now = f"{ledger.ended} ended, {left} to go, {min(resources.slots, left)} at once"
    return [*lines, f"{now}; {at_most}{cost_text(cost, expected, resources)}"]


def expected_estimates(plan: Plan, ledger: SearchFile, tree: RunTree, workers: Workers) -> list[Estimate]:
    """Return an estimate for each trial that is left, as if none were stopped early."""
    left = max(0, ledger.trials - ledger.ended)
    each = estimates(plan.trials, plan, tree, workers.resources, workers.device, Timings(tree))
    return list(itertools.islice(itertools.cycle(each), left))
