"""Small files that a run tree keeps for itself: checks that have passed, and a repair that failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gfl_lab.errors import StoreError
from gfl_lab.records.files import object_of, read_json, text_of, write_record


@dataclass(frozen=True)
class SoundTrials:
    """Trials whose files have passed the check, with the stamps of the files then.

    Attributes:
        rules: Version of the check. Trials that passed another version are checked again.
        stamps: Stamp of the files, by the id of each finished trial that passed.
    """

    rules: int
    stamps: Mapping[str, str]


def read_sound_trials(path: Path, rules: int) -> dict[str, str]:
    """Read the stamps of trials that passed this version of the check; none if the file cannot be read."""
    try:
        found = read_json(path)
    except (StoreError, OSError):
        return {}
    stamps = object_of(found.get("trials"))
    if found.get("rules") != rules or stamps is None:
        return {}
    return {trial: text_of(stamp) for trial, stamp in stamps.items()}


def write_sound_trials(path: Path, sound: SoundTrials) -> None:
    """Write which trials have passed. Raises OSError."""
    write_record(path, {"rules": sound.rules, "trials": {**sound.stamps}})


@dataclass(frozen=True)
class FailedRepair:
    """The failure to make the damaged records of a finished trial again.

    Attributes:
        kind: Kind of the failure, as in result.json.
        reason: Its reason, a sentence.
        tried: ISO time of the repair.
    """

    kind: str
    reason: str
    tried: str = ""


def read_failed_repair(path: Path) -> FailedRepair | None:
    """Read why the last repair failed; None if none has."""
    try:
        found = read_json(path)
    except StoreError:
        return None
    return FailedRepair(text_of(found.get("kind")), text_of(found.get("reason")), text_of(found.get("tried")))


def write_failed_repair(path: Path, failed: FailedRepair) -> None:
    """Write why a repair failed. Raises OSError."""
    write_record(path, {"kind": str(failed.kind), "reason": failed.reason, "tried": failed.tried})


def write_checked_data(path: Path, name: str, digest: str) -> None:
    """Record that a data set has passed its check; the file's existence is the mark."""
    write_record(path, {"name": name, "digest": digest})
