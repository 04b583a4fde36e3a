"""In what two trials differ, and in what their numbers do."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gfl_lab import naming
from gfl_lab.report.formatting import MISSING
from gfl_lab.results.rows import Recorded
from gfl_lab.wording import joined

SETTINGS, DATA, CODE, ENVIRONMENT, NUMBERS = "settings", "data", "code", "environment", "numbers"
GROUPS = (SETTINGS, DATA, CODE, ENVIRONMENT, NUMBERS)


@dataclass(frozen=True)
class Differing:
    """One thing that differs; values as people read them. ``text`` is a unified diff for a file, else empty."""

    group: str
    name: str
    first: str
    second: str
    text: str = ""


def differences(first: Recorded, second: Recorded) -> list[Differing]:
    """Return every difference, group by group; empty for the same trial trained twice with equal numbers.

    Entries of one environment are left out if the other one is not known at all.
    """
    found = _differing(SETTINGS, {"seed": first.seed, **first.settings}, {"seed": second.seed, **second.settings})
    if first.weights_digest != second.weights_digest:
        found.append(Differing(SETTINGS, "weights (content)", first.weights_digest or MISSING, second.weights_digest or MISSING))
    found += _differing(SETTINGS, *({f"{role} (trial)": trial for role, trial in each.needs.items()} for each in (first, second)))
    found += _differing(DATA, first.data, second.data)
    if first.code != second.code:
        found.append(Differing(CODE, "training code version", str(first.code), str(second.code)))
    for name in sorted({*first.components, *second.components}):
        first_text, second_text = first.components.get(name), second.components.get(name)
        if first_text != second_text:
            text = "\n".join(
                difflib.unified_diff((first_text or "").splitlines(), (second_text or "").splitlines(), first.id, second.id, lineterm="")
            )
            found.append(Differing(CODE, name, _lines(first_text), _lines(second_text), text))
    if first.environment and second.environment:
        found += _differing(ENVIRONMENT, first.environment, second.environment)
    found += _differing(NUMBERS, first.metrics, second.metrics)
    return found


def _lines(text: str | None) -> str:
    return MISSING if text is None else f"{len(text.splitlines())} lines"


def _differing(group: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Differing]:
    keys = list(dict.fromkeys([*first, *second]))

    def shown(values: Mapping[str, Any], key: str) -> str:
        if key not in values:
            return MISSING
        value = values[key]
        if isinstance(value, Mapping):
            return naming.canonical_json(dict(value))
        return f"{value:g}" if group == NUMBERS else naming.setting_text(value)

    return [Differing(group, key, shown(first, key), shown(second, key)) for key in keys if first.get(key) != second.get(key)]


_BUDGET_OF_DATA = {"digest": "data (digest)", "train_images": "training images"}
"""Fields of a data set that belong to the training budget. The digest covers training images, their annotations, and pixels."""


def differing_title(each: Differing) -> str:
    """Return the name of a difference as people read it."""
    if each.group == DATA:
        return _BUDGET_OF_DATA.get(each.name, f"data ({each.name})")
    return each.name


def budget_note(differing: Sequence[Differing]) -> str:
    """Return a sentence on different training budgets: data, schedule and size of the images; empty if they are the same."""
    from gfl_lab.spec.settings import INPUT, SCHEDULE, Settings

    def is_budget(each: Differing) -> bool:
        if each.group == DATA:
            return each.name in _BUDGET_OF_DATA
        known = Settings.model_fields.get(each.name)
        extra = known.json_schema_extra if known else None
        return each.group == SETTINGS and isinstance(extra, dict) and extra.get("group") in (SCHEDULE, INPUT)

    found = [f"{differing_title(each)} {each.first} and {each.second}" for each in differing if is_budget(each)]
    return f"Their budgets differ: {joined(found)}. The difference is not that of the method alone." if found else ""
