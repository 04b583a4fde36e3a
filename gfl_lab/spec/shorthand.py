"""The switches ``qfl`` and ``dfl``: short for a form of ``quality`` and of ``box``. Expanded once, when settings are made.

After that code reads ``quality``, ``box`` and ``trains_dfl``; the switches are kept for the axes that a user wrote with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from gfl_lab.spec.choices import JOINT, NOT_JOINT

if TYPE_CHECKING:
    from gfl_lab.spec.settings import Settings


class Shorthand(NamedTuple):
    """A switch, the setting that it is short for, and the values of that setting beside the switch; the first one is implied."""

    switch: str
    setting: str
    on: tuple[str, ...]
    off: tuple[str, ...]


SHORTHANDS = (
    Shorthand("qfl", "quality", JOINT, NOT_JOINT),
    Shorthand("dfl", "box", ("general",), ("dirac", "gaussian", "general", "direct")),
)


def expand(values: dict[str, Any]) -> dict[str, Any]:
    """Return settings with the values filled in that others imply: of the two names of a pair, of ``box_weighting: auto`` and of
    ``assigner: atss``.
    """
    filled = dict(values)
    for switch, setting, on, off in SHORTHANDS:
        if switch in filled and setting not in filled:
            filled[setting] = off[0] if filled[switch] is False else on[0]
        elif setting in filled and switch not in filled:
            filled[switch] = filled[setting] in on
    if filled.get("assigner") == "atss":
        filled["assigner"] = "ATSSAssigner"  # the name that ids are made of
    if filled.get("box_weighting", "auto") == "auto":
        filled["box_weighting"] = default_box_weighting(filled.get("quality", "joint"))
    return filled


def lay_over(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return settings ``under`` overridden by ``over``, also where ``qfl`` contradicts ``quality`` or ``dfl`` ``box``."""
    remaining = dict(under)
    for switch, setting, on, off in SHORTHANDS:
        if switch in over and setting not in over and remaining.get(setting) not in (on if over[switch] is True else off):
            remaining.pop(setting, None)
        if setting in over and switch not in over and over[setting] not in (on if remaining.get(switch) is True else off):
            remaining.pop(switch, None)
    return remaining | over


def contradictions(settings: Settings) -> list[tuple[tuple[str, ...], str]]:
    """Return (settings that it is about, message) for each switch that contradicts its setting."""
    found: list[tuple[tuple[str, ...], str]] = []
    if settings.qfl != (settings.quality in JOINT):
        message = f"qfl: {str(settings.qfl).lower()} contradicts quality: {settings.quality}; give one of the two"
        found.append((("quality", "qfl"), message))
    if settings.dfl and settings.box != "general":
        message = f"dfl: true contradicts box: {settings.box}, which has no bins; give box: general or dfl: false"
        found.append((("box", "dfl"), message))
    return found


def trains_dfl(settings: Mapping[str, Any]) -> bool:
    """Return True if expanded settings, as a file holds them, train a general box with DFL."""
    return bool(settings.get("dfl", True))


def partners(refused: set[str]) -> set[str]:
    """Return the names of each pair that has one of its names in ``refused``."""
    return {name for each in SHORTHANDS for name in each[:2] if refused & set(each[:2])}


def default_box_weighting(quality: str) -> str:
    """Return the ``box_weighting`` that ``auto`` stands for beside a ``quality``."""
    return "score" if quality in JOINT else "centerness" if quality == "centerness" else "uniform"


def implied(keys: Iterable[str]) -> set[str]:
    """Return ``keys`` and the settings that follow from them: with ``qfl`` vary ``quality`` and the weight of the box losses."""
    quality, box = {"qfl", "quality", "box_weighting"}, {"dfl", "box"}
    found = set(keys)
    return found | (quality if found & {"qfl", "quality"} else set()) | (box if found & box else set())
