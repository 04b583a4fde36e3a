"""Training curves: AP by epoch and every loss term by step, one colour a variant, seeds as bands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import plotly.graph_objects as go
import streamlit as st

from dashboard import downloads, live, state, theme
from dashboard.experiments import SEARCH
from dashboard.figures import CONFIG
from dashboard.reader import reader
from dashboard.views import curves_figures
from gfl_lab.report.curves import curve_keys, curves, differing_terms, term_groups
from gfl_lab.report.formatting import metric_title
from gfl_lab.results.rows import ExperimentRow, Logged

WINDOWS = ("1", "5", "11", "25", "51")
MOST_PANELS = 8  # a term that is more different losses than this is drawn in one plot all the same
LAST = ("0", "3", "6", "12")  # 0 is all


def _keys(logged: Iterable[tuple[str, str]], kind: str) -> tuple[str, ...]:
    return curve_keys(key for found, key in logged if found == kind)


def _groups(experiment: ExperimentRow, term: str, logged: Sequence[Logged]) -> list[tuple[str, ...]]:
    """Return the variants that have logged a term, in groups for which it is the same loss; one group for a search, and for many losses."""
    having = {one.variant for one in logged}
    variants = [(variant.name, variant.settings) for variant in experiment.variants if variant.name in having]
    groups = term_groups(term, variants)
    if experiment.kind == SEARCH or len(groups) > MOST_PANELS:
        return [tuple(name for name, _ in variants)]
    return groups


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

    last = int(st.session_state.get("w:last", "0"))
    theme.heading("On the validation images, after each epoch", how)
    keys = _keys(logged, "val")
    if keys:
        shown = st.session_state["w:metric"] if st.session_state.get("w:metric") in keys else keys[0]
        found = curves(logged["val", shown], "val", last_epochs=last)
        _plot(
            curves_figures.curves(found, shown, palette, order, epochs=True, height=340),
            f"val-{shown}",
            f"{shown} after each epoch, one line a variant",
        )
        downloads.figure(f"val-{shown}", experiment, f"{shown} on the validation images after each epoch. {how}")
    else:
        theme.empty("No epoch has been evaluated yet", "The first evaluation comes at the end of the first epoch.")

    is_log = st.session_state.get("w:log", False)
    window = int(st.session_state.get("w:smooth", WINDOWS[0]))
    smoothed = f"Mean over {window} consecutive steps." if window > 1 else "Every step, as logged."
    theme.heading("On the training images, each step", smoothed + " A gap is a value that was not finite.")
    differing = differing_terms({name: [one.variant for one in logged[kind, name]] for kind, name in logged if kind == "train"})
    if differing:
        parts = "; ".join(f"{term}: {', '.join(names)}" for term, names in differing.items())
        theme.show(
            '<div class="dim small">Variants learn from different terms, so their sums are not comparable and <b>loss</b> is left out. '
            f"Terms that not all have: {theme.text(parts)}.</div>"
        )
        terms = tuple(term for term in terms if term != "loss")
    panels = [
        (key, group, len(groups) > 1) for key in terms for groups in [_groups(experiment, key, logged["train", key])] for group in groups
    ]
    if any(several for _, _, several in panels):
        theme.show('<div class="dim small">A term that is another loss in some variants has a plot for each loss.</div>')
    columns = st.columns(2, gap="medium")
    for index, (key, group, several) in enumerate(panels):
        with columns[index % 2]:
            about = f"of {', '.join(group)}" if several else curves_figures.TERMS.get(key, "")
            theme.show(f'<div><b>{theme.text(key)}</b> <span class="dim">{theme.text(about)}</span></div>')
            of_group = [one for one in logged["train", key] if one.variant in group]
            found = curves(of_group, "train", window if key != "lr" else 1, last_epochs=last)
            figure = curves_figures.curves(found, key, palette, order, epochs=False, height=240, log=is_log)
            _plot(figure, f"train-{key}-{group[0]}", f"{key} at each step, one line a variant")


experiment = live.current()
theme.header("Training curves", under=live.data_line(experiment))
if experiment.is_imported:
    theme.empty("No training curves", "This experiment is made of imported detections. Nothing was trained here, so no step was logged.")
    st.stop()
keys = _keys(reader().store.logged(experiment), "val") or ("AP",)
with st.container(horizontal=True, gap="large"):
    state.choose("Validation metric", "metric", keys, "AP", names=metric_title, widget=st.segmented_control, required=True)
    state.choose(
        "Mean over steps", "smooth", WINDOWS, "11", names=lambda w: "off" if w == "1" else w, widget=st.segmented_control, required=True
    )
    state.choose("Last epochs", "last", LAST, names=lambda n: "all" if n == "0" else n, widget=st.segmented_control, required=True)
    state.switch("Logarithmic losses", "log")
live.follow(_body)
