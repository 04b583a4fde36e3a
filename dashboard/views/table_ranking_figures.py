"""Figures of a search: importance of the settings, and the metric over each of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from dashboard import theme
from dashboard.figures import frame, metric_label
from gfl_lab import naming
from gfl_lab.report.formatting import shortened
from gfl_lab.report.ranking import Dimension
from gfl_lab.results.search import SuggestionRow, state_text


def importance(shares: Mapping[str, float], colour: str) -> go.Figure:
    """Return a bar for each setting, the largest on top."""
    names = [theme.plot_text(shortened(key)) for key in reversed(list(shares))]
    values = list(reversed(list(shares.values())))
    figure = go.Figure()
    figure.add_bar(
        x=values,
        y=list(range(len(names))),
        orientation="h",
        marker={"color": colour, "line": {"width": 0}},
        text=[f"{value:.2f}" for value in values],
        textposition="outside",
        cliponaxis=False,
        hovertext=[f"{name}: {value:.3f}" for name, value in zip(names, values, strict=True)],
        hoverinfo="text",
    )
    frame(figure, 64 + 36 * len(names), r=40)
    figure.update_xaxes(title="share of the importance (all together 1)", range=[0, max([*values, 0.01]) * 1.08], nticks=6)
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=names, showgrid=False, ticklabelstandoff=8)
    figure.update_layout(bargap=0.42)
    return figure


def over_setting(
    dimension: Dimension, rows: Sequence[SuggestionRow], metric: str, marks: Mapping[str, tuple[str, str, str]], height: int = 270
) -> go.Figure:
    """Return the metric of each suggestion over one setting, across its whole range; ``marks`` by state."""
    figure = go.Figure()
    key, digits = dimension.key, naming.METRICS[metric].digits + 1
    choices = [naming.setting_text(value) for value in dimension.choices]
    for state, (colour, symbol, _) in marks.items():
        shown = [row for row in rows if row.state == state]
        hover = [
            f"suggestion {row.number}, {theme.plot_text(state_text(row))}<br>{theme.plot_text(shortened(naming.setting_text(row.settings[key]), 60))}"
            f": {row.value:.{digits}f} {naming.METRICS[metric].title}"
            for row in shown
        ]
        figure.add_scatter(
            x=[_place(row, key, choices) for row in shown],
            y=[row.value for row in shown],
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 9, "opacity": 0.9, "line": {"width": 1.8 if "open" in symbol else 0}},
            hovertext=hover,
            hoverinfo="text",
            cliponaxis=False,
        )
    frame(figure, height, t=14)
    title = theme.plot_text(key) + (" (logarithmic)" if dimension.log and not choices else "")
    _setting_axis(figure, dimension, choices)
    figure.update_xaxes(title=title, showline=True)
    figure.update_yaxes(title=metric_label(metric), nticks=6)
    figure.update_layout(hovermode="closest", uirevision=key)
    return figure


def _setting_axis(figure: go.Figure, dimension: Dimension, choices: Sequence[str]) -> None:
    """Lay out the x axis over all that is searched of a setting."""
    if choices:
        texts = [theme.plot_text(shortened(choice, max(6, 40 // len(choices)))) for choice in choices]
        figure.update_xaxes(range=[-0.5, len(choices) - 0.5], tickvals=list(range(len(choices))), ticktext=texts, showgrid=False)
        figure.update_xaxes(ticklabeloverflow="allow")
    elif dimension.log:
        low, high = math.log10(dimension.low), math.log10(dimension.high)
        room = 0.04 * (high - low)
        ticks = _log_ticks(dimension.low, dimension.high)
        figure.update_xaxes(type="log", range=[low - room, high + room], tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])
    else:
        room = 0.04 * (dimension.high - dimension.low)
        figure.update_xaxes(range=[dimension.low - room, dimension.high + room], nticks=7, exponentformat="none")
        if dimension.integer:
            figure.update_xaxes(tickformat="d", dtick=1 if dimension.size <= 10 else None)


def _place(row: SuggestionRow, key: str, choices: Sequence[str]) -> float | None:
    """Return the place of a suggestion on the axis, beside others of the same choice, so that they do not hide each other."""
    if not choices:
        return row.settings[key]
    shown = naming.setting_text(row.settings[key])
    return choices.index(shown) + 0.3 * (row.number * 0.618 % 1 - 0.5) if shown in choices else None


def _log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2, 5 of each decade if they are few, else the decades; at least the two ends."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    parts = (1, 2, 5) if math.log10(high / low) <= 1.7 else (1, 3) if math.log10(high / low) <= 2.6 else (1,)
    found = [float(f"{part}e{decade}") for decade in decades for part in parts if low <= float(f"{part}e{decade}") <= high]
    return found if len(found) > 1 else [low, high]
