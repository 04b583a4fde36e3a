"""result.json: how a trial ended: done, failed or interrupted. A trial is done only if this file has that status."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, NamedTuple, TypeAlias, TypedDict

from gfl_lab.errors import FailureKind, StoreError
from gfl_lab.records.accumulation import Accumulation
from gfl_lab.records.environment import Environment
from gfl_lab.records.files import (
    JsonObject,
    JsonValue,
    damaged,
    integer_of,
    number_of,
    object_of,
    read_json,
    read_json_or_none,
    text_of,
    write_record,
)

DONE, FAILED, INTERRUPTED = "done", "failed", "interrupted"
_NUMBERS = (float, int)
_COUNTS = ("epochs", "steps", "processes", "peak_memory_mib")


class FileEntry(NamedTuple):
    """Size and check sum of a file that a trial wrote.

    Attributes:
        bytes: Size in bytes.
        sha256: SHA-256 of the content.
    """

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Failure:
    """The failure of a trial.

    Attributes:
        kind: Kind of the failure (failures.md). A newer version may have more kinds.
        reason: A sentence for people.
        step, epoch: Step and epoch of the failure, from 1; 0 before the first step.
    """

    kind: str
    reason: str
    step: int = 0
    epoch: int = 0

    def to_json(self) -> dict[str, JsonValue]:
        """Return the failure as result.json holds it."""
        return {"kind": str(self.kind), "reason": self.reason, "step": self.step, "epoch": self.epoch}

    @classmethod
    def from_json(cls, found: object) -> Failure:
        """Return the failure in a JSON value; what is missing or of a wrong type gets a default."""
        given = object_of(found) or {}
        return cls(
            text_of(given.get("kind")) or FailureKind.ERROR.value,
            text_of(given.get("reason")) or "no reason was written",
            integer_of(given.get("step")) or 0,
            integer_of(given.get("epoch")) or 0,
        )


@dataclass(frozen=True)
class EvaluatedAgain:
    """Making the damaged records of a finished trial again.

    Attributes:
        finished: ISO time.
        device: Device of that evaluation.
        seconds: Its wall time in s, by part.
        environment: Its environment, as ``environment``.
    """

    finished: str
    device: str
    seconds: Mapping[str, float]
    environment: Environment

    def to_json(self) -> dict[str, JsonValue]:
        """Return it as result.json holds it."""
        return {
            "finished": self.finished, "device": self.device, "seconds": {**self.seconds}, "environment": self.environment.to_json(),
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The parts of every result.

    Attributes:
        trial: Id of the trial.
        status: ``done``, ``failed`` or ``interrupted``.
        seconds: Wall time in s: ``setup``, ``train``, ``eval``, ``distributions``, ``latency`` and ``total``. After a resume, the last attempt.
        accumulation: The split of batches, as in accumulation.json. Only after a shortage of memory.
        finished: ISO time.
    """

    status: ClassVar[str]
    trial: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    accumulation: Accumulation | None = None
    finished: str = ""

    def _own(self) -> dict[str, JsonValue]:
        """Return the parts of this kind of result, in the order of the file."""
        raise NotImplementedError

    def to_json(self) -> JsonObject:
        """Return the content of the file, without its format version."""
        found: dict[str, JsonValue] = {"trial": self.trial, "status": self.status, **self._own()}
        if self.seconds and "seconds" not in found:
            found["seconds"] = {**self.seconds}
        if self.accumulation is not None:
            found["accumulation"] = {**self.accumulation.to_json()}
        return {**found, "finished": self.finished} if self.finished else found


@dataclass(frozen=True, kw_only=True)
class Done(Outcome):
    """The result of a finished trial.

    Parts that are None are missing in the file: it is damaged, or an older version wrote it.

    Attributes:
        metrics: Finite numbers by key; AP is 0 to 100. Undefined metrics are left out, such as ``AP_L`` without large boxes.
        per_class: AP by class name.
        counts: Numbers of detections, of boxes, and of scored sides.
        files: The trial's files: eval.npz, distributions.parquet, history.parquet, metrics.jsonl.
        epochs, steps: Finished epochs and steps of the training.
        processes: Processes that shared each batch.
        peak_memory_mib: Peak memory of the device, in MiB.
        device: Device, such as ``cpu`` or ``cuda:0 NVIDIA H100``.
        environment: Versions of ``python`` and packages, ``system``, ``processor``, ``device`` and ``threads``.
        weights_from: Id of the trial whose final weights were evaluated. Only for a trial that was not trained itself; its ``seconds`` have no ``train``.
        evaluated_again: Only after damaged records were made again.
    """

    status: ClassVar[str] = DONE
    metrics: Mapping[str, float] | None
    per_class: Mapping[str, float] | None = None
    counts: Mapping[str, float] | None = None
    files: Mapping[str, FileEntry] | None = None
    epochs: int | None = None
    steps: int | None = None
    processes: int | None = None
    peak_memory_mib: float | None = None
    device: str = ""
    environment: Environment | None = None
    weights_from: str = ""
    evaluated_again: EvaluatedAgain | None = None

    def _own(self) -> dict[str, JsonValue]:
        parts: dict[str, JsonValue] = {
            "metrics": _copied(self.metrics),
            "per_class": _copied(self.per_class),
            "counts": _copied(self.counts),
            "files": None if self.files is None else {name: {**entry._asdict()} for name, entry in self.files.items()},
            "epochs": self.epochs,
            "steps": self.steps,
            "processes": self.processes,
            "seconds": {**self.seconds} or None,
            "peak_memory_mib": self.peak_memory_mib,
            "device": self.device or None,
            "environment": self.environment.to_json() if self.environment else None,
            "weights_from": self.weights_from or None,
            "evaluated_again": self.evaluated_again.to_json() if self.evaluated_again else None,
        }
        return {key: value for key, value in parts.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Failed(Outcome):
    """The result of a trial that failed.

    Attributes:
        failure: The failure.
    """

    status: ClassVar[str] = FAILED
    failure: Failure

    def _own(self) -> dict[str, JsonValue]:
        return {"failure": self.failure.to_json()}


@dataclass(frozen=True, kw_only=True)
class Interrupted(Outcome):
    """The result of a trial that was stopped; it goes on from its last checkpoint.

    Attributes:
        reason: A sentence for people.
    """

    status: ClassVar[str] = INTERRUPTED
    reason: str = ""

    def _own(self) -> dict[str, JsonValue]:
        return {"reason": self.reason}


Result: TypeAlias = Done | Failed | Interrupted


def read_result(path: Path) -> Result | None:
    """Read how a trial ended; None while it has not.

    Raises:
        StoreError: the file is damaged. FormatError: it is of a format that this version does not read.
    """
    content = read_json_or_none(path)
    return None if content is None else parse_result(path, content)


def says_done(content: bytes) -> bool:
    """Return True if the bytes of a result, from a storage, are those of a finished trial."""
    try:
        found = object_of(json.loads(content))
    except ValueError:
        return False
    return found is not None and found.get("status") == DONE


def salvage_result(path: Path) -> Done | None:
    """Read the parts of a finished trial's result that have the right type, whatever its status; None if it is another trial's."""
    try:
        content = read_json(path)
    except StoreError:
        return None
    return _done(content, salvage=True) if content.get("trial") in (None, path.parent.name) else None


def write_result(path: Path, result: Result) -> None:
    """Write how a trial ended."""
    write_record(path, result.to_json())


def parse_result(path: Path, content: JsonObject) -> Result:
    """Return the result in a JSON object. Maps of numbers keep what is a number.

    Raises:
        StoreError: its status is unknown, or a part has a wrong type.
    """
    status = content.get("status")
    if status == INTERRUPTED:
        return Interrupted(**_common(content), reason=text_of(content.get("reason")))
    if status == FAILED:
        if not isinstance(content.get("failure", {}), dict):
            raise damaged(path, "has no failure in its failure")
        return Failed(**_common(content), failure=Failure.from_json(content.get("failure")))
    if status != DONE:
        raise damaged(path, f"has the status {status!r}")
    for part in _COUNTS:
        if content.get(part) is not None and number_of(content[part]) is None:
            raise damaged(path, f"has the wrong {part} {content[part]!r}")
    return _done(content)


class _Common(TypedDict):
    trial: str
    seconds: Mapping[str, float]
    accumulation: Accumulation | None
    finished: str


def _common(content: JsonObject) -> _Common:
    accumulation = object_of(content.get("accumulation"))
    return {
        "trial": text_of(content.get("trial")),
        "seconds": numbers_of(content.get("seconds")),
        "accumulation": Accumulation.from_json(accumulation) if accumulation else None,
        "finished": text_of(content.get("finished")),
    }


def _done(content: JsonObject, *, salvage: bool = False) -> Done:
    """Return the result of a finished trial, without the parts that have a wrong type; ``salvage``: with the sound ones of its files."""
    return Done(
        **_common(content),
        metrics=_numbers_or_none(content.get("metrics")),
        per_class=_numbers_or_none(content.get("per_class")),
        counts=_numbers_or_none(content.get("counts")),
        files=_entries(content.get("files"), salvage=salvage),
        epochs=integer_of(content.get("epochs")),
        steps=integer_of(content.get("steps")),
        processes=integer_of(content.get("processes")),
        peak_memory_mib=number_of(content.get("peak_memory_mib")),
        device=text_of(content.get("device")),
        environment=Environment.from_json(content.get("environment")),
        weights_from=text_of(content.get("weights_from")),
        evaluated_again=_evaluated_again(content.get("evaluated_again")),
    )


def finished_now(result: Result, seconds: float | None = None) -> Result:
    """Return a result that ended now.

    Args:
        seconds: wall time of the whole trial, which becomes ``total``; None leaves ``seconds`` as they are.
    """
    parts = result.seconds if seconds is None else {**result.seconds, "total": round(seconds, 3)}
    return replace(result, seconds=parts, finished=now())


def now() -> str:
    """Return the time as records hold it: ISO 8601 in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def numbers_of(value: object) -> dict[str, float]:
    """Return the finite numbers of a JSON object; nothing for any other value."""
    if not isinstance(value, dict):
        return {}
    return {key: each for key, each in value.items() if type(each) in _NUMBERS and math.isfinite(each)}


def _numbers_or_none(value: object) -> dict[str, float] | None:
    return numbers_of(value) if isinstance(value, dict) else None


def _copied(values: Mapping[str, float] | None) -> dict[str, JsonValue] | None:
    return None if values is None else {**values}


def _entries(value: object, *, salvage: bool = False) -> dict[str, FileEntry] | None:
    """Return the files of a result; None if they are missing or one entry is damaged. ``salvage`` skips damaged entries instead."""
    found = object_of(value)
    if found is None:
        return None
    entries = {}
    for name, each in found.items():
        entry = object_of(each) or {}
        size, digest = integer_of(entry.get("bytes")), entry.get("sha256")
        if size is None or not isinstance(digest, str):
            if salvage:
                continue
            return None
        entries[name] = FileEntry(size, digest)
    return entries


def _evaluated_again(value: object) -> EvaluatedAgain | None:
    found = object_of(value)
    if found is None:
        return None
    environment = Environment.from_json(found.get("environment")) or Environment({})
    return EvaluatedAgain(text_of(found.get("finished")), text_of(found.get("device")), numbers_of(found.get("seconds")), environment)
