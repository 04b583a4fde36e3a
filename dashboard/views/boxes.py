"""Box distributions: one box of one image, in one variant or two side by side; above it a list of sides to pick from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import experiments, live, state, theme
from dashboard.figures import CONFIG, BoxColours
from dashboard.reader import reader
from dashboard.views import boxes_list
from dashboard.views.boxes_image_figure import box_on_image
from dashboard.views.boxes_side_figures import epoch_trend, sides
from gfl_lab.errors import StoreError
from gfl_lab.report.boxes import BoxView, box_view
from gfl_lab.report.side_answer import side_answer
from gfl_lab.results.rows import ExperimentRow, TrialRow, VariantRow

NONE = "none"


def _legend(colour: str, truth: str, ink: str, knows: bool) -> None:
    parts = [
        ('<span class="key box" style="border:2px solid #fff;background:#8a8a8a;outline:1px solid rgba(0,0,0,.5)"></span>', "ground truth"),
        (f'<span class="key box" style="border:2px solid {colour}"></span>', "prediction, in the variant's colour"),
        (f'<span class="key line" style="border-left:2px solid {ink}"></span>', "target: the annotated edge"),
        (f'<span class="key line" style="border-left:2px dashed {colour}"></span>', "expectation: the decoded edge"),
    ]
    if knows:
        pin = f'<span class="key pin" style="border-left:2px solid {truth};--pin:{truth}"></span>'
        parts.append((pin, "the two true edges, as high as each is probable"))
    theme.show('<div class="legend">' + "".join(f"<span>{sign}{theme.text(what)}</span>" for sign, what in parts) + "</div>")


def _facts(view: BoxView) -> str:
    """Return one line on how well the box was found."""
    parts = []
    if view.gt is None:
        parts.append(f"false positive, score {view.detection_score:.2f}" if view.detection_score is not None else "false positive")
    elif view.detection is not None:
        parts.append(f"found: score {view.detection_score:.2f}, IoU {view.detection_iou:.2f}")
    else:
        parts.append("missed after NMS; dotted: the box at its location" if view.location_box else "missed")
    if view.location_iou is not None:
        parts.append(f"box at the location: IoU {view.location_iou:.2f}")
    bimodal = [side for side in view.sides if side.bimodality > 0]
    for side in bimodal:
        gap = abs(side.mode_places[-1] - side.mode_places[0]) * side.px_per_bin
        parts.append(f"{side.side}: {len(side.mode_places)} modes {gap:.0f} px apart, bimodality {side.bimodality:.2f}")
    probabilities = [side.probability for side in view.sides if side.probability is not None]
    if probabilities and not np.isfinite(probabilities).all():
        parts.append("its distributions are not finite")
    elif probabilities and not bimodal:
        parts.append("every side has one mode")
    return " · ".join(parts)


def _trial(variant: VariantRow, seed: str) -> TrialRow | None:
    return next((trial for trial in experiments.with_distributions(variant) if str(trial.seed) == seed), None)


def _keys(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a key for each box of an image: its annotation's id, or the number of a false positive."""
    keys, false_positives = [], 0
    for row in rows:
        is_false = row["annotation_id"] < 0
        keys.append(f"fp{false_positives}" if is_false else str(row["annotation_id"]))
        false_positives += is_false
    return keys


def _title(row: Mapping[str, Any]) -> str:
    if row["annotation_id"] < 0:
        return f"{row['category']} (false positive, score {row['det_score']:.2f})"
    return f"{row['category']} (box {row['annotation_id']})"


@dataclass(frozen=True)
class _Choice:
    """The choices above the boxes: one or two variants, and a box of an image in the trial of a seed."""

    variants: tuple[str, ...]
    seed: str
    trial: TrialRow
    image_id: int
    box: str
    near: bool


def _draw(variant: VariantRow, choice: _Choice, colours: BoxColours, slot: str) -> None:
    trial = _trial(variant, choice.seed)
    theme.show(f"<b>{theme.swatch(colours.variant)}{theme.text(variant.name)}</b>")
    if trial is None:
        theme.empty(
            "No distributions of this variant", f"Seed {choice.seed} of it has not finished. They are written at the end of a trial."
        )
        return
    try:
        rows = reader().box_rows(trial.id, choice.image_id)
        row = dict(zip(_keys(rows), rows, strict=True)).get(choice.box)
        if row is None:
            theme.empty("Not in this variant", "A false positive belongs to the variant that made it.")
            return
        view = box_view(row)
        picture = reader().image(trial.id, choice.image_id)
    except (StoreError, ValueError, KeyError) as error:
        theme.alert(str(error))
        return
    theme.show(f'<div class="dim small">{theme.text(_facts(view))}</div>')
    st.plotly_chart(
        box_on_image(picture, view, colours, choice.near),
        width="content",
        key=f"image-{slot}",
        config=CONFIG,
        alt=f"image {choice.image_id} with its box and the distributions of its sides",
    )
    if not reader().has_sides(variant, trial.id):
        theme.empty(boxes_list.NO_SIDES, boxes_list.ALONE)
        return
    if not view.sides:
        theme.empty("No location for this box", "The assigner matched none to it, so there is no distribution to show.")
        return
    if all(side.probability is None for side in view.sides):
        theme.show('<div class="dim small">A Dirac box: one distance a side, no distribution.</div>')
    figure = sides(view, colours)
    st.plotly_chart(figure, key=f"sides-{slot}", config=CONFIG, alt="probability over bins for left, top, right and bottom")
    if view.gt is not None:
        _epoch_trend(trial, choice.image_id, int(row["annotation_id"]), colours, slot)


def _epoch_trend(trial: TrialRow, image_id: int, annotation_id: int, colours: BoxColours, slot: str) -> None:
    """Draw the same box after every epoch, where it is one of those that are followed."""
    try:
        trends = reader().epoch_trends(trial.id, image_id, annotation_id)
    except (StoreError, ValueError, KeyError) as error:
        theme.alert(str(error))
        return
    if not trends:
        return
    theme.show(
        '<div class="dim small">The same sides after every epoch, on the image: darker is more probable; dashed, the expectation.</div>'
    )
    figure = epoch_trend(trends, colours)
    st.plotly_chart(figure, key=f"growth-{slot}", config=CONFIG, alt="probability of each side's place after every epoch")


def _is_general(variant: VariantRow) -> bool:
    """Return True if the boxes of a variant are distributions, by its settings or, with a detector of mmdet's, by what a trial has."""
    if variant.is_own_detector:
        return variant.settings.get("box") == "general"
    try:
        return reader().has_sides(variant, experiments.with_distributions(variant)[0].id)
    except StoreError:
        return False


def _default_variants(ready: list[VariantRow]) -> tuple[str, str]:
    """Return the last variant that learns distributions, and the first other one that does, else the baseline."""
    general = [variant for variant in ready if _is_general(variant)] or ready
    first = general[-1]
    others = [v for v in general if v is not first] or [v for v in ready if v is not first]
    return first.name, others[0].name if others else NONE


def _trials(ready: list[VariantRow]) -> tuple[tuple[str, ...], dict[str, TrialRow], str]:
    """Draw the choice of one or two variants and a seed; return them with the first variant's trials by seed."""
    first_default, second_default = _default_variants(ready)
    names = [variant.name for variant in ready]
    first = state.choose("Variant", "variant", names, first_default, width=172)
    second = state.choose("Beside it", "beside", [NONE, *(n for n in names if n != first)], second_default, width=172)
    trials = {str(trial.seed): trial for variant in ready if variant.name == first for trial in experiments.with_distributions(variant)}
    seed = state.choose("Seed", "seed", list(trials), width=76)
    return ((first,) if second == NONE else (first, second)), trials, seed


def _choice(ready: list[VariantRow], palette: Mapping[str, str]) -> _Choice | None:
    """Draw the choices and the listed sides; None, with a message, if there is nothing to choose from."""
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
        variants, trials, seed = _trials(ready)
        trial = trials[seed]
        others = [each for variant in ready if variant.name in variants[1:] and (each := _trial(variant, seed))]
        try:
            index = reader().boxes(trial.id)
            if not len(index):
                theme.empty("No boxes", "The validation images of this data set hold no boxes.")
                return None
            listed, order = boxes_list.listed(trial, sorted(pd.unique(index["category"])), others[0] if others else None)
        except StoreError as error:
            theme.alert(str(error))
            return None
    strip = st.container()
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
        images = [str(i) for i in pd.unique(index["image_id"])]
        image = state.choose("Image", "image", images, str(int(listed["image_id"].iloc[0])) if len(listed) else None, width=100)
        rows: list[dict[str, Any]] = index[index["image_id"] == int(image)].to_dict("records")
        titles = dict(zip(_keys(rows), map(_title, rows), strict=True))
        ranked = listed[listed["image_id"] == int(image)]
        default = str(int(ranked["annotation_id"].iloc[0])) if len(ranked) else None
        box = state.choose("Box", "box", list(titles), default, names=titles.__getitem__, width=200)
        near = state.switch("Zoom to the box", "zoom", True)
        if len(listed):
            boxes_list.steps(listed, box)
    with strip:
        boxes_list.strip(trial, listed, order, box, palette[variants[0]])
    return _Choice(variants, seed, trial, int(image), box, near)


def _answer(variant: VariantRow, trial: TrialRow) -> None:
    """Draw how many sides of the trial have two modes, and how many ambiguous edges are found as two."""
    box = str(variant.settings.get("box", "")) if variant.is_own_detector else ""
    try:
        theme.answer(side_answer(reader().sides(trial.id), reader().edge_counts(trial.id), f"{variant.name}, seed {trial.seed}", box))
    except StoreError as error:
        theme.alert(str(error))


def _page(experiment: ExperimentRow) -> None:
    if experiment.is_imported:
        theme.empty("No box distributions", "This experiment is made of imported detections. They hold boxes and scores, no distributions.")
        return
    ready = [variant for variant in experiment.variants if experiments.with_distributions(variant)]
    if not ready:
        running = [trial for trial in experiment.trials if trial.state.value == "running"]
        reason = (
            f"The furthest trial is at epoch {max(t.epoch for t in running)} of {running[0].epochs}."
            if running
            else "No trial of this experiment has finished."
        )
        theme.empty("No distributions yet", f"A trial writes them when it has finished. {reason}")
        return
    answer = st.container()
    palette = theme.colours(experiment)
    choice = _choice(ready, palette)
    if choice is None:
        return
    with answer:
        _answer(experiments.variant_of(experiment, choice.variants[0]), choice.trial)
    first = choice.variants[0]
    _legend(palette[first], theme.truth(), theme.ink(), experiment.data.truth)
    columns = st.container(key="two").columns(2, gap="medium")
    for slot, (name, column) in enumerate(zip(choice.variants, columns, strict=False)):
        with column:
            colours = BoxColours(palette[name], theme.truth(), theme.ink())
            _draw(experiments.variant_of(experiment, name), choice, colours, str(slot))
    with columns[1] if len(choice.variants) == 1 else st.container():
        boxes_list.table(choice.trial, experiments.variant_of(experiment, first))


experiment = live.current()
theme.header("Learned box distributions", under=live.data_line(experiment))
_page(experiment)
live.watch(experiment)
