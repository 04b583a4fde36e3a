"""``cfg_options``: single values of a config, changed by their dotted paths."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from gfl_lab.errors import InputError, Problem
from gfl_lab.spec.cfg_options import PREFIX
from gfl_lab.spec.hints import nearest


def with_options(config: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of ``config`` in which each path has its value. A number in a path is an index of a list.

    A last name that the config does not give is added: the class that reads it may have a default. A list given for a tuple
    becomes one: YAML has no tuples, and mmcv refuses a list as a scale.

    Raises:
        InputError: every path whose beginning the config does not have.
    """
    changed = copy.deepcopy(dict(config))
    problems = []
    for path, value in options.items():
        if problem := _set(changed, path, copy.deepcopy(value)):
            problems.append(problem)
    if problems:
        raise InputError(problems)
    return changed


def _set(config: dict[str, Any], path: str, value: Any) -> Problem | None:
    """Change one value in place, or return the problem of its path."""
    *parents, last = path.split(".")
    at: Any = config
    for depth, name in enumerate(parents):
        found = _child(at, name)
        if found is None:
            so_far = ".".join(parents[: depth + 1])
            hint = nearest(name, at) if isinstance(at, Mapping) and at else ""
            return Problem(f"{PREFIX}{path}: the config has no {so_far}", hint=hint)
        at = found[0]
    former = _child(at, last)
    if isinstance(at, dict):
        at[last] = _like(former[0], value) if former else value
        return None
    if isinstance(at, list) and former:
        at[int(last)] = _like(former[0], value)
        return None
    above = ".".join(parents)
    rule = f"it has {len(at)} entries, from 0" if isinstance(at, list) else f"it is {at!r}, which has no parts"
    return Problem(f"{PREFIX}{path}: the config has no {last!r} in {above}: {rule}")


def _like(former: Any, value: Any) -> Any:
    return tuple(value) if isinstance(former, tuple) and isinstance(value, list) else value


def _child(at: Any, name: str) -> tuple[Any] | None:
    """Return what ``name`` stands for in a mapping or list, in a tuple of one; None if there is nothing."""
    if isinstance(at, Mapping):
        return (at[name],) if name in at else None
    if isinstance(at, list | tuple) and name.isdigit() and int(name) < len(at):
        return (at[int(name)],)
    return None
