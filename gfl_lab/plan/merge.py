"""Combinations that train the same become one variant; the notes of a plan name them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from gfl_lab import naming
from gfl_lab.plan.expand import Resolved
from gfl_lab.spec.cfg_options import setting_value
from gfl_lab.spec.rules import SettingsRuleError
from gfl_lab.spec.settings import Settings, inactive
from gfl_lab.spec.value_text import same
from gfl_lab.wording import first_of


def why_equal(first: Resolved, second: Resolved) -> str:
    """Return the reason why two variants train the same, and the way out."""
    idle = inactive(second.resolved)
    apart = [
        key for key in {**first.settings, **second.settings} if setting_value(first.resolved, key) != setting_value(second.resolved, key)
    ]
    reasons = [f"{key} acts only beside {idle[key]}" for key in apart if key in idle]
    return f"Drop one{': ' + '; '.join(reasons) if reasons else ''}."


def merge(group: list[Resolved], resolve: Callable[[dict[str, Any]], Settings]) -> tuple[Resolved, tuple[str, ...]]:
    """Return the one variant of ``group``, whose combinations all train the same, and the axes without effect in it.

    These axes are left out of it, as by a condition; their settings are those of the profile. If they are
    equal for another reason (two spellings of one schedule), the variant is the first of them.
    """
    first = group[0]
    idle = inactive(first.resolved)
    apart = [axis for axis in first.axes if any(axis not in each.axes or not same(each.axes[axis], first.axes[axis]) for each in group)]
    if not apart or not all(axis in idle for axis in apart):
        return first, ()
    axes = {axis: value for axis, value in first.axes.items() if axis not in apart}
    try:
        settings = resolve(axes)
    except (ValidationError, SettingsRuleError):  # the profile's own value breaks a rule here
        return first, tuple(apart)
    return Resolved(naming.variant_name(axes), axes, axes, first.baseline, settings), tuple(apart)


def merge_notes(merged: list[tuple[tuple[str, ...], str, int]]) -> tuple[str, ...]:
    """Return one sentence for each set of axes without effect somewhere, with the variants that it concerns."""
    by_axes: dict[tuple[str, ...], list[tuple[str, int]]] = {}
    for about, name, count in merged:
        by_axes.setdefault(about, []).append((name, count))
    notes = []
    for about, found in by_axes.items():
        names = first_of((name for name, _ in found), 3)
        total = sum(count for _, count in found)
        if about:
            cause = f"{' and '.join(about)} {'has' if len(about) == 1 else 'have'} no effect in {names}"
        else:
            cause = f"different values train the same in {names}"
        notes.append(f"{cause}: {total} combinations are {'one variant' if len(found) == 1 else f'{len(found)} variants'}")
    return tuple(notes)
