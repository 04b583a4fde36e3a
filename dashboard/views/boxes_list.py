"""The sides to pick from on the page Boxes: the choice of an order, pictures, buttons to the ones before and after, and a table."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from dashboard import clicks, pager, state, theme
from dashboard.reader import reader
from gfl_lab.errors import StoreError
from gfl_lab.report import side_list
from gfl_lab.report.side_list import SideFilter
from gfl_lab.results.rows import TrialRow, VariantRow

NO_SIDES = "No distributions of box sides"
ALONE = "A detector of mmdet's gives boxes and scores alone, unless its head is mmdet's GFL head."
_ALL = "all"
_LEAST = ("0", "0.3", "0.5", "0.7", "0.9")
_PER_STRIP = 7
_ORDERS = {
    side_list.BIMODALITY: ("most bimodal", "bimodality {:.2f}"),
    side_list.WIDTH: ("widest", "{:.1f} bins wide"),
    side_list.ERROR: ("furthest from the target", "{:.1f} px off"),
    side_list.DISAGREEMENT: ("the two variants disagree", "{:.1f} px apart"),
}
"""Title of each order, and the value that it shows below a picture."""


def listed(trial: TrialRow, categories: Sequence[str], other: TrialRow | None) -> tuple[pd.DataFrame, str]:
    """Draw the choice of the sides that are listed; return them, and what they are ordered by. Raises StoreError."""
    orders = [order for order in _ORDERS if other is not None or order != side_list.DISAGREEMENT]
    has_bimodal = len(reader().side_list(trial.id, side_list.BIMODALITY, SideFilter(), None)) > 0
    default = side_list.BIMODALITY if has_bimodal else side_list.WIDTH
    order = state.choose("Sides", "sides", orders, default, names=lambda key: _ORDERS[key][0], width=190)
    category = state.choose("Class", "class", [_ALL, *categories], width=120)
    iou = state.choose("IoU from", "iou", _LEAST, names=_or_any, width=90)
    score = state.choose("Score from", "score", _LEAST, names=_or_any, width=90)
    only = SideFilter("" if category == _ALL else category, float(iou), float(score))
    return reader().side_list(trial.id, order, only, other.id if other else None), order


def _or_any(least: str) -> str:
    return "any" if least == "0" else least


def _boxes(found: pd.DataFrame) -> list[tuple[str, str]]:
    """Return (image, box) of each listed side."""
    return [(str(int(row.image_id)), str(int(row.annotation_id))) for row in found.itertuples()]


def _position(boxes: Sequence[tuple[str, str]], chosen: str) -> int:
    """Return the position of the chosen box; -1 if it is not listed."""
    return next((i for i, (_, box) in enumerate(boxes) if box == chosen), -1)


def strip(trial: TrialRow, found: pd.DataFrame, order: str, chosen: str, colour: str) -> None:
    """Draw the listed sides as pictures in the ``colour`` of the variant, a page of them with the chosen one."""
    if not len(found):
        theme.show('<div class="dim small">No side is listed. Take another order, or lower the filters.</div>')
        return
    boxes = _boxes(found)
    at = _position(boxes, chosen)
    start = max(at, 0) // _PER_STRIP * _PER_STRIP
    figures = []
    for i in range(start, min(start + _PER_STRIP, len(boxes))):
        row, (image, box) = found.iloc[i], boxes[i]
        words = f"{row['side']}: {_ORDERS[order][1].format(row['value'])}"
        try:
            source = reader().thumbnail(trial.id, int(image), int(box), str(row["side"]), (colour, theme.page()))
            picture = f'<img alt="{theme.text(words)}" src="{source}">'
        except (StoreError, ValueError, KeyError, StopIteration) as error:
            picture = f'<span class="small">{theme.text(theme.redact(str(error)))}</span>'
        css = ' class="chosen"' if i == at else ""
        title = f"image {image}, box {box}, {row['category']}"
        figures.append(
            f'<figure{css} title="{theme.text(title)}" {clicks.put_attribute(image=image, box=box)}>{picture}'
            f"<figcaption>{theme.text(words)}</figcaption></figure>"
        )
    theme.show(f'<div class="strip">{"".join(figures)}</div>')


def steps(found: pd.DataFrame, chosen: str) -> None:
    """Draw the buttons to the listed side before the chosen one and to that after it."""
    boxes = _boxes(found)
    at = _position(boxes, chosen)
    before, after = ({"image": boxes[to][0], "box": boxes[to][1]} if 0 <= to < len(boxes) else None for to in (at - 1, at + 1))
    pager.show("side", before, after, f"{'none' if at < 0 else at + 1} of {len(boxes)} listed sides, one a box")


def table(trial: TrialRow, variant: VariantRow) -> None:
    """Draw the most bimodal sides as a table; a picked row is the box that is shown."""
    theme.heading("Most bimodal sides", f"Of all ground-truth boxes in {variant.name}, seed {trial.seed}. Pick a row to see its box.")
    try:
        if not reader().has_sides(variant, trial.id):
            theme.empty(NO_SIDES, f"{ALONE} Pick a variant of the GFL family above.")
            return
        found = reader().most_bimodal(trial.id)
    except StoreError as error:
        theme.alert(str(error))
        return
    if not len(found):
        theme.empty("No side has two modes", "A Dirac box has no distribution, and one that is sure of every edge has one mode a side.")
        return

    def pick() -> None:
        rows = st.session_state["ranking"].selection.rows
        if rows:
            picked = found.iloc[rows[0]]
            state.put(image=str(int(picked["image_id"])), box=str(int(picked["annotation_id"])))

    truth = ["true_gap_px", "ambiguity"] if found["true_gap_px"].notna().any() else []
    number, text = st.column_config.NumberColumn, st.column_config.TextColumn
    st.dataframe(
        found,
        key="ranking",
        hide_index=True,
        on_select=pick,
        selection_mode="single-row",
        height=330,
        column_order=["image_id", "category", "side", "bimodality", "gap_px", *truth, "neighbour", "cell_iou"],
        column_config={
            "image_id": number("image", format="%d", width="small"),
            "category": text("class"),
            "side": text("side", width="small"),
            "bimodality": st.column_config.ProgressColumn(
                "bimodality", format="%.2f", min_value=0, max_value=1, help="0: one mode; 1: two equal modes, nothing between"
            ),
            "gap_px": number("modes apart [px]", format="%.1f"),
            "true_gap_px": number(
                "true edges apart [px]", format="%.1f", help="empty: this side is not ambiguous, its bimodality is false"
            ),
            "ambiguity": text("true ambiguity"),
            "neighbour": st.column_config.CheckboxColumn(
                "beside another box", help="another annotated box reaches into a band along this side and may hide it"
            ),
            "cell_iou": number("IoU at the location", format="%.2f"),
        },
    )
