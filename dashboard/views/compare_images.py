"""The images behind a class or a type of error: what one variant finds and the other misses, or which errors one alone makes."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from dashboard import pager, state, theme
from dashboard.reader import reader
from gfl_lab.errors import StoreError
from gfl_lab.report.difference_images import MISSED, ImageDifference, Mark
from gfl_lab.report.drawing import draw_marks
from gfl_lab.report.variant_comparison import CLASS
from gfl_lab.report.variant_pair import VariantPair
from gfl_lab.wording import plural

OF, BY = "images_of", "images_by"
NONE = ""
FIRST, SECOND = "variant", "reference"
PER_PAGE = 8
SCORES = ("0", "0.1", "0.3", "0.5")


def key(group: str, name: str) -> str:
    """Return what stands in the address for the images of a class or a type of error."""
    return f"{group}:{name}"


def show(group: str, names: Sequence[str], pair: VariantPair, error_iou: float) -> None:
    """Draw a choice of one of ``names``, classes or types of error, and the images of the chosen one."""
    options = [NONE, *(key(group, name) for name in names)]
    chosen = state.chosen(OF)
    if chosen not in options[1:]:
        return
    name = chosen.partition(":")[2]
    with st.container(border=True):
        with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
            words = "found by" if group == CLASS else "missed by" if name == MISSED else "error of"
            titles = {by: f"{words} {name} alone" for by, name in zip((FIRST, SECOND), pair.names, strict=True)}
            by = state.choose("Boxes" if group == CLASS else "Errors", BY, (FIRST, SECOND), names=titles.__getitem__, width=380)
            score = 0.0
            if group == CLASS:
                score = float(state.choose("Score at least", "images_score", SCORES, names=lambda s: "any" if s == "0" else s, width=130))
            start = int(state.chosen("images_from") or 0) if (state.chosen("images_from") or "0").isdigit() else 0
        try:
            found = reader().difference_images(tuple(pair.trials.values()), group, name, error_iou, score)
            shown = _sorted(found, by)
            _pictures(group, name, pair if by == FIRST else pair.reversed(), shown, error_iou, start)
        except (StoreError, ValueError) as error:
            theme.alert(str(error))


def _sorted(found: Sequence[ImageDifference], by: str) -> list[ImageDifference]:
    """Return the images on which the chosen variant has something alone, most first."""
    if by == SECOND:
        found = [image.reversed() for image in reversed(found)]
    return [image for image in found if image.variant > 0]


def _pictures(group: str, name: str, pair: VariantPair, shown: Sequence[ImageDifference], error_iou: float, start: int) -> None:
    first, second = pair.names
    does = "finds boxes" if group == CLASS else "misses boxes" if name == MISSED else "makes errors"
    other = "misses" if group == CLASS else "finds" if name == MISSED else "does not make"
    total = sum(image.variant for image in shown)
    scores = "" if group == CLASS else ", any score"
    theme.show(
        f"<b>{theme.text(name)}</b>: on {plural(len(shown), 'image')} {theme.text(first)} {does} that {theme.text(second)} "
        f"{other}, {total:.1f} in all (IoU {error_iou:g}{scores}; mean over {plural(len(pair.trials), 'seed')}). "
        f'<span class="dim">{_legend(group, name)}</span>'
    )
    if not shown:
        theme.empty("No such image", f"{first} has none that {second} has not.")
        return
    start = min(start - start % PER_PAGE, (len(shown) - 1) // PER_PAGE * PER_PAGE)
    colour = theme.colours(pair.experiment)[pair.variant.name]
    without_images = pair.experiment.is_imported and not pair.other.is_imported
    trial = next(iter(pair.trials.values()))[1 if without_images else 0]
    columns = st.columns(4, gap="small")
    for index, image in enumerate(shown[start : start + PER_PAGE]):
        with columns[index % 4]:
            _picture(trial, image, colour, len(pair.trials))
            if not pair.experiment.is_imported:
                query = {state.EXPERIMENT: state.of(pair.experiment), "variant": pair.variant.name}
                query |= {"beside": pair.reference.name} if pair.is_planned else {}
                st.page_link("views/boxes.py", label="Boxes of this image", query_params=query | {"image": str(image.image_id)})
    _pager(len(shown), start)


def _legend(group: str, name: str) -> str:
    if group == CLASS or name == MISSED:
        return "Drawn: these annotated boxes, in the variant's colour."
    return "Drawn: these detections, in the variant's colour; white, the annotated box that each is about."


def _picture(trial: str, image: ImageDifference, colour: str, seeds: int) -> None:
    marks = [mark for mark in image.marks if mark.variant > mark.reference]
    try:
        pixels = reader().image(trial, image.image_id)
    except StoreError as error:
        theme.show(f'<div class="dim small">image {image.image_id}: {theme.text(theme.redact(str(error)))}</div>')
    else:
        truths = [mark.truth for mark in marks if mark.truth is not None]
        st.image(draw_marks(pixels, [(mark.box, colour) for mark in marks], truths))
    theme.show(f'<div class="dim small">image {image.image_id}: {theme.text(_counts(marks, seeds))}</div>')


def _counts(marks: Sequence[Mark], seeds: int) -> str:
    """Return in how many seeds each mark is the first variant's, and the other's: ``3 against 0 of 3 seeds``."""
    if seeds == 1:
        return "1 box" if len(marks) == 1 else f"{len(marks)} boxes"
    found = sorted({(mark.variant, mark.reference) for mark in marks}, reverse=True)
    counts = [f"{sum((mark.variant, mark.reference) == pair for mark in marks)} in {pair[0]} against {pair[1]}" for pair in found[:2]]
    return ", ".join(counts) + f" of {seeds} seeds" + (", …" if len(found) > 2 else "")


def _pager(count: int, start: int) -> None:
    """Draw the buttons to the images before and after."""
    if count <= PER_PAGE:
        return
    before, after = ({"images_from": str(to)} if 0 <= to < count else None for to in (start - PER_PAGE, start + PER_PAGE))
    pager.show("images", before, after, f"images {start + 1} to {min(count, start + PER_PAGE)} of {count}")
