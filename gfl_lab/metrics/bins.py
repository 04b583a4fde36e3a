"""Positions of a side's bins: the non-uniform weighting function W(n) of D-FINE (arXiv 2410.13842, section 4.1), around half an anchor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Positions = Sequence[float] | NDArray[np.float64]
"""Distances (n+1,) that bins stand for, ascending."""


def weighting_function(n: int, a: float, c: float) -> tuple[float, ...]:
    """Return W(0), ..., W(n): 0 in the middle, close together there and further and further apart outwards.

    ::

        W(0) = -2a
        W(i) =  c - c (a/c + 1)^((n - 2i) / (n - 2))    for 1 <= i < n/2
        W(i) = -c + c (a/c + 1)^((2i - n) / (n - 2))    for n/2 <= i <= n - 1
        W(n) = 2a

    Args:
        n: index of the last bin, even and at least 4.
        a: W(n - 1), above 0: reach of all bins but the outer two.
        c: curvature, above 0: small ones gather the bins in the middle, large ones space them evenly.

    Raises:
        ValueError: n is odd or below 4; a or c is not above 0.
    """
    if n < 4 or n % 2:
        raise ValueError(f"n is {n}: it must be even and at least 4")
    if a <= 0 or c <= 0:
        raise ValueError(f"a is {a} and c is {c}: both must be above 0")
    half = [c * ((a / c + 1) ** (2 * step / (n - 2)) - 1) for step in range(1, n // 2)] + [2 * a]
    return (*(-value for value in reversed(half)), 0.0, *half)


def weighted_positions(n: int, a: float, c: float, anchor_scale: float) -> tuple[float, ...]:
    """Return the distances from a location that the bins 0..n stand for, in strides: ``anchor_scale (1/2 + W(i))``.

    D-FINE adds W(i) times the size of an initial box to the distance of its side. Here the initial box is the anchor, whose
    sides lie ``anchor_scale / 2`` strides from the location and are ``anchor_scale`` strides long. With a = 1/2 bin 1 is at 0.
    """
    return tuple(anchor_scale * (0.5 + weight) for weight in weighting_function(n, a, c))


def stored_positions(value: Any) -> NDArray[np.float64] | None:
    """Return the positions of a row's ``bin_positions``; None where bin i is at i: an empty list, or a file from before there was one."""
    if value is None or np.ndim(value) == 0 or len(value) == 0:
        return None
    return np.asarray(value, np.float64)


def places(bins: int, positions: Positions | None) -> NDArray[np.float64]:
    """Return the (n+1,) positions of ``bins`` bins; None stands for 0, 1, ..., n."""
    return np.arange(bins, dtype=np.float64) if positions is None else np.asarray(positions, np.float64)
