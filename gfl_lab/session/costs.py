"""The cost of what is to run: its estimate in words, and the budget that it must keep to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gfl_lab.errors import BudgetError, InputError, Problem
from gfl_lab.orchestrate.budget import Budget
from gfl_lab.orchestrate.expected import Cost, Estimate, cost_of, rests_on
from gfl_lab.orchestrate.resources import TrialResources
from gfl_lab.wording import duration


def parse_budget(text: str | None, gpus: float) -> Budget | None:
    """Read ``--budget``; None stays None.

    Args:
        gpus: GPUs of a trial.

    Raises:
        InputError: its form, or GPU-hours where trials take no GPU.
    """
    if text is None:
        return None
    budget = Budget.parse(text)
    if budget.unit == "gpu" and not gpus:
        hint = "Give hours (12h) or core-hours (8cpuh)."
        raise InputError(Problem(f"--budget {text} counts GPU-hours, and trials take no GPU here", hint=hint))
    return budget


def cost_text(cost: Cost | None, expected: Sequence[Estimate], resources: TrialResources) -> str:
    """Return the estimated time and machine time, and the source of the estimate."""
    if not expected:
        return "estimated time 0 s"
    if cost is None:
        return "estimated time unknown: no finished trial is like these; `gfl-lab plan --measure` measures them"
    parts = [f"{cost.core_s / 3600:.2f} core-hours"] + ([f"{cost.gpu_s / 3600:.2f} GPU-hours"] if resources.gpus else [])
    return f"estimated time {duration(cost.wall_s)}, {' and '.join(parts)} (from {rests_on(expected)})"


def check_budget(budget: Budget | None, expected: Sequence[Estimate], resources: TrialResources, say: Callable[[str], None]) -> None:
    """Refuse work that is expected to cost more than the budget; print a note if there is no estimate.

    Raises:
        BudgetError: the estimate is above the budget.
    """
    if budget is None or not expected:
        return
    over = budget.exceeded(expected, resources)
    if over is None:
        say(
            f"note: no estimate is possible, so --budget {budget.text} is not checked beforehand; a run stops when it is spent. "
            "`gfl-lab plan --measure` makes an estimate"
        )
    known = cost_of([estimate.seconds or 0.0 for estimate in expected], resources)
    if not over or known is None:
        return
    unit = {"wall": "", "core": " of core time", "gpu": " of GPU time"}[budget.unit]
    least = "at least" if any(estimate.seconds is None for estimate in expected) else "about"
    raise BudgetError(
        Problem(
            f"the trials are expected to take {least} {duration(budget.of(known))}{unit}, and --budget is {budget.text}; the "
            f"estimate is from {rests_on(expected)}",
            hint="Give a larger --budget, fewer --seeds or another --profile; `gfl-lab plan --measure` makes a better estimate.",
        )
    )
