"""A JSON document as text."""

from __future__ import annotations

import json
from collections.abc import Mapping


def to_json(value: Mapping[str, object]) -> str:
    """Return ``value`` indented, with a final newline. Raises ValueError for a number that JSON does not have."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
