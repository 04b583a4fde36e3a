"""Reliability: mean IoU over mean score, and how many detections each bin of the score has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from dashboard import theme
from dashboard.figures import NO_HOVER, frame
from gfl_lab.report.calibration import Reliability


def reliability(found: Mapping[str, Reliability], palette: dict[str, str], order: Sequence[str], ink: str) -> go.Figure:
    """Return the mean IoU over the mean score of each bin. The diagonal is the target of QFL."""
    figure = go.Figure()
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line={"width": 1, "dash": "dot", "color": ink}, **NO_HOVER)
    for variant, each in found.items():
        known = each.count > 0
        figure.add_scatter(
            x=each.score[known],
            y=each.iou[known],
            mode="lines+markers",
            customdata=each.count[known],
            line={"width": 1.6, "color": palette[variant]},
            marker={
                "size": 9,
                "color": palette[variant],
                "symbol": theme.SYMBOLS[order.index(variant) % len(theme.SYMBOLS)],
            },
            hovertemplate=f"{theme.plot_text(variant)}<br>score %{{x:.2f}}, IoU %{{y:.2f}}<br>%{{customdata:d}} detections<extra></extra>",
        )
    frame(figure, 320)
    figure.update_xaxes(title="mean score", range=[0, 1], showline=True)
    figure.update_yaxes(title="mean IoU with the nearest box of the class", range=[0, 1])
    return figure


def counts(found: Mapping[str, Reliability], palette: dict[str, str]) -> go.Figure:
    """Return the number of detections in each bin of the score, one bar a variant, on a logarithmic axis."""
    figure = go.Figure()
    for variant, each in found.items():
        middle = (each.edges[:-1] + each.edges[1:]) / 2
        figure.add_bar(
            x=middle,
            y=each.count,
            marker={"color": palette[variant], "line": {"width": 0}},
            hovertemplate=f"{theme.plot_text(variant)}<br>score about %{{x:.2f}}: %{{y:d}} detections<extra></extra>",
        )
    frame(figure, 150)
    figure.update_layout(barmode="group", bargap=0.15)
    figure.update_xaxes(title="score", range=[0, 1], showline=True)
    figure.update_yaxes(title="detections", type="log", dtick=1, exponentformat="none")
    return figure
