"""Problems of a data set, gathered by kind: one line for a kind, with a count and three examples, or all of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gfl_lab.addresses import readable
from gfl_lab.errors import Problem
from gfl_lab.wording import first_of

EXAMPLES = 3
"""Problems of one kind that are shown in its line; the rest are counted."""
LONGEST = 80
"""Characters of a value that a message shows."""


@dataclass(frozen=True)
class Finding:
    """Everything of one kind that was found in one file.

    Attributes:
        kind: a plural noun ("boxes outside their image").
        file: below the data folder; empty for the data set as a whole.
        entries: (item, message): "annotation 17", and what is wrong with it.
        hint: the way out.
    """

    kind: str
    file: str
    entries: tuple[tuple[str, str], ...]
    hint: str = ""

    def __len__(self) -> int:
        return len(self.entries)

    def summary(self) -> Problem:
        """Return one problem for all: the entry itself if there is one, else the count and the first ``EXAMPLES``."""
        if len(self.entries) == 1:
            return self.each()[0]
        shown = self.entries[:EXAMPLES]
        rest = len(self.entries) - len(shown)
        more = f", and {rest} more" if rest else ""
        items = [item for item, _ in shown]
        if len({message for _, message in self.entries}) == 1 and all(items):
            text = f"{', '.join(items)}{more}: {shown[0][1]}"
        else:
            text = "; ".join(f"{item}: {message}" if item else message for item, message in shown) + more
        return Problem(f"{len(self.entries)} {self.kind}: {text}", self.file, self.hint)

    def each(self) -> list[Problem]:
        """Return every problem; the hint stands at the first."""
        return [
            Problem(message, f"{self.file}: {item}" if self.file and item else self.file or item, self.hint if index == 0 else "")
            for index, (item, message) in enumerate(self.entries)
        ]


class Findings:
    """Gathers problems by file and kind, so that a thousand of one kind do not hide the one of another."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], list[tuple[str, str]]] = {}
        self._hints: dict[tuple[str, str], str] = {}

    def add(self, kind: str, message: str, file: str = "", item: str = "", hint: str = "") -> None:
        """Add a problem. The first hint of a kind counts."""
        self._entries.setdefault((file, kind), []).append((item, message))
        if hint:
            self._hints.setdefault((file, kind), hint)

    def extend(self, others: Findings) -> None:
        """Add all problems of ``others``."""
        for finding in others.all():
            for item, message in finding.entries:
                self.add(finding.kind, message, finding.file, item, finding.hint)

    def has(self, file: str, *kinds: str) -> bool:
        """Return True if a problem of one of these kinds, or of any kind if none is given, was found in a file."""
        return any(its == file and (not kinds or kind in kinds) for its, kind in self._entries)

    def __bool__(self) -> bool:
        return bool(self._entries)

    def all(self) -> tuple[Finding, ...]:
        """Return the kinds in the order in which they were found."""
        return tuple(
            Finding(kind, file, tuple(entries), self._hints.get((file, kind), "")) for (file, kind), entries in self._entries.items()
        )

    def problems(self) -> tuple[Problem, ...]:
        """Return one problem a kind."""
        return tuple(finding.summary() for finding in self.all())


def show(value: Any) -> str:
    """Return a value of a JSON file as a message shows it: as JSON, readable, cut to ``LONGEST`` characters."""
    if isinstance(value, str):
        text = '"' + readable(value).replace('"', '\\"') + '"'
    else:
        text = readable(json.dumps(value, ensure_ascii=False, default=str))
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def kind_of(value: Any) -> str:
    """Return the JSON type of a value, in words."""
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value", int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def listed(names: Iterable[str], most: int = 10) -> str:
    """Return the first names, readable, and how many more there are."""
    return first_of(map(readable, names), most)
