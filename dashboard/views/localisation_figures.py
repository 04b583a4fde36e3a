"""Reliability: mean IoU over mean score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from dashboard import theme
from dashboard.figures import NO_HOVER, frame
from gfl_lab.report.calibration import Reliability


def reliability(found: Mapping[str, Reliability], palette: dict[str, str], order: Sequence[str], ink: str) -> go.Figure:
    """Return the mean IoU over the mean score of each bin, with larger marks for more detections. The diagonal is the target of QFL."""
    figure = go.Figure()
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line={"width": 1, "dash": "dot", "color": ink}, **NO_HOVER)
    most = max((int(each.count.max()) for each in found.values()), default=1) or 1
    for variant, each in found.items():
        known = each.count > 0
        figure.add_scatter(
            x=each.score[known],
            y=each.iou[known],
            mode="lines+markers",
            customdata=each.count[known],
            line={"width": 1.6, "color": palette[variant]},
            marker={
                "size": 6 + 12 * np.sqrt(each.count[known] / most),
                "color": palette[variant],
                "symbol": theme.SYMBOLS[order.index(variant) % len(theme.SYMBOLS)],
            },
            hovertemplate=f"{theme.plot_text(variant)}<br>score %{{x:.2f}}, IoU %{{y:.2f}}<br>%{{customdata:d}} detections<extra></extra>",
        )
    frame(figure, 400)
    figure.update_xaxes(title="mean score", range=[0, 1], showline=True)
    figure.update_yaxes(title="mean IoU with the nearest box of the class", range=[0, 1])
    return figure
