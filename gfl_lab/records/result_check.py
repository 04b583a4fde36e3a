"""Check of a finished trial's result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gfl_lab import naming
from gfl_lab.errors import StoreError
from gfl_lab.records.files import (
    JsonObject,
    integer_of,
    object_of,
    read_json_or_none,
)
from gfl_lab.records.result import DONE, Failed, FileEntry, Interrupted, Result, _entries, numbers_of, parse_result
from gfl_lab.wording import first_of


@dataclass(frozen=True)
class Inspection:
    """A result with all that is wrong in its file, as phrases; ``metrics`` and ``files`` are those that can be relied on."""

    result: Result | None
    faults: tuple[str, ...] = ()
    metrics: Mapping[str, float] | None = None
    files: Mapping[str, FileEntry] = field(default_factory=dict)


def inspect_result(path: Path) -> Inspection | None:
    """Read a result and everything that is wrong with it; None if there is none.

    Raises:
        StoreError: the file is no JSON object. FormatError: it is of a format that this version does not read.
    """
    content, trial = read_json_or_none(path), path.parent.name
    if content is None:
        return None
    try:
        result = parse_result(path, content)
    except StoreError:
        result = None
    if isinstance(result, Failed | Interrupted):
        return Inspection(result)
    foreign = content.get("trial") not in (None, trial)
    fault, metrics = _metrics_fault(content, trial)
    faults = [fault] if fault else []
    files = None if foreign else content.get("files")
    entries = _entries(files)
    if files is not None and entries is None:
        faults.append("lists its files in a form that is not gfl-lab's")
    return Inspection(result, tuple(faults), metrics, entries or {})


def _metrics_fault(content: JsonObject, trial: str) -> tuple[str, Mapping[str, float] | None]:
    """Return the damage in the numbers of a result, and its metrics as far as they can be compared."""
    if content.get("status") != DONE:
        return f"has the status {content.get('status')!r}", None
    if content.get("trial") not in (None, trial):
        return f"belongs to trial {content['trial']}", None
    metrics = object_of(content.get("metrics"))
    if metrics is None:
        return "has no metrics", None
    bad = [*_bad_metrics(metrics), *_bad_parts(content)]
    if bad:
        return f"has wrong values: {first_of(bad, 3)}", None
    return "", numbers_of(metrics)


def _bad_metrics(metrics: JsonObject) -> list[str]:
    sound = numbers_of(metrics)
    bad = [f"{key} is {value!r}" for key, value in metrics.items() if key not in sound]
    return bad + [
        f"{key} is {sound[key]:g}, which is not between 0 and 100"
        for key in naming.AP_METRICS
        if key in sound and not 0 <= sound[key] <= 100
    ]


def _bad_parts(content: JsonObject) -> list[str]:
    bad = []
    for part in ("seconds", "per_class", "counts"):
        values = content.get(part, {})
        if not isinstance(values, dict) or len(numbers_of(values)) != len(values):
            bad.append(f"{part} holds no numbers")
    for part in ("epochs", "steps"):
        count = integer_of(content.get(part))
        if part in content and (count is None or count < 0):
            bad.append(f"{part} is {content[part]!r}")
    return bad
