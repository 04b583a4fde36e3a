"""accumulation.json: a trial ran out of memory, so each batch is split and gradients are accumulated over its parts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gfl_lab.records.files import JsonObject, damaged, integer_of, read_json, write_record


@dataclass(frozen=True)
class Accumulation:
    """The split of a batch.

    Attributes:
        parts: Number of parts of each batch, at least 2. Their gradients are accumulated.
        since_step: The last step with whole batches; null until the trial has continued.
    """

    parts: int
    since_step: int | None = None

    def to_json(self) -> JsonObject:
        """Return the content of the file, without its format version."""
        return {"parts": self.parts, "since_step": self.since_step}

    @classmethod
    def from_json(cls, found: JsonObject) -> Accumulation | None:
        """Return the record in a JSON object, or None if it is damaged."""
        parts, since = integer_of(found.get("parts")), found.get("since_step")
        if parts is None or parts < 2 or (since is not None and integer_of(since) is None):
            return None
        return cls(parts, integer_of(since))


def read_accumulation(path: Path) -> Accumulation | None:
    """Read how a trial splits its batches; None if it does not.

    Raises:
        StoreError: the file is damaged; how steps were done must not be guessed.
    """
    if not path.exists():
        return None
    found = Accumulation.from_json(read_json(path))
    if found is None:
        raise damaged(path, "is damaged")
    return found


def write_accumulation(path: Path, accumulation: Accumulation) -> None:
    """Write how a trial splits its batches."""
    write_record(path, accumulation.to_json())
