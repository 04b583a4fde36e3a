"""Processes that never outlive whoever started them."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
GUARD = "gfl-lab-guard"
"""Name of a process that waits for a trial's end and ends what it has forked."""


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies; leave at once if ``parent`` already has.

    The kernel goes by the parent's *thread* that forked: fork from one that lives as long as the process.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def keep_freed_memory() -> None:
    """Have the allocator keep what is freed for the next of that size: a training step asks for the same blocks again and again.

    By default glibc hands large blocks back to the system, and each page comes back by a fault. Blocks above 32 MiB still go
    back. Another C library is left as it is.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)
        mallopt(_M_TRIM_THRESHOLD, 2**30)
        mallopt(_M_TOP_PAD, 16 * 2**20)


def rename(name: str) -> None:
    """Give this process another name, of at most 15 bytes, as `ps` and psutil show it."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)
