"""Asynchronous successive halving (ASHA): which trials of a search are stopped early. Li et al. 2018, arXiv:1810.05934, algorithm 2.

The rule is that of Ray Tune's ``ASHAScheduler`` with one bracket, to the last digit: decisions of a stored search do not change,
and no Ray is needed to take them. A test compares the two.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Pruner(Protocol):
    """Decides which trials of a search go on."""

    def stops(self, number: int, epoch: int, value: float) -> bool:
        """Take in the metric of suggestion ``number`` after ``epoch``; return True if its trial is to stop."""
        ...


class SuccessiveHalving:
    """Compares each trial with all that have reached the same rung: the epochs ``grace_epochs * reduction ** k``.

    Args:
        max_epochs: of a whole trial.
        grace_epochs: no trial stops before.
        reduction: one in this many goes on.
    """

    def __init__(self, *, higher_is_better: bool, max_epochs: int, grace_epochs: int, reduction: int) -> None:
        self._sign = 1.0 if higher_is_better else -1.0
        self._max_epochs = max_epochs
        self._quantile = (1 - 1 / reduction) * 100
        count = int(np.log(max_epochs / grace_epochs) / np.log(reduction) + 1)
        self._rungs: list[tuple[int, dict[int, float]]] = [(grace_epochs * reduction**k, {}) for k in reversed(range(count))]

    def stops(self, number: int, epoch: int, value: float) -> bool:
        """Record the value at the highest rung that was reached; return True if it is below the best ``1 / reduction`` there.

        A trial is compared once at each rung, with those that came before it. One that has reached its last epoch stops.
        """
        if epoch >= self._max_epochs:
            return True
        for milestone, recorded in self._rungs:
            if epoch >= milestone and number not in recorded:
                cutoff = np.nanpercentile(list(recorded.values()), self._quantile) if recorded else -np.inf
                recorded[number] = self._sign * value
                return bool(self._sign * value < cutoff)
        return False
