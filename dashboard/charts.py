"""A series in, a figure out. One look for all: no frame, thin grid, labels with units, every name as text."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from PIL import Image
from plotly.subplots import make_subplots

from dashboard import theme
from gfl_lab import naming
from gfl_lab.report.calibration import Reliability
from gfl_lab.report.search import state_text
from gfl_lab.report.series import BoxView, Curve, Growth, Point, SideView
from gfl_lab.report.variant_comparison import PairRow
from gfl_lab.results.search import SuggestionRow
from gfl_lab.spec.search import Dimension

CONFIG = {"displaylogo": False, "displayModeBar": False, "scrollZoom": False}
"""Plotly's options on every page: zoom by dragging, reset by double click."""

_GRID = "rgba(128,128,128,.18)"
_AXIS = "rgba(128,128,128,.55)"
_NO_HOVER = {"hoverinfo": "skip", "showlegend": False}

TERMS = {
    "loss": "sum of all terms",
    "loss_cls": "classification: QFL or focal loss",
    "loss_bbox": "box: GIoU loss",
    "loss_dfl": "distribution: DFL",
    "loss_centerness": "centerness",
    "lr": "learning rate",
}


def _frame(figure: go.Figure, height: int, **margin: int) -> go.Figure:
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
        gridcolor=_GRID, zeroline=False, linecolor=_AXIS, ticks="outside", tickcolor=_AXIS, ticklen=4, title_standoff=6, automargin=True
    )
    figure.update_yaxes(gridcolor=_GRID, zeroline=False, showline=False, title_standoff=8, automargin=True)
    return figure


def _rgba(colour: str, alpha: float) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def metric_title(key: str) -> str:
    """A metric of ``naming.METRICS`` with its unit or its range."""
    metric = naming.METRICS[key]
    return metric.title + (f" [{metric.unit}]" if metric.unit else "") + (" (0 to 100)" if key in naming.AP_METRICS else "")


# --- curves ---------------------------------------------------------------------------------------


def curves(found: Sequence[Curve], key: str, palette: dict[str, str], order: Sequence[str], epochs: bool, height: int = 260) -> go.Figure:
    """Mean of the seeds as a line, their range as a band, single seeds as hairlines.

    Where not every seed has got to, only the hairlines go on.
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
                fill="toself",
                fillcolor=_rgba(colour, 0.16),
                line={"width": 0},
                **_NO_HOVER,
            )
        if several:  # all in one trace, with gaps between: a trace a seed is slow to make and to draw
            gap = [np.nan]
            figure.add_scatter(
                x=np.concatenate([part for line in curve.lines for part in (line.x, gap)]),
                y=np.concatenate([part for line in curve.lines for part in (line.y, gap)]),
                customdata=np.concatenate([np.full(len(line.x) + 1, line.seed) for line in curve.lines]),
                mode="lines",
                line={"width": 0.8, "color": _rgba(colour, 0.55)},
                hovertemplate=f"{name}, seed %{{customdata}}<br>{unit} %{{x:d}}: %{{y:.{digits}f}}<extra></extra>",
                showlegend=False,
            )
        said = f"{name}{f', mean of {len(curve.lines)} seeds' if several else f', seed {curve.lines[0].seed}'}"
        figure.add_scatter(
            x=curve.x,
            y=curve.mean,
            mode="lines+markers" if epochs and len(curve.x) <= 60 else "lines",
            marker={"size": 5},
            line={"width": 2.2, "color": colour, "dash": dash},
            hovertemplate=f"{said}<br>{unit} %{{x:d}}: %{{y:.{digits}f}}<extra></extra>",
        )
    title = metric_title(key) if metric else theme.plot_text(key)
    _frame(figure, height)
    figure.update_xaxes(title=unit, showgrid=False, tickformat="d", showline=True, rangemode="normal" if epochs else "tozero")
    figure.update_yaxes(title=title, exponentformat="power", nticks=6)
    if epochs and found and max(len(c.x) for c in found) <= 24:
        figure.update_xaxes(dtick=1 if max(len(c.x) for c in found) <= 12 else 2)
    figure.update_layout(hovermode="closest", uirevision=key)
    return figure


def speed_accuracy(points: Sequence[Point], front: Sequence[Point], palette: dict[str, str], order: Sequence[str], where: str) -> go.Figure:
    """Mean of each variant, its seeds as small dots; the front that nothing beats in both as a line. ``where``: whose speed it is."""
    figure = go.Figure()
    if len(front) > 1:
        line = {"width": 1.2, "color": _AXIS, "dash": "dot", "shape": "hv"}
        figure.add_scatter(x=[p.fps for p in front], y=[p.ap for p in front], mode="lines", line=line, **_NO_HOVER)
    for point in points:
        colour, name = palette[point.variant], theme.plot_text(point.variant)
        if len(point.seeds) > 1:
            figure.add_scatter(
                x=[fps for _, fps, _ in point.seeds],
                y=[ap for _, _, ap in point.seeds],
                customdata=[seed for seed, _, _ in point.seeds],
                mode="markers",
                marker={"size": 6, "color": _rgba(colour, 0.45)},
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
    _frame(figure, 330, t=18)
    figure.update_xaxes(title=f"speed {where} [img/s]", **_padded([p.fps for p in points], 0.35))
    figure.update_yaxes(title="AP (0 to 100)", **_padded([p.ap for p in points], 0.3))
    return figure


def _padded(values: Sequence[float], share: float) -> dict:
    low, high = min(values), max(values)
    room = max((high - low) * share, 0.5)
    return {"range": [low - room, high + room]}


# --- searches -------------------------------------------------------------------------------------


def importance(shares: Mapping[str, float], colour: str) -> go.Figure:
    """A bar for each setting, the largest on top."""
    names = [theme.plot_text(_short(key)) for key in reversed(shares)]
    values = list(reversed(shares.values()))
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
    _frame(figure, 64 + 36 * len(names), r=40)
    figure.update_xaxes(title="share of the importance (all together 1)", range=[0, max([*values, 0.01]) * 1.08], nticks=6)
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=names, showgrid=False, ticklabelstandoff=8)
    figure.update_layout(bargap=0.42)
    return figure


def over_setting(
    dimension: Dimension, rows: Sequence[SuggestionRow], metric: str, marks: Mapping[str, tuple[str, str, str]], height: int = 270
) -> go.Figure:
    """The metric of each suggestion over one setting, across all that is searched of it; ``marks`` by state."""
    figure = go.Figure()
    key, digits = dimension.key, naming.METRICS[metric].digits + 1
    choices = [naming.setting_text(value) for value in dimension.choices]
    for state, (colour, symbol, _) in marks.items():
        shown = [row for row in rows if row.state == state]
        hover = [
            f"suggestion {row.number}, {theme.plot_text(state_text(row))}<br>{theme.plot_text(_short(naming.setting_text(row.settings[key]), 60))}"
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
    _frame(figure, height, t=14)
    title = theme.plot_text(key)
    if choices:
        ticks = [theme.plot_text(_short(choice, max(6, 40 // len(choices)))) for choice in choices]
        figure.update_xaxes(range=[-0.5, len(choices) - 0.5], tickvals=list(range(len(choices))), ticktext=ticks, showgrid=False)
        figure.update_xaxes(ticklabeloverflow="allow")
    elif dimension.log:
        low, high = math.log10(dimension.low), math.log10(dimension.high)
        room = 0.04 * (high - low)
        ticks = _log_ticks(dimension.low, dimension.high)
        figure.update_xaxes(type="log", range=[low - room, high + room], tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])
        title += " (logarithmic)"
    else:
        room = 0.04 * (dimension.high - dimension.low)
        figure.update_xaxes(range=[dimension.low - room, dimension.high + room], nticks=7, exponentformat="none")
        if dimension.integer:
            figure.update_xaxes(tickformat="d", dtick=1 if dimension.size <= 10 else None)
    figure.update_xaxes(title=title, showline=True)
    figure.update_yaxes(title=metric_title(metric), nticks=6)
    figure.update_layout(hovermode="closest", uirevision=key)
    return figure


def _short(name: str, most: int = 28) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _place(row: SuggestionRow, key: str, choices: Sequence[str]) -> float | None:
    """Where a suggestion stands on the axis: beside others of the same choice, so that they do not hide each other."""
    if not choices:
        return row.settings[key]
    shown = naming.setting_text(row.settings[key])
    return choices.index(shown) + 0.3 * (row.number * 0.618 % 1 - 0.5) if shown in choices else None


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5 of each decade where they are few, else the decades; at least the two ends."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    parts = (1, 2, 5) if math.log10(high / low) <= 1.7 else (1, 3) if math.log10(high / low) <= 2.6 else (1,)
    found = [float(f"{part}e{decade}") for decade in decades for part in parts if low <= float(f"{part}e{decade}") <= high]
    return found if len(found) > 1 else [low, high]


# --- boxes ----------------------------------------------------------------------------------------


def _data_uri(image: np.ndarray, most: int = 1400) -> str:
    picture = Image.fromarray(image)
    picture.thumbnail((most, most))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG") if picture.width * picture.height < 250_000 else picture.save(buffer, "JPEG", quality=88)
    kind = "png" if buffer.getvalue()[:4] == b"\x89PNG" else "jpeg"
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()


def _outline(box: tuple[float, float, float, float]) -> tuple[list[float], list[float]]:
    x1, y1, x2, y2 = box
    return [x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1]


def box_on_image(image: np.ndarray, view: BoxView, colour: str, truth: str, ink: str, near: bool, side: int = 540) -> go.Figure:
    """The image with the box, and along its margins each side's distribution at its place in the image.

    Above: left and right, over x. At the right: top and bottom, over y. The bars share the image's pixel axes.
    """
    rows, columns = image.shape[:2]
    figure = make_subplots(
        rows=2,
        cols=2,
        row_heights=[0.2, 0.8],
        column_widths=[0.82, 0.18],
        shared_xaxes=True,
        shared_yaxes=True,
        horizontal_spacing=0.015,
        vertical_spacing=0.015,
    )
    figure.add_layout_image(
        source=_data_uri(image), xref="x3", yref="y3", x=0, y=0, sizex=columns, sizey=rows, sizing="stretch", layer="below", yanchor="top"
    )

    def draw(x: Sequence[float], y: Sequence[float], line: dict, hover: str) -> None:
        figure.add_scatter(
            x=x, y=y, mode="lines", line={"width": line["width"] + 1.4, "color": "rgba(0,0,0,.5)"}, row=2, col=1, **_NO_HOVER
        )
        figure.add_scatter(x=x, y=y, mode="lines", line=line, hovertemplate=hover + "<extra></extra>", showlegend=False, row=2, col=1)

    if view.gt:
        draw(*_outline(view.gt), {"width": 2, "color": "#FFFFFF"}, f"ground truth: {theme.plot_text(view.category)}")
    if view.prediction:
        what = "prediction" if view.detection else "decoded at the cell (not kept as a detection)"
        draw(*_outline(view.prediction), {"width": 2, "color": colour, "dash": "solid" if view.detection else "dot"}, what)
    for view_side in view.sides:
        if view_side.edges and view.gt:
            for place, probability in zip(view_side.edges, view_side.edge_probs, strict=True):
                at = float(view_side.pixel(place))
                ends = (view.gt[1], view.gt[3]) if view_side.horizontal else (view.gt[0], view.gt[2])
                line = ([at, at], list(ends)) if view_side.horizontal else (list(ends), [at, at])
                draw(*line, {"width": 2.2, "color": truth, "dash": "5px,3px"}, f"true {view_side.side} edge: p = {probability:.2f}")
    if view.cell:
        figure.add_scatter(
            x=[view.cell[0]],
            y=[view.cell[1]],
            mode="markers",
            marker={"symbol": "cross-thin", "size": 11, "line": {"width": 2, "color": colour}},
            hovertemplate=f"cell centre, stride {view.stride} px<extra></extra>",
            showlegend=False,
            row=2,
            col=1,
        )
    most = max([float(s.probability.max()) for s in view.sides if s.probability is not None] or [1.0])
    for view_side in view.sides:
        _margin(figure, view_side, colour, truth, ink, most)

    x_range, y_range = _window(view, columns, rows) if near else ((0, columns), (0, rows))
    _frame(figure, side, l=44, r=4, t=4, b=40)
    figure.update_layout(width=side, autosize=False)
    figure.update_xaxes(showgrid=False, showline=False, ticks="", showticklabels=False, automargin=False)
    figure.update_yaxes(showgrid=False, ticks="", showticklabels=False, automargin=False)
    figure.update_layout(
        xaxis3={"range": x_range, "title": {"text": "x [px]"}, "showticklabels": True, "constrain": "range", "nticks": 6},
        yaxis3={
            "range": y_range[::-1],
            "scaleanchor": "x3",
            "scaleratio": 1,
            "title": {"text": "y [px]"},
            "showticklabels": True,
            "constrain": "range",
            "nticks": 6,
        },
        yaxis={"range": [0, most * 1.12]},
        xaxis4={"range": [0, most * 1.12]},
        barmode="overlay",
    )
    return figure


def _margin(figure: go.Figure, side: SideView, colour: str, truth: str, ink: str, most: float) -> None:
    row, col = (1, 1) if side.horizontal else (2, 2)

    def line(place: float, style: dict, upto: float = most) -> None:
        at = float(side.pixel(place))
        x, y = ([at, at], [0, upto]) if side.horizontal else ([0, upto], [at, at])
        figure.add_scatter(x=x, y=y, mode="lines", line=style, row=row, col=col, **_NO_HOVER)

    if side.probability is not None:
        bins = np.arange(len(side.probability))
        place = side.pixel(bins)
        hover = [f"{side.side}, bin {b}: p = {p:.3f}" for b, p in zip(bins, side.probability, strict=True)]
        x, y = (place, side.probability) if side.horizontal else (side.probability, place)
        figure.add_bar(
            x=x,
            y=y,
            orientation="v" if side.horizontal else "h",
            width=side.px_per_bin * 0.86,
            marker={"color": _rgba(colour, 0.8), "line": {"width": 0}},
            hovertext=hover,
            hoverinfo="text",
            showlegend=False,
            row=row,
            col=col,
        )
    if side.edges:
        for place, probability in zip(side.edges, side.edge_probs, strict=True):
            line(place, {"color": truth, "width": 2.2}, probability)
            at = float(side.pixel(place))
            x, y = ([at], [probability]) if side.horizontal else ([probability], [at])
            figure.add_scatter(
                x=x, y=y, mode="markers", marker={"size": 7, "color": truth}, row=row, col=col, cliponaxis=False, **_NO_HOVER
            )
    if side.target is not None:
        line(side.target, {"color": ink, "width": 1.4})
    line(side.expectation, {"color": colour, "width": 1.8, "dash": "3px,3px"})


def _window(view: BoxView, columns: int, rows: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """What to show around a box, in px: it and its true edges, and as much around as tells where one is; never beyond the image."""
    xs: list[float] = []
    ys: list[float] = []
    for box in (view.gt, view.prediction):
        if box:
            xs += [box[0], box[2]]
            ys += [box[1], box[3]]
    for side in view.sides:
        for place in side.edges or ():
            (xs if side.horizontal else ys).append(float(side.pixel(place)))
    if not xs:
        return (0, columns), (0, rows)
    side = min(1.7 * max(max(xs) - min(xs), max(ys) - min(ys), 24.0), max(columns, rows))  # a square, as the plot is
    windows = []
    for values, size in ((xs, columns), (ys, rows)):
        middle, width = (min(values) + max(values)) / 2, min(side, size)
        low = min(max(middle - width / 2, 0.0), size - width)
        windows.append((low, low + width))
    return windows[0], windows[1]


def sides(view: BoxView, colour: str, truth: str, ink: str, height: int = 380) -> go.Figure:
    """The four sides: probability by bin, with target, expectation, and the true edges at the height of their probability."""
    titles = [f"<b>{s.side}</b>" + (f", {theme.plot_text(view.ambiguity)}" if s.edges and view.ambiguity else "") for s in view.sides]
    figure = make_subplots(rows=2, cols=2, subplot_titles=titles, horizontal_spacing=0.09, vertical_spacing=0.2)
    peaks = [float(np.nanmax(s.probability)) for s in view.sides if s.probability is not None]
    peaks += [p for s in view.sides for p in s.edge_probs or ()]
    top = min(1.0, max(peaks)) * 1.12 if peaks else 1.0
    dirac = all(s.probability is None for s in view.sides)
    last = max([len(s.probability) - 1 for s in view.sides if s.probability is not None] or [0])
    if not last:
        last = math.ceil(max([v for s in view.sides for v in (s.expectation, s.target or 0.0, *(s.edges or ()))] or [1.0])) + 1
    for index, side in enumerate(view.sides):
        row, col = index // 2 + 1, index % 2 + 1
        if side.probability is not None:
            bins = np.arange(len(side.probability))
            hover = [
                f"bin {b}, {b * side.px_per_bin:.0f} px from the cell<br>p = {p:.3f}" for b, p in zip(bins, side.probability, strict=True)
            ]
            figure.add_bar(
                x=bins,
                y=side.probability,
                width=0.86,
                marker={"color": _rgba(colour, 0.8), "line": {"width": 0}},
                hovertext=hover,
                hoverinfo="text",
                row=row,
                col=col,
            )
        if side.edges:
            for place, probability in zip(side.edges, side.edge_probs, strict=True):
                figure.add_scatter(
                    x=[place, place], y=[0, probability], mode="lines", line={"color": truth, "width": 2.4}, row=row, col=col, **_NO_HOVER
                )
                figure.add_scatter(
                    x=[place],
                    y=[probability],
                    mode="markers",
                    marker={"size": 9, "color": truth},
                    cliponaxis=False,
                    showlegend=False,
                    hovertemplate=f"true edge at {place:.1f} bins, p = {probability:.2f}<extra></extra>",
                    row=row,
                    col=col,
                )
        for place, style, what in (
            (side.target, {"color": ink, "width": 1.5}, "target"),
            (side.expectation, {"color": colour, "width": 2, "dash": "4px,3px"}, "the one distance" if dirac else "expectation"),
        ):
            if place is not None:
                figure.add_scatter(
                    x=[place, place],
                    y=[0, top],
                    mode="lines",
                    line=style,
                    showlegend=False,
                    hovertemplate=f"{what}: {place:.2f} bins, {place * side.px_per_bin:.1f} px<extra></extra>",
                    row=row,
                    col=col,
                )
    _frame(figure, height, t=26)
    unit = f"{view.sides[0].px_per_bin:.3g} px" if view.sides else ""
    figure.update_xaxes(range=[-0.6, last + 0.6], showgrid=False, showline=True, dtick=4 if last > 8 else 1)
    figure.update_yaxes(range=[0, top], tickformat=".1f", nticks=4)
    figure.update_xaxes(title=f"distance [bins of {unit}]", row=2)
    if dirac:
        figure.update_yaxes(showticklabels=False, showgrid=False)
    else:
        figure.update_yaxes(title="probability", col=1)
    figure.update_annotations(font={"size": 13}, yshift=2)
    return figure


def growth(sides: Sequence[Growth], colour: str, truth: str, ink: str) -> go.Figure:
    """A strip for each epoch, from the first on top to the last: where on the image each side was believed to be."""
    figure = make_subplots(rows=1, cols=len(sides), subplot_titles=[side.side for side in sides], horizontal_spacing=0.05)
    for column, side in enumerate(sides, 1):
        figure.add_heatmap(
            x=side.places, y=side.epochs, z=side.probability, row=1, col=column, colorscale=[[0, _rgba(colour, 0)], [1, colour]], showscale=False,
            hovertemplate="epoch %{y:d}, %{x:.0f} px: %{z:.3f} a px<extra></extra>",
        )  # fmt: skip
        line = {"width": 1.4, "dash": "dash", "color": ink}
        figure.add_scatter(x=side.expectation, y=side.epochs, mode="lines", line=line, row=1, col=column, **_NO_HOVER)
        for place, shade, width in [(side.target, ink, 1.2), *((edge, truth, 2.2) for edge in side.edges or ())]:
            if place is not None:
                figure.add_vline(x=place, line={"color": shade, "width": width}, row=1, col=column)
        figure.update_xaxes(title="x [px]" if side.side in ("left", "right") else "y [px]", row=1, col=column)
    _frame(figure, 300, t=28)
    figure.update_yaxes(autorange="reversed", tickformat="d", nticks=8, showgrid=False)
    figure.update_yaxes(title="epoch", col=1)
    figure.update_xaxes(showgrid=False, nticks=5)
    return figure


# --- localisation and comparison ------------------------------------------------------------------


def reliability(found: Mapping[str, Reliability], palette: dict[str, str], order: Sequence[str], ink: str) -> go.Figure:
    """Mean IoU over mean score of each bin, larger marks for more detections; the diagonal is what QFL trains for."""
    figure = go.Figure()
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line={"width": 1, "dash": "dot", "color": ink}, **_NO_HOVER)
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
    _frame(figure, 400)
    figure.update_xaxes(title="mean score", range=[0, 1], showline=True)
    figure.update_yaxes(title="mean IoU with the nearest box of the class", range=[0, 1])
    return figure


def differences(rows: Sequence[PairRow], colours: tuple[str, str], low_is_good: bool, ink: str) -> go.Figure:
    """Ours minus theirs, row by row, the interval as a bar; right of the line ours is higher. Grey where the difference is not resolved."""
    figure = go.Figure()
    names = [theme.plot_text(_short(row.name)) for row in reversed(rows)]
    values = [row.found.mean for row in reversed(rows)]
    halves = [row.half or 0.0 for row in reversed(rows)]
    figure.add_vline(x=0, line={"width": 1, "color": ink})
    figure.add_scatter(
        x=values,
        y=list(range(len(names))),
        mode="markers",
        marker={"size": 9, "color": [{True: colours[0], False: colours[1], None: _AXIS}[row.better] for row in reversed(rows)]},
        error_x={"type": "data", "array": halves, "thickness": 1.6, "width": 5, "color": _AXIS},
        customdata=halves,
        text=names,
        hovertemplate="%{text}: %{x:+.1f} ± %{customdata:.1f}<extra></extra>",
    )
    _frame(figure, 84 + 30 * len(names), r=16)
    unit = "AP50 points that ours costs more" if low_is_good else "AP points that ours is higher"
    figure.update_xaxes(title=unit, showline=True, nticks=7)
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=names, showgrid=False, range=[-0.6, len(names) - 0.4])
    return figure
