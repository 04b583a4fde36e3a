"""What verbs share about cost: ``--budget``, what a trial takes of the machine, and how an estimate is told."""

from __future__ import annotations

from typing import Any

import click

from gfl_lab.cli.output import duration, say
from gfl_lab.errors import BudgetError, InputError, Problem


def budget_option(command: Any) -> Any:
    """``--budget``."""
    return click.option(
        "--budget", metavar="AMOUNT", help="Spend no more: 90min, 12h (wall time), 8cpuh (core-hours) or 40gpuh (GPU-hours)."
    )(command)


def share_of(machine: Any, wish: Any, *, cpus: int | None = None, gpus: float | None = None, peak: Any = None) -> Any:
    """What a trial takes on this machine. Raises ResourceError."""
    from gfl_lab.orchestrate import resources

    return resources.share(
        machine,
        cpus=wish.cpus,
        gpus=wish.gpus,
        gpu_required=wish.gpu_required,
        pack=wish.gpu_packing,
        asked_cpus=cpus,
        asked_gpus=gpus,
        peak=peak,
    )


def parse_budget(text: str | None, gpus: float) -> Any:
    """``--budget`` as a Budget, or None. ``gpus``: what a trial takes. Raises InputError."""
    if text is None:
        return None
    from gfl_lab.orchestrate.budget import Budget

    budget = Budget.parse(text)
    if budget.unit == "gpu" and not gpus:
        raise InputError(
            Problem(f"--budget {text} counts GPU-hours, and trials take no GPU here", hint="Give hours (12h) or core-hours (8cpuh).")
        )
    return budget


def cost_text(cost: Any, expected: Any, share: Any) -> str:
    """Expected time, machine time, and what both rest on."""
    from gfl_lab.orchestrate.cost import rests_on

    if not expected:
        return "expected time 0 s"
    if cost is None:
        return "expected time unknown: no finished trial is like these; `gfl-lab plan --measure` warms them up"
    parts = [f"{cost.core_s / 3600:.2f} core-hours"] + ([f"{cost.gpu_s / 3600:.2f} GPU-hours"] if share.gpus else [])
    return f"expected time about {duration(cost.wall_s)}, {' and '.join(parts)}; rests on {rests_on(expected)}"


def check_budget(limit: Any, expected: Any, share: Any) -> None:
    """Refuse what is expected to cost more than the budget, or say that this cannot be told. Raises BudgetError."""
    from gfl_lab.orchestrate.cost import cost_of, rests_on

    if limit is None or not expected:
        return
    over = limit.exceeded(expected, share)
    if over is None:
        say(
            f"note: no estimate is possible, so --budget {limit.text} is not checked beforehand; a run stops when it is spent. "
            "`gfl-lab plan --measure` makes an estimate"
        )
    elif over:
        known = cost_of([estimate.seconds or 0.0 for estimate in expected], share)
        unit = {"wall": "", "core": " of core time", "gpu": " of GPU time"}[limit.unit]
        least = "at least" if any(estimate.seconds is None for estimate in expected) else "about"
        raise BudgetError(
            Problem(
                f"what is to train is expected to take {least} {duration(limit.of(known))}{unit}, and --budget is {limit.text}; the "
                f"estimate rests on {rests_on(expected)}",
                hint="Give a larger --budget, fewer --seeds or another --profile; `gfl-lab plan --measure` makes a better estimate.",
            )
        )
