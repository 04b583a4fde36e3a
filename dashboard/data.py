"""The only file here that reads: the store, with what is costly kept as long as the file behind it does not change."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st

from gfl_lab.report import series
from gfl_lab.results.rows import ExperimentRow, TrialRow, TrialState, VariantRow
from gfl_lab.results.store import Stamp, Store, StoreError, open_store, store_root

INDEX_COLUMNS = ("image_id", "annotation_id", "category", "det_score")


@st.cache_resource(show_spinner=False)
def _store(root: str) -> Store:
    return open_store(Path(root))


def store() -> Store:
    """The store at GFL_LAB_HOME, shared by all sessions: it keeps what it has read and looks at the disk each time."""
    return _store(str(store_root()))


def is_live(*experiments: ExperimentRow) -> bool:
    """Whether a trial is running, so that a page has a reason to look again by itself."""
    return any(trial.state is TrialState.RUNNING for experiment in experiments for trial in experiment.trials)


def signature(experiment: ExperimentRow) -> tuple[tuple[str, str], ...]:
    """Changes when a trial changes its state."""
    return tuple((trial.id, trial.state.value) for trial in experiment.trials)


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
