"""Seeds only where they are needed: looks at a table that are fixed beforehand, and the error that each of them may spend.

A table that is extended until something in it is significant is wrong more often than its p-values say. Here the numbers of seeds at
which verdicts are taken, the looks, are fixed before the first one, and each may spend a part of the whole error of 5% (Lan and DeMets,
1983). A row stops with its first verdict. It also stops where the last look would hardly give it one.

A row that is tested at look j counts its p-value ``0.05 / levels(looks)[j]`` times. Such a p-value is valid at whichever look a row stops:
the chance that it falls below c is c at most, since the parts of all looks sum to 5%. So Holm's method and the intervals of
``report.statistics`` hold for them as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from gfl_lab.metrics.coco_ap import RESAMPLED
from gfl_lab.report.noise import LEVEL, Array, Noise, half_width
from gfl_lab.report.quantiles import normal_probability
from gfl_lab.report.statistics import Difference, Paired, holm, judge, p_equivalent, too_low
from gfl_lab.spec.limits import LOOKS, MOST_SEEDS

HOPE = 0.2
"""A row goes on while its chance of a verdict at the last look is at least this, should its difference stay as it is."""
DECIDED, OUT_OF_REACH, SILENT = "decided", "out of reach", "no signal"


def looks_up_to(most: int) -> tuple[int, ...]:
    """Return the default looks for at most ``most`` seeds, 2 or more; beyond ``LOOKS`` each is a third above the one before.

    Raises:
        ValueError: ``most`` is below 2 or above ``MOST_SEEDS``.
    """
    if not LOOKS[0] <= most <= MOST_SEEDS:
        raise ValueError(f"the largest number of seeds is {most}, and 2 to {MOST_SEEDS} are possible")
    found = list(LOOKS)
    while found[-1] < most:
        found.append(found[-1] * 4 // 3)
    return (*(seeds for seeds in found if seeds < most), most)


def levels(looks: Sequence[int]) -> tuple[float, ...]:
    """Return the part of the error of 5% that each look may spend.

    Half of it is spread evenly over the looks, half over the seeds: early looks must be able to decide what is plain, and most rows are
    decided late.

    Args:
        looks: numbers of seeds, rising.
    """
    before, found = 0, []
    for seeds in looks:
        found.append((1 - LEVEL) * (0.5 / len(looks) + 0.5 * (seeds - before) / looks[-1]))
        before = seeds
    return tuple(found)


@dataclass(frozen=True)
class LookedAt:
    """A row at its last look.

    Attributes:
        seeds: of that look; 0 before the first one.
        found: the difference by metric, with interval and p corrected for the looks.
        stopped: DECIDED, OUT_OF_REACH, SILENT (both variants are too low to differ by what matters), or empty while it goes on.
    """

    seeds: int = 0
    found: Mapping[str, Difference] = field(default_factory=dict)
    stopped: str = ""


def look(
    looks: Sequence[int],
    complete: Mapping[str, int],
    paired_at: Callable[[str, str, int], Paired | None],
    min_effect: float,
    lost: Collection[str] = (),
) -> dict[str, LookedAt]:
    """Take the looks in their order, as far as trials have finished, and return each row at its last one.

    A look is taken when all rows that have not stopped have its seeds, since they share their spread. Its decisions rest on the
    seeds of that look alone. So the answer is the same whenever it is computed, and more seeds than the looks ask for change nothing.

    Args:
        complete: {row: how many of the first seeds it shares with the baseline, without a gap}.
        paired_at: returns a row's difference in a metric over its first seeds, given (row, metric, seeds).
        min_effect: AP points, the smallest difference that matters.
        lost: rows with a failed trial; looks do not wait for them.
    """
    rows = {name: LookedAt() for name in complete}
    for seeds, level in zip(looks, levels(looks), strict=True):
        active = [name for name, row in rows.items() if not row.stopped]
        ready = [name for name in active if complete[name] >= seeds]
        if not ready or any(name not in ready and name not in lost for name in active):
            break
        found = {metric: _judged(rows, ready, metric, seeds, level, paired_at) for metric in RESAMPLED}
        for name in ready:
            rows[name] = LookedAt(seeds, {metric: each[name] for metric, each in found.items() if name in each})
        current = {name: row.found["AP"] for name, row in rows.items() if "AP" in row.found}
        p, within = corrected(current, len(rows), min_effect)
        decided = {name for name in p if min(p[name], within[name]) < 1 - LEVEL}
        silent = {name for name in decided if p[name] >= 1 - LEVEL and too_low(current[name], min_effect)}
        stops = {name: SILENT if name in silent else DECIDED for name in ready if name in decided}
        if seeds > looks[0] and seeds != looks[-1]:
            left = [name for name in ready if name not in decided and current[name].half is not None]
            stops |= {
                name: OUT_OF_REACH
                for name in left
                if hope(current[name], looks[-1], levels(looks)[-1] / (len(rows) - len(decided)), min_effect) < HOPE
            }
        for name, why in stops.items():
            rows[name] = LookedAt(seeds, rows[name].found, why)
    return rows


def before_first_look(done: int, looks: Sequence[int]) -> str:
    """Return why a difference has no verdict yet, as a sentence goes on.

    Args:
        done: how many of the first seeds both variants have finished, without a gap.
    """
    first = looks[0]
    others = "; other rows have fewer" if done >= first else ""
    return f"no verdict before the first look ({min(done, first)} of {first} seeds done{others})"


def seeds_wanted(looks: Sequence[int], rows: Mapping[str, LookedAt]) -> dict[str, int]:
    """Return how many seeds each row needs for its next look; for a row that has stopped, those of its last one."""
    return {
        name: row.seeds if row.stopped or row.seeds == looks[-1] else next(seeds for seeds in looks if seeds > row.seeds)
        for name, row in rows.items()
    }


def corrected(found: Mapping[str, Difference], rows: int, min_effect: float) -> tuple[dict[str, float], dict[str, float]]:
    """Return p of no difference and p of one that matters, corrected by Holm's method for ``rows`` rows, of those that have an interval."""
    tested = {name: each for name, each in found.items() if each.p is not None}
    no_difference = holm({name: each.p for name, each in tested.items() if each.p is not None}, rows)
    return no_difference, holm({name: p_equivalent(each, min_effect) for name, each in tested.items()}, rows)


def hope(found: Difference, seeds: int, level: float, min_effect: float) -> float:
    """Return the chance that a row is decided with more seeds, should its difference stay as it is; 1 without an interval.

    Args:
        seeds: at the last look. level: two-sided p below which it is decided there.
    """
    if found.half is None or found.spread is None or found.freedom is None:
        return 1.0
    images = np.array(found.image_variance or 0.0)
    return float(chance_of_verdict(np.array(found.mean), np.array(float(found.seeds)), images, found.noise, seeds, level, min_effect))


def chance_of_verdict(
    mean: Array, now: Array, image_variance: Array, noise: Noise, seeds: int, level: float | Array, min_effect: float
) -> Array:
    """Return the chance that a difference leaves its interval at the last look, or that this interval lies inside ±``min_effect``.

    Args:
        mean, image_variance, noise: of ``now`` seeds. seeds: at the last look. level: of its intervals.
    """
    lasting = np.maximum(0.0, image_variance - noise.residual / now)
    images = lasting + (image_variance - lasting) * now / seeds
    later = noise._replace(freedom=noise.freedom * (seeds - 1) / (now - 1))
    half = half_width(level, np.full(np.shape(now), float(seeds)), images, later)
    width = np.sqrt(np.maximum(1e-12, noise.variance * (1 / now - 1 / seeds)))
    different = normal_probability((-half - mean) / width) + normal_probability((mean - half) / width)
    room = min_effect - half
    equivalent = np.where(room > 0, normal_probability((room - mean) / width) - normal_probability((-room - mean) / width), 0.0)
    return np.minimum(1.0, different + equivalent)


def _judged(
    rows: Mapping[str, LookedAt],
    ready: Sequence[str],
    metric: str,
    seeds: int,
    level: float,
    paired_at: Callable[[str, str, int], Paired | None],
) -> dict[str, Difference]:
    """Return the differences of the rows that are ``ready`` at a look; how much seeds differ is pooled over those that were there before, too."""
    at = {name: seeds if name in ready else row.seeds for name, row in rows.items()}
    paired = {name: found for name, count in at.items() if count and (found := paired_at(name, metric, count))}
    judged = dict(zip(paired, judge(list(paired.values()), level), strict=True))
    return {name: judged[name] for name in ready if name in judged}
