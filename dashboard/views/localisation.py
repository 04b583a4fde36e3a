"""The old address of the page Calibration: leads there."""

from __future__ import annotations

import streamlit as st

st.switch_page("views/calibration.py", query_params=st.query_params.to_dict())
