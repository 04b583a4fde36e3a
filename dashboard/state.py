"""A view is its URL: every choice is a query parameter, kept across pages and restored from a link."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from gfl_lab.results.rows import ExperimentRow


def chosen(key: str) -> str | None:
    """Return the value in the URL, else what this session chose last (moving to another page clears the URL)."""
    return st.query_params.get(key, st.session_state.get(f"last:{key}"))


def _is_asked(key: str) -> bool:
    """Return True if a widget's state is to be set: it is new, or the URL was changed from outside."""
    url = st.query_params.get(key)
    return f"w:{key}" not in st.session_state or (url is not None and url != st.session_state.get(f"url:{key}"))


def _prepare(key: str, options: Sequence[str], default: str) -> str:
    """Set the widget's state before it is drawn, when the URL was changed from outside or the choice is no option."""
    widget = f"w:{key}"
    wanted = chosen(key) if _is_asked(key) else st.session_state[widget]
    st.session_state[widget] = wanted if wanted in options else default
    return widget


def _remember(key: str, value: str) -> None:
    st.session_state[f"last:{key}"] = st.session_state[f"url:{key}"] = value
    if st.query_params.get(key) != value:
        st.query_params[key] = value


def choose(
    label: str,
    key: str,
    options: Sequence[str],
    default: str | None = None,
    names: Callable[[str], str] = str,
    widget: Callable[..., Any] = st.selectbox,
    **options_of_widget: Any,
) -> str:
    """Draw a choice of one of ``options``, as a widget and as the query parameter ``key``. ``names`` are the words shown."""
    assert options
    fallback = default if default is not None and default in options else options[0]
    chosen = widget(label, options, key=_prepare(key, options, fallback), format_func=names, **options_of_widget)
    value = fallback if chosen is None else str(chosen)
    _remember(key, value)
    return value


def switch(label: str, key: str, default: bool = False) -> bool:
    """Draw an on/off choice."""
    state = f"w:{key}"
    if _is_asked(key):
        st.session_state[state] = (chosen(key) or ("1" if default else "0")) == "1"
    value = st.toggle(label, key=state)
    _remember(key, "1" if value else "0")
    return value


def typed(label: str, key: str, **options_of_widget: Any) -> str:
    """Draw a line of text, empty at first."""
    state = f"w:{key}"
    if _is_asked(key):
        st.session_state[state] = chosen(key) or ""
    value = st.text_input(label, key=state, **options_of_widget)
    _remember(key, value)
    return value


def put(**values: str) -> None:
    """Choose from a callback, before the widgets are drawn; one step of the browser's history."""
    for key, value in values.items():
        st.session_state[f"w:{key}"] = st.session_state[f"last:{key}"] = st.session_state[f"url:{key}"] = value
    st.query_params.update(values)


EXPERIMENT = "experiment"


def experiment_id(name: str, profile: str) -> str:
    """Return an experiment under a profile, as it stands in a URL: neither part can hold a slash."""
    return f"{name}/{profile}"


def of(experiment: ExperimentRow) -> str:
    """Return ``experiment_id`` of a row."""
    return experiment_id(experiment.name, experiment.profile)
