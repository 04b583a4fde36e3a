"""Box distributions: one box of one image, in one variant or two side by side; and the most bimodal sides to pick from."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from dashboard import charts, data, live, state, theme
from gfl_lab.report import series
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


def _facts(view: series.BoxView) -> str:
    """One line on how well the box was found."""
    parts = []
    if view.gt is None:
        parts.append(f"false positive, score {view.detection_score:.2f}" if view.detection_score is not None else "false positive")
    elif view.detection is not None:
        parts.append(f"found: score {view.detection_score:.2f}, IoU {view.detection_iou:.2f}")
    else:
        parts.append("missed after NMS; dotted: what its cell decodes" if view.cell_box else "missed")
    if view.cell_iou is not None:
        parts.append(f"box at the cell: IoU {view.cell_iou:.2f}")
    bimodal = [side for side in view.sides if side.bimodality > 0]
    for side in bimodal:
        gap = abs(side.mode_places[-1] - side.mode_places[0]) * side.px_per_bin
        parts.append(f"{side.side}: {len(side.mode_places)} modes {gap:.0f} px apart, bimodality {side.bimodality:.2f}")
    if not bimodal and any(side.probability is not None for side in view.sides):
        parts.append("every side has one mode")
    return " · ".join(parts)


def _trial(variant: VariantRow, seed: str) -> TrialRow | None:
    return next((trial for trial in data.with_distributions(variant) if str(trial.seed) == seed), None)


def _key(row: dict, index: int) -> str:
    return str(row["annotation_id"]) if row["annotation_id"] >= 0 else f"fp{index}"


def _find(rows: list[dict], box: str) -> dict | None:
    false = 0
    for row in rows:
        if _key(row, false) == box:
            return row
        false += row["annotation_id"] < 0
    return None


def _draw(variant: VariantRow, seed: str, image_id: int, box: str, colour: str, near: bool, slot: str) -> None:
    trial = _trial(variant, seed)
    theme.show(f"<b>{theme.swatch(colour)}{theme.text(variant.name)}</b>")
    if trial is None:
        theme.empty("No distributions of this variant", f"Seed {seed} of it has not finished. They are written at the end of a trial.")
        return
    try:
        row = _find(data.box_rows(trial.id, image_id), box)
        if row is None:
            theme.empty("Not in this variant", "A false positive belongs to the variant that made it.")
            return
        view = series.box_view(row)
        picture = data.image(trial.id, image_id)
    except (data.StoreError, ValueError, KeyError) as error:
        theme.alert(str(error))
        return
    theme.show(f'<div class="dim small">{theme.text(_facts(view))}</div>')
    figure = charts.box_on_image(picture, view, colour, theme.truth(), theme.ink(), near)
    st.plotly_chart(
        figure,
        width="content",
        key=f"image-{slot}",
        config=charts.CONFIG,
        alt=f"image {image_id} with its box and the distributions of its sides",
    )
    if not view.sides:
        theme.empty("No cell stands for this box", "The assigner gave it none, so there is no distribution to show.")
        return
    if all(side.probability is None for side in view.sides):
        theme.show('<div class="dim small">A Dirac box: one distance a side, no distribution.</div>')
    figure = charts.sides(view, colour, theme.truth(), theme.ink())
    st.plotly_chart(figure, key=f"sides-{slot}", config=charts.CONFIG, alt="probability over bins for left, top, right and bottom")
    if view.gt is not None:
        _growth(trial, image_id, int(row["annotation_id"]), colour, slot)


def _growth(trial: TrialRow, image_id: int, annotation_id: int, colour: str, slot: str) -> None:
    """The same box after every epoch, where it is one of those that are followed."""
    try:
        frame = data.store().history(trial.id, image_id, annotation_id)
        found = series.growth(frame) if frame is not None else ()
    except (data.StoreError, ValueError, KeyError) as error:
        theme.alert(str(error))
        return
    if not found:
        return
    theme.show(
        '<div class="dim small">The same sides after every epoch, on the image: darker is more probable; dashed, the expectation.</div>'
    )
    figure = charts.growth(found, colour, theme.truth(), theme.ink())
    st.plotly_chart(figure, key=f"growth-{slot}", config=charts.CONFIG, alt="probability of each side's place after every epoch")


def _default_variants(ready: list[VariantRow]) -> tuple[str, str]:
    """The last variant that learns distributions, and the first other one that does, else the baseline."""
    general = [variant for variant in ready if variant.settings.get("dfl")] or ready
    first = general[-1]
    others = [v for v in general if v is not first] or [v for v in ready if v is not first]
    return first.name, others[0].name if others else NONE


def _ranking(trial: TrialRow, image_id: int, box: str, variant: str) -> None:
    theme.heading("Most bimodal sides", f"Of all ground-truth boxes in {variant}, seed {trial.seed}. Pick a row to see its box.")
    try:
        ranking = data.most_bimodal(trial.id)
    except data.StoreError as error:
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


def _gallery(trial: TrialRow, variant: str) -> None:
    theme.heading(
        "Gallery",
        f"The most bimodal sides of {variant}, seed {trial.seed}: the annotated box, and where the model believes that side to be.",
    )
    if not state.switch("Show the gallery", "gallery"):
        return
    try:
        shown = data.gallery(trial.id)
    except (data.StoreError, ValueError, KeyError, StopIteration) as error:
        theme.alert(f"the gallery cannot be drawn: {error}")
        return
    if not shown:
        theme.empty("No side has two modes", "There is nothing to draw.")
    columns = st.columns(4, gap="small")
    for index, (image_id, annotation, side, bimodality, picture) in enumerate(shown):
        with columns[index % 4]:
            st.image(picture)
            theme.show(f'<div class="dim small">image {image_id}, box {annotation}, {theme.text(side)}: {bimodality:.2f}</div>')


def _page(experiment: ExperimentRow) -> None:
    ready = [variant for variant in experiment.variants if data.with_distributions(variant)]
    if not ready:
        running = [trial for trial in experiment.trials if trial.state.value == "running"]
        told = (
            f"The furthest trial is at epoch {max(t.epoch for t in running)} of {running[0].epochs}."
            if running
            else "No trial of this experiment has finished."
        )
        theme.empty("No distributions yet", f"A trial writes them when it has finished. {told}")
        return
    palette = theme.colours(experiment)
    first_default, second_default = _default_variants(ready)
    names = [variant.name for variant in ready]
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
        first = state.choose("Variant", "variant", names, first_default, width=172)
        second = state.choose("Beside it", "beside", [NONE, *(n for n in names if n != first)], second_default, width=172)
        variant = data.variant_of(experiment, first)
        seeds = [str(trial.seed) for trial in data.with_distributions(variant)]
        seed = state.choose("Seed", "seed", seeds, width=76)
        trial = _trial(variant, seed)
        try:
            index, ranking = data.boxes(trial.id), data.most_bimodal(trial.id)
        except data.StoreError as error:
            theme.alert(str(error))
            return
        if not len(index):
            theme.empty("No boxes", "The validation images of this data set hold no boxes.")
            return
        images = [str(i) for i in pd.unique(index["image_id"])]
        image = state.choose("Image", "image", images, str(int(ranking["image_id"].iloc[0])) if len(ranking) else None, width=100)
        rows = index[index["image_id"] == int(image)].to_dict("records")
        boxes, false = {}, 0
        for row in rows:
            is_false = row["annotation_id"] < 0
            boxes[_key(row, false)] = (
                f"{row['category']} (false positive, score {row['det_score']:.2f})"
                if is_false
                else f"{row['category']} (box {row['annotation_id']})"
            )
            false += is_false
        in_ranking = ranking[ranking["image_id"] == int(image)] if len(ranking) else ranking
        box = state.choose(
            "Box",
            "box",
            list(boxes),
            str(int(in_ranking["annotation_id"].iloc[0])) if len(in_ranking) else None,
            names=boxes.get,
            width=200,
        )
        near = state.switch("Zoom to the box", "zoom", True)

    _legend(palette[first], theme.truth(), theme.ink(), experiment.data.truth)
    if second == NONE:
        columns = st.container(key="two").columns(2, gap="medium")
        shown = [(first, columns[0])]
    else:
        columns = st.container(key="two").columns(2, gap="medium")
        shown = [(first, columns[0]), (second, columns[1])]
    for slot, (name, column) in enumerate(shown):
        with column:
            _draw(data.variant_of(experiment, name), seed, int(image), box, palette[name], near, str(slot))
    if second == NONE:
        with columns[1]:
            _ranking(trial, int(image), box, first)
    else:
        _ranking(trial, int(image), box, first)
    _gallery(trial, first)


experiment = live.current()
theme.header("Learned box distributions", under=live.data_line(experiment))
_page(experiment)
live.watch(experiment)
