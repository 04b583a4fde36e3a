"""One damaged file of a finished trial: the fault in words, and the cure."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from gfl_lab import naming
from gfl_lab.errors import StoreError
from gfl_lab.records.result import FileEntry
from gfl_lab.rundir import TrialDir

UNSTABLE = naming.MACHINE_METRICS
"""Metrics that differ from measurement to measurement."""


LISTED = (naming.EVAL_RECORDS, naming.DISTRIBUTIONS, naming.HISTORY, naming.METRICS_FILE)
"""Files whose size and check sum stand in result.json."""


UNREADABLE = (OSError, KeyError, TypeError, ValueError, IndexError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error)


class Cure(StrEnum):
    """The way to make a damaged file whole again."""

    REWRITE = "rewrite"  # from the plan, which has the specification
    EVALUATE = "evaluate"  # from the last checkpoint
    TRAIN = "train"  # nothing but training the trial once more


_CURES = {
    naming.MANIFEST: Cure.REWRITE,
    naming.RESULT: Cure.EVALUATE,
    naming.EVAL_RECORDS: Cure.EVALUATE,
    naming.DISTRIBUTIONS: Cure.EVALUATE,
}


@dataclass(frozen=True)
class Damage:
    """One file of a finished trial that is not as it should be. ``str()`` is a phrase: ``eval.npz is missing``."""

    file: str
    what: str

    @property
    def cure(self) -> Cure:
        """The way to make the file whole again."""
        return Cure.REWRITE if self.file.startswith(naming.COMPONENTS_DIR + "/") else _CURES.get(self.file, Cure.TRAIN)

    def __str__(self) -> str:
        return f"{self.file} {self.what}"


def phrase(found: Sequence[Damage]) -> str:
    """Return all damages of a trial in one phrase."""
    return "; ".join(map(str, found))


def file_entry(path: Path) -> FileEntry:
    """Return size and check sum of a file. Raises OSError."""
    with path.open("rb") as file:
        return FileEntry(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def file_entries(trial: TrialDir) -> dict[str, FileEntry]:
    """Return the files of a result: an entry for each listed file that the trial has. Raises OSError."""
    return {name: file_entry(trial.file(name)) for name in LISTED if trial.file(name).exists()}


def reason_of(error: Exception) -> str:
    """Return the cause, without the place of the tree on this machine."""
    if isinstance(error, FileNotFoundError) or (isinstance(error, StoreError) and "does not exist" in str(error)):
        return "is missing"
    if isinstance(error, PermissionError) or "Permission denied" in str(error):
        return "cannot be read: permission denied"
    if isinstance(error, KeyError):
        return f"is damaged: {error.args[0]} is missing"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if isinstance(error, StoreError):  # names the file with its path, at the beginning and often at the end
        text = (text.partition(" cannot be read: ")[2] or text.partition(" holds ")[2] or text).partition(": '/")[0]
    return f"is damaged: {text}"
