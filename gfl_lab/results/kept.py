"""Memory for what has been read, with a limit: what was used longest ago goes first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Kept(Generic[K, V]):
    """Values by key, of at most ``limit`` bytes in all as their sizes were told; the newest is always kept. Not locked."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self.nbytes = 0

    def get(self, key: K) -> V | None:
        """The value, which counts as used now; None when there is none."""
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key][0]

    def put(self, key: K, value: V, nbytes: int) -> None:
        """Keep a value in place of an earlier one with this key."""
        self.nbytes += nbytes - (self._values.pop(key)[1] if key in self._values else 0)
        self._values[key] = (value, nbytes)
        while self.nbytes > self._limit and len(self._values) > 1:
            self.nbytes -= self._values.popitem(last=False)[1][1]

    def __len__(self) -> int:
        return len(self._values)
