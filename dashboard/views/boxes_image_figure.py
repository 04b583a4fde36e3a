"""One box on its image, with the distributions of its sides along the margins."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from PIL import Image
from plotly.subplots import make_subplots

from dashboard import theme
from dashboard.figures import NO_HOVER, BoxColours, frame, rgba
from gfl_lab.report.boxes import BoxView, SideView

_IMAGE = {"row": 2, "col": 1}
SIZE = 540
"""px: width and height."""


def box_on_image(image: NDArray[np.uint8], view: BoxView, colours: BoxColours, near: bool) -> go.Figure:
    """Return the image with the box, and along its margins each side's distribution at its place in the image.

    Above: left and right, over x. At the right: top and bottom, over y. The bars share the image's pixel axes. ``near`` shows the
    surroundings of the box alone.
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
    _boxes(figure, view, colours)
    _true_edges(figure, view, colours)
    _location(figure, view, colours)
    highest = max([float(side.probability.max()) for side in view.sides if side.probability is not None] or [1.0])
    for side in view.sides:
        _margin(figure, side, colours, highest)
    _axes(figure, _window(view, columns, rows) if near else ((0, columns), (0, rows)), highest)
    return figure


def _line(figure: go.Figure, x: Sequence[float], y: Sequence[float], line: dict[str, Any], hover: str) -> None:
    """Draw a line with a dark rim, so that it is seen on any image."""
    rim = {"width": line["width"] + 1.4, "color": "rgba(0,0,0,.5)"}
    figure.add_scatter(x=x, y=y, mode="lines", line=rim, **_IMAGE, **NO_HOVER)
    figure.add_scatter(x=x, y=y, mode="lines", line=line, hovertemplate=hover + "<extra></extra>", showlegend=False, **_IMAGE)


def _boxes(figure: go.Figure, view: BoxView, colours: BoxColours) -> None:
    if view.gt:
        _line(figure, *_outline(view.gt), {"width": 2, "color": "#FFFFFF"}, f"ground truth: {theme.plot_text(view.category)}")
    if view.prediction:
        what = "prediction" if view.detection else "decoded at the location (not kept as a detection)"
        style = {"width": 2, "color": colours.variant, "dash": "solid" if view.detection else "dot"}
        _line(figure, *_outline(view.prediction), style, what)


def _true_edges(figure: go.Figure, view: BoxView, colours: BoxColours) -> None:
    if not view.gt:
        return
    for side in view.sides:
        for place, probability in side.true_edges:
            at = float(side.pixel(place))
            ends = [view.gt[1], view.gt[3]] if side.horizontal else [view.gt[0], view.gt[2]]
            x, y = ([at, at], ends) if side.horizontal else (ends, [at, at])
            style = {"width": 2.2, "color": colours.truth, "dash": "5px,3px"}
            _line(figure, x, y, style, f"true {side.side} edge: p = {probability:.2f}")


def _location(figure: go.Figure, view: BoxView, colours: BoxColours) -> None:
    if view.location:
        figure.add_scatter(
            x=[view.location[0]],
            y=[view.location[1]],
            mode="markers",
            marker={"symbol": "cross-thin", "size": 11, "line": {"width": 2, "color": colours.variant}},
            hovertemplate=f"centre of the location, stride {view.stride} px<extra></extra>",
            showlegend=False,
            **_IMAGE,
        )


def _margin(figure: go.Figure, side: SideView, colours: BoxColours, highest: float) -> None:
    """Draw the distribution of one side in its margin, with true edges, target and expectation."""
    where = {"row": 1, "col": 1} if side.horizontal else {"row": 2, "col": 2}

    def line(place: float, style: dict[str, Any], upto: float = highest) -> None:
        at = float(side.pixel(place))
        x, y = ([at, at], [0, upto]) if side.horizontal else ([0, upto], [at, at])
        figure.add_scatter(x=x, y=y, mode="lines", line=style, **where, **NO_HOVER)

    if side.probability is not None:
        place = side.pixel(side.positions)
        x, y = (place, side.probability) if side.horizontal else (side.probability, place)
        figure.add_bar(
            x=x,
            y=y,
            orientation="v" if side.horizontal else "h",
            width=side.px_per_bin * 0.86 * side.widths,
            marker={"color": rgba(colours.variant, 0.8), "line": {"width": 0}},
            hovertext=[f"{side.side}, bin {b}: p = {p:.3f}" for b, p in enumerate(side.probability)],
            hoverinfo="text",
            showlegend=False,
            **where,
        )
    for place, probability in side.true_edges:
        line(place, {"color": colours.truth, "width": 2.2}, probability)
        at = float(side.pixel(place))
        x, y = ([at], [probability]) if side.horizontal else ([probability], [at])
        figure.add_scatter(x=x, y=y, mode="markers", marker={"size": 7, "color": colours.truth}, cliponaxis=False, **where, **NO_HOVER)
    if side.target is not None:
        line(side.target, {"color": colours.ink, "width": 1.4})
    line(side.expectation, {"color": colours.variant, "width": 1.8, "dash": "3px,3px"})


def _axes(figure: go.Figure, window: tuple[tuple[float, float], tuple[float, float]], highest: float) -> None:
    x_range, y_range = window
    frame(figure, SIZE, l=44, r=4, t=4, b=40)
    figure.update_layout(width=SIZE, autosize=False)
    figure.update_xaxes(showgrid=False, showline=False, ticks="", showticklabels=False, automargin=False)
    figure.update_yaxes(showgrid=False, ticks="", showticklabels=False, automargin=False)
    shown = {"showticklabels": True, "constrain": "range", "nticks": 6}
    figure.update_layout(
        xaxis3={"range": x_range, "title": {"text": "x [px]"}, **shown},
        yaxis3={"range": y_range[::-1], "scaleanchor": "x3", "scaleratio": 1, "title": {"text": "y [px]"}, **shown},
        yaxis={"range": [0, highest * 1.12]},
        xaxis4={"range": [0, highest * 1.12]},
        barmode="overlay",
    )


def _window(view: BoxView, columns: int, rows: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the part of the image to show, in px: a box with its true edges and some surroundings, never beyond the image."""
    xs: list[float] = []
    ys: list[float] = []
    for box in (view.gt, view.prediction):
        if box:
            xs += [box[0], box[2]]
            ys += [box[1], box[3]]
    for side in view.sides:
        for place, _ in side.true_edges:
            (xs if side.horizontal else ys).append(float(side.pixel(place)))
    if not xs:
        return (0, columns), (0, rows)
    length = min(1.7 * max(max(xs) - min(xs), max(ys) - min(ys), 24.0), max(columns, rows))  # a square, as the plot is
    windows = []
    for values, size in ((xs, columns), (ys, rows)):
        middle, width = (min(values) + max(values)) / 2, min(length, size)
        low = min(max(middle - width / 2, 0.0), size - width)
        windows.append((low, low + width))
    return windows[0], windows[1]


def _outline(box: tuple[float, float, float, float]) -> tuple[list[float], list[float]]:
    x1, y1, x2, y2 = box
    return [x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1]


def _data_uri(image: NDArray[np.uint8], most: int = 1400) -> str:
    picture = Image.fromarray(image)
    picture.thumbnail((most, most))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG") if picture.width * picture.height < 250_000 else picture.save(buffer, "JPEG", quality=88)
    kind = "png" if buffer.getvalue()[:4] == b"\x89PNG" else "jpeg"
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()
