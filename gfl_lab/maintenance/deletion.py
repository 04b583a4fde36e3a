"""Deleting surplus from a run tree, without touching a trial that a process has taken meanwhile."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable

from gfl_lab.maintenance.surplus import Item, Kind
from gfl_lab.rundir import RunTree


def delete(item: Item, tree: RunTree, say: Callable[[str], None]) -> bool:
    """Delete one item; return True if it is gone.

    It writes nothing but a smaller checkpoint, since the disk may be full.

    Args:
        say: receives a warning if the item cannot be deleted.
    """
    if item.path.is_symlink():
        return False
    with contextlib.ExitStack() as stack:
        if item.trial:
            try:
                folder = os.open(tree.trial(item.trial).path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            except OSError:
                return False
            stack.callback(os.close, folder)
            fcntl.flock(folder, fcntl.LOCK_EX)  # a process that takes the lease waits for this lock
            if tree.trial(item.trial).lease_alive():
                return False
        return _remove(item, say)


def _remove(item: Item, say: Callable[[str], None]) -> bool:
    try:
        if item.kind is Kind.TRAINING_STATE:
            from gfl_lab.maintenance.training_state import drop_training_state  # loads torch

            drop_training_state(item.path)
        elif item.path.is_dir():
            shutil.rmtree(item.path)  # unlinks links, never follows them
        else:
            item.path.unlink()
        return True
    except (OSError, RuntimeError) as error:
        say(f"warning: {item.path}: {error}")
        return False
