"""The dashboard: ``streamlit run dashboard/app.py`` (docs/dashboard.md). Reads through gfl_lab.results and gfl_lab.report only."""
