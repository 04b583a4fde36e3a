"""The buttons Previous and Next of a list, and the place in it."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from dashboard import state, theme


def show(key: str, before: Mapping[str, str] | None, after: Mapping[str, str] | None, where: str) -> None:
    """Draw both buttons and ``where`` in the list the page is, in one line at any width.

    Args:
        key: unique on the page. before, after: choices that each button puts into the address; None where there is nothing.
    """
    with st.container(horizontal=True, gap="small", vertical_alignment="center", width="content", key=f"pager-{key}"):
        for label, choices in (("Previous", before), ("Next", after)):
            st.button(label, key=f"{key}-{label}", disabled=choices is None, on_click=state.put, kwargs=dict(choices or {}))
        theme.show(f'<div class="dim small">{theme.text(where)}</div>')
