"""The four sides of one box: their distributions, and the same sides after each epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dashboard import theme
from dashboard.figures import NO_HOVER, BoxColours, frame, rgba
from gfl_lab.report.boxes import BoxView, SideView
from gfl_lab.report.epoch_trend import EpochTrend

_HEIGHT = 380


def sides(view: BoxView, colours: BoxColours) -> go.Figure:
    """Return probability by bin of each side, with target, expectation, and the true edges at the height of their probability."""
    titles = [f"<b>{s.side}</b>" + (f", {theme.plot_text(view.ambiguity)}" if s.edges and view.ambiguity else "") for s in view.sides]
    figure = make_subplots(rows=2, cols=2, subplot_titles=titles, horizontal_spacing=0.09, vertical_spacing=0.2)
    top, last = _top(view), _last_bin(view)
    dirac = all(side.probability is None for side in view.sides)
    for index, side in enumerate(view.sides):
        where = {"row": index // 2 + 1, "col": index % 2 + 1}
        _bars(figure, side, colours, where)
        _true_edges(figure, side, colours, where)
        _marks(figure, side, colours, top, where)
    frame(figure, _HEIGHT, t=26)
    unit = f"{view.sides[0].px_per_bin:.3g} px" if view.sides else ""
    figure.update_xaxes(range=[_first_bin(view) - 0.6, last + 0.6], showgrid=False, showline=True, dtick=4 if last > 8 else 1)
    figure.update_yaxes(range=[0, top], tickformat=".1f", nticks=4)
    figure.update_xaxes(title=f"distance [bins of {unit}]", row=2)
    if dirac:
        figure.update_yaxes(showticklabels=False, showgrid=False)
    else:
        figure.update_yaxes(title="probability", col=1)
    figure.update_annotations(font={"size": 13}, yshift=2)
    return figure


def _top(view: BoxView) -> float:
    """Return the upper end of the probability axes."""
    peaks = [float(np.nanmax(side.probability)) for side in view.sides if side.probability is not None]
    peaks += [probability for side in view.sides for _, probability in side.true_edges]
    return min(1.0, max(peaks)) * 1.12 if peaks else 1.0


def _first_bin(view: BoxView) -> float:
    """Return the place of the first bin, at most 0: weighted bins begin below it."""
    return min([float(side.positions[0]) for side in view.sides if side.probability is not None] or [0.0])


def _last_bin(view: BoxView) -> float:
    """Return the place of the last bin; of Dirac boxes the first whole number beyond everything that is drawn."""
    if last := max([float(side.positions[-1]) for side in view.sides if side.probability is not None] or [0.0]):
        return last
    return math.ceil(max([v for side in view.sides for v in (side.expectation, side.target or 0.0, *(side.edges or ()))] or [1.0])) + 1


def _bars(figure: go.Figure, side: SideView, colours: BoxColours, where: dict[str, int]) -> None:
    if side.probability is None:
        return
    figure.add_bar(
        x=side.positions,
        y=side.probability,
        width=0.86 * side.widths,
        marker={"color": rgba(colours.variant, 0.8), "line": {"width": 0}},
        hovertext=[
            f"bin {b}, {place * side.px_per_bin:.0f} px from the location<br>p = {p:.3f}"
            for b, (place, p) in enumerate(zip(side.positions, side.probability, strict=True))
        ],
        hoverinfo="text",
        **where,
    )


def _true_edges(figure: go.Figure, side: SideView, colours: BoxColours, where: dict[str, int]) -> None:
    for place, probability in side.true_edges:
        style = {"color": colours.truth, "width": 2.4}
        figure.add_scatter(x=[place, place], y=[0, probability], mode="lines", line=style, **where, **NO_HOVER)
        figure.add_scatter(
            x=[place],
            y=[probability],
            mode="markers",
            marker={"size": 9, "color": colours.truth},
            cliponaxis=False,
            showlegend=False,
            hovertemplate=f"true edge at {place:.1f} bins, p = {probability:.2f}<extra></extra>",
            **where,
        )


def _marks(figure: go.Figure, side: SideView, colours: BoxColours, top: float, where: dict[str, int]) -> None:
    """Draw target and expectation."""
    expected = "the one distance" if side.probability is None else "expectation"
    marks: list[tuple[float | None, dict[str, Any], str]] = [
        (side.target, {"color": colours.ink, "width": 1.5}, "target"),
        (side.expectation, {"color": colours.variant, "width": 2, "dash": "4px,3px"}, expected),
    ]
    for place, style, what in marks:
        if place is not None:
            figure.add_scatter(
                x=[place, place],
                y=[0, top],
                mode="lines",
                line=style,
                showlegend=False,
                hovertemplate=f"{what}: {place:.2f} bins, {place * side.px_per_bin:.1f} px<extra></extra>",
                **where,
            )


def epoch_trend(trends: Sequence[EpochTrend], colours: BoxColours) -> go.Figure:
    """Return a strip for each epoch, from the first on top to the last: where on the image the model put each side."""
    figure = make_subplots(rows=1, cols=len(trends), subplot_titles=[trend.side for trend in trends], horizontal_spacing=0.05)
    for column, trend in enumerate(trends, 1):
        figure.add_heatmap(
            x=trend.places,
            y=trend.epochs,
            z=trend.probability,
            row=1,
            col=column,
            colorscale=[[0, rgba(colours.variant, 0)], [1, colours.variant]],
            showscale=False,
            hovertemplate="epoch %{y:d}, %{x:.0f} px: %{z:.3f} a px<extra></extra>",
        )
        line = {"width": 1.4, "dash": "dash", "color": colours.ink}
        figure.add_scatter(x=trend.expectation, y=trend.epochs, mode="lines", line=line, row=1, col=column, **NO_HOVER)
        places = [(trend.target, colours.ink, 1.2), *((edge, colours.truth, 2.2) for edge in trend.edges or ())]
        for place, shade, width in places:
            if place is not None:
                figure.add_vline(x=place, line={"color": shade, "width": width}, row=1, col=column)
        figure.update_xaxes(title="x [px]" if trend.side in ("left", "right") else "y [px]", row=1, col=column)
    frame(figure, 300, t=28)
    most = max((epoch for trend in trends for epoch in trend.epochs), default=1)
    figure.update_yaxes(autorange="reversed", tickformat="d", dtick=math.ceil(most / 8), showgrid=False)
    figure.update_yaxes(title="epoch", col=1)
    figure.update_xaxes(showgrid=False, nticks=5)
    return figure
