"""The live display: one bar a trial on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gfl_lab.orchestrate.driver import Progress
from gfl_lab.rundir import TrialState
from gfl_lab.wording import duration

_WORDS = {
    TrialState.PLANNED: "waits", TrialState.RUNNING: "trains", TrialState.DONE: "done", TrialState.FAILED: "failed",
    TrialState.INTERRUPTED: "interrupted",
}  # fmt: skip

_COUNTED = {
    TrialState.DONE: "done", TrialState.FAILED: "failed", TrialState.INTERRUPTED: "interrupted", TrialState.RUNNING: "running",
    TrialState.PLANNED: "waiting",
}  # fmt: skip


@contextlib.contextmanager
def display(console: Any) -> Iterator[Callable[[Sequence[Progress]], None]]:
    """A listener for `driver.Watcher`."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    from rich.live import Live

    with Live(console=console, refresh_per_second=4, transient=False) as live:
        yield lambda trials: live.update(_bars(trials, max(4, console.height - 2)))


def _bars(trials: Sequence[Progress], rows: int) -> Any:
    """A row a trial; where they do not all fit in ``rows``, those that say most, and how many others there are."""
    from rich.console import Group

    if len(trials) <= rows:
        return _grid(trials)
    wanted = (TrialState.RUNNING, TrialState.FAILED, TrialState.INTERRUPTED)
    shown = sorted((trial for trial in trials if trial.state in wanted), key=lambda trial: wanted.index(trial.state))[: rows - 1]
    counts = Counter(trial.state for trial in trials)
    return Group(_grid(shown), ", ".join(f"{counts[state]} {_COUNTED[state]}" for state in _COUNTED if counts[state]))


def _grid(trials: Sequence[Progress]) -> Any:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    for name in ("trial", "bar", "epoch", "loss", "AP", "left"):
        grid.add_column(name, no_wrap=True, justify="left" if name in ("trial", "bar") else "right")
    for trial in trials:
        style = {TrialState.DONE: "green", TrialState.FAILED: "red", TrialState.RUNNING: ""}.get(trial.state, "dim")
        bar = ProgressBar(total=max(1, trial.steps), completed=trial.step, width=24, complete_style=style or "cyan", finished_style="green")
        left = (
            _WORDS[trial.state] if trial.state is not TrialState.RUNNING else ("evaluates" if trial.step >= trial.steps else _left(trial))
        )
        grid.add_row(
            Text(trial.label, style=style), bar, f"epoch {trial.epoch}/{trial.epochs}", f"loss {_number(trial.loss, 3)}",
            f"AP {_number(trial.ap, 1)}", Text(left, style=style),
        )  # fmt: skip
    return grid


def _left(trial: Progress) -> str:
    return f"{duration(trial.eta_s)} left" if trial.eta_s is not None else "starts"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


class _Lines:
    """A line when a trial starts, finishes an epoch's evaluation, or ends."""

    def __init__(self, console: Any) -> None:
        self._console = console
        self._said: dict[str, tuple[Any, ...]] = {}

    def __call__(self, trials: Sequence[Progress]) -> None:
        for trial in trials:
            key = (trial.state, trial.ap, trial.epoch if trial.ap is not None else 0)
            before = self._said.get(trial.trial)
            if trial.state is TrialState.PLANNED or key == before:
                continue
            if before is not None and trial.state is TrialState.RUNNING and trial.ap == before[1]:
                continue  # a new epoch has begun; its line comes with its AP
            self._said[trial.trial] = key
            text = f"[{trial.label}] {_WORDS[trial.state]}"
            if trial.state is TrialState.FAILED:
                text += f": {trial.reason}"
            elif trial.step:
                text += f"  epoch {trial.epoch}/{trial.epochs}  step {trial.step}/{trial.steps}  loss {_number(trial.loss, 3)}  AP {_number(trial.ap, 1)}"
                if trial.state is TrialState.RUNNING and trial.eta_s is not None:
                    text += f"  {_left(trial)}"
            self._console.print(text, soft_wrap=True)
