"""metrics.jsonl: one line for each training step and each evaluation, appended while a trial runs."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import NamedTuple

from gfl_lab.records.files import atomic_path

_NUMBERS = {int, float}


class MetricLine(NamedTuple):
    """One line of metrics.jsonl. A tuple, because a trial has up to 100,000 of them.

    Attributes:
        kind: ``train`` for an iteration, ``val`` for the evaluation after an epoch.
        step: Finished iterations, from 1.
        epoch: Epoch of the step, from 1.
        time: Unix time in s; 0 if unknown.
        metrics: Numbers by key. ``train``: ``loss``, its terms (``loss_cls``, ``loss_bbox``, ...) and ``lr``. ``val``: ``AP``,
            ``AP50``, ... (0 to 100), and after the last epoch the scores against the ground-truth edges. NaN and infinity occur.
    """

    kind: str
    step: int
    epoch: int
    time: float
    metrics: Mapping[str, float]

    @property
    def trains(self) -> bool:
        """True if this is a training step."""
        return self.kind == "train"

    @property
    def evaluates(self) -> bool:
        """True if this is an evaluation."""
        return self.kind == "val"

    def encode(self) -> str:
        """Return the line as the file holds it, with its line break."""
        return json.dumps(self._asdict(), separators=(",", ":")) + "\n"


def parse_metric_line(raw: bytes) -> MetricLine | None:
    """Return the metric line in ``raw``, or None if it is torn or is no metric line. Values that are no numbers are left out."""
    try:
        line = json.loads(raw)
    except ValueError:
        return None
    if not isinstance(line, dict):
        return None
    metrics, step, epoch, when = line.get("metrics"), line.get("step"), line.get("epoch"), line.get("time")
    if not isinstance(metrics, dict) or type(step) is not int or type(epoch) is not int:
        return None
    if not _NUMBERS.issuperset(map(type, metrics.values())):
        metrics = {key: value for key, value in metrics.items() if type(value) in _NUMBERS}
    return MetricLine(str(line.get("kind")), step, epoch, when if type(when) is float or type(when) is int else 0.0, metrics)


def read_metric_lines(path: Path, offset: int = 0) -> tuple[list[MetricLine], int]:
    """Return the complete metric lines from byte ``offset`` on, and the offset after them.

    A torn last line (the process died while writing) is left out. If the file is shorter than ``offset`` (a resume cut it back),
    reading starts again from 0.
    """
    data, offset = _read_from(path, offset)
    end = data.rfind(b"\n") + 1
    lines = [line for raw in data[:end].splitlines() if (line := parse_metric_line(raw)) is not None]
    return lines, offset + end


def last_metric_lines(path: Path, window: int) -> Iterator[MetricLine]:
    """Yield the complete metric lines of the last ``window`` bytes, the newest first. Raises OSError."""
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - window))
        data = file.read()
    for raw in reversed(data.rpartition(b"\n")[0].splitlines()):  # the oldest may be cut by the window
        if (line := parse_metric_line(raw)) is not None:
            yield line


def write_metric_lines(path: Path, lines: Iterable[MetricLine]) -> None:
    """Write a whole file of metric lines, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text("".join(line.encode() for line in lines), encoding="utf-8")


def _read_from(path: Path, offset: int) -> tuple[bytes, int]:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < offset:
                offset = 0
            file.seek(offset)
            return file.read(), offset
    except FileNotFoundError:
        return b"", 0


class MetricWriter:
    """Appends metric lines, with one ``write`` call for each, so that no reader sees parts of two lines mixed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: FileIO | None = None

    def write(self, kind: str, step: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Append one line and hand it to the operating system. Raises OSError, of a full disk, without leaving half a line."""
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab", buffering=0)
        data = MetricLine(kind, step, epoch, round(time.time(), 3), metrics).encode().encode()
        written = self._file.write(data)
        if written < len(data):
            os.ftruncate(self._file.fileno(), self._file.seek(0, os.SEEK_END) - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))

    def sync(self) -> None:
        """Flush the lines to disk, so that no checkpoint is ahead of them after a power cut."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def truncate_after(self, step: int, *, unevaluated_from: int | None = None) -> None:
        """Drop every line after ``step``, and evaluations of epochs from ``unevaluated_from`` on: a resumed trial does them again."""
        self.close()
        if not self._path.exists():
            return

        def stays(line: MetricLine) -> bool:
            return line.step <= step and not (unevaluated_from and line.evaluates and line.epoch >= unevaluated_from)

        write_metric_lines(self._path, filter(stays, read_metric_lines(self._path)[0]))

    def close(self) -> None:
        """Close the file; a later write opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None
