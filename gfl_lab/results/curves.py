"""Curves: every metric that trials have logged, step by step."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from gfl_lab import naming
from gfl_lab.errors import StoreError
from gfl_lab.records.metric_lines import MetricLine, read_metric_lines
from gfl_lab.results.cache import StampedCache, stamp_of
from gfl_lab.results.reader import TreeReader
from gfl_lab.results.rows import ExperimentRow, Logged
from gfl_lab.rundir import RunTree

CURVES_BYTES = 256 * 2**20
"""For curves that are kept in memory; 90,000 iterations with six terms are 6 MB a trial."""
_OBJECT_BYTES = 250
"""Size of an array beside its numbers, with its place in a dict."""

Key = tuple[str, str]
"""Kind of a metric line and key of a metric."""
Series = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Step and epoch (int64) and value (float64) of one metric; metrics of the same lines share the first two."""


@dataclass(frozen=True)
class _Curve:
    """The content of one metrics file up to byte ``offset``."""

    offset: int = 0
    series: dict[Key, Series] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        arrays = {id(array): array.nbytes for each in self.series.values() for array in each}
        return sum(arrays.values()) + _OBJECT_BYTES * len(arrays)


class CurveReader(TreeReader):
    """Reads curves; of a file that grows, only its new end."""

    def __init__(self, tree: RunTree) -> None:
        super().__init__(tree)
        self._curves: StampedCache[str, _Curve] = StampedCache(CURVES_BYTES, lambda curve: curve.nbytes)
        self._reading = threading.Lock()  # two threads that want the same file read it once

    def logged(self, experiment: ExperimentRow) -> dict[Key, tuple[Logged, ...]]:
        """Return every metric that trials have logged, by kind and key, each with the trials that have it in the plan's order.

        Kind is ``train`` (a value an iteration) or ``val`` (a value an epoch).
        """
        found: dict[Key, list[Logged]] = {}
        for variant in experiment.variants:
            for trial in variant.trials:
                for key, series in self._curve(trial.id).series.items():
                    found.setdefault(key, []).append(Logged(variant.name, trial.seed, trial.id, *series))
        return {key: tuple(each) for key, each in found.items()}

    def _curve(self, trial_id: str) -> _Curve:
        with self._reading:
            return self._read_curve(trial_id)

    def _read_curve(self, trial_id: str) -> _Curve:
        try:
            path = self._tree.trial(trial_id).file(naming.METRICS_FILE)
        except StoreError:
            return _Curve()
        if (stamp := stamp_of(path)) is None:
            return _Curve()
        before, curve = self._curves.last(trial_id) or (None, _Curve())
        if before == stamp:
            return curve
        # A resume cuts the file back by writing another one in its place: then the inode differs.
        if before is None or before.inode != stamp.inode or stamp.size < curve.offset:
            curve = _Curve()
        try:
            lines, offset = read_metric_lines(path, curve.offset)
        except OSError:
            return curve
        return self._curves.put(trial_id, stamp, _Curve(offset, _extended(curve.series, lines)))


def _extended(series: Mapping[Key, Series], lines: Sequence[MetricLine]) -> dict[Key, Series]:
    """Return the series with more lines."""
    found = dict(series)
    for kind in dict.fromkeys(line.kind for line in lines):
        own = [line for line in lines if line.kind == kind]
        _extend_kind(found, kind, own)
    return found


def _extend_kind(found: dict[Key, Series], kind: str, lines: Sequence[MetricLine]) -> None:
    """Add the lines of one kind to the series, in place. Arrays of steps are shared between metrics that all lines have."""
    step = np.array([line.step for line in lines], np.int64)
    epoch = np.array([line.epoch for line in lines], np.int64)
    values: dict[str, list[tuple[int, float]]] = {}
    for row, line in enumerate(lines):
        for key, number in line.metrics.items():
            values.setdefault(key, []).append((row, number))
    joined: dict[tuple[int, str | None], tuple[np.ndarray, np.ndarray]] = {}
    for key, rows in values.items():
        at, value = np.array([row for row, _ in rows]), np.array([number for _, number in rows], np.float64)
        whole = len(at) == len(step)
        places = (step, epoch) if whole else (step[at], epoch[at])
        if (kind, key) not in found:
            found[kind, key] = (*places, value)
            continue
        before = found[kind, key]
        shared = (id(before[0]), None if whole else key)
        if shared not in joined:
            joined[shared] = (np.concatenate([before[0], places[0]]), np.concatenate([before[1], places[1]]))
        found[kind, key] = (*joined[shared], np.concatenate([before[2], value]))
