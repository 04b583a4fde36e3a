"""Experiments as the pages choose and follow them: by words, running ones first, with the states of a search's trials."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from dashboard.reader import Reader, reader
from gfl_lab.errors import StoreError
from gfl_lab.report.ranking import Ranking
from gfl_lab.results.rows import ExperimentRow, TrialRow, TrialState, VariantRow
from gfl_lab.results.search import INVALID, REPEAT, STOPPED, search_stamp
from gfl_lab.results.store import Stamp

SEARCH = "search"
BETWEEN_TRIALS_S = 60.0
"""So long after its last event a search counts as running although no trial runs: the next one may be starting."""

Name = tuple[str, str]
"""Experiment and profile."""

# --- which experiments ----------------------------------------------------------------------------


def names() -> list[Name]:
    """Return all experiments."""
    return reader().store.names()


def matching(query: str) -> list[Name]:
    """Return the experiments whose name, profile or question has every word of ``query``."""
    words = query.casefold().split()
    return [each for each in names() if _has(words, *each)] if words else names()


def _has(words: Sequence[str], name: str, profile: str) -> bool:
    text = f"{name} {profile} {reader().store.question(name, profile)}".casefold()
    return all(word in text for word in words)


def live_first(found: Sequence[Name]) -> list[Name]:
    """Return running experiments before the others, each part by name. Reads no result."""
    source = reader()
    return sorted(found, key=lambda each: (not (source.store.is_running(*each) or _between(_search_stamp(source, *each))), each))


# --- what runs ------------------------------------------------------------------------------------


def is_live(*experiments: ExperimentRow) -> bool:
    """Return True if a trial is running, so that a page has a reason to be drawn again."""
    return any(
        any(trial.state is TrialState.RUNNING for trial in experiment.all_trials) or _between_trials(experiment)
        for experiment in experiments
    )


def signature(experiment: ExperimentRow) -> tuple[tuple[str, str], ...]:
    """Return a value that changes when a trial changes its state."""
    return tuple((trial.id, trial.state.value) for trial in experiment.all_trials)


def _between_trials(experiment: ExperimentRow) -> bool:
    return experiment.kind == SEARCH and _between(_search_stamp(reader(), experiment.name, experiment.profile))


def _search_stamp(source: Reader, name: str, profile: str) -> Stamp:
    try:
        return search_stamp(source.root, name, profile)
    except StoreError:  # the folder's name is none of an experiment
        return None


def _between(stamp: Stamp) -> bool:
    return stamp is not None and 0 <= time.time() - stamp[2] / 1e9 < BETWEEN_TRIALS_S


# --- searches -------------------------------------------------------------------------------------


def suggestion_counts(ranking: Ranking) -> tuple[dict[str, int], str]:
    """Return how many suggestions that became a trial are in each state, and the total in words."""
    counts = Counter(row.state for row in ranking.search.suggestions if row.state not in (INVALID, REPEAT))
    return dict(counts), f"of {ranking.search.trials} trials" if counts else f"none of {ranking.search.trials} trials has begun"


def states(experiment: ExperimentRow) -> dict[str, str]:
    """Return the state of each trial. A trial that a search stopped early is not interrupted: nothing is left to do. Raises StoreError."""
    found: dict[str, str] = {trial.id: trial.state.value for trial in experiment.all_trials}
    if experiment.kind == SEARCH:
        ended = {row.trial for row in reader().ranking(experiment).search.suggestions if row.state == STOPPED}
        found |= {key: STOPPED for key, state in found.items() if key in ended and state == TrialState.INTERRUPTED}
    return found


# --- variants -------------------------------------------------------------------------------------


def variant_of(experiment: ExperimentRow, name: str) -> VariantRow:
    """Return the variant of that name. Raises StopIteration where there is none."""
    return next(variant for variant in experiment.variants if variant.name == name)


def with_distributions(variant: VariantRow) -> tuple[TrialRow, ...]:
    """Return the trials of a variant that have written distributions."""
    found = []
    for trial in variant.trials:
        try:
            if reader().store.distributions_stamp(trial.id) is not None:
                found.append(trial)
        except StoreError:
            continue
    return tuple(found)


def age(unix_time: float) -> str:
    """Return how long ago, in words; empty for 0."""
    if unix_time <= 0:
        return ""
    seconds = max(0.0, time.time() - unix_time)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
