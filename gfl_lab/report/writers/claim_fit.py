"""Fit a claim to one sheet of A4 paper, by numbers of characters, with room to spare for wider fonts.

Long names, many seeds, settings and notes take room. It comes from the notes first, then from the second box with distributions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gfl_lab.report import claim_sentences as sentences
from gfl_lab.report.claim import Claim
from gfl_lab.report.formatting import shortened

MAX_CLASSES, MAX_SETTINGS, MAX_SEEDS = 6, 8, 6
"""Rows that the sheet has room for; the page counts the others, with the command that shows them."""
NAME, ROW_NAME, QUESTION, NOTE, VALUE, SETTING, FACT = 52, 36, 120, 260, 34, 40, 96
"""Characters of a variant's name, also in the table, of the question, of a note, a setting's value and name, and of a fact."""
_SHEET = 59.0
"""Lines of notes that all parts of changing height may take together."""
_BOX = 7.4
"""Lines that a box with its four sides takes."""
_CHOICES = ((2, MAX_SETTINGS), (1, MAX_SETTINGS), (1, 5), (1, 3), (0, 3))
"""Boxes and settings, the first choice first."""


@dataclass(frozen=True)
class Fit:
    """The content that a sheet has room for: boxes with distributions, settings that differ, and notes."""

    boxes: int
    settings: int
    notes: tuple[str, ...]


def fit(claim: Claim, always: Sequence[str]) -> Fit:
    """Return what fits. Warnings are never left out.

    Args:
        always: notes of the page itself, which are never left out either.
    """
    notes = [shortened(note, NOTE) for note in claim.notes]
    above, right, fixed = _above(claim), _right(claim), sum(map(_note_lines, [*always, *map(warning, claim.warnings)]))
    for most, settings in _CHOICES:
        boxes = min(most, len(claim.boxes.pairs))
        room = _SHEET - above - _BOX * boxes
        left = _settings(claim, settings) + fixed
        if max(right, left) <= room:
            break
    kept: list[str] = []
    for note in notes:
        left += _note_lines(note)
        if left > max(room, right):
            break
        kept.append(note)
    return Fit(boxes, settings, tuple(kept))


def warning(text: str) -> str:
    """Return a warning as the page has it."""
    return shortened(text, NOTE)


def _note_lines(note: str) -> int:
    return _lines(note, 72)


def _lines(text: str, width: int) -> int:
    """Return how many lines a text takes."""
    return -(-len(text) // width)


def _above(claim: Claim) -> float:
    """Return the lines of the parts above the two last columns whose height changes."""
    names = [claim.variant.variant, claim.reference.variant]
    short = [shortened(name, NAME) for name in names]
    found = claim.main
    body = [sentences.basis(found, claim.val_images), *sentences.caveats(found)]
    text = sum(_lines(each, 58) for each in body) * 1.25 + (2.5 if claim.warnings else 0.0)
    return (
        2.0 * _lines(shortened(claim.table.question, QUESTION), 48)
        + 1.5 * _lines(" against ".join(short), 80)
        + 1.5 * _lines(sentences.verdict(found, *short), 88)
        + max(11.0, text)
        + 1.4 * sum(_lines(shortened(name, ROW_NAME), 18) for name in names)
    )


def _settings(claim: Claim, most: int) -> float:
    shown = claim.settings[:most]
    rows = (
        max(_lines(shortened(each.name, SETTING), 22), *(_lines(shortened(value, VALUE), 16) for value in (each.first, each.second)))
        for each in shown
    )
    return 1.4 * sum(rows) + 4.0 + (1.3 if len(claim.settings) > most else 0.0)


def _right(claim: Claim) -> float:
    commands = sum(1.4 * _lines(command, 56) + 0.3 for command in claim.commands)
    return commands + 1.3 * (
        1 + -(-min(len(claim.trials), MAX_SEEDS + 1) // 2) + sum(_lines(shortened(text, FACT), 52) for text in claim.facts.values())
    )
