"""Names of classes that settings may give, as text: those that mmdet registers, and those in files of the user's. Nothing is imported."""

from __future__ import annotations

import ast
import difflib
import functools
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

from gfl_lab.spec.choices import BUILT_IN

CLASS_RULE = "the name of a registered class, which begins with a capital letter"
"""The second kind of value of such a setting, beside the words of gfl-lab; for messages."""

_FOLDERS = {
    "box_loss": ("models", "losses"),
    "cls_loss": ("models", "losses"),
    "assigner": ("models", "task_modules", "assigners"),
}
"""Modules of mmdet with the classes that a setting may name without code of the user's."""

_REGISTERED = re.compile(r"^@(?:MODELS|TASK_UTILS)\.register_module\(\)\nclass (\w+(?:Loss|Assigner))\b", re.MULTILINE)


def near_class(key: str, value: str) -> str:
    """Return the value of setting ``key`` that ``value`` may have been meant as, upper and lower case alike; empty if none is near."""
    own = {name.lower(): name for name in BUILT_IN[key]}
    known = {name.lower(): name for name in mmdet_classes(key)} | own
    near = difflib.get_close_matches(value.lower(), known, n=1, cutoff=0.8) or difflib.get_close_matches(
        value.lower(), own, n=1, cutoff=0.5
    )
    return known[near[0]] if near else ""


@functools.cache
def mmdet_classes(key: str) -> tuple[str, ...]:
    """Return the classes of mmdet's that setting ``key`` may name, sorted; none where mmdet is not installed."""
    found = importlib.util.find_spec("mmdet") if key in _FOLDERS else None
    places = (found.submodule_search_locations or ()) if found else ()
    files = [file for place in places for file in Path(place, *_FOLDERS[key]).glob("*.py")]
    return tuple(sorted(name for file in files for name in _REGISTERED.findall(file.read_text(encoding="utf-8"))))


def classes_in(contents: Iterable[bytes]) -> list[str]:
    """Return the names of the classes that Python files define at their top, in order."""
    return [node.name for content in contents for node in ast.parse(content).body if isinstance(node, ast.ClassDef)]
