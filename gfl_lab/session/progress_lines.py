"""The progress of trials as plain lines, for a log file, a notebook, or a terminal without cursor movement."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gfl_lab.orchestrate.watcher import Progress
from gfl_lab.rundir import TrialState
from gfl_lab.wording import duration

STATE_WORDS = {
    TrialState.PLANNED: "waits", TrialState.RUNNING: "trains", TrialState.DONE: "done", TrialState.FAILED: "failed",
    TrialState.INTERRUPTED: "interrupted",
}  # fmt: skip


def remaining(trial: Progress) -> str:
    """Return the time that a running trial has left, as people read it."""
    if trial.resuming:
        return "resumes"
    return f"{duration(trial.eta_s)} left" if trial.eta_s is not None else "starts"


def number(value: float | None, digits: int) -> str:
    """Return a number as a line shows it; a dash if it is not known yet."""
    return "-" if value is None else f"{value:.{digits}f}"


class ProgressLines:
    """Writes a line when a trial starts, resumes, finishes an epoch's evaluation, or ends.

    Args:
        write: takes each line.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._printed: dict[str, tuple[TrialState, float | None, int]] = {}
        self._resumed: dict[str, tuple[int, int]] = {}

    def __call__(self, trials: Sequence[Progress]) -> None:
        """Take the progress of all trials."""
        for trial in trials:
            key = (trial.state, trial.ap, trial.epoch if trial.ap is not None else 0)
            before = self._printed.get(trial.trial)
            if trial.resuming:
                continue  # its line comes with the first step, which shows where the checkpoint stands
            if trial.resumed_from and trial.resumed_from != self._resumed.get(trial.trial):
                self._resumed[trial.trial], self._printed[trial.trial] = trial.resumed_from, key
                epoch, step = trial.resumed_from
                self._write(f"[{trial.label}] resumes from epoch {epoch}, step {step}")
                continue
            if trial.state is TrialState.PLANNED or key == before:
                continue
            if before is not None and trial.state is TrialState.RUNNING and trial.ap == before[1]:
                continue  # a new epoch has begun; its line comes with its AP
            self._printed[trial.trial] = key
            self._write(_line(trial))


def _line(trial: Progress) -> str:
    text = f"[{trial.label}] {STATE_WORDS[trial.state]}"
    if trial.state is TrialState.FAILED:
        return f"{text}: {trial.reason}"
    if not trial.step:
        return text
    text += f"  epoch {trial.epoch}/{trial.epochs}  step {trial.step}/{trial.steps}  loss {number(trial.loss, 3)}  AP {number(trial.ap, 1)}"
    left = trial.state is TrialState.RUNNING and trial.eta_s is not None
    return f"{text}  {remaining(trial)}" if left else text
