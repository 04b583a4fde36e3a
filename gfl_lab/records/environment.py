"""The environment of a trial, as far as it can change its numbers: versions, processor, device, threads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from gfl_lab.records.files import JsonValue, integer_of, object_of


@dataclass(frozen=True)
class Environment:
    """Versions of Python and packages, ``system``, ``processor``, ``device`` and ``threads``, by name."""

    entries: Mapping[str, str | int]

    @property
    def threads(self) -> int | None:
        """CPU threads of torch, or None if it is not known. It decides the order of sums, so the last digits."""
        return integer_of(self.entries.get("threads"))

    def to_json(self) -> dict[str, JsonValue]:
        """Return the entries as result.json holds them."""
        return {**self.entries}

    @classmethod
    def from_json(cls, found: object) -> Environment | None:
        """Return the environment in a JSON value, or None if there is none."""
        given = object_of(found)
        return None if given is None else cls(cast(Mapping[str, str | int], given))
