"""The result of a search: suggestions ranked by their metric, importance of the settings, and notes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gfl_lab import naming
from gfl_lab.report.statistics import FAINT
from gfl_lab.results.search import DONE, FAILED, INVALID, REPEAT, STOPPED, SearchRow, SuggestionRow
from gfl_lab.spec.search import Dimension as Dimension
from gfl_lab.spec.search import dimensions_of

MIN_FOR_IMPORTANCE = 12
"""Trials below which no importance is given: the best quarter would be fewer than three."""
BEST_SHARE = 0.25


@dataclass(frozen=True)
class Importance:
    """The importance of each setting for the best trials: shares that sum to 1, the largest first; ``of`` names the whole."""

    shares: Mapping[str, float]
    of: str


@dataclass(frozen=True)
class Ranking:
    """A search as its table shows it.

    ``rows`` hold the rank, None where there is no value; ``importance`` is a sentence where it cannot be given.
    """

    search: SearchRow
    rows: tuple[tuple[int | None, SuggestionRow], ...]
    importance: Importance | str
    notes: tuple[str, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """The searched settings, in the file's order."""
        return tuple(self.search.space)

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """The searched settings with their ranges. Raises ValueError for a space that is none."""
        return tuple(dimensions_of(self.search.space))

    @property
    def best(self) -> tuple[SuggestionRow, ...]:
        """Finished suggestions, the best first: what may be confirmed."""
        return tuple(row for _, row in self.rows if row.state == DONE and row.value is not None)


def rank(search: SearchRow) -> Ranking:
    """Rank a search: by final value, stopped ones by their last; then what has no value. Invalid and repeated ones are only counted."""
    sign = -1 if naming.METRICS[search.metric].higher_is_better else 1
    shown = [row for row in search.suggestions if row.state not in (INVALID, REPEAT)]
    valued = sorted((row for row in shown if _ranks(row)), key=lambda row: (sign * (row.value or 0.0), row.state != DONE, row.number))
    rows: list[tuple[int | None, SuggestionRow]] = [*enumerate(valued, 1), *((None, row) for row in shown if not _ranks(row))]
    found = importance(search)
    return Ranking(search, tuple(rows), found, tuple(_notes(search, valued, found)))


def _ranks(row: SuggestionRow) -> bool:
    return row.state in (DONE, STOPPED) and row.value is not None


def importance(search: SearchRow) -> Importance | str:
    """Return the PED-ANOVA importance (Optuna's default): how far each setting alone distinguishes the best quarter of the trials.

    Over the finished trials. If a scheduler left too few of them, over all trials at the epoch that every one has
    reached, with a note.
    """
    finished = [(row.drawn, row.value) for row in search.suggestions if row.state == DONE and row.value is not None]
    if len(finished) >= MIN_FOR_IMPORTANCE and len({value for _, value in finished}) == 1:
        return f"Importance of the settings cannot be given: all {len(finished)} finished trials have the same {search.metric}."
    if len(finished) >= MIN_FOR_IMPORTANCE:
        return Importance(_shares(search, finished), f"the final {search.metric} of {len(finished)} finished trials")
    grace = int(search.scheduler.get("grace_epochs") or 0)
    early = [(row.drawn, row.values[grace]) for row in search.suggestions if row.state not in (INVALID, REPEAT) and grace in row.values]
    if search.scheduler.get("name") == "asha" and len(early) >= MIN_FOR_IMPORTANCE:
        only = f"only {len(finished)} are finished; what helps early need not help at the end"
        return Importance(_shares(search, early), f"the {search.metric} of {len(early)} trials after epoch {grace} ({only})")
    return f"Importance of the settings needs {MIN_FOR_IMPORTANCE} finished trials, and there are {len(finished)}."


def _shares(search: SearchRow, points: list[tuple[Mapping[str, float], float]]) -> dict[str, float]:
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
    from optuna.trial import create_trial

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = {dimension.key: dimension.distribution() for dimension in dimensions_of(search.space)}
    study = optuna.create_study(direction="maximize" if naming.METRICS[search.metric].higher_is_better else "minimize")
    for drawn, value in points:
        study.add_trial(create_trial(params=dict(drawn), distributions=space, value=value))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=BEST_SHARE), params=list(space))
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def has_no_signal(metric: str, done: Sequence[SuggestionRow]) -> bool:
    """Return True if an AP is 0.0 in every finished suggestion, of one or more."""
    return bool(done) and metric in naming.AP_METRICS and all(abs(row.value or 0.0) < FAINT for row in done)


def importance_text(found: Importance | str) -> str:
    """Return the note on the importance of the settings, or on why there is none."""
    return f"Importance: share in what sets the best quarter apart, by {found.of}." if isinstance(found, Importance) else found


def _notes(search: SearchRow, valued: list[SuggestionRow], found: Importance | str) -> list[str]:
    notes = []
    done = [row for row in valued if row.state == DONE]
    if has_no_signal(search.metric, done):
        notes.append(f"No signal: {search.metric} is 0.0 in every finished trial. The order of the rows has no meaning.")
    elif done:
        notes.append(
            f"The number of the best of {len(done)} finished {'trial' if len(done) == 1 else 'trials'} flatters it: it was chosen for that number, on these images and with "
            "this seed. `gfl-lab confirm` compares it with the defaults over seeds that it was not chosen on."
        )
    if any(row.state == STOPPED for row in valued):
        notes.append("* stopped early: the value is that of its last epoch, and compares with no finished one.")
    notes.append(importance_text(found))
    for row in search.suggestions:
        if row.state == FAILED:
            notes.append(f"Failed: {row.number} (trial {row.trial}): {' '.join(row.reason.split())}")
    counts = {state: sum(row.state == state for row in search.suggestions) for state in (INVALID, REPEAT)}
    if counts[INVALID]:
        notes.append(f"Not counted: {counts[INVALID]} suggested combinations that the settings refuse.")
    if counts[REPEAT]:
        notes.append(f"Not counted: {counts[REPEAT]} suggested again what an earlier one computes.")
    if search.exhausted:
        notes.append("The space is exhausted: no new combination was found.")
    name, seed = search.sampler.get("name"), search.sampler.get("seed")
    scheduler = "no trial is stopped early"
    if search.scheduler.get("name") == "asha":
        scheduler = f"ASHA from epoch {search.scheduler['grace_epochs']} on, 1 in {search.scheduler['reduction']} continues"
    notes.append(f"{name}, seed {seed} (optuna {search.sampler.get('optuna')}); {scheduler}; trials have seed {search.seed}.")
    return notes
