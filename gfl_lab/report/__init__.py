"""Statistics, tables, series for plots and exporters: pure functions of rows."""
