"""Budgets, and what a run spends (docs/cost.md)."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gfl_lab.errors import InputError
from gfl_lab.orchestrate.expected import Cost, Estimate, cost_of
from gfl_lab.orchestrate.resources import TrialResources
from gfl_lab.records.cost import Spent, read_spent, write_spent

SAVE_S = 5.0


@dataclass(frozen=True)
class Budget:
    """A limit on what one command spends: wall time, core-hours or GPU-hours; ``amount`` in seconds."""

    text: str
    unit: Literal["wall", "core", "gpu"]
    amount: float

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read ``90min``, ``12h``, ``40gpuh`` or ``8cpuh``. Raises InputError."""
        match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(min|h|gpuh|cpuh)", text.strip())
        if not match or not float(match[1]):
            shown = text if len(text) <= 60 else text[:57] + "..."
            raise InputError(
                f"--budget {shown!r}: write a number above 0 and below a billion and its unit: 90min or 12h (wall time), "
                "8cpuh (core-hours) or 40gpuh (GPU-hours)"
            )
        units: dict[str, tuple[Literal["wall", "core", "gpu"], int]] = {
            "min": ("wall", 60), "h": ("wall", 3600), "gpuh": ("gpu", 3600), "cpuh": ("core", 3600),
        }  # fmt: skip
        unit, seconds = units[match[2]]
        return cls(text.strip(), unit, float(match[1]) * seconds)

    def of(self, cost: Cost) -> float:
        """Return the part of a cost that this budget limits, in seconds."""
        return {"wall": cost.wall_s, "core": cost.core_s, "gpu": cost.gpu_s}[self.unit]

    def exceeded(self, found: Sequence[Estimate], resources: TrialResources) -> bool | None:
        """Return True if the trials cost more; None if that is unknown. The known part of them may be too much already."""
        known = cost_of([estimate.seconds or 0.0 for estimate in found], resources)
        if known is not None and self.of(known) > self.amount:
            return True
        return None if any(estimate.seconds is None for estimate in found) else False


class Meter:
    """Counts what a run spends into ``file``, and calls ``stop`` once when the budget is reached.

    Args:
        file: cost.json of the experiment; what former commands have spent stands in it already.
        stop: called from the thread that calls ``look``.
    """

    def __init__(self, file: Path, resources: TrialResources, budget: Budget | None, stop: Callable[[], None]) -> None:
        self.file, self.resources, self.budget, self._stop = file, resources, budget, stop
        self.spent, self.exhausted = Cost(0.0, 0.0, 0.0), False
        self._before = spent(file) or Cost(0.0, 0.0, 0.0)
        self._last = self._saved = time.monotonic()

    def look(self, running: int) -> None:
        """Count the time since the last look, in which ``running`` trials ran."""
        now = time.monotonic()
        passed, self._last = now - self._last, now
        machine = passed * running
        self.spent = Cost(
            self.spent.wall_s + passed, self.spent.core_s + machine * self.resources.cpus, self.spent.gpu_s + machine * self.resources.gpus
        )
        if now - self._saved > SAVE_S:
            self.save()
        if self.budget and not self.exhausted and self.budget.of(self.spent) >= self.budget.amount:
            self.exhausted = True
            self._stop()

    def save(self) -> None:
        """Write what has been spent in all. Errors of a full disk are left to other files."""
        self._saved = time.monotonic()
        total = Cost(*(getattr(self._before, key) + getattr(self.spent, key) for key in ("wall_s", "core_s", "gpu_s")))
        with contextlib.suppress(OSError):
            write_spent(
                self.file,
                Spent(
                    self.resources.cpus, self.resources.gpus, self.resources.slots, round(total.wall_s, 1), round(total.core_s, 1), round(total.gpu_s, 1)
                ),
            )  # fmt: skip


def spent(file: Path) -> Cost | None:
    """Return what the commands so far have spent on an experiment; None if nothing is known."""
    found = read_spent(file)
    return Cost(found.wall_seconds, found.core_seconds, found.gpu_seconds) if found else None


def last_resources(file: Path) -> TrialResources | None:
    """Return the trial resources of an experiment's last command; None if nothing is known."""
    found = read_spent(file)
    return TrialResources(found.cpus, found.gpus, found.at_once) if found else None
