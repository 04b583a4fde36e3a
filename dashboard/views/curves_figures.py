"""Curves over steps and epochs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from dashboard import theme
from dashboard.figures import NO_HOVER, frame, metric_label, rgba
from gfl_lab import naming
from gfl_lab.report.curves import Curve

TERMS = {
    "loss": "sum of all terms",
    "loss_cls": "classification: QFL or focal loss",
    "loss_bbox": "box: GIoU loss",
    "loss_dfl": "distribution: DFL",
    "loss_centerness": "centerness",
    "lr": "learning rate",
}


def curves(
    found: Sequence[Curve], key: str, palette: dict[str, str], order: Sequence[str], epochs: bool, height: int = 260, log: bool = False
) -> go.Figure:
    """Return the mean of the seeds as a line, their range as a band, single seeds as hairlines.

    Beyond the last step of the shortest seed, only the hairlines go on.
    """
    figure = go.Figure()
    metric = naming.METRICS.get(key)
    digits = metric.digits + 1 if metric else 4
    unit = "epoch" if epochs else "step"
    for curve in found:
        colour, name = palette[curve.variant], theme.plot_text(curve.variant)
        dash = theme.DASHES[min(order.index(curve.variant) // 7, len(theme.DASHES) - 1)]
        several = len(curve.lines) > 1
        if several and len(curve.x) > 1:
            x = np.concatenate([curve.x, curve.x[::-1]])
            figure.add_scatter(
                x=x,
                y=np.concatenate([curve.high, curve.low[::-1]]),
                mode="lines",
                fill="toself",
                fillcolor=rgba(colour, 0.16),
                line={"width": 0},
                **NO_HOVER,
            )
        if several:  # all in one trace, with gaps between: a trace a seed is slow to make and to draw
            gap = [np.nan]
            figure.add_scatter(
                x=np.concatenate([part for line in curve.lines for part in (line.x, gap)]),
                y=np.concatenate([part for line in curve.lines for part in (line.y, gap)]),
                customdata=np.concatenate([np.full(len(line.x) + 1, line.seed) for line in curve.lines]),
                mode="lines",
                line={"width": 0.8, "color": rgba(colour, 0.55)},
                hovertemplate=f"{name}, seed %{{customdata}}<br>{unit} %{{x:d}}: %{{y:.{digits}f}}<extra></extra>",
                showlegend=False,
            )
        label = f"{name}{f', mean of {len(curve.lines)} seeds' if several else f', seed {curve.lines[0].seed}'}"
        figure.add_scatter(
            x=curve.x,
            y=curve.mean,
            mode="lines+markers" if epochs and len(curve.x) <= 60 else "lines",
            marker={"size": 5},
            line={"width": 2.2, "color": colour, "dash": dash},
            hovertemplate=f"{label}<br>{unit} %{{x:d}}: %{{y:.{digits}f}}<extra></extra>",
        )
    title = metric_label(key) if metric else theme.plot_text(key)
    frame(figure, height)
    figure.update_xaxes(title=unit, showgrid=False, tickformat="d", showline=True, rangemode="normal")
    figure.update_yaxes(title=title, exponentformat="power", nticks=6)
    if epochs and found and max(len(c.x) for c in found) <= 24:
        figure.update_xaxes(dtick=1 if max(len(c.x) for c in found) <= 12 else 2)
    if log:
        figure.update_yaxes(type="log")
    figure.update_layout(hovermode="closest", uirevision=key)
    return figure
