"""A cache of values read from files, valid while the file stays the same."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, MutableMapping
from pathlib import Path
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from cachetools import LRUCache

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class FileStamp(NamedTuple):
    """Inode, size in bytes and modification time of a file. Another stamp means other content."""

    inode: int
    size: int
    mtime_ns: int


Stamp: TypeAlias = FileStamp | None
"""The stamp of a file; None if there is no file."""


def stamp_of(path: Path) -> Stamp:
    """Return the stamp of a file; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return FileStamp(status.st_ino, status.st_size, status.st_mtime_ns)


class StampedCache(Generic[K, V]):
    """Values by key, each with the stamp of the file that it was read from. Safe to share between threads.

    Args:
        limit: bytes of all values together; the least recently used ones go first, the newest one stays. None: no limit.
        size: bytes of a value.
    """

    def __init__(self, limit: int | None = None, size: Callable[[V], int] = lambda value: 0) -> None:
        self._lock = threading.Lock()
        self._entries: MutableMapping[K, tuple[Stamp, V]] = {}
        if limit is not None:
            self._entries = LRUCache(limit, getsizeof=lambda entry: min(size(entry[1]), limit))

    def get(self, key: K, stamp: Stamp) -> V | None:
        """Return the value that was read at this stamp; None if there is none."""
        with self._lock:
            held = self._entries.get(key)
        return held[1] if held is not None and held[0] == stamp else None

    def last(self, key: K) -> tuple[Stamp, V] | None:
        """Return the last value, whatever its stamp, with its stamp; None if there is none."""
        with self._lock:
            return self._entries.get(key)

    def put(self, key: K, stamp: Stamp, value: V) -> V:
        """Keep a value in place of an earlier one of this key, and return it."""
        with self._lock:
            self._entries[key] = (stamp, value)
        return value

    def drop(self, key: K) -> None:
        """Remove the value of a key, if there is one."""
        with self._lock:
            self._entries.pop(key, None)

    def __len__(self) -> int:
        return len(self._entries)
