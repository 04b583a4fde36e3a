"""Training curves before any drawing: one line a seed, their mean and range, smoothed and thinned. Pure functions of logged values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfl_lab import naming
from gfl_lab.results.rows import Logged

Array = NDArray[np.float64]
MAX_POINTS = 1500
"""A line is thinned to about this many points: more than a screen has columns."""
TERM_ORDER = ("loss", "loss_cls", "loss_bbox", "loss_dfl", "loss_centerness", "lr")


@dataclass(frozen=True)
class Line:
    """One trial's values of one metric. NaN is a gap: a value that was not finite."""

    seed: int
    trial: str
    x: Array
    y: Array


@dataclass(frozen=True)
class Curve:
    """One variant's values of one metric: a line a seed; their mean and range where every seed has a value.

    ``low`` and ``high`` are the smallest and largest seed, not a standard error; equal to ``mean`` for one seed.
    """

    variant: str
    lines: tuple[Line, ...]
    x: Array
    mean: Array
    low: Array
    high: Array


def curve_keys(found: Iterable[str]) -> tuple[str, ...]:
    """Return the metrics in reading order: loss terms, then ``naming.METRICS``, then others by name."""
    found = set(found)
    known = [key for key in (*TERM_ORDER, *naming.METRICS) if key in found]
    return (*known, *sorted(found - set(known)))


def differing_terms(variants: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, ...]]:
    """Return the loss terms that some variants have and others do not, with the variants that have them.

    Args:
        variants: the variants that have logged each metric of training; those that are no terms of the loss are left out.
    """
    terms = {key: tuple(dict.fromkeys(names)) for key, names in variants.items() if key.startswith("loss_")}
    every = {name for names in terms.values() for name in names}
    return {key: names for key, names in terms.items() if set(names) != every}


_TERM_SETTINGS = {
    "loss_cls": ("detector", "head", "quality", "cls_loss", "qfl_beta", "varifocal_alpha", "varifocal_gamma"),
    "loss_bbox": ("detector", "head", "box", "box_loss", "box_loss_weight"),
    "loss_dfl": ("detector", "head", "dfl_weight", "bins", "reg_max"),
    "loss": ("detector",),
}
"""Settings that decide what a term of the loss is. Values of a term are comparable between variants that agree in them."""


def term_groups(key: str, variants: Sequence[tuple[str, Mapping[str, Any]]]) -> list[tuple[str, ...]]:
    """Return the variants (name, settings) in groups for which a term of the loss means the same."""
    groups: dict[str, list[str]] = {}
    for name, settings in variants:
        groups.setdefault(repr([settings.get(each) for each in _TERM_SETTINGS.get(key, ())]), []).append(name)
    return [tuple(names) for names in groups.values()]


def curves(logged: Iterable[Logged], kind: str, window: int = 1, max_points: int = MAX_POINTS, last_epochs: int = 0) -> tuple[Curve, ...]:
    """Return the curves of one metric, in the order in which their variants come.

    Args:
        logged: as ``results.Store.logged`` returns it.
        kind: ``train`` (x is the step) or ``val`` (x is the epoch).
        window: mean over this many consecutive values (odd), centred, fewer at the ends; 1 changes nothing.
        max_points: longer lines are thinned to every k-th value, first and last kept.
        last_epochs: only so many epochs at the end of the longest line; 0 is all.
    """
    logged = list(logged)
    first = max((int(one.epoch.max()) for one in logged if len(one.epoch)), default=0) - last_epochs + 1 if last_epochs else 0
    variants: dict[str, list[tuple[Logged, Array, Array]]] = {}
    for one in logged:
        x, last = np.unique((one.step if kind == "train" else one.epoch)[::-1], return_index=True)  # of a repeated one the last
        y, is_shown = smoothed(one.value[::-1][last], window), one.epoch[::-1][last] >= first
        if is_shown.any():
            variants.setdefault(one.variant, []).append((one, x[is_shown].astype(float), y[is_shown]))
    result = []
    for variant, found in variants.items():
        found.sort(key=lambda each: (each[0].seed, each[0].trial))
        lines = tuple(Line(one.seed, one.trial, *_thin(x, y, max_points)) for one, x, y in found)
        shared = reduce(lambda a, b: a if np.array_equal(a, b) else np.intersect1d(a, b, assume_unique=True), (x for _, x, _ in found))
        stacked = np.stack([y[np.searchsorted(x, shared)] for _, x, y in found])
        x_mean, mean = _thin(shared, stacked.mean(0), max_points)
        _, low = _thin(shared, stacked.min(0), max_points)
        _, high = _thin(shared, stacked.max(0), max_points)
        result.append(Curve(variant, lines, x_mean, mean, low, high))
    return tuple(result)


def smoothed(values: Array, window: int) -> Array:
    """Return the mean of the finite values among ``window`` (odd) consecutive ones, centred; NaN where the value itself is not finite."""
    finite = np.isfinite(values)
    if window == 1 or not len(values):
        return np.where(finite, values, np.nan)
    half, ones = window // 2, np.ones(window)
    total = np.convolve(np.where(finite, values, 0.0), ones)[half : half + len(values)]
    count = np.convolve(finite, ones)[half : half + len(values)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(finite, total / count, np.nan)


def _thin(x: Array, y: Array, most: int) -> tuple[Array, Array]:
    if len(x) <= most:
        return x, y
    keep = np.unique(np.linspace(0, len(x) - 1, most).round().astype(int))
    return x[keep], y[keep]
