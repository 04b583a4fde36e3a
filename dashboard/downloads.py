"""Buttons that download a table in each of its forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import streamlit as st

from dashboard import clicks, live, theme
from gfl_lab.results.rows import ExperimentRow

_FORMS = {
    "json": ("JSON", "application/json"),
    "md": ("Markdown", "text/markdown"),
    "csv": ("CSV", "text/csv"),
    "tex": ("LaTeX", "application/x-tex"),
    "html": ("HTML", "text/html"),
}


def figure(key: str, experiment: ExperimentRow, what: str, other: ExperimentRow | None = None) -> None:
    """Draw the choice to save a figure, by the key of its chart, with a caption: ``what`` it shows, experiment and data.

    Args:
        other: a second experiment that is in the figure. The caption names both then, without a question.
    """
    of = f"{experiment.name}, profile {experiment.profile}"
    question = experiment.question or experiment.name
    if other is not None:
        question, of = "Variants of two experiments.", f"{of}; {other.name}, profile {other.profile}"
    caption = f"{question} {what} {of}; {live.data_line(experiment)}."
    theme.show(clicks.save_html(key, f"{experiment.name}-{experiment.profile}-{key}", caption))


def buttons(experiment: ExperimentRow, forms: Mapping[str, Callable[[], str]]) -> None:
    """Draw a button for each form. The text is made on a click."""
    row = st.container(horizontal=True, gap="small", vertical_alignment="center")
    for form, make in forms.items():
        title, mime = _FORMS.get(form, (form, "text/plain"))
        row.download_button(
            title,
            make,
            file_name=f"{experiment.name}-{experiment.profile}.{form}",
            mime=mime,
            key=f"export-{form}",
            icon=":material/download:",
            on_click="ignore",
        )
