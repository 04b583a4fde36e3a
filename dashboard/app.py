"""Entry point: ``streamlit run dashboard/app.py``. Lays out the pages and the choice of experiment that they share."""

from __future__ import annotations

import sys
from pathlib import Path

if (
    _root := str(Path(__file__).resolve().parent.parent)
) not in sys.path:  # the package `dashboard` lies beside the experiments, in a checkout and in an installed gfl_lab
    sys.path.insert(0, _root)

import streamlit as st

from dashboard import clicks, experiments, live, pages, state, theme

st.set_page_config(page_title="gfl-lab", page_icon=theme.icon(), layout="wide", menu_items={"Get help": None, "Report a bug": None})
theme.style()
clicks.listen()

entries = {entry.name: entry for entry in pages.PAGES}
page = st.navigation(
    [st.Page(entry.file, title=entry.title, icon=entry.icon, url_path=entry.name, default=entry is pages.OVERVIEW) for entry in pages.PAGES]
    + [st.Page(pages.VIEWS / f"{name}.py", title=name, url_path=name, visibility="hidden") for name in pages.MOVED],
    position="top",
)
entry = entries.get(page.url_path, pages.OVERVIEW)

names = experiments.names()
st.session_state[live.CURRENT] = None
if names and entry.of_experiment:
    options = [state.experiment_id(*name) for name in names]
    asked = st.query_params.get(state.EXPERIMENT)
    chosen = state.choose(
        "Experiment",
        state.EXPERIMENT,
        options,
        names=lambda option: option.replace("/", " · "),
        label_visibility="collapsed",
        width=340,
    )
    if asked is not None and asked not in options:
        theme.alert(f"The link asks for the experiment {asked}, which is not in this store. This is {chosen}.")
    st.session_state[live.CURRENT] = names[options.index(chosen)]
page.run()
