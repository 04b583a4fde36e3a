"""Counting what has been done: a bar on a terminal, elsewhere at most one line."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from gfl_lab.cli.output import consoles, say


@contextlib.contextmanager
def counter(verb: str, noun: str = "", first_line: Callable[[int], str] | None = None) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that shows how many are done, and of how many; the bar is gone afterwards.

    Args:
        verb: before the bar. noun: after the numbers.
        first_line: elsewhere than on a terminal, the line that is printed when the first is done, from how many there are.
    """
    console = consoles()[1]
    if not console.is_terminal:
        yield lambda done, of: say(first_line(of)) if first_line and done == 1 else None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(verb), BarColumn(24), MofNCompleteColumn(), TextColumn(noun), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)
