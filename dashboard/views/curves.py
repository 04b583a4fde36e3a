"""Training curves: AP by epoch and every loss term by step, one colour a variant, seeds as bands."""

from __future__ import annotations

from collections.abc import Iterable

import plotly.graph_objects as go
import streamlit as st

from dashboard import live, state, theme
from dashboard.figures import CONFIG
from dashboard.reader import reader
from dashboard.views import curves_figures
from gfl_lab.report.curves import curve_keys, curves
from gfl_lab.results.rows import ExperimentRow

WINDOWS = ("1", "5", "11", "25", "51")


def _keys(logged: Iterable[tuple[str, str]], kind: str) -> tuple[str, ...]:
    return curve_keys(key for found, key in logged if found == kind)


def _plot(figure: go.Figure, key: str, alt: str) -> None:
    st.plotly_chart(figure, key=key, config=CONFIG, alt=alt)


def _body(experiment: ExperimentRow) -> None:
    logged = reader().store.logged(experiment)
    terms = _keys(logged, "train")
    palette = theme.colours(experiment)
    order = [variant.name for variant in experiment.variants]
    if not terms:
        theme.empty("Nothing has been logged yet", "Curves appear with the first training step.")
        return
    begun = {one.variant for one in logged["train", terms[0]]}
    theme.variants_legend([name for name in order if name in begun], palette)
    several = any(len(variant.trials) > 1 for variant in experiment.variants)
    how = (
        "The line is the mean over seeds, drawn where every seed has got to; the band their range; hairlines are single seeds."
        if several
        else "One seed."
    )

    theme.heading("On the validation images, after each epoch", how)
    keys = _keys(logged, "val")
    if keys:
        shown = st.session_state["w:metric"] if st.session_state.get("w:metric") in keys else keys[0]
        found = curves(logged["val", shown], "val")
        _plot(
            curves_figures.curves(found, shown, palette, order, epochs=True, height=340),
            f"val-{shown}",
            f"{shown} after each epoch, one line a variant",
        )
    else:
        theme.empty("No epoch has been evaluated yet", "The first evaluation comes at the end of the first epoch.")

    window = int(st.session_state.get("w:smooth", WINDOWS[0]))
    smoothed = f"Mean over {window} consecutive steps." if window > 1 else "Every step, as logged."
    theme.heading("On the training images, each step", smoothed + " A gap is a value that was not finite.")
    columns = st.columns(2, gap="medium")
    for index, key in enumerate(terms):
        with columns[index % 2]:
            theme.show(f'<div><b>{theme.text(key)}</b> <span class="dim">{theme.text(curves_figures.TERMS.get(key, ""))}</span></div>')
            found = curves(logged["train", key], "train", window if key != "lr" else 1)
            _plot(
                curves_figures.curves(found, key, palette, order, epochs=False, height=240),
                f"train-{key}",
                f"{key} at each step, one line a variant",
            )


experiment = live.current()
theme.header("Training curves", under=live.data_line(experiment))
if experiment.is_imported:
    theme.empty("No training curves", "This experiment is made of imported detections. Nothing was trained here, so no step was logged.")
    st.stop()
keys = _keys(reader().store.logged(experiment), "val") or ("AP",)
with st.container(horizontal=True, gap="large"):
    state.choose("Validation metric", "metric", keys, "AP", widget=st.segmented_control, required=True)
    state.choose(
        "Mean over steps", "smooth", WINDOWS, "11", names=lambda w: "off" if w == "1" else w, widget=st.segmented_control, required=True
    )
live.follow(_body)
