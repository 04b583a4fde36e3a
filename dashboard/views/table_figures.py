"""Differences to the baseline with their intervals, and speed against AP."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dashboard import theme
from dashboard.figures import AXIS, NO_HOVER, frame, interval_bar, rgba
from gfl_lab.metrics.coco_ap import RESAMPLED
from gfl_lab.report.claim_sentences import difference, interval_text
from gfl_lab.report.comparison import Comparison
from gfl_lab.report.formatting import VERDICT_SIGNS, shortened, verdict_text
from gfl_lab.report.speed import Point
from gfl_lab.report.statistics import NO_LOOK


def forest(compared: Sequence[Comparison], variants: Sequence[str], ink: str) -> go.Figure:
    """Return a panel for AP, AP50 and AP75 with a row for each variant: the difference to the baseline, its interval and its verdict.

    Args:
        compared: the comparisons of ``variants`` in all three metrics.
        variants: in the order of the rows, from the top.
    """
    shown = [name for name in reversed(variants) if any(each.variant == name for each in compared)]
    metrics = [metric for metric in RESAMPLED if any(each.metric == metric for each in compared)]
    figure = make_subplots(rows=1, cols=len(metrics), shared_yaxes=True, horizontal_spacing=0.025)
    for column, metric in enumerate(metrics, 1):
        for each in (each for each in compared if each.metric == metric):
            colour, sign = theme.verdict_colour(each.verdict), VERDICT_SIGNS.get(each.verdict, "")
            half = each.found.image_half if each.found.half is None else each.found.half
            half = None if each.verdict == NO_LOOK else half
            about = f"{theme.plot_text(each.variant)}: {difference(each)} {metric}, {interval_text(each)}<br>{sign} {verdict_text(each)}"
            figure.add_scatter(
                x=[each.found.mean],
                y=[shown.index(each.variant)],
                mode="markers",
                marker={
                    "size": 10,
                    "color": colour,
                    "symbol": {True: "triangle-right", False: "triangle-left", None: "circle"}[each.better],
                },
                error_x=interval_bar(each.found.mean, half or 0.0, colour, 1.8 if each.found.half is not None else 0.9),
                hovertemplate=about + "<extra></extra>",
                row=1,
                col=column,
            )
        figure.update_xaxes(title=f"Δ {metric}", row=1, col=column)
        band = compared[0].min_effect
        # after the marks: Plotly adds no shape to an empty panel
        figure.add_vrect(x0=-band, x1=band, fillcolor="rgba(128,128,128,.22)", line_width=0, layer="below", row=1, col=column)
        figure.add_vline(x=0, line={"width": 1, "color": ink}, row=1, col=column)
    frame(figure, max(116, 64 + 26 * len(shown)), r=16)  # below that Plotly cuts the ticks off
    figure.update_xaxes(showline=True, nticks=8)
    figure.update_yaxes(range=[-0.6, len(shown) - 0.4], showgrid=False)
    figure.update_yaxes(tickvals=list(range(len(shown))), ticktext=[theme.plot_text(shortened(name)) for name in shown], col=1)
    return figure


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
