"""Many tables at once whose truth is known, look by look: how often verdicts are wrong, and how many trials they take.

``report.looks`` decides one table from its trials; here the same rule runs over arrays. A trial's AP is the effect of its seed, plus the
response of its variant to each image, plus noise of this trial on each image, all of them normal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gfl_lab.report.looks import HOPE, chance_of_verdict, levels
from gfl_lab.report.noise import LEVEL, Array, p_values, p_within, pool

NO_VERDICT, BETTER, WORSE, EQUIVALENT = 0, 1, 2, 3
IMAGES = 200
IMAGE_SHARE = 0.3
EFFECTS = (0.0, 0.5, 1.0, 2.0, 4.0)
"""True differences of an experiment of which nothing is known, in multiples of the smallest effect that matters."""
MOST_ROWS = 20
CHUNK = 200
"""Tables that are drawn at once: bounds the memory."""


@dataclass(frozen=True)
class Drawn:
    """Simulated tables at each look, (tables, rows, looks): mean difference, S^2, B and E of ``report.statistics``."""

    mean: Array
    seed_variance: Array
    image_variance: Array
    residual: Array


@dataclass(frozen=True)
class Played:
    """How simulated tables ended.

    Attributes:
        verdict: (tables, rows) of NO_VERDICT, BETTER, WORSE, EQUIVALENT.
        seeds: (tables, rows) of the look at which each row stopped.
    """

    verdict: NDArray[np.int_]
    seeds: NDArray[np.int_]

    @property
    def trials(self) -> NDArray[np.int_]:
        """(tables,) Trials of all rows and of the baseline, which has as many seeds as the row with the most."""
        return np.asarray(self.seeds.sum(-1) + self.seeds.max(-1))


def draw(
    rng: np.random.Generator, tables: int, rows: int, looks: Sequence[int], *, pair_sd: float, image_share: float, scale: Sequence[float] = ()
) -> Drawn:  # fmt: skip
    """Draw tables in which no row differs from the baseline.

    Args:
        pair_sd: standard deviation of one pair's difference, AP. image_share: part of that variance which images make, half of it by
            the variant's response and half by noise of the trial.
        scale: standard deviation of each row's part, relative to the baseline's; 1 by default.
    """
    most = looks[-1]
    variance = pair_sd**2 / 2  # of a trial
    scales = np.array([1.0, *(scale or [1.0] * rows)], np.float32)[None, :, None]
    of_seed, of_image = np.float32(np.sqrt(variance * (1 - image_share))), np.float32(np.sqrt(variance * image_share / 2 * IMAGES))
    parts: list[list[Array]] = []
    for start in range(0, tables, CHUNK):
        n = min(CHUNK, tables - start)
        level = of_seed * rng.standard_normal((n, rows + 1, most), np.float32) * scales
        response = rng.standard_normal((n, rows + 1, 1, IMAGES), np.float32)
        per_image = of_image * (response + rng.standard_normal((n, rows + 1, most, IMAGES), np.float32)) * scales[..., None]
        value = level + per_image.mean(-1)
        difference, at_image = (value[:, 1:] - value[:, :1]).astype(float), per_image[:, 1:] - per_image[:, :1]
        of_one = (at_image.var(-1) / IMAGES).astype(float)  # the variance of endlessly many bootstrap samples
        parts.append(
            [
                np.stack(column, -1)
                for column in zip(*(_at(difference[..., :k], at_image[:, :, :k], of_one[..., :k]) for k in looks), strict=True)
            ]
        )
    return Drawn(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _at(difference: Array, at_image: NDArray[np.float32], of_one: Array) -> tuple[Array, Array, Array, Array]:
    seeds = difference.shape[-1]
    of_mean = (at_image.mean(2).var(-1) / IMAGES).astype(float)
    residual = np.maximum(0.0, (of_one.mean(-1) - of_mean) * seeds / (seeds - 1))
    return difference.mean(-1), difference.var(-1, ddof=1), of_mean, residual


def play(drawn: Drawn, looks: Sequence[int], effects: Array | float, min_effect: float, *, fixed: bool = False) -> Played:
    """Return how the tables end.

    Args:
        looks: those of ``drawn``. effects: true differences, AP, that broadcast to (tables, rows).
        min_effect: AP; 0 for no verdict of equivalence.
        fixed: one look at the last number of seeds, with the whole error.
    """
    shape = drawn.mean.shape[:2]
    numbers = [np.zeros(shape) for _ in range(4)]
    seeds, verdict, active = np.zeros(shape, int), np.full(shape, NO_VERDICT), np.ones(shape, bool)
    scaled_p, scaled_q = np.ones(shape), np.ones(shape)
    parts = (1 - LEVEL,) if fixed else levels(looks)
    for at, (count, level) in enumerate(zip(looks[-1:] if fixed else looks, parts, strict=True)):
        at = drawn.mean.shape[2] - 1 if fixed else at
        for held, given in zip(numbers, (drawn.mean + np.asarray(effects)[..., None] if np.ndim(effects) else drawn.mean + effects, drawn.seed_variance, drawn.image_variance, drawn.residual), strict=True):  # fmt: skip
            held[active] = given[..., at][active]
        seeds[active] = count
        mean, seed_variance, images, residual = numbers
        noise, count_of = pool(seeds.astype(float), seed_variance, residual), seeds.astype(float)
        enlarge = (1 - LEVEL) / level
        scaled_p[active] = np.minimum(1.0, p_values(mean, count_of, images, noise) * enlarge)[active]
        if min_effect:
            scaled_q[active] = np.minimum(1.0, p_within(mean, min_effect, count_of, images, noise) * enlarge)[active]
        differs, within = (holm_rows(each) < 1 - LEVEL for each in (scaled_p, scaled_q))
        decided = differs | within
        now = decided & (verdict == NO_VERDICT)
        verdict[now] = np.where(differs, np.where(mean > 0, BETTER, WORSE), EQUIVALENT)[now]
        active = active & ~decided
        if min_effect and looks[0] < count < looks[-1]:
            left = np.maximum(1, shape[1] - decided.sum(-1, keepdims=True))
            chance = chance_of_verdict(mean, count_of, images, noise, looks[-1], levels(looks)[-1] / left, min_effect)
            active = active & ~(chance < HOPE)
    return Played(verdict, seeds)


def expected_trials(
    looks: Sequence[int], rows: int, min_effect: float, pair_sd: float, effects: Sequence[float] = EFFECTS, tables: int = 200
) -> float:  # fmt: skip
    """Return how many trials an experiment takes on average.

    Args:
        rows: beside the baseline; of more than ``MOST_ROWS`` so many are drawn, and the trials of the others are like theirs.
        pair_sd: standard deviation of one pair's difference, AP.
        effects: true differences in multiples of ``min_effect``, each as likely as the others.
    """
    rng, some = np.random.default_rng(0), min(rows, MOST_ROWS)
    drawn = draw(rng, tables, some, looks, pair_sd=pair_sd, image_share=IMAGE_SHARE)
    truth = min_effect * rng.choice(np.array(effects), (tables, some)) * rng.choice([-1.0, 1.0], (tables, some))
    played = play(drawn, looks, truth, min_effect)
    return float(played.seeds.mean() * rows + played.seeds.max(-1).mean())


def holm_rows(p: Array) -> Array:
    """Return Holm's correction of p-values over the last axis: (..., rows)."""
    order = np.argsort(p, -1, kind="stable")
    ranked = np.take_along_axis(p, order, -1) * (p.shape[-1] - np.arange(p.shape[-1]))
    found = np.empty_like(ranked)
    np.put_along_axis(found, order, np.minimum(1.0, np.maximum.accumulate(ranked, -1)), -1)
    return found
