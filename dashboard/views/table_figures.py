"""Speed against AP."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from dashboard import theme
from dashboard.figures import AXIS, NO_HOVER, frame, rgba
from gfl_lab.report.speed import Point


def speed_accuracy(points: Sequence[Point], front: Sequence[Point], palette: dict[str, str], order: Sequence[str], where: str) -> go.Figure:
    """Return the mean of each variant, its seeds as small dots, and the Pareto front as a line. ``where``: the machine of the speeds."""
    figure = go.Figure()
    if len(front) > 1:
        line = {"width": 1.2, "color": AXIS, "dash": "dot", "shape": "hv"}
        figure.add_scatter(x=[p.fps for p in front], y=[p.ap for p in front], mode="lines", line=line, **NO_HOVER)
    for point in points:
        colour, name = palette[point.variant], theme.plot_text(point.variant)
        if len(point.seeds) > 1:
            figure.add_scatter(
                x=[fps for _, fps, _ in point.seeds],
                y=[ap for _, _, ap in point.seeds],
                customdata=[seed for seed, _, _ in point.seeds],
                mode="markers",
                marker={"size": 6, "color": rgba(colour, 0.45)},
                hovertemplate=f"{name}, seed %{{customdata}}<br>%{{y:.1f}} AP, %{{x:.1f}} img/s<extra></extra>",
            )
        figure.add_scatter(
            x=[point.fps],
            y=[point.ap],
            mode="markers+text",
            text=[name],
            textposition="top center",
            cliponaxis=False,
            marker={"size": 12, "color": colour, "symbol": theme.SYMBOLS[order.index(point.variant) % len(theme.SYMBOLS)]},
            hovertemplate=f"{name}<br>%{{y:.1f}} AP, %{{x:.1f}} img/s<extra></extra>",
        )
    frame(figure, 330, t=18)
    figure.update_xaxes(title=f"speed {where} [img/s]", **_padded([p.fps for p in points], 0.35))
    figure.update_yaxes(title="AP (0 to 100)", **_padded([p.ap for p in points], 0.3))
    return figure


def _padded(values: Sequence[float], share: float) -> dict:
    low, high = min(values), max(values)
    room = max((high - low) * share, 0.5)
    return {"range": [low - room, high + room]}
