"""Waiting for a condition instead of for a time."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], timeout: float = 60.0, what: str = "", every: float = 0.02) -> None:
    """Return as soon as ``condition`` holds; it is asked again ``every`` so many seconds.

    Raises:
        AssertionError: ``condition`` does not hold within ``timeout`` seconds.
    """
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"not within {timeout:g} s: {what or condition}"
        time.sleep(every)


def holds_within(condition: Callable[[], object], timeout: float, every: float = 0.02) -> bool:
    """Return whether ``condition`` holds within ``timeout`` seconds."""
    try:
        wait_until(condition, timeout, every=every)
    except AssertionError:
        return False
    return True
