"""Pages that follow running trials: a part of a page draws itself again every two seconds, only while a trial runs."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from dashboard import experiments, theme
from dashboard.reader import reader
from gfl_lab.errors import StoreError
from gfl_lab.results.rows import ExperimentRow

CURRENT = "current experiment"
EVERY_S = 2.0


def current() -> ExperimentRow:
    """Return the experiment chosen above the page, read now. Without one, show why and stop the page."""
    chosen = st.session_state.get(CURRENT)
    if chosen is None:
        theme.empty("No experiment yet", "Run one, and it appears here while it trains.", "gfl-lab run experiments/table3_qfl_dfl.yaml")
        st.stop()
    try:
        return reader().store.experiment(*chosen)
    except StoreError as error:
        theme.alert(str(error))
        st.stop()


def follow(body: Callable[[ExperimentRow], None]) -> None:
    """Draw ``body`` of the current experiment, again and again while a trial of it runs."""
    running = experiments.is_live(current())

    @st.fragment(run_every=EVERY_S if running else None)
    def part() -> None:
        experiment = current()
        body(experiment)
        if running and not experiments.is_live(experiment):
            st.rerun()  # the last one ended: draw the whole page once more, and stop looking

    part()


def watch(*shown: ExperimentRow) -> None:
    """Draw the whole page again when a trial of an experiment on it changes its state; for pages that show finished trials only."""
    if not experiments.is_live(*shown):
        return
    before = [experiments.signature(experiment) for experiment in shown]

    @st.fragment(run_every=3 * EVERY_S)
    def part() -> None:
        if [experiments.signature(_again(experiment)) for experiment in shown] != before:
            st.rerun()

    part()


def _again(experiment: ExperimentRow) -> ExperimentRow:
    """Return an experiment as it is now; the same where it cannot be read any more."""
    try:
        return reader().store.experiment(experiment.name, experiment.profile)
    except StoreError:
        return experiment


def data_line(experiment: ExperimentRow) -> str:
    """Return the data of an experiment in a line."""
    return experiment.data.text
