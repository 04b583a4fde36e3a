"""search.json: the definition of a search, every suggestion of its sampler, and how each ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from gfl_lab import naming
from gfl_lab.errors import FailureKind
from gfl_lab.records.files import damaged, read_json, write_record
from gfl_lab.records.result import Failure
from gfl_lab.spec import renames


class Outcome(StrEnum):
    """Outcome of a suggestion. Values are written to disk: they are added, never renamed or removed."""

    OPEN = "open"
    """Handed out and not ended; its run directory has the state of its trial."""
    DONE = "done"
    STOPPED = "stopped"
    """Ended early by the scheduler: neither a failure nor a row that may be compared."""
    FAILED = "failed"
    INVALID = "invalid"
    """A combination that the settings refuse; nothing was trained."""
    REPEAT = "repeat"
    """Computes the same as an earlier suggestion of this search; nothing was trained."""


COUNTED = (Outcome.DONE, Outcome.STOPPED, Outcome.FAILED)
"""Outcomes that use up one of a search's trials."""


@dataclass
class Suggestion:
    """One suggestion of the sampler.

    Attributes:
        number: Number of the suggestion, from 0.
        drawn: Exact values of the sampler.
        settings: The same values, rounded, as settings.
        trial: Id of its trial; empty for an invalid one. A repeat has that of the earlier suggestion.
        state: Its outcome so far (search.md).
        values: The metric after each epoch that the scheduler has seen.
        value: The final metric; the last one of a stopped trial; else null.
        failure: ``kind`` and ``reason`` of a failure, or null.
        reason: Reason of its state, a sentence; empty if there is none.
    """

    number: int
    drawn: dict[str, float]
    settings: dict[str, Any]
    trial: str = ""
    state: Outcome = Outcome.OPEN
    values: dict[int, float] = field(default_factory=dict)
    value: float | None = None
    failure: Failure | None = None
    reason: str = ""

    @property
    def epochs(self) -> int:
        """Last epoch that the scheduler has seen; 0 before the first."""
        return max(self.values, default=0)

    @property
    def final(self) -> bool:
        """True if it has ended for good: a failure is tried again by the next run, unless its settings themselves cannot work."""
        if self.state is Outcome.FAILED:
            return self.failure is not None and self.failure.kind == FailureKind.NON_FINITE_LOSS
        return self.state is not Outcome.OPEN

    def to_json(self) -> dict[str, Any]:
        """Return the suggestion as search.json holds it."""
        failure = self.failure and {"kind": str(self.failure.kind), "reason": self.failure.reason}
        values = {str(epoch): value for epoch, value in sorted(self.values.items())}
        return {**vars(self), "state": self.state.value, "values": values, "failure": failure, "epochs": self.epochs}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Suggestion:
        """Return the suggestion in a JSON object. Raises LookupError, TypeError, ValueError or AttributeError if it is none."""
        names = [item.name for item in dataclasses.fields(cls)]
        own = {
            "number": int(found["number"]),
            "drawn": dict(found["drawn"]),
            "settings": dict(found["settings"]),
            "state": Outcome(found["state"]),
            "values": {int(epoch): float(value) for epoch, value in found["values"].items()},
            "failure": Failure.from_json(found["failure"]) if found["failure"] else None,
        }
        return cls(**{name: found[name] for name in names} | own)


@dataclass
class SearchFile:
    """The truth about a search. The trials themselves are in their run directories.

    Attributes:
        created: ISO time.
        definition: The search, except for ``trials``: ``space``, ``metric``, ``scheduler``, ``sampler_seed``, ``seed``, ``settings``,
            ``data``, ``code``, ``components``, ``corner``.
        sampler: ``name``, ``seed``, and ``optuna``: Optuna's version.
        trials: Number of trials that must end.
        exhausted: Whether the space holds no more.
        suggestions: Every suggestion, in order.
    """

    definition: dict[str, Any]
    trials: int
    created: str
    sampler: dict[str, Any] = field(default_factory=dict)
    suggestions: list[Suggestion] = field(default_factory=list)
    exhausted: bool = False

    @property
    def digest(self) -> str:
        """Hash of the definition. A search with another definition starts anew.

        It is made of the settings' first names.
        """
        named = {key: renames.first_edition(self.definition[key]) for key in ("space", "settings") if key in self.definition}
        return naming.digest(self.definition | named, 16)

    @property
    def ended(self) -> int:
        """Number of ``trials`` that are used up."""
        return sum(found.state in COUNTED and found.final for found in self.suggestions)

    @property
    def complete(self) -> bool:
        """True if there is nothing left to do."""
        return self.ended >= self.trials or (self.exhausted and all(found.final for found in self.suggestions))

    @property
    def metric(self) -> str:
        """The metric that is searched for."""
        return str(self.definition["metric"])

    @property
    def seed(self) -> int:
        """The seed of all its trials."""
        return int(self.definition["seed"])

    @property
    def space(self) -> dict[str, Any]:
        """The values or the range of each setting that is searched over."""
        return dict(self.definition["space"])

    @property
    def scheduler(self) -> dict[str, Any]:
        """The rule that stops trials early."""
        return dict(self.definition["scheduler"])

    def to_json(self) -> dict[str, Any]:
        """Return the content of the file, without its format version."""
        return {
            "created": self.created,
            "digest": self.digest,
            "definition": self.definition,
            "sampler": self.sampler,
            "trials": self.trials,
            "exhausted": self.exhausted,
            "suggestions": [found.to_json() for found in self.suggestions],
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> SearchFile:
        """Return the search in a JSON object. Raises LookupError, TypeError, ValueError or AttributeError if it is none."""
        suggestions = [Suggestion.from_json(item) for item in found["suggestions"]]
        if [item.number for item in suggestions] != list(range(len(suggestions))):
            raise ValueError("suggestions are not numbered in order")
        return cls(
            dict(found["definition"]),
            int(found["trials"]),
            str(found["created"]),
            dict(found["sampler"]),
            suggestions,
            bool(found["exhausted"]),
        )


def read_search(path: Path) -> SearchFile:
    """Read a search.

    Raises:
        StoreError: it is missing or damaged. FormatError: it is of a format that this version does not read.
    """
    content = read_json(path)
    try:
        return SearchFile.from_json(renames.upgrade_search(content))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise damaged(path, f"is no record of a search: {error}") from None


def write_search(path: Path, search: SearchFile) -> None:
    """Write a search."""
    write_record(path, search.to_json())
