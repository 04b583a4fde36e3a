"""Differences between two variants, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from dashboard import theme
from dashboard.figures import frame, interval_bar
from gfl_lab.report.formatting import VERDICT_SIGNS, format_size, shortened
from gfl_lab.report.variant_comparison import METRIC, DifferenceRow

MOST_ON_A_LINE = 44
"""Characters."""


CUT = "A bar that reaches the edge goes on beyond it; the table has its length."
"""For a figure that ``is_cut``."""


def scale(rows: Sequence[DifferenceRow]) -> tuple[float, float]:
    """Return the range of the horizontal axis of all figures, in AP points.

    It holds all differences and the intervals of AP, AP50 and AP75. Longer intervals, of a rare class on two seeds say, may double it and
    are cut there: otherwise one of ±100 would hide all others.
    """
    needed = [0.0, *(row.found.mean for row in rows), *(end for row in rows if row.group == METRIC for end in _ends(row))]
    ends = [*needed, *(end for row in rows for end in _ends(row))]
    low, high = min(needed), max(needed)
    more = (high - low) / 2
    low, high = max(min(ends), low - more), min(max(ends), high + more)
    room = 0.06 * max(high - low, 1.0)
    return low - room, high + room


def is_cut(rows: Sequence[DifferenceRow], span: tuple[float, float]) -> bool:
    """Return True if an interval of ``rows`` reaches beyond ``span``."""
    return any(not span[0] <= end <= span[1] for row in rows for end in _ends(row))


def _ends(row: DifferenceRow) -> tuple[float, float]:
    return row.ends or (row.found.mean, row.found.mean)


def differences(rows: Sequence[DifferenceRow], span: tuple[float, float], ink: str, names: tuple[str, str]) -> go.Figure:
    """Return the differences, row by row, with the interval as a bar, in the colour of the verdict.

    Args:
        span: ends of the horizontal axis. names: of the two variants, for its title.
    """
    figure = go.Figure()
    shown = list(reversed(rows))
    titles = [theme.plot_text(shortened(row.name)) for row in shown]
    figure.add_vline(x=0, line={"width": 1, "color": ink})
    for at, row in enumerate(shown):
        colour, half = theme.verdict_colour(row.verdict), row.half or 0.0
        figure.add_scatter(
            x=[row.found.mean],
            y=[at],
            mode="markers",
            marker={
                "size": 10,
                "color": colour,
                "symbol": {True: "triangle-right", False: "triangle-left", None: "circle"}[_is_higher(row)],
            },
            error_x=interval_bar(row.found.mean, half, colour),
            hovertemplate=f"{titles[at]}: %{{x:+.1f}} ± {format_size(half)}<br>{VERDICT_SIGNS.get(row.verdict, '')} {row.verdict}<extra></extra>",
        )
    title, lines = _axis_title(*names)
    frame(figure, 56 + 18 * lines + 34 * len(titles), r=16)
    figure.update_xaxes(title=title, showline=True, nticks=9, range=list(span))
    figure.update_yaxes(tickvals=list(range(len(titles))), ticktext=titles, showgrid=False, range=[-0.6, len(titles) - 0.4])
    return figure


def _axis_title(first: str, second: str) -> tuple[str, int]:
    """Return what the differences are, and how many lines that takes: long names stand on two."""
    if len(first) + len(second) <= MOST_ON_A_LINE:
        return theme.plot_text(f"{first} minus {second} [AP points]"), 1
    parts = (f"{shortened(first, MOST_ON_A_LINE)} minus", f"{shortened(second, MOST_ON_A_LINE)} [AP points]")
    return "<br>".join(map(theme.plot_text, parts)), 2


def _is_higher(row: DifferenceRow) -> bool | None:
    """Return True if the difference is shown to be above 0, False if below, None where that is open."""
    return None if row.better is None else row.found.mean > 0
