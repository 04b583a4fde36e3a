"""The driver's side of a search, whatever runs its trials: suggestions from Optuna, the ledger, and the pruner.

Every suggestion is drawn with a seed of its own, from the search's seed and the suggestion's number. So what is suggested
depends on the numbers known at that moment alone: with one trial at a time, a search that was killed and goes on suggests
what an undisturbed one does.
"""

from __future__ import annotations

import contextlib
import datetime
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gfl_lab import naming
from gfl_lab.errors import FailureKind, SpecError
from gfl_lab.orchestrate.executor import Ended, Executor, problems_of
from gfl_lab.orchestrate.pruner import Pruner
from gfl_lab.orchestrate.supervisor import Job
from gfl_lab.orchestrate.watcher import Progress, Watcher
from gfl_lab.plan.plan import Plan, Variant
from gfl_lab.records.metric_lines import read_metric_lines
from gfl_lab.records.result import Done, Failed, Failure
from gfl_lab.records.search import Outcome, SearchFile, Suggestion, read_search, write_search
from gfl_lab.rundir import RunTree, TrialDir, TrialState
from gfl_lab.spec.schedule import steps_of, total_epochs
from gfl_lab.spec.search import Dimension

MAX_IDLE = 100
"""Suggestions in a row that give no new trial, after which the space is taken for exhausted."""

SHOWN_ENDED = 8


class SearchState:
    """Hands out suggestions, takes in what became of them, and keeps search.json true after each event.

    Args:
        folder: of the experiment; search.json and the files that ask trials to stop lie there.
        metric: what is searched for, and whether more of it is better.
        resolve: the variant that settings stand for. Raises SpecError.
        prepare: called with a variant before its trial runs; writes its manifest.
        pruner: None lets every trial run to its end.
    """

    def __init__(
        self, ledger: SearchFile, folder: Path, tree: RunTree, *, dimensions: tuple[Dimension, ...], metric: str, higher_is_better: bool, seed: int,
        resolve: Callable[[dict[str, Any]], Variant], prepare: Callable[[Variant], None], pruner: Pruner | None,
    ) -> None:  # fmt: skip
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.ledger, self.folder, self.tree = ledger, folder, tree
        self.metric, self.resolve, self.prepare, self.pruner = metric, resolve, prepare, pruner
        self.dimensions = {dimension.key: dimension for dimension in dimensions}
        self.variants: dict[int, Variant] = {}
        self._distributions = {dimension.key: dimension.distribution() for dimension in dimensions}
        self._study = optuna.create_study(direction="maximize" if higher_is_better else "minimize", sampler=sampler(seed))
        self._trials: dict[int, Any] = {}
        self._handed_out: set[int] = set()
        self._follow: dict[int, Follower] = {}
        ledger.sampler = {"name": "TPESampler", "seed": seed, "optuna": optuna.__version__}
        for entry in ledger.suggestions:
            self._replay(entry)

    def _replay(self, entry: Suggestion) -> None:
        """Tell Optuna and the scheduler what is known, as if it had just happened."""
        self._study.enqueue_trial(entry.drawn)
        self._trials[entry.number] = trial = self._study.ask(self._distributions)
        if entry.trial and entry.state is not Outcome.REPEAT:
            self.variants[entry.number] = self.resolve(entry.settings)
        for epoch, value in sorted(entry.values.items()):
            trial.report(value, epoch)
            if self.pruner:
                self.pruner.stops(entry.number, epoch, value)
        if entry.final:
            self._tell(entry)
        elif entry.state is Outcome.FAILED:
            entry.state, entry.failure = Outcome.OPEN, None  # tried again

    # --- handing out ---

    @property
    def over(self) -> bool:
        """True if no more trials are handed out: as many have ended, or are on their way, as were asked for."""
        live = sum(not self.ledger.suggestions[number].final for number in self._handed_out)
        return self.ledger.ended + live >= self.ledger.trials or (self.ledger.exhausted and not self._waiting())

    def next(self) -> Suggestion | None:
        """Return the next trial to run: first those that have begun and not ended, then Optuna's suggestions. None when it is ``over``."""
        while not self.over:
            entry = next(iter(self._waiting()), None) or self._draw()
            if entry is None:
                self.ledger.exhausted = True
                self.save()
                continue
            self._handed_out.add(entry.number)
            folder = self.tree.trial(entry.trial)
            if folder.state() is TrialState.DONE:  # by an ablation, by another search, or while its driver died
                self.ended(entry.number)
                continue
            self.stop_file(entry).unlink(missing_ok=True)
            self.prepare(self.variants[entry.number])
            self.save()
            return entry
        return None

    @property
    def all_variants(self) -> list[Variant]:
        """A variant for each trial so far, in the order of the suggestions."""
        return [self.variants[number] for number in sorted(self.variants)]

    def _waiting(self) -> list[Suggestion]:
        return [entry for entry in self.ledger.suggestions if entry.state is Outcome.OPEN and entry.number not in self._handed_out]

    def _draw(self) -> Suggestion | None:
        """Return a suggestion whose trial is new to this search; None when there seems to be no more."""
        for _ in range(MAX_IDLE):
            trial = self._study.ask(self._distributions)
            drawn = {key: trial.params[key] for key in self.dimensions}
            entry = Suggestion(trial.number, drawn, {key: self.dimensions[key].value(value) for key, value in drawn.items()})
            self._trials[entry.number] = trial
            try:
                variant = self.resolve(entry.settings)
            except SpecError as error:
                entry.state, entry.reason = Outcome.INVALID, error.problems[0].message
            else:
                entry.trial = variant.trials[0].id
                same = next((known for known in self.ledger.suggestions if known.trial == entry.trial), None)
                if same is None:
                    self.variants[entry.number] = variant
                    self.ledger.suggestions.append(entry)
                    return entry
                entry.state, entry.reason = Outcome.REPEAT, f"computes what suggestion {same.number} does"
            self.ledger.suggestions.append(entry)
            self._tell(entry)
        return None

    # --- taking in ---

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Take in the metric after an epoch; whether the trial is to stop. Its stop file is then there, and it counts as stopped.

        An epoch that was known already is not judged again.
        """
        entry = self.ledger.suggestions[number]
        if entry.state is not Outcome.OPEN or epoch <= entry.epochs:
            return entry.state is Outcome.STOPPED
        entry.values[epoch] = value
        self._trials[number].report(value, epoch)
        if self.pruner and self.pruner.stops(number, epoch, value):
            entry.state, entry.value = Outcome.STOPPED, value
            self.save()
            self._tell(entry)
            self.stop_file(entry).touch()
            return True
        self.save()
        return False

    def ended(self, number: int) -> None:
        """Take in how a trial's process ended, from its run directory. Interrupted trials, and trials of another driver, stay open."""
        entry = self.ledger.suggestions[number]
        if entry.final:
            return
        folder = self.tree.trial(entry.trial)
        state = folder.state()
        if state is TrialState.DONE:
            entry.state, entry.value = Outcome.DONE, _final(folder, self.metric)
            for epoch, value in self._follower(entry).look(final=True):
                if epoch > entry.epochs:
                    entry.values[epoch] = value
                    self._trials[number].report(value, epoch)
                    if self.pruner:
                        self.pruner.stops(number, epoch, value)
        elif state is TrialState.FAILED:
            result = folder.result()
            entry.state = Outcome.FAILED
            entry.failure = result.failure if isinstance(result, Failed) else Failure(FailureKind.ERROR, "")
        else:
            return
        self.save()
        self._tell(entry)

    def follow(self, number: int) -> bool:
        """Take in what a trial that runs in this process has written; whether it is to stop."""
        entry = self.ledger.suggestions[number]
        return any([self.report(number, epoch, value) for epoch, value in self._follower(entry).look()]) or entry.state is Outcome.STOPPED

    def ask_to_stop(self) -> None:
        """Ask every trial that was handed out and has not ended to write a checkpoint and stop."""
        for number in self._handed_out:
            if not self.ledger.suggestions[number].final:
                with contextlib.suppress(OSError):
                    self.stop_file(self.ledger.suggestions[number]).touch()

    def stop_file(self, entry: Suggestion) -> Path:
        """Return the file that asks one trial to stop: each has its own, and trials of another driver do not look at it."""
        return self.folder / naming.stop_request(entry.trial)

    def _follower(self, entry: Suggestion) -> Follower:
        if entry.number not in self._follow:
            epochs = total_epochs(self.variants[entry.number].settings)
            self._follow[entry.number] = Follower(self.tree.trial(entry.trial).file(naming.METRICS_FILE), self.metric, epochs)
        return self._follow[entry.number]

    def _tell(self, entry: Suggestion) -> None:
        """Report an end to Optuna: stopped trials as pruned at their last epoch, and so are those that the settings themselves break."""
        from optuna.trial import TrialState as State

        trial = self._trials[entry.number]
        if entry.state is Outcome.DONE and entry.value is not None:
            self._study.tell(trial, entry.value)
        elif entry.state in (Outcome.STOPPED, Outcome.INVALID) or (entry.state is Outcome.FAILED and entry.final):
            self._study.tell(trial, state=State.PRUNED)
        else:
            self._study.tell(trial, state=State.FAIL)

    def save(self) -> None:
        """Write search.json."""
        write_search(self.folder / naming.SEARCH, self.ledger)


class Follower:
    """Reads a trial's metric after each epoch as it is written.

    Args:
        epochs: of the whole trial. The last one's value is given by ``look(final=True)`` alone: when it is written the trial
            has not ended yet, and must not be stopped any more.
    """

    def __init__(self, path: Path, metric: str, epochs: int) -> None:
        self.path, self.metric, self.epochs = path, metric, epochs
        self._offset, self._seen = 0, 0

    def look(self, final: bool = False) -> Iterator[tuple[int, float]]:
        """Return (epoch, value) of the new epochs, in order, each once."""
        lines, self._offset = read_metric_lines(self.path, 0 if final else self._offset)
        for line in lines:
            value = _number(line.metrics.get(self.metric)) if line.evaluates else None
            if value is None or line.epoch <= self._seen or (line.epoch >= self.epochs and not final):
                continue
            self._seen = line.epoch
            yield line.epoch, value


class SearchWatcher(Watcher):
    """Follows trials that are not known beforehand; of those that ended, the last few."""

    def __init__(self, state: SearchState, plan: Plan, listener: Callable[[list[Progress]], None]) -> None:
        super().__init__(state.tree, plan, [], {}, listener)
        self.state = state
        self._numbers: dict[str, int] = {}

    def add(self, number: int, variant: Variant, train_images: int) -> None:
        """Follow the trial of another suggestion."""
        settings, trial_id = variant.settings, variant.trials[0].id
        shown = list(self.trials)
        ended = [trial for trial in shown if self.tree.trial(trial[0]).state() not in (TrialState.RUNNING, TrialState.PLANNED)]
        for trial in ended[: max(0, len(ended) - SHOWN_ENDED)]:
            shown.remove(trial)
        self._numbers[trial_id] = number
        self.follow_trial(trial_id)
        self.trials = [*shown, (trial_id, f"{number}: {variant.name}", total_epochs(settings), steps_of(settings, train_images))]

    def _progress(self, trial_id: str, label: str, epochs: int, steps: int) -> Progress:
        stopped = self.state.ledger.suggestions[self._numbers[trial_id]].state is Outcome.STOPPED
        return super()._progress(trial_id, label + " (stopped early)" if stopped else label, epochs, steps)


Begin = Callable[[Variant, int, Path], Job]
"""Gives the job of a variant's trial; with the suggestion's number, and the file that asks the trial to stop."""


def run_search(state: SearchState, begin: Begin, executor: Executor, should_stop: Callable[[], bool]) -> list[str]:
    """Run a search until nothing more is to be handed out, or a stop is asked for.

    The pruner and the sampler are asked here, in one thread, whatever executor runs the trials: a trial is suggested when there is
    room for it (a cluster whose nodes have just gone gets one, which waits for them), and each metric counts when its line has been read.

    Returns:
        Errors outside of the trials (`problems_of`).

    Raises:
        OSError, GflLabError: what the state raised, such as a full disk, or the executor: ResourceError.
    """
    numbers: dict[str, int] = {}
    failed: list[Ended] = []

    def submit() -> None:
        while not should_stop() and len(numbers) < max(1, executor.capacity()) and (entry := state.next()):
            job = begin(state.variants[entry.number], entry.number, state.stop_file(entry))
            numbers[job.path] = entry.number
            executor.submit(job)

    def watch() -> None:
        if should_stop():
            state.ask_to_stop()
        for number in list(numbers.values()):
            state.follow(number)
        submit()  # a cluster may have got another node

    submit()
    for ended in executor.results(watch):
        state.ended(numbers.pop(ended.job.path))
        if ended.problem:
            failed.append(ended)
        submit()
    return [] if state.ledger.complete else problems_of(failed)


def open_ledger(folder: Path, definition: dict[str, Any], trials: int, *, look: bool = False) -> tuple[SearchFile, list[str]]:
    """Return the ledger to go on with, and notes for the user. One of another search of this name is moved to ``previous/`` with its tables.

    Args:
        look: move nothing.

    Raises:
        StoreError: search.json cannot be read.
    """
    fresh = SearchFile(definition, trials, datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))
    path = folder / naming.SEARCH
    if path.exists():
        found = read_search(path)
        if found.digest == fresh.digest:
            if found.trials != trials:
                found.trials, found.exhausted = trials, False
            return found, []
        return fresh, [] if look else [f"the search so far was over something else; it is kept in {_archive(folder, found.digest)}"]
    if (folder / naming.PLAN).exists() and not look:
        return fresh, [f"what has been run under this name so far is kept in {_archive(folder, 'ablation')}"]
    return fresh, []


def _archive(folder: Path, name: str) -> Path:
    archive = folder / "previous" / name
    archive.mkdir(parents=True, exist_ok=True)
    for file in [*folder.glob(naming.SEARCH), *folder.glob(naming.PLAN), *folder.glob(naming.TABLE_STEM + ".*")]:
        file.replace(archive / file.name)
    return archive


def sampler(seed: int) -> Any:
    """Return Optuna's default sampler (TPE), seeded anew for each suggestion from ``seed`` and its number."""
    import numpy as np
    from optuna.samplers import BaseSampler, TPESampler

    class SeededByNumber(BaseSampler):
        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
            state = np.random.SeedSequence((seed, trial.number)).generate_state(1)
            self._tpe = TPESampler(seed=int(state[0]))
            return self._tpe.infer_relative_search_space(study, trial)

        def sample_relative(self, study: Any, trial: Any, search_space: dict[str, Any]) -> dict[str, Any]:
            return self._tpe.sample_relative(study, trial, search_space)

        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
            return self._tpe.sample_independent(study, trial, param_name, param_distribution)

    return SeededByNumber()


def _final(trial: TrialDir, metric: str) -> float | None:
    """Return the final metric of a finished trial."""
    result = trial.result()
    return (result.metrics or {}).get(metric) if isinstance(result, Done) else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
