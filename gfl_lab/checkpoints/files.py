"""Torch files that hold only tensors and plain values, so that they load with ``weights_only=True``."""

from __future__ import annotations

import errno
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import torch

from gfl_lab.errors import InputError
from gfl_lab.records.files import atomic_path

_HINT = (
    "Only files of tensors and plain values are loaded, never code. Save it again as torch.save({'state_dict': model.state_dict()}, path)."
)

DAMAGE = (
    EOFError, ValueError, LookupError, AttributeError, TypeError, ArithmeticError, MemoryError, RecursionError, AssertionError, OSError,
    RuntimeError, struct.error,
)  # fmt: skip
"""Errors of pickle readers on bytes that are no pickle, or half of one."""


def write_weights(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint atomically, in place of one that is there. Raises OSError, also for what torch hides of a full disk."""
    with atomic_path(path) as temporary:
        save(content, temporary, path)


def save(content: dict[str, Any], temporary: Path, path: Path) -> None:
    try:
        torch.save(content, temporary)
    except RuntimeError as error:  # torch's writer hides the system's error
        if "inline_container" not in str(error):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from None


def load_safely(path: Path) -> dict[str, Any]:
    """Read a torch file of tensors and plain values onto the CPU.

    Raises:
        InputError: no file, damaged, or it holds objects other than tensors and plain values.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except pickle.UnpicklingError:
        raise InputError(f"{path} holds Python objects. {_HINT}") from None
    except DAMAGE as error:
        raise InputError(f"{path} is not a whole torch file: {(str(error).splitlines() or ['it is empty'])[0]}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds {type(content).__name__}, not a dictionary of weights")
    return content
