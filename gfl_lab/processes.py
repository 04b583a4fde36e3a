"""Processes that end with their parent or wait for each other; and a function in a fresh interpreter.

Run as ``python -m gfl_lab.processes MODULE:FUNCTION KWARGS PARENT``: import the module and call the function with the keyword
arguments (JSON), as a child of process PARENT that ends with it. Processes with a GPU start so: CUDA works in no fork of a process
that has initialised it, and importing mmengine does (docs/decisions/0015).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import importlib
import io
import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
EXIT_INTERRUPTED = 75
"""Exit code of a process that stopped because it was asked to."""
GUARD = "gfl-lab-guard"
"""Name of a process that waits for a trial's end and ends what it has forked."""


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies; leave at once if ``parent`` already has.

    The kernel goes by the parent's *thread* that forked: fork from one that runs as long as the process.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


@contextlib.contextmanager
def one_at_a_time(lock: Path) -> Iterator[None]:
    """Hold a file's lock, waiting for other processes of this machine that hold it; the system releases it however one ends."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def no_collections() -> Iterator[None]:
    """Collect no garbage in the body, for imports: they make a million objects that stay, and collections look through them.

    Nothing is lost: what no name refers to is freed at once, and what is in a cycle at the next collection.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def keep_freed_memory() -> None:
    """Make the allocator keep freed blocks for reuse: a training step allocates the same blocks again and again.

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


def hide_gpus() -> None:
    """Hide every GPU from this process and its children. Call it before torch is imported.

    With both variables torch counts GPUs without the driver, so a fork is not marked as unfit for CUDA.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"


def fresh_command(entry: str, kwargs: dict[str, Any], parent: int) -> list[str]:
    """Return the command that calls ``module:function`` in a fresh interpreter, a child of process ``parent``.

    Files in the current folder, such as the user's ``random.py``, are not imported (``-P``).
    """
    return [sys.executable, "-P", "-m", "gfl_lab.processes", entry, json.dumps(kwargs), str(parent)]


def call_and_exit(entry: str, kwargs: dict[str, Any]) -> NoReturn:
    """Call ``module:function`` and end this process: exit code 0, EXIT_INTERRUPTED, or 1 after printing what was raised.

    Nothing else is cleaned up, so that neither a parent's exit handlers nor a GPU library can hold the process up.
    """
    from gfl_lab.errors import Interrupted

    code = 0
    try:
        module, _, name = entry.partition(":")
        getattr(importlib.import_module(module), name)(**kwargs)
    except Interrupted:
        code = EXIT_INTERRUPTED
    except BaseException:
        traceback.print_exc()
        code = 1
    end_at_once(code)


def end_at_once(code: int) -> NoReturn:
    """End this process without exit handlers and destructors, which may wait for what does not answer any more."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


def _main(entry: str, kwargs: str, parent: str) -> NoReturn:
    die_with_parent(int(parent))
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as in a forked process; Python's own would print a traceback
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    call_and_exit(entry, json.loads(kwargs))


if __name__ == "__main__":
    _main(*sys.argv[1:])
