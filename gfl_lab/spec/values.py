"""Values listed for one setting: of an axis, and of a search."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from gfl_lab.errors import Problem
from gfl_lab.spec.cfg_options import is_option
from gfl_lab.spec.code import is_plain, not_plain
from gfl_lab.spec.messages import problems_of
from gfl_lab.spec.settings import Settings
from gfl_lab.spec.source import Source
from gfl_lab.spec.value_text import repeated, show

MAX_TOLD = 10
"""Problems of one list that are reported; the others are counted."""


def value_problems(key: str, values: list[Any], source: Source, at: tuple[str | int, ...]) -> list[Problem]:
    """Return the problems of the values listed for setting ``key`` at the keys ``at``: refused ones, and those that mean the same."""
    problems: list[Problem] = []
    twice = repeated(values)
    for index, value in enumerate(values):
        if len(problems) >= MAX_TOLD:
            problems.append(Problem(f"{key}: values after number {index} have not been looked at", source.place(*at, index)))
            break
        place = source.place(*at, index)
        if index in twice:
            first = twice[index]
            spelled = "" if show(values[first]) == show(value) else f" (the first time as {show(values[first])})"
            problems.append(Problem(f"{key} lists {show(value)} twice{spelled}", place, "Keep one."))
        if (key in ("component_args", "cfg_options") or is_option(key)) and not is_plain(value):
            problems.append(Problem(not_plain(key), place))
        problems += one_value_problems(key, value, source, (*at, index))
    return problems


def one_value_problems(key: str, value: Any, source: Source, at: tuple[str | int, ...]) -> list[Problem]:
    """Return the problems of one value of setting ``key``, reported at the keys ``at``."""
    try:
        Settings(**{key: value})
    except ValidationError as error:
        return [Problem(problem.message, source.place(*at), problem.hint) for problem in problems_of(error, Settings, source)]
    return []
