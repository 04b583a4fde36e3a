"""The form of what a check of `gfl-lab doctor` yields."""

from __future__ import annotations

from collections.abc import Iterator

REPAIR_HINT = "`gfl-lab doctor --repair` sees to it"

Findings = Iterator[tuple[bool, str]]
"""(in order, message) each; what has been repaired is in order."""
