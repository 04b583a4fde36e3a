"""The part of a checkpoint that only training needs, and writing the checkpoint without it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from gfl_lab.checkpoints.files import load_safely, write_weights
from gfl_lab.errors import InputError

_NEEDED = ("meta", "state_dict")
"""Entries of a checkpoint that evaluation reads; the rest is for further training, which a finished trial never needs."""


def training_state_bytes(path: Path) -> int:
    """Return the bytes of tensors in a checkpoint that only training needs; 0 if it has none or cannot be read."""
    try:
        content = load_safely(path)
    except InputError:
        return 0
    if not set(_NEEDED) <= content.keys():
        return 0
    needed = set(_storages({key: content[key] for key in _NEEDED}))
    rest = set(_storages({key: value for key, value in content.items() if key not in _NEEDED}))
    return sum(size for _, size in rest - needed)


def drop_training_state(path: Path) -> None:
    """Write a checkpoint anew, atomically, with what evaluation needs.

    Raises:
        InputError: it cannot be read.
        OSError: it cannot be written.
    """
    content = load_safely(path)
    write_weights(path, {key: content[key] for key in _NEEDED})


def _storages(value: object) -> Iterator[tuple[int, int]]:
    """Return (address, bytes) of the memory of every tensor in nested dicts and lists."""
    if isinstance(value, torch.Tensor):
        storage = value.untyped_storage()
        yield storage.data_ptr(), storage.nbytes()
    elif isinstance(value, dict):
        for each in value.values():
            yield from _storages(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _storages(each)
