"""Training curves: AP by epoch and every loss term by step, one colour a variant, seeds as bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
import streamlit as st

from dashboard import downloads, live, state, theme
from dashboard.experiments import SEARCH
from dashboard.figures import CONFIG
from dashboard.reader import reader
from dashboard.views import curves_figures
from gfl_lab.report.curve_answer import curve_answer
from gfl_lab.report.curves import curve_keys, curves, differing_terms, term_groups
from gfl_lab.report.formatting import metric_title
from gfl_lab.results.rows import ExperimentRow, Logged

WINDOWS = ("1", "5", "11", "25", "51")
MOST_PANELS = 8  # a term that is more different losses than this is drawn in one plot all the same
LAST = ("0", "3", "6", "12")  # 0 is all

_Found = Mapping[tuple[str, str], Sequence[Logged]]  # what trials have logged, by kind and key


def _keys(logged: _Found, kind: str) -> tuple[str, ...]:
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


def _answer(experiment: ExperimentRow) -> None:
    """Draw which variants still improve at the end, and which losses diverged."""
    if logged := reader().store.logged(experiment):
        theme.answer(curve_answer(experiment, logged))


def _body(experiment: ExperimentRow) -> None:
    logged = reader().store.logged(experiment)
    terms = _keys(logged, "train")
    if not terms:
        theme.empty("Nothing has been logged yet", "Curves appear with the first training step.")
        return
    begun = {one.variant for one in logged["train", terms[0]]}
    theme.variants_legend([variant.name for variant in experiment.variants if variant.name in begun], theme.colours(experiment))
    last_epochs = int(st.session_state.get("w:last", "0"))
    _validation(experiment, logged, last_epochs)
    _training(experiment, logged, last_epochs)


def _validation(experiment: ExperimentRow, logged: _Found, last_epochs: int) -> None:
    """Draw the chosen metric of the validation images by epoch."""
    how = "One seed."
    if any(len(variant.trials) > 1 for variant in experiment.variants):
        how = (
            "The line is the mean over seeds, up to the epoch that all of them have reached; the band is their range; hairlines are seeds."
        )
    theme.heading("On the validation images, after each epoch", how)
    keys = _keys(logged, "val")
    if not keys:
        theme.empty("No epoch has been evaluated yet", "The first evaluation comes at the end of the first epoch.")
        return
    chosen = str(st.session_state.get("w:metric", ""))
    shown = chosen if chosen in keys else keys[0]
    found = curves(logged["val", shown], "val", last_epochs=last_epochs)
    order = [variant.name for variant in experiment.variants]
    figure = curves_figures.curves(found, shown, theme.colours(experiment), order, epochs=True, height=340)
    _plot(figure, f"val-{shown}", f"{shown} after each epoch, one line a variant")
    downloads.figure(f"val-{shown}", experiment, f"{shown} on the validation images after each epoch. {how}")


def _training(experiment: ExperimentRow, logged: _Found, last_epochs: int) -> None:
    """Draw each term of the loss by step: one plot for variants in which it is the same loss."""
    window = int(st.session_state.get("w:smooth", WINDOWS[0]))
    smoothed = f"Mean over {window} consecutive steps." if window > 1 else "Every step, as logged."
    theme.heading("On the training images, each step", smoothed + " A gap is a value that was not finite.")
    terms = _keys(logged, "train")
    differing = differing_terms({term: [one.variant for one in logged["train", term]] for term in terms})
    if differing:
        parts = "; ".join(f"{term}: {', '.join(names)}" for term, names in differing.items())
        theme.show(
            '<div class="dim small">Variants learn from different terms, so their sums are not comparable and <b>loss</b> is left out. '
            f"Terms that only some variants have: {theme.text(parts)}.</div>"
        )
        terms = tuple(term for term in terms if term != "loss")
    groups = {term: _groups(experiment, term, logged["train", term]) for term in terms}
    if any(len(each) > 1 for each in groups.values()):
        theme.show('<div class="dim small">A term that is another loss in some variants has a plot for each loss.</div>')
    palette, order = theme.colours(experiment), [variant.name for variant in experiment.variants]
    is_log = bool(st.session_state.get("w:log", False))
    columns = st.columns(2, gap="medium")
    panels = [(term, group) for term in terms for group in groups[term]]
    for index, (term, group) in enumerate(panels):
        with columns[index % 2]:
            about = f"of {', '.join(group)}" if len(groups[term]) > 1 else curves_figures.TERMS.get(term, "")
            theme.show(f'<div><b>{theme.text(term)}</b> <span class="dim">{theme.text(about)}</span></div>')
            of_group = [one for one in logged["train", term] if one.variant in group]
            found = curves(of_group, "train", window if term != "lr" else 1, last_epochs=last_epochs)
            figure = curves_figures.curves(found, term, palette, order, epochs=False, height=240, log=is_log)
            _plot(figure, f"train-{term}-{group[0]}", f"{term} at each step, one line a variant")


experiment = live.current()
theme.header("Training curves", under=live.data_line(experiment))
if experiment.is_imported:
    theme.empty("No training curves", "This experiment is made of imported detections. Nothing was trained here, so no step was logged.")
    st.stop()
live.follow(_answer)
keys = _keys(reader().store.logged(experiment), "val") or ("AP",)
with st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
    state.choose("Validation metric", "metric", keys, "AP", names=metric_title, widget=st.segmented_control, required=True)
    state.choose(
        "Mean over steps", "smooth", WINDOWS, "11", names=lambda w: "off" if w == "1" else w, widget=st.segmented_control, required=True
    )
    state.choose("Last epochs", "last", LAST, names=lambda n: "all" if n == "0" else n, widget=st.segmented_control, required=True)
    state.switch("Logarithmic losses", "log")
live.follow(_body)
