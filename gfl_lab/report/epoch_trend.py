"""One box after each epoch: where on the image the model put each side on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gfl_lab import naming
from gfl_lab.report.boxes import SideView, box_view

Array = NDArray[np.float64]
_FAINT = 0.02
"""Places that are never given more than this part of the highest probability are cut off at either end."""


@dataclass(frozen=True)
class EpochTrend:
    """One side of one box after each epoch.

    Attributes:
        side: of ``naming.SIDES``. epochs: (E,) from 1. places: (B,) along one axis of the image, px, ascending.
        probability: (E, B) that the side lies within a px of each place: the bins as they lay then, since the location matched to a
            box may change, divided by their width. expectation: (E,) px.
        target: px. edges: the two true places, px, if the data have them.
    """

    side: str
    epochs: Array
    places: Array
    probability: Array
    expectation: Array
    target: float | None
    edges: tuple[float, float] | None


def epoch_trends(frame: pd.DataFrame) -> tuple[EpochTrend, ...]:
    """Return the four sides of a box from the frame of ``results.Store.history``; empty for Dirac boxes.

    Epochs with a probability that is not finite, as after a loss that diverged, are left out.

    Raises:
        ValueError: the probabilities are not four sides of ``bins`` numbers.
    """
    views = [box_view({str(key): value for key, value in row.items()}) for row in frame.to_dict("records")]
    known = [index for index, view in enumerate(views) if len(view.sides) == 4 and all(map(_is_finite, view.sides))]
    if not known:
        return ()
    epochs = frame["epoch"].to_numpy(float)[known]
    return tuple(_trend(name, epochs, [views[i].sides[index] for i in known]) for index, name in enumerate(naming.SIDES))


def _is_finite(side: SideView) -> bool:
    return side.probability is not None and bool(np.isfinite(side.probability).all())


def _trend(name: str, epochs: Array, sides: list[SideView]) -> EpochTrend:
    probabilities = [np.asarray(side.probability) for side in sides]
    borders = [side.borders for side in sides]
    ends = [np.sort(side.pixel(border[[0, -1]])) for side, border in zip(sides, borders, strict=True)]
    places = np.arange(math.floor(min(low for low, _ in ends)) + 0.5, math.ceil(max(high for _, high in ends)), 1.0)
    density = np.zeros((len(sides), len(places)))
    for row, (side, p, border) in enumerate(zip(sides, probabilities, borders, strict=True)):
        bins = np.searchsorted(border, (places - side.origin) * side.sign / side.px_per_bin, side="right") - 1
        inside = (bins >= 0) & (bins < len(p))
        density[row, inside] = (p / np.diff(border))[bins[inside]] / side.px_per_bin
    seen = np.flatnonzero(density.max(0) >= _FAINT * density.max())
    shown = slice(max(0, seen[0] - 3), seen[-1] + 4)
    last = sides[-1]
    return EpochTrend(
        side=name,
        epochs=epochs,
        places=places[shown],
        probability=density[:, shown],
        expectation=np.array([float(side.pixel(side.expectation)) for side in sides]),
        target=None if last.target is None else float(last.pixel(last.target)),
        edges=None if last.edges is None else (float(last.pixel(last.edges[0])), float(last.pixel(last.edges[1]))),
    )
