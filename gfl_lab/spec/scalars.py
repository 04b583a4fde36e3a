"""Unquoted words of a YAML file as values: the core schema of YAML 1.2, and a refusal where YAML 1.1 reads something else."""

from __future__ import annotations

import math
import re

_NULL = ("", "~", "null", "Null", "NULL")
_BOOLEANS = {word: value for value, words in ((True, "true True TRUE"), (False, "false False FALSE")) for word in words.split()}
_SWITCHES = {word: value for value, words in (("true", "yes on"), ("false", "no off")) for word in words.split()}
_INTEGER = re.compile(r"[-+]?[0-9]+")
_BASES = (("0o", 8, re.compile(r"0o[0-7]+")), ("0x", 16, re.compile(r"0x[0-9a-fA-F]+")))
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"([-+]?)\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_MOST_DIGITS = 400

_LEADING_ZERO = re.compile(r"([-+]?)0+([0-9_]+)")
_UNDERSCORES = re.compile(r"[-+]?(0x[0-9a-fA-F_]+|[0-9][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?|\.[0-9][0-9_]*)")
_BINARY = re.compile(r"[-+]?0b[01_]+")
_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")


class AmbiguousWord(ValueError):
    """A word that YAML 1.1 and YAML 1.2 read as different values.

    Args:
        readings: both readings, in words.
        meant: the value that is probably meant. spelling: how to write it.
    """

    def __init__(self, word: str, readings: str, meant: bool | int | float, spelling: str = "") -> None:
        self.meant = meant
        spelling = spelling or (str(meant).lower() if isinstance(meant, bool) else f"{meant}")
        self.hint = f"Write {spelling}, or '{word}' in quotes for the text."
        super().__init__(f"{word} is ambiguous: {readings}")


def value_of(word: str) -> str | int | float | bool | None:
    """Return the value of an unquoted word: null, boolean, number or text. Dates and times of day are text.

    Raises:
        AmbiguousWord: ``010``, ``1_000``, ``0b1``, ``1:30``, ``yes``, ``off``, ...: versions of YAML disagree.
        ValueError: a number beyond what a computer can hold.
    """
    if len(word) > _MOST_DIGITS:
        if word.strip("+-.0123456789_:eExX") == "":
            raise ValueError(f"a number of {len(word):,} characters; at most {_MOST_DIGITS} are read")
        return word
    if word in _NULL:
        return None
    if word in _BOOLEANS:
        return _BOOLEANS[word]
    _refuse_ambiguous(word)
    number = _number_of(word)
    return word if number is None else number


def _number_of(word: str) -> int | float | None:
    """Return the number that an unambiguous word is; None for text."""
    if _INTEGER.fullmatch(word):
        return int(word)
    for prefix, base, form in _BASES:
        if form.fullmatch(word):
            return int(word.removeprefix(prefix), base)
    if _FLOAT.fullmatch(word):
        if not math.isfinite(number := float(word)):
            raise ValueError(f"{word} is too large for a number")
        return number
    if special := _SPECIAL.fullmatch(word):
        return math.nan if special[3] else -math.inf if special[1] == "-" else math.inf
    return None


def _refuse_ambiguous(word: str) -> None:
    """Raise AmbiguousWord for a word that YAML 1.1 and YAML 1.2 read differently."""
    if word.lower() in _SWITCHES and word in (word.lower(), word.capitalize(), word.upper()):
        meant = _SWITCHES[word.lower()]
        raise AmbiguousWord(word, f"some YAML readers take it for {meant}, others for text", meant == "true")
    if zero := _LEADING_ZERO.fullmatch(word):
        decimal = zero[1] + (zero[2].replace("_", "").lstrip("0") or "0")
        raise AmbiguousWord(word, f"some YAML readers take it for an octal number, others for {decimal}", int(decimal))
    if "_" in word and _UNDERSCORES.fullmatch(word):
        bare = word.replace("_", "")
        raise AmbiguousWord(word, "some YAML readers leave its underscores out, others take it for text", _number(bare), bare)
    if _BINARY.fullmatch(word):
        binary = int(word.replace("_", ""), 2)
        raise AmbiguousWord(word, "some YAML readers take it for a binary number, others for text", binary)
    if _SEXAGESIMAL.fullmatch(word):
        number = _sexagesimal(word)
        raise AmbiguousWord(word, f"some YAML readers take it for {number}, in base 60, others for text", number)


def _number(bare: str) -> int | float:
    if bare.lstrip("+-").startswith("0x"):
        return int(bare, 16)
    return int(bare) if _INTEGER.fullmatch(bare) else float(bare)


def _sexagesimal(word: str) -> int | float:
    total: int | float = 0
    for part in word.lstrip("+-").replace("_", "").split(":"):
        total = total * 60 + (float(part) if "." in part else int(part))
    return -total if word.startswith("-") else total
