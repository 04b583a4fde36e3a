"""Waiting for a condition instead of for a time."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], timeout: float = 60.0, what: str = "") -> None:
    """Return as soon as ``condition`` holds; it is asked 50 times a second.

    Raises:
        AssertionError: ``condition`` does not hold within ``timeout`` seconds.
    """
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"not within {timeout:g} s: {what or condition}"
        time.sleep(0.02)


def holds_within(condition: Callable[[], object], timeout: float) -> bool:
    """Return whether ``condition`` holds within ``timeout`` seconds."""
    try:
        wait_until(condition, timeout)
    except AssertionError:
        return False
    return True
