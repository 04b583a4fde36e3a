"""Processes on this machine, any of which may end while a test looks at it: psutil would raise an error then."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import psutil


def alive(pid: int) -> bool:
    """Return True if the process runs; one that has ended and is still listed does not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def family(pid: int) -> list[psutil.Process]:
    """Return the process and all below it; nothing if it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def command_line(process: psutil.Process) -> str:
    """Return the words of a process' command with spaces between; "" for one that has ended."""
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def process_name(process: psutil.Process) -> str:
    """Return the name of a process; "" for one that has ended."""
    with contextlib.suppress(psutil.Error):
        return process.name()
    return ""


def kill(processes: Iterable[psutil.Process]) -> None:
    """Send SIGKILL to those that still run."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def left_after(processes: Iterable[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait for processes to end; return those that still run."""
    _, left = psutil.wait_procs(list(processes), timeout=seconds)
    return [process for process in left if process.is_running() and alive(process.pid)]


def listening(processes: Iterable[psutil.Process]) -> set[tuple[str, str]]:
    """Return names of processes and the addresses at which they listen."""
    found = set()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            addresses = [c.laddr.ip.removeprefix("::ffff:") for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
            found |= {(process.name(), address) for address in addresses}
    return found


def users(processes: Iterable[psutil.Process]) -> set[int]:
    """Return the ids of the users whom the processes run for."""
    found = set()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.add(process.uids().real)
    return found
