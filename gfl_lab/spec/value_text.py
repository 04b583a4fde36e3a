"""Values of a file: as text, parts of them, and whether two of them mean the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Path_ = tuple[str | int, ...]
"""Keys and indices from the top of a file to a value."""


def show(value: Any) -> str:
    """Return a value as an experiment file would have it, text in quotes, at most 80 characters."""
    text = _written(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _written(value: Any, depth: int = 0) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if depth > 3 and isinstance(value, Mapping | list | tuple):
        return "..."
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_written(item, depth + 1)}" for key, item in list(value.items())[:10]) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_written(item, depth + 1) for item in value[:30]) + "]"
    return repr(value)


def same(first: Any, second: Any) -> bool:
    """Return True if two values of a file mean the same: 1 is 1.0, but neither ``true`` nor ``"1"``."""
    return identity(first) == identity(second)


def identity(value: Any) -> Any:
    """Return a hashable key that is equal for two values that mean the same."""
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, Mapping):
        return ("map", frozenset((key, identity(item)) for key, item in value.items()))
    if isinstance(value, list | tuple):
        return ("list", tuple(identity(item) for item in value))
    return value if isinstance(value, int | float | str | type(None)) else repr(value)


def repeated(values: list[Any]) -> dict[int, int]:
    """Return {index: index of the first with the same meaning} of the values that are not the first of their kind."""
    first: dict[Any, int] = {}
    found = {}
    for index, value in enumerate(values):
        before = first.setdefault(identity(value), index)
        if before != index:
            found[index] = before
    return found


def value_at(value: Any, keys: Path_) -> Any:
    """Return the value at ``keys``; None where there is none."""
    for key in keys:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            return None
    return value
