"""Configs of mmdet as JSON: Python's tuples, which some of its classes insist on, stay tuples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_TUPLE = "(tuple)"


class NotPlainError(ValueError):
    """A config holds something that no file of a run can: the message says what, and where."""


def encode(value: Any, path: str = "") -> Any:
    """Return a config as JSON values. A tuple is a list behind the key ``(tuple)``.

    Args:
        path: dotted path of ``value``, for the message.

    Raises:
        NotPlainError: it holds another type than text, numbers, booleans, None, lists, tuples and mappings with text keys.
    """
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise NotPlainError(f"{path or 'the config'} has the key {key!r}, which is no text")
        return {key: encode(item, f"{path}.{key}" if path else key) for key, item in value.items()}
    if isinstance(value, tuple):
        return {_TUPLE: [encode(item, f"{path}.{index}") for index, item in enumerate(value)]}
    if isinstance(value, list):
        return [encode(item, f"{path}.{index}") for index, item in enumerate(value)]
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise NotPlainError(f"{path} is {value!r}, and a trial's manifest holds text, finite numbers, true, false, null, lists and mappings")


def decode(value: Any) -> Any:
    """Return the config that ``encode`` has made JSON values of."""
    if isinstance(value, Mapping):
        if value.keys() == {_TUPLE}:
            return tuple(decode(item) for item in value[_TUPLE])
        return {key: decode(item) for key, item in value.items()}
    return [decode(item) for item in value] if isinstance(value, list) else value
