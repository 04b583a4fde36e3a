"""Differences between two variants, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from dashboard import theme
from dashboard.figures import AXIS, frame, short
from gfl_lab.report.variant_comparison import DifferenceRow


def differences(rows: Sequence[DifferenceRow], colours: tuple[str, str], low_is_good: bool, ink: str) -> go.Figure:
    """Return the differences, row by row, with the interval as a bar; right of the line the first variant is higher. Grey: inconclusive."""
    figure = go.Figure()
    names = [theme.plot_text(short(row.name)) for row in reversed(rows)]
    values = [row.found.mean for row in reversed(rows)]
    halves = [row.half or 0.0 for row in reversed(rows)]
    figure.add_vline(x=0, line={"width": 1, "color": ink})
    figure.add_scatter(
        x=values,
        y=list(range(len(names))),
        mode="markers",
        marker={"size": 9, "color": [{True: colours[0], False: colours[1], None: AXIS}[row.better] for row in reversed(rows)]},
        error_x={"type": "data", "array": halves, "thickness": 1.6, "width": 5, "color": AXIS},
        customdata=halves,
        text=names,
        hovertemplate="%{text}: %{x:+.1f} ± %{customdata:.1f}<extra></extra>",
    )
    frame(figure, 84 + 30 * len(names), r=16)
    unit = "AP50 points that ours costs more" if low_is_good else "AP points that ours is higher"
    figure.update_xaxes(title=unit, showline=True, nticks=7)
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=names, showgrid=False, range=[-0.6, len(names) - 0.4])
    return figure
