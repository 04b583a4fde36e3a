"""Leftovers of killed drivers: processes, half-written files, Ray's session folders. Found here, removed by doctor and gc."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from gfl_lab import naming
from gfl_lab.orchestrate.measure import WARM_UP_PREFIX
from gfl_lab.orchestrate.ray_cluster import scratch_dir
from gfl_lab.processes import GUARD
from gfl_lab.rundir import RunTree, TrialDir

STARTED_AS = {"gfl_lab.orchestrate.forkserver", "gfl_lab.processes"}
"""Modules on the command lines of the processes that start and run trials."""
OLD_S = 3600.0
"""A temporary file younger than this may still be written."""


# --- processes ---


@dataclass(frozen=True)
class Orphan:
    """A process of a trial whose driver has gone. The start time distinguishes it from a later process of the same pid."""

    pid: int
    started: float
    log: str

    def kill(self) -> bool:
        """Kill the process if its identity still matches; return whether it did."""
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self.pid)
            if process.create_time() == self.started:
                process.send_signal(signal.SIGKILL)
                return True
        return False


def orphans() -> list[Orphan]:
    """Return this user's processes that start or run trials and have lost their driver.

    A server that starts trials is held by the process at the other end of its stdin; what it forked is held while it is. They
    end with their holder by themselves; what is found here escaped that, as loader processes of a trial whose guard was killed can.
    """
    own: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.uids().real != os.getuid() or process.name() == GUARD:  # a guard ends with its trial
                continue
            if STARTED_AS & {*process.cmdline()} and process.status() != psutil.STATUS_ZOMBIE:
                own[process.pid] = process
    found = []
    for process in own.values():
        with contextlib.suppress(psutil.Error, OSError):
            top = process
            while (parent := top.ppid()) in own:
                top = own[parent]
            if not _held(top.pid, parent) and process.is_running():
                found.append(Orphan(process.pid, process.create_time(), _link(process.pid, 1)))
    return found


def _held(pid: int, parent: int) -> bool:
    """Return True if ``parent`` has the other end of the pipe that is the stdin of ``pid``."""
    pipe = _link(pid, 0)
    if not pipe.startswith("pipe:"):
        return False
    try:
        return any(_link(parent, int(number)) == pipe for number in os.listdir(f"/proc/{parent}/fd"))
    except PermissionError:
        return True  # another user's process may hold it, so it cannot be judged
    except OSError:
        return False


def _link(pid: int, number: int) -> str:
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/fd/{number}")
    return ""


# --- files of the run tree ---


def stale_leases(tree: RunTree) -> list[TrialDir]:
    """Return the trials with a lease of a dead process."""
    return [trial for trial in tree.trials() if trial.file(naming.LEASE).exists() and not trial.lease_alive()]


def temporary_files(tree: RunTree) -> Iterator[Path]:
    """Return half-written files and warm-ups that are left over: older than ``OLD_S``, in no trial that runs."""
    found: list[Path] = []
    for trial in tree.trials():
        if not trial.lease_alive():
            found += [*trial.path.glob(".*.tmp"), *trial.path.glob(f"{naming.COMPONENTS_DIR}/.*.tmp"), *trial.path.glob(naming.RESERVE)]
    measured = tree.root / naming.MEASURED_DIR
    found += [*(tree.root / naming.EXPERIMENTS_DIR).glob("*/*/.*.tmp"), *measured.glob(".*.tmp"), *measured.glob(f"{WARM_UP_PREFIX}*")]
    return _old(path for path in found if not through_link(path, tree.root))


def through_link(path: Path, root: Path) -> bool:
    """Return True if the way from ``root`` to ``path`` leads over a symbolic link, so that it may leave the tree."""
    return any(part.is_symlink() for part in (path, *path.parents) if part.is_relative_to(root) and part != root)


def _old(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > OLD_S:
                yield path


# --- Ray ---


def stale_ray_sessions() -> list[Path]:
    """Return the folders of dead Ray sessions in the scratch folder and, while no session lives, those of Tune.

    A session is alive while one of this user's processes names it on its command line, or while the driver lives whose pid
    ends its name.
    """
    scratch = scratch_dir()
    lines = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.uids().real == os.getuid():
                lines.append(" ".join(process.cmdline()))
    named = "\n".join(lines)
    sessions = [path for path in (scratch / "r").glob("session_*") if not path.is_symlink() and path.is_dir()]
    dead = [path for path in sessions if path.name not in named and not psutil.pid_exists(_driver(path.name))]
    living = len(dead) < len(sessions) or str(scratch) in named
    return dead + ([] if living else list(_old(path for path in scratch.glob("tune-*") if path.is_dir())))


def _driver(session: str) -> int:
    match = re.search(r"_(\d+)$", session)
    return int(match[1]) if match else 0
