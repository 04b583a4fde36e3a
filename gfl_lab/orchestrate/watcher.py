"""The progress of running trials, read from their run directories."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gfl_lab import naming
from gfl_lab.errors import StoreError
from gfl_lab.plan.plan import Plan, Trial
from gfl_lab.records.metric_lines import MetricLine, read_metric_lines
from gfl_lab.records.result import Failed
from gfl_lab.rundir import RunTree, TrialDir, TrialState
from gfl_lab.spec.schedule import steps_of, total_epochs

WATCH_S = 0.5
KEPT_TIMES, FEWEST_TIMES = 200, 10
"""Training steps that the pace of a trial is taken from, and how many it takes at least."""


@dataclass(frozen=True)
class Progress:
    """A trial as the display shows it. Epochs and steps count finished ones; ``eta_s`` is None until it can be estimated.

    Attributes:
        resuming: an earlier attempt has left steps, and the present one has not done a step yet.
        resumed_from: epoch and step of the checkpoint that the present attempt has resumed from; None for one from the start.
    """

    trial: str
    label: str
    state: TrialState
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float | None = None
    ap: float | None = None
    eta_s: float | None = None
    reason: str = ""
    resuming: bool = False
    resumed_from: tuple[int, int] | None = None


@dataclass
class _Seen:
    """The numbers of a trial's metric lines so far.

    Attributes:
        times: (time, step) of the last training steps.
        attempt: Unix time in s at which the attempt began that has done the last training step.
        resumed_from: epoch and step that this attempt has resumed from; None for one from the start.
    """

    offset: int = 0
    step: int = 0
    epoch: int = 0
    loss: float | None = None
    ap: float | None = None
    times: list[tuple[float, int]] = field(default_factory=list)
    attempt: float = 0.0
    resumed_from: tuple[int, int] | None = None

    def take(self, lines: Sequence[MetricLine], attempt: float) -> None:
        """Take in new lines.

        Args:
            attempt: Unix time in s at which the present attempt began; 0 for none. Lines may be of earlier ones.
        """
        for line in lines:
            if line.trains and attempt and attempt != self.attempt and line.time >= attempt:
                self.attempt, self.resumed_from = attempt, (self.epoch, line.step - 1) if line.step > 1 else None
            self.step, self.epoch = line.step, line.epoch
            if line.trains:
                self.loss = line.metrics.get("loss")
                self.times = [*self.times, (line.time, line.step)][-KEPT_TIMES:]
            else:
                self.ap = line.metrics.get("AP", 0.0)

    def eta_s(self, steps: int) -> float | None:
        """Return the time to step ``steps`` at the present pace, in s; None until the pace is known."""
        if len(self.times) < FEWEST_TIMES:
            return None
        (t0, s0), (t1, s1) = self.times[0], self.times[-1]
        return (t1 - t0) / max(1, s1 - s0) * (steps - s1)


class Watcher(threading.Thread):
    """Reads the run directories of a run's trials and passes progress on to a listener.

    Args:
        trials: in the order of display. labels: what each is called there, by id.
        listener: called with the progress of all trials, from this thread.
    """

    def __init__(
        self, tree: RunTree, plan: Plan, trials: Sequence[Trial], labels: Mapping[str, str], listener: Callable[[list[Progress]], None]
    ) -> None:
        super().__init__(name="watcher", daemon=True)
        self.tree, self.listener = tree, listener
        self.trials = [
            (t.id, labels[t.id], total_epochs(t.spec.settings), steps_of(t.spec.settings, t.spec.data.train_images)) for t in trials
        ]
        self._done = threading.Event()
        self._seen = {t.id: _Seen() for t in trials}
        self._latest: dict[str, Progress] = {}
        self._ended: dict[str, tuple[int, Progress]] = {}
        self._before = {t.id: _written(tree.trial(t.id)) for t in trials}
        self._left = {t.id: _attempt(tree.trial(t.id)) for t in trials if _left_without_result(tree.trial(t.id))}
        self._not_begun = set(self._left)

    def run(self) -> None:
        """Look until ``finish``. The listener counts the budget too, so an error of one look ends nothing."""
        while not self._done.wait(WATCH_S):
            self._look_safely()

    def finish(self) -> None:
        """Look a last time and stop."""
        self._done.set()
        self.join()
        self._look_safely()

    def follow_trial(self, trial_id: str) -> None:
        """Follow another trial too, from the start of its files."""
        self._seen.setdefault(trial_id, _Seen())

    def _look_safely(self) -> None:
        with contextlib.suppress(OSError):  # a closed terminal
            self.look()

    def look(self) -> None:
        """Read what is new and pass it on to the listener."""
        self.listener([self._progress_or_latest(*trial) for trial in self.trials])

    def _progress_or_latest(self, trial_id: str, label: str, epochs: int, steps: int) -> Progress:
        """Return the progress of a trial; the latest known one while its folder cannot be read."""
        try:
            self._latest[trial_id] = self._progress(trial_id, label, epochs, steps)
        except OSError:
            self._latest.setdefault(trial_id, Progress(trial_id, label, TrialState.PLANNED, 0, epochs, 0, steps))
        return self._latest[trial_id]

    def _progress(self, trial_id: str, label: str, epochs: int, steps: int) -> Progress:
        """Return the progress of a trial. One that has ended is read once: a result is only ever replaced."""
        folder = self.tree.trial(trial_id)
        written = _written(folder)
        if (ended := self._ended.get(trial_id)) and ended[0] == written:
            return ended[1]
        progress = self._read(folder, label, epochs, steps)
        if progress.state is TrialState.RUNNING:
            self._not_begun.discard(trial_id)
            return progress
        untouched = written == self._before.get(trial_id) if written else trial_id in self._not_begun
        if untouched:
            # The outcome of an earlier attempt: this run has not come to the trial yet.
            return replace(progress, state=TrialState.PLANNED, reason="")
        if written and progress.state in (TrialState.DONE, TrialState.FAILED):
            self._ended[trial_id] = written, progress
        return progress

    def _read(self, folder: TrialDir, label: str, epochs: int, steps: int) -> Progress:
        seen = self._seen[folder.id]
        lines, offset = read_metric_lines(folder.file(naming.METRICS_FILE), seen.offset)
        if offset < seen.offset or (lines and lines[0].step <= seen.step and lines[0].trains):
            seen.times = []  # a resume cut the file back
        attempt = _attempt(folder)
        if attempt == self._left.get(folder.id):
            attempt = 0.0  # the lease of a process that ended before this run
        seen.offset = offset
        seen.take(lines, attempt)
        reason = ""
        try:
            state = folder.state()
            if state is TrialState.FAILED and isinstance(result := folder.result(), Failed):
                reason = result.failure.reason
        except StoreError as error:  # another gfl-lab has written there meanwhile
            state, reason = TrialState.FAILED, error.problems[0].message
        running = state is TrialState.RUNNING and attempt > 0
        return Progress(
            folder.id, label, state, seen.epoch, epochs, seen.step, steps, seen.loss, seen.ap, seen.eta_s(steps), reason,
            resuming=running and 0 < seen.step < steps and seen.attempt != attempt,
            resumed_from=seen.resumed_from if running and seen.attempt == attempt else None,
        )  # fmt: skip


def _attempt(trial: TrialDir) -> float:
    """Return the Unix time in s at which the process took a trial that has its lease; 0 if there is none."""
    lease = trial.lease()
    return lease.since if lease else 0.0


def _left_without_result(trial: TrialDir) -> bool:
    """Return True if a trial was being trained by a process that was killed."""
    with contextlib.suppress(OSError):
        return not _written(trial) and trial.state() is TrialState.INTERRUPTED
    return False


def _written(trial: TrialDir) -> int:
    """Return the time at which a trial's result was written, in ns since the epoch; 0 if there is none."""
    try:
        return trial.file(naming.RESULT).stat().st_mtime_ns
    except OSError:
        return 0
