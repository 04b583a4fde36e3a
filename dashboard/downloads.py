"""Buttons that download a table in each of its forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import streamlit as st

from gfl_lab.results.rows import ExperimentRow

_FORMS = {
    "json": ("JSON", "application/json"),
    "md": ("Markdown", "text/markdown"),
    "csv": ("CSV", "text/csv"),
    "tex": ("LaTeX", "application/x-tex"),
    "html": ("HTML", "text/html"),
}


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
