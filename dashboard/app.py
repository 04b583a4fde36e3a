"""Entry point: ``streamlit run dashboard/app.py``. Lays out the pages and the choice of experiment that they share."""

from __future__ import annotations

import sys
from pathlib import Path

if (
    _root := str(Path(__file__).resolve().parent.parent)
) not in sys.path:  # the package `dashboard` lies beside the experiments, in a checkout and in an installed gfl_lab
    sys.path.insert(0, _root)

import streamlit as st

from dashboard import data, live, state, theme

st.set_page_config(page_title="gfl-lab", page_icon=theme.icon(), layout="wide", menu_items={"Get help": None, "Report a bug": None})
theme.style()

OVERVIEW = st.Page("views/overview.py", title="Overview", icon=":material/grid_view:", default=True)
pages = [
    OVERVIEW,
    st.Page("views/table.py", title="Table", icon=":material/table_rows:", url_path="table"),
    st.Page("views/curves.py", title="Curves", icon=":material/show_chart:", url_path="curves"),
    st.Page("views/boxes.py", title="Boxes", icon=":material/stacked_bar_chart:", url_path="boxes"),
    st.Page("views/localisation.py", title="Scores", icon=":material/my_location:", url_path="localisation"),
    st.Page("views/compare.py", title="Compare", icon=":material/compare_arrows:", url_path="compare"),
    st.Page("views/trials.py", title="Trials", icon=":material/list_alt:", url_path="trials"),
    st.Page("views/guide.py", title="Guide", icon=":material/menu_book:", url_path="guide"),
]
page = st.navigation(pages, position="top")

names = data.store().names()
st.session_state[live.CURRENT] = None
if names and page.url_path != "guide":
    options = [state.experiment_id(*name) for name in names]
    asked = st.query_params.get(state.EXPERIMENT)
    if page is not OVERVIEW:
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
