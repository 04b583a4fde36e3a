"""Numbers and lists in sentences that a person reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def duration(seconds: float | None) -> str:
    """Return ``1 h 05 min``, ``3 min 20 s`` or ``12 s``; ``unknown`` for None."""
    if seconds is None:
        return "unknown"
    seconds = round(seconds)
    if seconds >= 3600:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    if seconds >= 60:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds} s"


def plural(count: int, noun: str) -> str:
    """Return ``1 trial`` or ``4 trials``."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def joined(words: Sequence[str]) -> str:
    """Return ``a, b and c`` of one word or more."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def first_of(words: Iterable[str], most: int, sign: str = ", ") -> str:
    """Return all words in a row; of more than ``most`` the first ones, as in ``a, b and 3 more``."""
    words = list(words)
    rest = len(words) - most
    return sign.join(words[:most]) + (f" and {rest} more" if rest > 0 else "")
