"""The failure of a trial: kind and reason of the error, in words for its result (docs/failures.md)."""

from __future__ import annotations

import contextlib
import errno
import shutil
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch

from gfl_lab.errors import DataError, DiskFull, FailureKind, GflLabError, TrialError
from gfl_lab.records.result import Failure
from gfl_lab.rundir import TrialDir
from gfl_lab.setup.components import MODULE_PREFIX

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_MEMORY = (
    "can't allocate memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED", "_ALLOCATION_FAILED", "failure 'out of memory'",
    "failure 2 'out of memory'", "Insufficient memory",
)  # fmt: skip
"""Words of torch's allocators, cuBLAS, cuDNN, NCCL and OpenCV in errors that have no type of their own."""


def failure_of(trial: TrialDir, error: Exception) -> Failure:
    """Return kind and reason of an exception that a trial raised."""
    reason = str(error).strip() or type(error).__name__
    if reason.startswith("Caught "):  # a loader process' error, with its traceback
        reason = reason.splitlines()[-1].partition(": ")[2] or reason.splitlines()[-1]
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(words in reason for words in _NO_MEMORY):
        return Failure(FailureKind.OUT_OF_MEMORY, reason)
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        return Failure(FailureKind.DISK_FULL, _full_disk(trial, error))
    if place := _in_users_code(error):
        return Failure(FailureKind.ERROR, f"{type(error).__name__}: {reason} ({place})")
    if isinstance(error, (DataError, FileNotFoundError)):
        return Failure(FailureKind.BAD_DATA, reason)
    if reason.startswith("DataLoader worker"):  # torch's words for one that was killed
        return Failure(FailureKind.LOST_PROCESS, f"a process that loads images was lost: {reason}")
    if isinstance(error, TrialError):
        return Failure(error.kind, reason)
    return Failure(FailureKind.ERROR, reason if isinstance(error, GflLabError) else f"{type(error).__name__}: {reason}")


def _in_users_code(error: Exception) -> str:
    """Return ``file.py:12``, the innermost line of a component of the user's in the error's traceback, or nothing."""
    frames = [
        f"{Path(frame.f_code.co_filename).name}:{line}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__", "")).startswith(MODULE_PREFIX)
    ]
    return frames[-1] if frames else ""


def _full_disk(trial: TrialDir, error: OSError) -> str:
    place = Path(error.filename or trial.path)
    while not place.is_dir():
        place = place.parent
    free = shutil.disk_usage(place).free
    return (
        f"no space left on the disk to write {error.filename or trial.path}; {free} bytes are free there. "
        "Finished work is kept. Free some space, and repeat the command."
    )


@contextlib.contextmanager
def full_disk_raised(trial: TrialDir) -> Iterator[None]:
    """Raise DiskFull if not even the outcome can be written."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        raise DiskFull(f"trial {trial.id}: {_full_disk(trial, error)}") from None
