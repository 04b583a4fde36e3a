"""The live display: one bar a trial on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import rich.progress
from rich.console import Console, JustifyMethod, RenderableType
from rich.progress import BarColumn, ProgressColumn, Task, TaskID
from rich.table import Column
from rich.text import Text

from gfl_lab.session.progress_lines import STATE_WORDS, ProgressLines, number, remaining
from gfl_lab.session.reporting import Listener, Progress, TrialState

_COUNTED = {
    TrialState.DONE: "done", TrialState.FAILED: "failed", TrialState.INTERRUPTED: "interrupted", TrialState.RUNNING: "running",
    TrialState.PLANNED: "waiting",
}  # fmt: skip


@contextlib.contextmanager
def display(console: Console) -> Iterator[Listener]:
    """Show trials on ``console`` while they run, and yield the listener for their progress."""
    if not console.is_terminal:
        yield ProgressLines(lambda line: console.print(line, soft_wrap=True))
        return
    with _Bars(console, max(4, console.height - 2)) as bars:
        yield bars.show


class _Field(ProgressColumn):
    """A column with one text of each trial, in the trial's style."""

    def __init__(self, text: Callable[[Progress], str], justify: JustifyMethod = "right") -> None:
        super().__init__(table_column=Column(no_wrap=True, justify=justify))
        self._text = text

    def render(self, task: Task) -> Text:
        """Return the text."""
        trial: Progress = task.fields["trial"]
        style = {TrialState.DONE: "green", TrialState.FAILED: "red", TrialState.RUNNING: ""}.get(trial.state, "dim")
        return Text(self._text(trial), style=style)


_COLUMNS = (
    _Field(lambda trial: trial.label, "left"),
    BarColumn(24, complete_style="cyan"),
    _Field(lambda trial: f"epoch {trial.epoch}/{trial.epochs}"),
    _Field(lambda trial: f"loss {number(trial.loss, 3)}"),
    _Field(lambda trial: f"AP {number(trial.ap, 1)}"),
    _Field(lambda trial: _standing(trial)),
)


class _Bars(rich.progress.Progress):
    """A row for each trial. If there are more than ``rows``, the running, failed and interrupted ones, and a line with the counts of all."""

    def __init__(self, console: Console, rows: int) -> None:
        self._rows, self._tasks_of, self._counts = rows, dict[str, TaskID](), ""
        super().__init__(*_COLUMNS, console=console, refresh_per_second=4)

    def get_renderables(self) -> Iterable[RenderableType]:
        """Return the rows, and the line with the counts if there is one."""
        yield from super().get_renderables()
        if self._counts:
            yield self._counts

    def show(self, trials: Sequence[Progress]) -> None:
        """Show the progress of all trials. A search leaves out trials that ended long ago."""
        for gone in self._tasks_of.keys() - {trial.trial for trial in trials}:
            self.remove_task(self._tasks_of.pop(gone))
        shown = {trial.trial for trial in trials} if len(trials) <= self._rows else self._most_telling(trials)
        counts = Counter(trial.state for trial in trials)
        hidden = len(shown) < len(trials)
        self._counts = ", ".join(f"{counts[state]} {word}" for state, word in _COUNTED.items() if hidden and counts[state])
        for trial in trials:
            if trial.trial not in self._tasks_of:
                self._tasks_of[trial.trial] = self.add_task("", trial=trial)
            task, visible = self._tasks_of[trial.trial], trial.trial in shown
            self.update(task, total=max(1, trial.steps), completed=trial.step, visible=visible, trial=trial)

    def _most_telling(self, trials: Sequence[Progress]) -> set[str]:
        wanted = (TrialState.RUNNING, TrialState.FAILED, TrialState.INTERRUPTED)
        ranked = sorted((trial for trial in trials if trial.state in wanted), key=lambda trial: wanted.index(trial.state))
        return {trial.trial for trial in ranked[: self._rows - 1]}


def _standing(trial: Progress) -> str:
    if trial.state is not TrialState.RUNNING:
        return STATE_WORDS[trial.state]
    return "evaluates" if trial.step >= trial.steps else remaining(trial)
