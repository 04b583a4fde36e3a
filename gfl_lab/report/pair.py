"""Two variants side by side: where their difference lies, by size, class and type of error, with intervals.

Each number is the mean over the seeds that both have finished; intervals are those of ``report.statistics``. They are not
corrected for how many there are: with 80 classes some four lie outside of theirs by chance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gfl_lab.cocoap import AREAS, RESAMPLED, Records, match, mean_ap
from gfl_lab.report import errortypes
from gfl_lab.report.statistics import Difference, difference

REPLICATES = 200
"""Bootstrap samples of the images; fewer than for the one number of a table, since here there are many."""
_SIZES = {"small": "AP_S", "medium": "AP_M", "large": "AP_L"}
METRIC, SIZE, CLASS, ERROR = "metric", "size", "class", "error"


@dataclass(frozen=True)
class PairRow:
    """One number of both variants.

    Attributes:
        group: METRIC, SIZE, CLASS (AP of one class), or ERROR (AP50 points that a type of error costs: lower is better).
        ours, theirs: means over seeds. found: ours minus theirs.
        counts: for errors, how many of ours and theirs, means over seeds.
    """

    group: str
    name: str
    ours: float
    theirs: float
    found: Difference
    counts: tuple[float, float] | None = None

    @property
    def half(self) -> float | None:
        """Half width of the 95% interval; with one seed of one that knows of images alone."""
        return self.found.image_half if self.found.half is None else self.found.half


def compare_pair(pairs: Sequence[tuple[Records, Records]], replicates: int = REPLICATES) -> list[PairRow]:
    """Compare (ours, theirs) of each seed.

    Raises:
        ValueError: they were not evaluated on the same images and classes.
    """
    first = pairs[0][0]
    for records in (one for pair in pairs for one in pair):
        if set(records.image_ids) != set(first.image_ids) or records.classes != first.classes:
            raise ValueError("the trials were not evaluated on the same images and classes")
    images = len(np.unique(first.image_ids))
    rng = np.random.default_rng(0)
    weights = [None, *(np.bincount(rng.integers(0, images, images), minlength=images) for _ in range(replicates))]
    found = [tuple(_numbers(records, weights) for records in pair) for pair in pairs]
    rows = []
    for key in found[0][0][0]:
        each = [(ours[0][key], theirs[0][key]) for ours, theirs in found]
        if any(math.isnan(values[0]) for pair in each for values in pair):
            continue
        samples = np.mean([ours[1:] - theirs[1:] for ours, theirs in each], axis=0)
        known = samples[~np.isnan(samples)]
        variance = float(np.var(known, ddof=1)) if len(known) > 1 else None
        values = [(float(ours[0]), float(theirs[0])) for ours, theirs in each]
        means = np.mean(values, axis=0)
        counts = None
        if key[0] == ERROR:
            counted = np.mean([(ours[1][key[1]], theirs[1][key[1]]) for ours, theirs in found], axis=0)
            counts = (float(counted[0]), float(counted[1]))
        rows.append(PairRow(*key, float(means[0]), float(means[1]), difference(values, variance, images), counts))
    return rows


def _numbers(records: Records, weights: Sequence[np.ndarray | None]) -> tuple[dict[tuple[str, str], np.ndarray], dict[str, int]]:
    """Every number on every sample of the images, (samples,) by (group, name); and how many errors of each type there are."""
    whole = match(records)
    precision = np.stack([whole.precision(w) for w in weights])  # (samples, T, K)
    found = {(METRIC, name): np.array([mean_ap(one[list(at)]) for one in precision]) for name, at in RESAMPLED.items()}
    for area in list(AREAS)[1:]:
        part = match(records, area)
        found[SIZE, _SIZES[area]] = np.array([part.ap(w) for w in weights])
    found |= {(CLASS, name): 100 * precision[:, :, label].mean(1) for label, name in enumerate(records.classes)}
    errors = errortypes.errors_of(records)
    base = np.array([errors.found.ap(w) for w in weights])
    for name in errortypes.TYPES:
        corrected = errors.corrected(name)
        found[ERROR, name] = np.array([corrected.ap(w) for w in weights]) - base
    return found, errors.counts


def pair_json(rows: Sequence[PairRow]) -> list[dict[str, Any]]:
    """The rows for JSON; unknown is null."""

    def number(value: float | None) -> float | None:
        return None if value is None or not math.isfinite(value) else round(value, 6)

    return [
        {
            "group": row.group, "name": row.name, "ours": number(row.ours), "theirs": number(row.theirs), "difference": number(row.found.mean),
            "interval": None if row.found.half is None else [number(row.found.low), number(row.found.high)],
            "half_width_images": number(row.found.image_half), "seeds": row.found.seeds,
            **({} if row.counts is None else {"count_ours": number(row.counts[0]), "count_theirs": number(row.counts[1])}),
        }
        for row in rows
    ]  # fmt: skip
