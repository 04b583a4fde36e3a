"""Box distributions: one box of one image, in one variant or two side by side; above it a list of sides to pick from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import clicks, experiments, live, state, theme
from dashboard.figures import CONFIG, BoxColours
from dashboard.reader import reader
from dashboard.views.boxes_image_figure import box_on_image
from dashboard.views.boxes_side_figures import epoch_trend, sides
from gfl_lab.errors import StoreError
from gfl_lab.report import side_list
from gfl_lab.report.boxes import BoxView, box_view
from gfl_lab.report.side_list import SideFilter
from gfl_lab.results.rows import ExperimentRow, TrialRow, VariantRow

NONE, ALL = "none", "all"
LEAST = ("0", "0.3", "0.5", "0.7", "0.9")
THUMBNAILS = 7
_VALUES = {
    side_list.BIMODALITY: "bimodality {:.2f}",
    side_list.WIDTH: "{:.1f} bins wide",
    side_list.ERROR: "{:.1f} px off",
    side_list.DISAGREEMENT: "{:.1f} px apart",
}


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


NO_SIDES = "No distributions of box sides"
ALONE = "A detector of mmdet's gives boxes and scores alone, unless its head is mmdet's GFL head."


def _facts(view: BoxView) -> str:
    """Return one line on how well the box was found."""
    parts = []
    if view.gt is None:
        parts.append(f"false positive, score {view.detection_score:.2f}" if view.detection_score is not None else "false positive")
    elif view.detection is not None:
        parts.append(f"found: score {view.detection_score:.2f}, IoU {view.detection_iou:.2f}")
    else:
        parts.append("missed after NMS; dotted: what its cell decodes" if view.location_box else "missed")
    if view.location_iou is not None:
        parts.append(f"box at the cell: IoU {view.location_iou:.2f}")
    bimodal = [side for side in view.sides if side.bimodality > 0]
    for side in bimodal:
        gap = abs(side.mode_places[-1] - side.mode_places[0]) * side.px_per_bin
        parts.append(f"{side.side}: {len(side.mode_places)} modes {gap:.0f} px apart, bimodality {side.bimodality:.2f}")
    if not bimodal and any(side.probability is not None for side in view.sides):
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
        theme.empty(NO_SIDES, ALONE)
        return
    if not view.sides:
        theme.empty("No cell stands for this box", "The assigner gave it none, so there is no distribution to show.")
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


def _ranking(trial: TrialRow, image_id: int, box: str, variant: VariantRow) -> None:
    theme.heading("Most bimodal sides", f"Of all ground-truth boxes in {variant.name}, seed {trial.seed}. Pick a row to see its box.")
    try:
        if not reader().has_sides(variant, trial.id):
            theme.empty(NO_SIDES, f"{ALONE} Pick a variant of the GFL family above.")
            return
        ranking = reader().most_bimodal(trial.id)
    except StoreError as error:
        theme.alert(str(error))
        return
    if not len(ranking):
        theme.empty("No side has two modes", "A Dirac box has no distribution, and one that is sure of every edge has one mode a side.")
        return

    def pick() -> None:
        rows = st.session_state["ranking"].selection.rows
        if rows:
            picked = ranking.iloc[rows[0]]
            state.put(image=str(int(picked["image_id"])), box=str(int(picked["annotation_id"])))

    known = bool(ranking["true_gap_px"].notna().any())
    columns = [
        "image_id",
        "category",
        "side",
        "bimodality",
        "gap_px",
        *(["true_gap_px", "ambiguity"] if known else []),
        "neighbour",
        "cell_iou",
    ]
    number = st.column_config.NumberColumn
    st.dataframe(
        ranking,
        key="ranking",
        hide_index=True,
        on_select=pick,
        selection_mode="single-row",
        height=330,
        column_order=columns,
        column_config={
            "image_id": number("image", format="%d", width="small"),
            "category": st.column_config.TextColumn("class"),
            "side": st.column_config.TextColumn("side", width="small"),
            "bimodality": st.column_config.ProgressColumn(
                "bimodality", format="%.2f", min_value=0, max_value=1, help="0: one mode; 1: two equal modes, nothing between"
            ),
            "gap_px": number("modes apart [px]", format="%.1f"),
            "true_gap_px": number(
                "true edges apart [px]", format="%.1f", help="empty: this side is not ambiguous, its bimodality is false"
            ),
            "ambiguity": st.column_config.TextColumn("true ambiguity"),
            "neighbour": st.column_config.CheckboxColumn(
                "beside another box", help="another annotated box reaches into a band along this side and may hide it"
            ),
            "cell_iou": number("IoU at the cell", format="%.2f"),
        },
    )


def _trials(ready: list[VariantRow]) -> tuple[tuple[str, ...], dict[str, TrialRow], str]:
    """Draw the choice of one or two variants and a seed; return them with the first variant's trials by seed."""
    first_default, second_default = _default_variants(ready)
    names = [variant.name for variant in ready]
    first = state.choose("Variant", "variant", names, first_default, width=172)
    second = state.choose("Beside it", "beside", [NONE, *(n for n in names if n != first)], second_default, width=172)
    trials = {str(trial.seed): trial for variant in ready if variant.name == first for trial in experiments.with_distributions(variant)}
    seed = state.choose("Seed", "seed", list(trials), width=76)
    return ((first,) if second == NONE else (first, second)), trials, seed


def _listed(trial: TrialRow, categories: Sequence[str], other: TrialRow | None) -> tuple[pd.DataFrame, str]:
    """Draw the choice of the sides that are listed; return them, and what they are ordered by."""
    orders = {
        side_list.BIMODALITY: "most bimodal",
        side_list.WIDTH: "widest",
        side_list.ERROR: "furthest from the target",
        side_list.DISAGREEMENT: "the two variants disagree",
    }
    if other is None:
        del orders[side_list.DISAGREEMENT]
    everything = reader().side_list(trial.id, side_list.BIMODALITY, SideFilter(), None)
    default = side_list.BIMODALITY if len(everything) else side_list.WIDTH
    order = state.choose("Sides", "sides", list(orders), default, names=orders.__getitem__, width=190)
    category = state.choose("Class", "class", [ALL, *categories], width=120)
    iou = state.choose("IoU from", "iou", LEAST, names=_or_any, width=90)
    score = state.choose("Score from", "score", LEAST, names=_or_any, width=90)
    only = SideFilter("" if category == ALL else category, float(iou), float(score))
    return reader().side_list(trial.id, order, only, other.id if other else None), order


def _or_any(least: str) -> str:
    return "any" if least == "0" else least


def _strip(trial: TrialRow, listed: pd.DataFrame, order: str, chosen: str) -> None:
    """Draw the listed sides as pictures, a page of them with the chosen one."""
    if not len(listed):
        theme.show('<div class="dim small">No side is listed. Take another order, or lower the filters.</div>')
        return
    keys = [(str(int(row.image_id)), str(int(row.annotation_id))) for row in listed.itertuples()]
    at = next((i for i, (_, box) in enumerate(keys) if box == chosen), -1)
    start = max(at, 0) // THUMBNAILS * THUMBNAILS
    figures = []
    for i in range(start, min(start + THUMBNAILS, len(keys))):
        row, (image, box) = listed.iloc[i], keys[i]
        words = f"{row['side']}: {_VALUES[order].format(row['value'])}"
        try:
            picture = f'<img alt="{theme.text(words)}" src="{reader().thumbnail(trial.id, int(image), int(box), str(row["side"]))}">'
        except (StoreError, ValueError, KeyError, StopIteration) as error:
            picture = f'<span class="small">{theme.text(theme.redact(str(error)))}</span>'
        css = ' class="chosen"' if i == at else ""
        title = f"image {image}, box {box}, {row['category']}"
        figures.append(
            f'<figure{css} title="{theme.text(title)}" {clicks.put_attribute(image=image, box=box)}>{picture}'
            f"<figcaption>{theme.text(words)}</figcaption></figure>"
        )
    theme.show(f'<div class="strip">{"".join(figures)}</div>')


def _steps(listed: pd.DataFrame, chosen: str) -> None:
    """Draw the buttons to the listed side before the chosen one and to that after it."""
    keys = [(str(int(row.image_id)), str(int(row.annotation_id))) for row in listed.itertuples()]
    at = next((i for i, (_, box) in enumerate(keys) if box == chosen), -1)
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        for label, to in (("Previous", at - 1), ("Next", at + 1)):
            is_there = 0 <= to < len(keys)
            image, box = keys[to] if is_there else ("", "")
            st.button(label, key=f"side-{label}", disabled=not is_there, on_click=state.put, kwargs={"image": image, "box": box})
        theme.show(f'<div class="dim small">{"none" if at < 0 else at + 1} of {len(keys)} listed sides, one a box</div>')


def _choice(ready: list[VariantRow]) -> _Choice | None:
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
            listed, order = _listed(trial, sorted(pd.unique(index["category"])), others[0] if others else None)
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
            _steps(listed, box)
    with strip:
        _strip(trial, listed, order, box)
    return _Choice(variants, seed, trial, int(image), box, near)


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
    choice = _choice(ready)
    if choice is None:
        return
    palette, first = theme.colours(experiment), choice.variants[0]
    _legend(palette[first], theme.truth(), theme.ink(), experiment.data.truth)
    columns = st.container(key="two").columns(2, gap="medium")
    for slot, (name, column) in enumerate(zip(choice.variants, columns, strict=False)):
        with column:
            colours = BoxColours(palette[name], theme.truth(), theme.ink())
            _draw(experiments.variant_of(experiment, name), choice, colours, str(slot))
    with columns[1] if len(choice.variants) == 1 else st.container():
        _ranking(choice.trial, choice.image_id, choice.box, experiments.variant_of(experiment, first))


experiment = live.current()
theme.header("Learned box distributions", under=live.data_line(experiment))
_page(experiment)
live.watch(experiment)
