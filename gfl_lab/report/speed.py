"""Speed against AP: measured means of each variant, published rows, and the front of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gfl_lab.results.rows import ExperimentRow


@dataclass(frozen=True)
class Point:
    """Speed and AP of one variant; ``seeds`` holds (seed, fps, AP) of each trial behind the means."""

    variant: str
    fps: float
    ap: float
    seeds: tuple[tuple[int, float, float], ...]


def speed_accuracy(experiment: ExperimentRow) -> tuple[Point, ...]:
    """Return the mean fps and AP of every variant with a finished trial that has both. Measured values only: published speeds are
    of another machine and have no place on the same axis."""
    points = []
    for variant in experiment.variants:
        seeds = tuple((t.seed, t.metrics["fps"], t.metrics["AP"]) for t in variant.done if {"fps", "AP"} <= t.metrics.keys())
        if seeds:
            points.append(Point(variant.name, float(np.mean([s[1] for s in seeds])), float(np.mean([s[2] for s in seeds])), seeds))
    return tuple(points)


def published_speed(experiment: ExperimentRow) -> tuple[Point, ...]:
    """Return speed and AP of the published rows that have both, by their variant; each row once. Their machine is not ours."""
    found: dict[str, Point] = {}
    for variant in experiment.variants:
        known = variant.reference
        if known is not None and {"fps", "AP"} <= known.metrics.keys():
            found.setdefault(known.row, Point(variant.name, known.metrics["fps"], known.metrics["AP"], ()))
    return tuple(found.values())


def pareto(points: Sequence[Point]) -> tuple[Point, ...]:
    """Return the Pareto front of speed and AP, slowest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (-point.fps, -point.ap)):
        if not front or point.ap > front[-1].ap:
            front.append(point)
    return tuple(reversed(front))
