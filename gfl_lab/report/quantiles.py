"""Quantiles and probabilities of the normal, Student's and F distributions, as arrays.

SciPy is imported when the first one is asked for: it takes as long as the rest of a command that shows no interval.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def normal_quantile(p: Array | float) -> Any:
    """Return the quantile of the standard normal distribution at ``p``, 0 to 1."""
    from scipy import special

    return special.ndtri(p)


def normal_probability(x: Array | float) -> Any:
    """Return the probability that a standard normal number is at most ``x``."""
    from scipy import special

    return special.ndtr(x)


def student_quantile(freedom: Array | float, p: Array | float) -> Any:
    """Return the quantile of Student's distribution at ``p``, 0 to 1."""
    from scipy import special

    return special.stdtrit(freedom, p)


def f_quantile(first: Array | float, second: Array | float, p: Array | float) -> Any:
    """Return the quantile of F with ``first`` degrees of freedom over ``second`` at ``p``, 0 to 1."""
    from scipy import special

    return special.fdtri(first, second, p)
