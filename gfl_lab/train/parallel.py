"""Starting the processes of one trial, watching them, and ending all when one is lost (docs/decisions/0009, 0015).

The main process starts the others, each a fresh interpreter, so that each can use its GPU. They are in the session of the main
process, and the kernel ends them with it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from gfl_lab.errors import FailureKind, Interrupted, TrialError
from gfl_lab.processes import fresh_command
from gfl_lab.train.process_group import DistributedGroup, ProcessGroup

GRACE_S = 20.0
"""Seconds for the main process to notice that another one has died, before it is ended too."""

T = TypeVar("T")


class LostProcess(TrialError):
    """Another process of the trial ended before its work was done; ``kind`` is the failure that it reported."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class _Others:
    """The other processes of a trial, by rank, seen from the main one. folder: where they report failures."""

    processes: dict[int, subprocess.Popen[bytes]]
    folder: Path

    def start(self, entry: str, kwargs: dict[str, Any], size: int) -> None:
        """Start processes 1 to ``size - 1``."""
        for rank in range(1, size):
            command = fresh_command(entry, {**kwargs, "rank": rank, "size": size, "folder": str(self.folder)}, os.getpid())
            self.processes[rank] = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def kill(self) -> None:
        """Kill those that are left, and wait for their end."""
        for process in self.processes.values():
            process.kill()
            process.wait()

    def ended(self) -> list[int]:
        """Return the ranks of the processes that have ended."""
        return [rank for rank, process in self.processes.items() if process.poll() is not None]

    def lost(self, seconds: float = 5.0) -> LostProcess | None:
        """Return the failure of another process, if one ends within ``seconds``: this one sees only a broken connection."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.ended():
                return self.cause()
            time.sleep(0.05)
        return None

    def cause(self) -> LostProcess:
        """Return the failure of the process that ended first: the others report lost connections to it."""
        time.sleep(0.5)  # for those that are just ending
        size = len(self.processes) + 1
        reports = {rank: _failure_file(self.folder, rank) for rank in self.ended()}
        for rank, report in reports.items():
            if not report.exists():
                code = self.processes[rank].returncode
                end = "was killed; often the machine ran out of memory" if code < 0 else f"ended with exit code {code}"
                return LostProcess(FailureKind.LOST_PROCESS, f"process {rank} of {size} {end}")
        rank = min(reports, key=lambda rank: reports[rank].stat().st_mtime_ns)
        failure = json.loads(reports[rank].read_text())
        return LostProcess(FailureKind(failure["kind"]), f"{failure['reason']} (in process {rank} of {size})")


def _watch(others: _Others, over: threading.Event, on_lost: Callable[[LostProcess], None]) -> None:
    """End this process when another one has died and it does not notice: NCCL may wait for ever."""
    while not over.wait(1.0):
        if others.ended():
            if not over.wait(GRACE_S):
                try:
                    on_lost(others.cause())
                finally:
                    os.kill(os.getpid(), signal.SIGKILL)
            return


def run_in_group(
    size: int,
    work: Callable[[ProcessGroup], T],
    entry: str,
    kwargs: dict[str, Any],
    on_lost: Callable[[LostProcess], None] = lambda _: None,
) -> T:
    """Do ``work`` in this process, and the same in ``size - 1`` more that are started here; return its value in this process.

    Args:
        work: called with the process group.
        entry: ``module:function`` that the others call, with ``kwargs`` and the ``rank``, ``size`` and ``folder`` of `join_group`.
        on_lost: called in a thread of this process, which is then killed, when another one has ended and ``work`` does not notice.

    Raises:
        LostProcess: another process ended before its work was done. And whatever ``work`` raises here.
    """
    if size == 1:
        return work(ProcessGroup())
    over = threading.Event()
    with tempfile.TemporaryDirectory(prefix="gfl-ranks-") as folder:
        others = _Others({}, Path(folder))
        try:
            others.start(entry, kwargs, size)
            threading.Thread(target=_watch, args=(others, over, on_lost), name="ranks", daemon=True).start()
            group = DistributedGroup(0, size, Path(folder))
            group.connect()
            result = work(group)
            group.barrier()
            over.set()  # from here on the others may end
            group.close()
            return result
        except Exception as error:
            if not isinstance(error, TrialError) and (lost := others.lost()):  # else only a broken connection is seen here
                raise lost from error
            raise
        finally:
            over.set()
            others.kill()


def join_group(
    rank: int, size: int, folder: str, work: Callable[[ProcessGroup], object], describe: Callable[[Exception], dict[str, Any]]
) -> None:
    """Do ``work`` as process ``rank`` of a group, in a process that `run_in_group` has started.

    Args:
        describe: returns {kind, reason} of an exception of ``work``; the main process reports it.

    Raises:
        Exception: of ``work``, except Interrupted.
    """
    try:
        group = DistributedGroup(rank, size, Path(folder))
        group.connect()
        work(group)
        group.barrier()
        group.close()
    except Interrupted:
        pass
    except Exception as error:
        _failure_file(Path(folder), rank).write_text(json.dumps(describe(error)))
        raise


def _failure_file(folder: Path, rank: int) -> Path:
    return folder / f"{rank}.json"
