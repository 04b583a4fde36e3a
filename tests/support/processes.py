"""Processes on this machine, some of which end while a test looks at them."""

from __future__ import annotations

import contextlib

import psutil


def command_line(process: psutil.Process) -> str:
    """Return the words of a process' command with spaces between; "" for one that has ended."""
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""
