"""Progress of what is counted and of downloads: a bar on a terminal, elsewhere one line at the beginning."""

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


@contextlib.contextmanager
def download(name: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that shows the bytes that have been downloaded, of how many (0: not known). Nothing is shown until it is called."""
    console = consoles()[1]
    if not console.is_terminal:
        yield _DownloadLine(name)
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn(f"downloading {name}"), BarColumn(24), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True)

    def show(done: int, of: int) -> None:
        if not bar.tasks:
            bar.add_task("", total=None)
            bar.start()
        bar.update(bar.tasks[0].id, completed=done, total=of or None)

    try:
        yield show
    finally:
        bar.stop()


class _DownloadLine:
    """Prints a line when a download begins."""

    def __init__(self, name: str) -> None:
        self._name, self._begun = name, False

    def __call__(self, done: int, of: int) -> None:
        if not self._begun:
            size = f" ({of / 1e6:.1f} MB{f', {done / 1e6:.1f} MB are there' if done else ''})" if of else ""
            say(f"downloading {self._name}{size}")
        self._begun = True


class _Line:
    """Prints a line when a count begins."""

    def __init__(self, step: str, noun: str) -> None:
        self._step, self._noun, self._last = step, noun, 0

    def __call__(self, done: int, of: int) -> None:
        if not self._last or done < self._last:
            say(f"{self._step} {plural(of, self._noun)}")
        self._last = 0 if done >= of else done
