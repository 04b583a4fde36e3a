"""Numbers that a person gives on the command line: finite, in their range, written with digits."""

from __future__ import annotations

import math
import re
from typing import Any

import click

_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WHOLE = re.compile(r"[-+]?[0-9]+")
MAX_CHARACTERS = 400


class Number(click.FloatRange):
    """A finite number in a range; ``click.FloatRange`` alone takes nan, and inf where the range has no end."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, str):
            text = value.strip()
            if not _FLOAT.fullmatch(text) or len(text) > MAX_CHARACTERS:
                self.fail(f"{_shown(value)} is not a finite number; it must be {self._rule()}.", param, ctx)
            value = float(text)
        if not math.isfinite(value):
            self.fail(f"{_shown(value)} is not a finite number; it must be {self._rule()}.", param, ctx)
        below = self.min is not None and (value <= self.min if self.min_open else value < self.min)
        above = self.max is not None and (value >= self.max if self.max_open else value > self.max)
        if below or above:
            self.fail(f"{value:g} is out of range; it must be {self._rule()}.", param, ctx)
        return float(value)

    def _rule(self) -> str:
        return _rule("a number", self)


class Whole(click.IntRange):
    """A whole number in a range."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, str):
            text = value.strip()
            if not _WHOLE.fullmatch(text) or len(text) > MAX_CHARACTERS:
                self.fail(f"{_shown(value)} is not a whole number; it must be {_rule('a whole number', self)}.", param, ctx)
            value = int(text)
        if (self.min is not None and value < self.min) or (self.max is not None and value > self.max):
            self.fail(f"{value} is out of range; it must be {_rule('a whole number', self)}.", param, ctx)
        return value


def _rule(kind: str, range_: click.FloatRange | click.IntRange) -> str:
    low, high = range_.min, range_.max
    parts = []
    if low is not None:
        parts.append(f"above {low:,g}" if range_.min_open else f"from {low:,}" if high is not None else f"of at least {low:,}")
    if high is not None:
        parts.append(f"below {high:,g}" if range_.max_open else f"to {high:,}" if parts and not range_.min_open else f"of at most {high:,}")
    joined = " and ".join(parts) if range_.min_open else " ".join(parts)
    return f"{kind} {joined}".strip()


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
