"""Plots below a ranked search's HTML table: importance as bars, and the metric over each setting."""

from __future__ import annotations

from gfl_lab import naming
from gfl_lab.report.ranking import Importance, Ranking
from gfl_lab.results.search import DONE, STOPPED, state_text


def plots_html(ranking: Ranking) -> str:
    """Return the plots as HTML: importance as bars, and the metric over each setting; empty while there is nothing to draw."""
    valued = [row for place, row in ranking.rows if place]
    if not valued:
        return ""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    bars = ranking.importance.shares if isinstance(ranking.importance, Importance) else {}
    names = [*(["importance"] if bars else []), *ranking.keys]
    figure = make_subplots(rows=-(-len(names) // 2), cols=2, subplot_titles=names)
    if bars:
        shares = list(reversed(list(bars.items())))
        figure.add_trace(
            go.Bar(x=[share for _, share in shares], y=[key for key, _ in shares], orientation="h", marker_color="#2a7de1"), 1, 1
        )
    logarithmic = {dimension.key for dimension in ranking.dimensions if dimension.log}
    for index, key in enumerate(ranking.keys, start=1 if bars else 0):
        at = {"row": index // 2 + 1, "col": index % 2 + 1}
        for state, colour in ((DONE, "#2a7de1"), (STOPPED, "#9aa4ae")):
            rows = [row for row in valued if row.state == state]
            numeric = all(isinstance(row.settings[key], (int, float)) and not isinstance(row.settings[key], bool) for row in valued)
            shown = [row.settings[key] if numeric else naming.setting_text(row.settings[key]) for row in rows]
            words = [f"suggestion {row.number}, {state_text(row)}" for row in rows]
            points = go.Scatter(x=shown, y=[row.value for row in rows], mode="markers", text=words, marker={"color": colour, "size": 8})
            figure.add_trace(points, **at)
        figure.update_xaxes(type="log" if key in logarithmic else None, exponentformat="none", **at)
        figure.update_yaxes(title_text=naming.METRICS[ranking.search.metric].title, **at)
    figure.update_layout(
        height=320 * (-(-len(names) // 2)), showlegend=False, font_color="#7d8790", paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(125,135,144,0.08)", margin={"l": 60, "r": 20, "t": 40, "b": 40},
    )  # fmt: skip
    drawn = figure.to_html(full_html=False, include_plotlyjs=True, config={"displayModeBar": False})
    return f'<p class="about">Blue: finished; grey: stopped early, at the value of the last epoch.</p>\n{drawn}'
