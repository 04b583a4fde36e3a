"""A search as it stands on disk: every suggestion with its settings and how far its trial has come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gfl_lab import naming
from gfl_lab.records.files import damaged
from gfl_lab.records.search import Suggestion
from gfl_lab.records.search import read_search as read_search_file
from gfl_lab.results.rows import TrialRow
from gfl_lab.results.store import Stamp, Store, stamp_of
from gfl_lab.rundir import RunTree, TrialState

DONE, STOPPED, FAILED, INVALID, REPEAT, OPEN = "done", "stopped", "failed", "invalid", "repeat", "open"
"""States of a suggestion in search.json. An open one is shown with the state of its trial."""


@dataclass(frozen=True)
class SuggestionRow:
    """One suggestion.

    Attributes:
        state: done, stopped (early, by the scheduler), failed, invalid, repeat; else its trial's: running, interrupted, planned.
        value: the metric: final when done, else after ``epoch``, the last epoch that the scheduler has seen; None before.
        values: the metric after each epoch that the scheduler has seen.
        metrics: all final metrics of a done one.
        drawn: what the sampler drew; of a choice its position.
        reason: why it failed, is invalid, or what it repeats.
    """

    number: int
    settings: Mapping[str, Any]
    drawn: Mapping[str, float]
    trial: str
    state: str
    value: float | None = None
    epoch: int = 0
    epochs: int = 0
    values: Mapping[int, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    seconds: float = 0.0


def state_text(row: SuggestionRow) -> str:
    """Return ``done``, ``stopped at 2/16``, ``failed``, ``running at 3/16``."""
    if row.state in (DONE, FAILED) or not row.epochs:
        return row.state
    return f"{row.state} at {row.epoch}/{row.epochs}"


@dataclass(frozen=True)
class SearchRow:
    """A search under a profile."""

    name: str
    profile: str
    question: str
    data: str
    seed: int
    metric: str
    trials: int
    space: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    sampler: Mapping[str, Any]
    exhausted: bool
    suggestions: tuple[SuggestionRow, ...]


def read_search(tree: RunTree, name: str, profile: str) -> SearchRow:
    """Read a search: its ledger, and the run directories of its trials.

    A trial that was stopped early and has been finished since (by an ablation) is done.

    Raises:
        StoreError: there is none, or its ledger or plan is damaged.
    """
    path = tree.experiment(name, profile) / naming.SEARCH
    found = read_search_file(path)
    row = Store(tree).experiment(name, profile)
    trials = {trial.id: trial for trial in row.trials}
    try:
        return SearchRow(
            name=name,
            profile=profile,
            question=row.question,
            data=f"{row.data.name}: {row.data.train_images} training and {row.data.val_images} validation images",
            seed=found.seed,
            metric=found.metric,
            trials=found.trials,
            space=found.space,
            scheduler=found.scheduler,
            sampler=found.sampler,
            exhausted=found.exhausted,
            suggestions=tuple(_suggestion(item, trials.get(item.trial), found.metric) for item in found.suggestions),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, f"is no record of a search: {error}") from None


def read_search_of(root: Path, name: str, profile: str) -> SearchRow:
    """Read a search of the run tree at ``root``. Raises StoreError."""
    return read_search(RunTree(root), name, profile)


def search_stamp(root: Path, name: str, profile: str) -> Stamp:
    """Return a value that changes when the ledger of a search does; None where there is none. Raises StoreError for a name that is none."""
    return stamp_of(RunTree(root).experiment(name, profile) / naming.SEARCH)


def _suggestion(item: Suggestion, trial: TrialRow | None, metric: str) -> SuggestionRow:
    state, epoch = item.state.value, item.epochs
    value = item.value if item.value is not None else item.values.get(epoch)
    metrics: Mapping[str, float] = {}
    reason = f"{item.failure.kind}: {item.failure.reason}" if item.failure else item.reason
    if trial and state not in (INVALID, REPEAT):
        if trial.state is TrialState.DONE:
            state, metrics, epoch, reason = DONE, trial.metrics, trial.epoch, ""
            value = metrics.get(metric, value)
        elif state == OPEN:
            state = trial.state.value
    return SuggestionRow(
        number=item.number,
        settings=item.settings,
        drawn=item.drawn,
        trial=item.trial,
        state=state,
        value=value,
        epoch=epoch,
        epochs=trial.epochs if trial else 0,
        values=item.values,
        metrics=metrics,
        reason=reason,
        seconds=trial.seconds if trial else 0.0,
    )
