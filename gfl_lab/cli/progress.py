"""Counting what has been done: a bar on a terminal, elsewhere one line at the beginning."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from gfl_lab.cli.output import consoles, say
from gfl_lab.wording import plural


@contextlib.contextmanager
def counter(step: str, noun: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that shows how many are done, and of how many. It may count several times, one after the other.

    Args:
        step: before the number, such as ``evaluating``. noun: after it, singular.
    """
    console = consoles()[1]
    if not console.is_terminal:
        yield _Line(step, noun)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(step), BarColumn(24), MofNCompleteColumn(), TextColumn(f"{noun}s"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


class _Line:
    """Prints a line when a count begins."""

    def __init__(self, step: str, noun: str) -> None:
        self._step, self._noun, self._last = step, noun, 0

    def __call__(self, done: int, of: int) -> None:
        if not self._last or done < self._last:
            say(f"{self._step} {plural(of, self._noun)}")
        self._last = 0 if done >= of else done
