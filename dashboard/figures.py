"""Pieces that the figures of all pages share: no frame, thin grid, labels with units, every name as text.

The figures of a page stand beside it: ``views/<page>_figures.py``, a series in, a figure out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import plotly.graph_objects as go

from gfl_lab import naming
from gfl_lab.report.statistics import possible_ends

CONFIG = {"displaylogo": False, "displayModeBar": False, "scrollZoom": False}
"""Plotly's options on every page: zoom by dragging, reset by double click."""

GRID = "rgba(128,128,128,.18)"
AXIS = "rgba(128,128,128,.55)"
NO_HOVER: dict[str, Any] = {"hoverinfo": "skip", "showlegend": False}


class BoxColours(NamedTuple):
    """Colours of a box: the variant's, that of true edges, and that of text."""

    variant: str
    truth: str
    ink: str


def frame(figure: go.Figure, height: int, **margin: int) -> go.Figure:
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 8, "t": 8, "b": 8} | margin,
        showlegend=False,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hoverlabel={"align": "left"},
        bargap=0,
        font={"size": 13},
        transition={"duration": 0},
    )
    figure.update_xaxes(
        gridcolor=GRID, zeroline=False, linecolor=AXIS, ticks="outside", tickcolor=AXIS, ticklen=4, title_standoff=6, automargin=True
    )
    figure.update_yaxes(gridcolor=GRID, zeroline=False, showline=False, title_standoff=8, automargin=True)
    return figure


def rgba(colour: str, alpha: float) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def interval_bar(mean: float, half: float, colour: str, thickness: float = 1.8) -> dict[str, Any]:
    """Return Plotly's bar for an interval of a difference, in AP points; it ends where no difference can lie."""
    low, high = possible_ends(mean, half)
    return {
        "type": "data", "symmetric": False, "array": [high - mean], "arrayminus": [mean - low], "thickness": thickness, "width": 5,
        "color": colour,
    }  # fmt: skip


def metric_label(key: str) -> str:
    """Return the title of a metric of ``naming.METRICS`` with its unit or its range."""
    metric = naming.METRICS[key]
    return metric.title + (f" [{metric.unit}]" if metric.unit else "") + (" (0 to 100)" if key in naming.AP_METRICS else "")
