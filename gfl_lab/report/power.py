"""The size of a difference that seeds and images can detect, at 5%, two-sided, with a power of 80%."""

from __future__ import annotations

import math

import numpy as np

from gfl_lab.report.noise import CORRELATION, Array, squared_half_width
from gfl_lab.report.quantiles import normal_quantile, student_quantile
from gfl_lab.report.statistics import Difference

POWER = 0.80
MAX_SEEDS = 1000
"""The largest number that is given."""


def _z(found: Difference) -> float:
    """Return how many standard deviations of the normal distribution a detectable difference has."""
    return float(normal_quantile(1 - found.level / 2) + normal_quantile(POWER))


def detectable(found: Difference) -> float | None:
    """Return the smallest true difference detectable with this number of seeds; None where there is no interval."""
    return None if found.half is None else float(_detectable(found, np.array(found.pairs), np.array(found.freedom)))


def _detectable(found: Difference, seeds: Array, freedom: Array) -> Array:
    """Return the smallest detectable difference for each number of seeds a row.

    The part of the images' variance that seeds average out falls with their number.
    """
    t = student_quantile(freedom, 1 - found.level / 2) + student_quantile(freedom, POWER)
    lasting = found.lasting or 0.0
    images = lasting + ((found.image_variance or 0.0) - lasting) * found.pairs / seeds
    return np.sqrt(squared_half_width(_z(found), t, seeds, images, found.noise._replace(freedom=freedom)))


def seeds_needed(found: Difference, min_effect: float) -> int | None:
    """Return the number of seeds with which a true difference of ``min_effect`` AP is detectable.

    All rows that share their spread are assumed to have as many.

    Returns:
        None if ``MAX_SEEDS`` do not suffice. If the images are the limit, ``images_needed`` gives their number.

    Raises:
        ValueError: there is no interval, so the noise is not known.
    """
    if found.half is None:
        raise ValueError(f"the noise between seeds is not known: {found.why or found.verdict}")
    seeds = np.arange(2.0, MAX_SEEDS + 1)
    alike = found.rows * (seeds - 1) / (1 + (found.rows - 1) * CORRELATION**2)
    freedom = found.groups.rate * (seeds - 1) if found.groups else alike
    enough = _detectable(found, seeds, freedom) <= min_effect
    return int(seeds[enough.argmax()]) if enough.any() else None


def images_resolve(found: Difference) -> float | None:
    """Return the smallest true difference detectable on these images with any number of seeds; None where it is not known."""
    return None if found.half is None or found.lasting is None else _z(found) * math.sqrt(found.lasting)


def images_needed(found: Difference, min_effect: float) -> int | None:
    """Return the least number of images on which a true difference of ``min_effect`` AP is detectable with any number of seeds.

    None where these suffice, or nothing is known of them.
    """
    limit = images_resolve(found)
    if limit is None or limit <= min_effect or not found.images:
        return None
    return math.ceil(found.images * (limit / min_effect) ** 2)
