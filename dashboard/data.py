"""The only file here that reads: the store, with what is costly kept as long as the file behind it does not change."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st
from PIL import Image

from gfl_lab import naming
from gfl_lab.report import calibration, drawing, series
from gfl_lab.report import search as report
from gfl_lab.report import sides as sides_report
from gfl_lab.report import variant_comparison as pair_report
from gfl_lab.results.rows import ExperimentRow, TrialRow, TrialState, VariantRow
from gfl_lab.results.search import INVALID, REPEAT, STOPPED, read_search
from gfl_lab.results.store import Stamp, Store, StoreError, open_store, stamp_of, store_root
from gfl_lab.rundir import RunTree
from gfl_lab.spec.search import dimensions_of

SEARCH = "search"
BETWEEN_TRIALS_S = 60.0
"""For so long after its last event a search is looked at although no trial runs: the next one may be starting."""

INDEX_COLUMNS = ("image_id", "annotation_id", "category", "det_score")


@st.cache_resource(show_spinner=False)
def _store(root: str) -> Store:
    return open_store(Path(root))


def store() -> Store:
    """The store at GFL_LAB_HOME, shared by all sessions: it keeps what it has read and looks at the disk each time."""
    return _store(str(store_root()))


def is_live(*experiments: ExperimentRow) -> bool:
    """Whether a trial is running, so that a page has a reason to look again by itself."""
    return any(
        any(trial.state is TrialState.RUNNING for trial in experiment.trials) or _between_trials(experiment) for experiment in experiments
    )


def matching(query: str) -> list[tuple[str, str]]:
    """The experiments, as (name, profile), whose name, profile or question has every word of ``query``."""
    words = query.casefold().split()
    return [each for each in store().names() if _has(words, *each)] if words else store().names()


def live_first(names: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those that ``is_live`` would call so before the others, each part by name; reads no result."""
    return sorted(names, key=lambda each: (not (store().is_running(*each) or _between(_ledger_stamp(*each))), each))


def _has(words: list[str], name: str, profile: str) -> bool:
    text = f"{name} {profile} {store().question(name, profile)}".casefold()
    return all(word in text for word in words)


def signature(experiment: ExperimentRow) -> tuple[tuple[str, str], ...]:
    """Changes when a trial changes its state."""
    return tuple((trial.id, trial.state.value) for trial in experiment.trials)


# --- searches -------------------------------------------------------------------------------------


def _ledger_stamp(name: str, profile: str) -> Stamp:
    try:
        return stamp_of(RunTree(store_root()).experiment(name, profile) / naming.SEARCH)
    except StoreError:  # a folder whose name is none
        return None


def _between_trials(experiment: ExperimentRow) -> bool:
    return experiment.kind == SEARCH and _between(_ledger_stamp(experiment.name, experiment.profile))


def _between(stamp: Stamp) -> bool:
    return stamp is not None and 0 <= time.time() - stamp[2] / 1e9 < BETWEEN_TRIALS_S


@st.cache_data(show_spinner=False, max_entries=16)
def _ranking(root: str, name: str, profile: str, stamp: str) -> report.Ranking:
    try:
        found = report.rank(read_search(RunTree(Path(root)), name, profile))
        dimensions_of(found.search.space)
        for _, row in found.rows:
            for key in found.keys:
                naming.setting_text(row.settings[key])
    except StoreError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, IndexError) as error:
        raise StoreError(f"{naming.SEARCH} of {name} ({profile}) is damaged: {type(error).__name__} {error}") from None
    return found


def ranking(experiment: ExperimentRow) -> report.Ranking:
    """A search ranked; anew only when its ledger, or the state of a trial of it, has changed. Raises StoreError."""
    trials = [(trial.id, trial.state.value, trial.epochs, sorted(trial.metrics.items())) for trial in experiment.trials]
    stamp = repr((_ledger_stamp(experiment.name, experiment.profile), experiment.question, trials))
    return _ranking(str(store_root()), experiment.name, experiment.profile, stamp)


def ledger_counts(found: report.Ranking) -> tuple[dict[str, int], str]:
    """How many suggestions that became a trial are in each state, in the ledger's words; and of how many."""
    counts = Counter(row.state for row in found.search.suggestions if row.state not in (INVALID, REPEAT))
    return dict(counts), f"of {found.search.trials} trials" if counts else f"none of {found.search.trials} trials has begun"


def states(experiment: ExperimentRow) -> dict[str, str]:
    """State by trial. What a search has stopped early is not called interrupted: nothing of it is left to do. Raises StoreError."""
    found = {trial.id: trial.state.value for trial in experiment.trials}
    if experiment.kind == SEARCH:
        ended = {row.trial for row in ranking(experiment).search.suggestions if row.state == STOPPED}
        found |= {key: STOPPED for key, state in found.items() if key in ended and state == TrialState.INTERRUPTED}
    return found


# --- variants and boxes ---------------------------------------------------------------------------


def variant_of(experiment: ExperimentRow, name: str) -> VariantRow | None:
    """The variant of that name."""
    return next((variant for variant in experiment.variants if variant.name == name), None)


def with_distributions(variant: VariantRow) -> tuple[TrialRow, ...]:
    """Its trials that have written distributions."""
    found = []
    for trial in variant.trials:
        try:
            if store().distributions_stamp(trial.id) is not None:
                found.append(trial)
        except StoreError:
            continue
    return tuple(found)


@st.cache_data(show_spinner=False, max_entries=16)
def _boxes(root: str, trial_id: str, stamp: Stamp) -> pd.DataFrame:
    return _store(root).distributions(trial_id, INDEX_COLUMNS)


def boxes(trial_id: str) -> pd.DataFrame:
    """Every box of a trial: ``INDEX_COLUMNS``. Raises StoreError."""
    return _boxes(str(store_root()), trial_id, store().distributions_stamp(trial_id))


@st.cache_data(show_spinner=False, max_entries=16)
def _most_bimodal(root: str, trial_id: str, stamp: Stamp, limit: int) -> pd.DataFrame:
    return series.most_bimodal(_store(root).distributions(trial_id, series.RANKING_INPUT), limit)


def most_bimodal(trial_id: str, limit: int = 40) -> pd.DataFrame:
    """``report.series.most_bimodal`` of a trial. Raises StoreError."""
    return _most_bimodal(str(store_root()), trial_id, store().distributions_stamp(trial_id), limit)


@st.cache_data(show_spinner=False, max_entries=64)
def _box_rows(root: str, trial_id: str, stamp: Stamp, image_id: int) -> list[dict]:
    frame = _store(root).distributions(trial_id, image_id=image_id)
    return [] if frame is None else frame.to_dict("records")


def box_rows(trial_id: str, image_id: int) -> list[dict]:
    """The boxes of one image of a trial, all columns. Raises StoreError."""
    return _box_rows(str(store_root()), trial_id, store().distributions_stamp(trial_id), image_id)


@st.cache_data(show_spinner=False, max_entries=32, ttl=300)
def _image(root: str, trial_id: str, image_id: int) -> np.ndarray:
    return _store(root).image(trial_id, image_id)


def image(trial_id: str, image_id: int) -> np.ndarray:
    """A validation image: (height, width, 3) RGB uint8. Raises StoreError."""
    return _image(str(store_root()), trial_id, image_id)


def age(unix_time: float) -> str:
    """How long ago, in words; empty for 0."""
    if unix_time <= 0:
        return ""
    seconds = max(0.0, time.time() - unix_time)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


@st.cache_data(show_spinner="Drawing …", max_entries=8)
def _gallery(root: str, trial_id: str, stamp: Stamp, limit: int) -> list[tuple[int, int, str, float, Image.Image]]:
    found = []
    for row in _most_bimodal(root, trial_id, stamp, 40).head(limit).itertuples():
        image_id, annotation = int(row.image_id), int(row.annotation_id)
        view = next(series.box_view(each) for each in _box_rows(root, trial_id, stamp, image_id) if each["annotation_id"] == annotation)
        found.append(
            (image_id, annotation, row.side, float(row.bimodality), drawing.close_up(_image(root, trial_id, image_id), view, row.side))
        )
    return found


def gallery(trial_id: str, limit: int = 12) -> list[tuple[int, int, str, float, Image.Image]]:
    """The most bimodal sides drawn: (image, annotation, side, bimodality, picture). Raises StoreError."""
    return _gallery(str(store_root()), trial_id, store().distributions_stamp(trial_id), limit)


# --- localisation ---------------------------------------------------------------------------------


@st.cache_data(show_spinner=False, max_entries=64)
def _reliability(root: str, trial_id: str, stamp: Stamp) -> calibration.Reliability | None:
    records = _store(root).records(trial_id)
    return None if records is None else calibration.reliability(records)


def reliability(trial_id: str) -> calibration.Reliability | None:
    """``report.calibration.reliability`` of a finished trial; None while it has no records. Raises StoreError."""
    return _reliability(str(store_root()), trial_id, store().records_stamp(trial_id))


@st.cache_data(show_spinner=False, max_entries=32)
def _sides(root: str, trial_id: str, stamp: Stamp) -> pd.DataFrame:
    return sides_report.sides(_store(root).distributions(trial_id, sides_report.INPUT))


def sides(trial_id: str) -> pd.DataFrame:
    """``report.sides.sides`` of a trial. Raises StoreError."""
    return _sides(str(store_root()), trial_id, store().distributions_stamp(trial_id))


@st.cache_data(show_spinner=False, max_entries=64)
def _coincidence(root: str, trial_id: str, stamp: Stamp) -> sides_report.Coincidence:
    return sides_report.coincidence(_sides(root, trial_id, stamp))


def coincidence(trial_id: str) -> sides_report.Coincidence:
    """``report.sides.coincidence`` of a trial. Raises StoreError."""
    return _coincidence(str(store_root()), trial_id, store().distributions_stamp(trial_id))


@st.cache_data(show_spinner="Comparing image by image …", max_entries=16)
def _pair(
    root: str, pairs: tuple[tuple[str, str], ...], stamps: tuple[Stamp, ...], table: str, _context: pair_report.Context
) -> list[pair_report.PairRow]:
    records = [tuple(_store(root).records(trial) for trial in both) for both in pairs]
    if any(None in both for both in records):
        raise StoreError("a trial has no evaluation records")
    try:
        return pair_report.compare_pair(records, known=_context)
    except ValueError as error:
        raise StoreError(str(error)) from None


def pair(pairs: tuple[tuple[str, str], ...], experiment: ExperimentRow, ours: str, theirs: str) -> list[pair_report.PairRow]:
    """``report.pair.compare_pair`` of (ours, theirs), trial ids, one pair a seed, with what the table knows of the two. Raises StoreError."""
    known = pair_report.context(experiment, *(variant_of(experiment, name) for name in (ours, theirs)), store().resampled_or_none)
    stamps = tuple(store().records_stamp(trial) for both in pairs for trial in both)
    return _pair(str(store_root()), pairs, stamps, repr(known), known)
