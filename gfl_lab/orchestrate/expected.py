"""Expected seconds of trials, what they rest on, and the cost that follows (docs/cost.md). ``orchestrate.cost`` makes the estimates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gfl_lab.orchestrate.resources import TrialResources

HISTORY, WARM_UP, HINT, NOTHING = "history", "warm-up", "profile", "nothing"
"""Sources of an estimate, the best first."""


@dataclass(frozen=True)
class Estimate:
    """Expected seconds of one trial (None: nothing is known), what they rest on, and on how many trials or warm-ups."""

    seconds: float | None
    rests_on: str = NOTHING
    count: int = 0
    apart: tuple[str, ...] = ()
    """In what those trials are unlike this one."""


def wall_seconds(each: Sequence[float | None], slots: int) -> float | None:
    """Return the wall time of trials run ``slots`` at a time, in order; None when one of them is unknown."""
    if any(seconds is None for seconds in each):
        return None
    ends = [0.0] * max(1, slots)
    for seconds in each:
        ends.sort()
        ends[0] += seconds or 0.0
    return max(ends, default=0.0)


@dataclass(frozen=True)
class Cost:
    """Time and machine time: wall seconds, core-seconds and GPU-seconds (a quarter of a GPU for an hour is 900)."""

    wall_s: float
    core_s: float
    gpu_s: float

    def plus(self, other: Cost) -> Cost:
        """Return both together."""
        return Cost(self.wall_s + other.wall_s, self.core_s + other.core_s, self.gpu_s + other.gpu_s)

    def to_json(self) -> dict[str, float]:
        """Return the hours, as ``--json`` shows them."""
        return {
            "seconds": round(self.wall_s, 1),
            "core_hours": round(self.core_s / 3600, 4),
            "gpu_hours": round(self.gpu_s / 3600, 4),
        }  # fmt: skip


def cost_of(each: Sequence[float | None], resources: TrialResources) -> Cost | None:
    """Return the cost of trials of these seconds together; None when one of them is unknown."""
    wall = wall_seconds(each, resources.slots)
    if wall is None:
        return None
    total = sum(seconds or 0.0 for seconds in each)
    return Cost(wall, total * resources.cpus, total * resources.gpus)


def rests_on(found: Sequence[Estimate]) -> str:
    """Return one phrase on the source of estimates: ``3 finished trials``, ``a warm-up``, ``the profile's default``."""
    words = []
    for source, one, many in (
        (HISTORY, "a finished trial", "{} finished trials"), (WARM_UP, "a warm-up", "warm-ups"), (HINT, "the profile's default", "the profile's default"),
        (NOTHING, "nothing", "nothing"),
    ):  # fmt: skip
        own = [estimate for estimate in found if estimate.rests_on == source]
        if own:
            count = max(estimate.count for estimate in own)
            text = (one if count == 1 else many).format(count) if source == HISTORY else (one if len(own) == 1 else many)
            apart = sorted({key for estimate in own for key in estimate.apart})
            text += f" (with other {' and '.join(apart)})" if apart else ""
            words.append(f"{text} for {len(own)} of {len(found)}" if len(own) < len(found) else text)
    return ", ".join(words)
