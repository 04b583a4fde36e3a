"""The answer of a page: what its data show, in a sentence or two, and the figures and the rule behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gfl_lab.wording import joined, plural

MOST_NAMES = 4
"""So many variants are named in a sentence; more are counted."""
MOST_FIGURES = 8
"""A reason has the figures of so many variants."""


@dataclass(frozen=True)
class Answer:
    """``sentence`` is what the data show; ``reason`` the figures and the rule that it follows from. Plain text."""

    sentence: str
    reason: str = ""


def names_of(names: Sequence[str], of: int, noun: str = "variant") -> str:
    """Return ``a``, ``a and b``, or ``7 variants`` of many; ``all 3 variants`` if these are all ``of`` them, and more than two."""
    if len(names) == of > 2:
        return f"all {plural(of, noun)}"
    return joined(names) if len(names) <= MOST_NAMES else plural(len(names), noun)


def agrees(count: int, one: str, many: str) -> str:
    """Return the verb for a number of things: ``rises`` for one, ``rise`` for several."""
    return one if count == 1 else many
