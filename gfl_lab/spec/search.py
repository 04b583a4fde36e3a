"""``search:`` of an experiment file: the space that suggestions are drawn from, how many, and what stops them early."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gfl_lab import naming
from gfl_lab.errors import Problem
from gfl_lab.spec.cfg_options import is_option
from gfl_lab.spec.choices import ROLES
from gfl_lab.spec.hints import nearest
from gfl_lab.spec.messages import check_keys, problems_of
from gfl_lab.spec.settings import Settings
from gfl_lab.spec.source import Source
from gfl_lab.spec.value_text import show
from gfl_lab.spec.values import one_value_problems, value_problems

_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
_BUDGET = ("more of it is hardly ever worse", "Every suggestion has the same budget; give it under `overrides`.")
_OTHER_TRIAL = ("it describes another trial", "Compare such trials in an ablation, with this setting as an axis.")
UNSEARCHABLE = dict.fromkeys(("epochs", "schedule"), _BUDGET) | dict.fromkeys(ROLES, _OTHER_TRIAL)
"""Settings that no search may vary: the reason, and the way out."""

EACH_EPOCH = (*naming.AP_METRICS, *naming.TRUTH_METRICS)
"""Metrics that a trial has after each epoch, not only at its end."""

SIGNIFICANT_DIGITS = 6
"""Drawn numbers are rounded to this many digits, so that a setting reads the same everywhere and its trial's id is stable."""

MAX_CHOICES = 1000
"""Values that a search may list for one setting."""

_PROBES = 9


class Range(BaseModel):
    """Numbers from ``low`` to ``high``, both included; evenly, or evenly in the logarithm."""

    model_config = _STRICT

    low: float
    high: float
    log: bool = False


class SearchSpec(BaseModel):
    """``search:`` as written; see docs/search.md."""

    model_config = _STRICT

    space: dict[str, Any] = Field(min_length=1, description="for each setting a list of values, or {low, high, log}")
    trials: int = Field(20, ge=1, le=10_000, description="suggestions that must have ended")
    metric: str = Field("AP", description="metric that the search improves; measured after each epoch")
    scheduler: Literal["asha", "none"] = Field("asha", description="`asha` stops poor trials early; `none` stops no trial")
    grace_epochs: int = Field(1, ge=1, le=1000, description="ASHA: epochs that every trial gets")
    reduction: int = Field(3, ge=2, le=16, description="ASHA: one in this many continues at each rung")
    sampler_seed: Annotated[int, Field(ge=0, le=2**31 - 1, description="seed of Optuna's sampler")] = 0

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """The space, one dimension a setting, in the file's order."""
        return dimensions_of(self.space)


@dataclass(frozen=True)
class Dimension:
    """One searched setting: either ``choices``, or a range of numbers from ``low`` to ``high``.

    A sampler draws the position of a choice, or a number of the range.
    """

    key: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    integer: bool = False

    def value(self, drawn: float) -> Any:
        """Return the setting's value for a sampler's draw."""
        if self.choices:
            return self.choices[int(drawn)]
        if self.integer:
            return int(drawn)
        return min(max(float(f"{drawn:.{SIGNIFICANT_DIGITS}g}"), self.low), self.high)

    @property
    def corners(self) -> tuple[Any, ...]:
        """Every choice, or both ends of the range."""
        return self.choices or (self.value(self.low), self.value(self.high))

    @property
    def size(self) -> float:
        """Number of values; infinite for a range of real numbers."""
        if self.choices:
            return len(self.choices)
        return self.high - self.low + 1 if self.integer else math.inf

    def distribution(self) -> Any:
        """Return the distribution for Optuna. For choices it is over positions, so that they may be of any type, and true is not 1."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution(range(len(self.choices)))
        if self.integer:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def __str__(self) -> str:
        if self.choices:
            return ", ".join(naming.setting_text(value) for value in self.choices)
        return f"{self.low:g} to {self.high:g}" + (", logarithmic" if self.log else "")


def dimensions_of(space: Mapping[str, Any]) -> tuple[Dimension, ...]:
    """Return the dimensions of a space that has been checked."""
    found = []
    for key, given in space.items():
        if isinstance(given, list):
            found.append(Dimension(key, tuple(tuple(value) if isinstance(value, list) else value for value in given)))
        else:
            found.append(Dimension(key, **Range(**given).model_dump(), integer=_type(key) is int))
    return tuple(found)


def search_problems(search: Mapping[str, Any], fixed: Iterable[str], source: Source) -> list[Problem]:
    """Return the problems of ``search:`` beyond the form that ``SearchSpec`` checks: its space, and parts that exclude each other.

    Args:
        fixed: settings under `overrides`.
    """
    at = ("search", "space")
    space = search.get("space")
    space = space if isinstance(space, dict) else {}
    known = {*Settings.model_fields, *filter(is_option, space)}
    problems = check_keys(space, known, source, at)
    for key, given in space.items():
        if key not in known:
            continue
        if key in UNSEARCHABLE:
            why, hint = UNSEARCHABLE[key]
            problems.append(Problem(f"{key!r} cannot be searched: {why}", source.place(*at, key), hint))
        elif key in fixed:
            problems.append(Problem(f"{key!r} is searched and also in overrides", source.place("overrides", key), "Keep one."))
        elif isinstance(given, list):
            problems += _choice_problems(key, given, source)
        elif isinstance(given, dict):
            problems += _range_problems(key, given, source)
        else:
            rule = "it must be a list of values, or {low: ..., high: ...}"
            problems.append(Problem(f"{key} is {show(given)}: {rule}", source.place(*at, key)))
    metric, scheduler = search.get("metric", "AP"), search.get("scheduler", "asha")
    if not isinstance(metric, str):
        pass  # reported by the file's own model
    elif metric not in naming.METRICS:
        problems.append(Problem(f"{metric!r} is not a metric", source.place("search", "metric"), nearest(metric, naming.METRICS)))
    elif metric not in EACH_EPOCH and scheduler == "asha":
        hint = "Give `scheduler: none`, or another metric."
        problems.append(Problem(f"{metric} is measured once, at the end, so ASHA cannot go by it", source.place("search", "metric"), hint))
    if scheduler == "none":
        for key in ("grace_epochs", "reduction"):
            if key in search:
                problems.append(Problem(f"{key} belongs to scheduler: asha", source.place("search", key), "Drop it."))
    trials = search.get("trials", SearchSpec.model_fields["trials"].default)
    if space and not problems and isinstance(trials, int):
        size = math.prod(dimension.size for dimension in dimensions_of(space))
        if size < trials:
            hint = "Ask for fewer, or make it an ablation with these values as axes: it tries each of them once."
            problems.append(Problem(f"the space has {size:g} points, fewer than trials: {trials}", source.place("search", "trials"), hint))
    return problems


def _choice_problems(key: str, values: list[Any], source: Source) -> list[Problem]:
    at = ("search", "space", key)
    if len(values) < 2:
        return [Problem(f"{key} lists {len(values)} values: there is nothing to search", source.place(*at), "Put it under `overrides`.")]
    if len(values) > MAX_CHOICES:
        hint = "Give a range, {low: ..., high: ...}, or list fewer."
        return [
            Problem(f"{key} lists {len(values):,} values; a search takes at most {MAX_CHOICES:,} of a setting", source.place(*at), hint)
        ]
    return value_problems(key, values, source, at)


def _range_problems(key: str, given: dict[str, Any], source: Source) -> list[Problem]:
    at = ("search", "space", key)
    kind = _type(key)
    if kind not in (int, float):
        return [Problem(f"{key} is not a number, so it has no range", source.place(*at), "List the values to try: [a, b].")]
    try:
        found = Range.model_validate(given)
    except ValidationError as error:
        return problems_of(error, Range, source, at)
    problems = []
    for end in ("low", "high"):
        value = getattr(found, end)
        if kind is int and not value.is_integer():
            problems.append(Problem(f"{key} takes whole numbers, and {end} is {value:g}", source.place(*at, end)))
        else:
            problems += one_value_problems(key, kind(value), source, (*at, end))
    if found.low >= found.high:
        problems.append(Problem(f"{key} goes from {found.low:g} to {found.high:g}: low must be below high", source.place(*at)))
    elif found.log and found.low <= 0:
        problems.append(Problem(f"{key} starts at {found.low:g}: a logarithmic range starts above 0", source.place(*at, "low")))
    elif not problems:
        dimension = dimensions_of({key: given})[0]
        for step in range(1, _PROBES):  # a setting may refuse values between two that it takes: qfl_beta does
            share = step / _PROBES
            drawn = found.low * (found.high / found.low) ** share if found.log else found.low + share * (found.high - found.low)
            inside = one_value_problems(key, dimension.value(drawn), source, at)
            if inside:
                hint = "Narrow the range, or list values."
                return [Problem(f"the range holds values that are refused: {inside[0].message}", source.place(*at), hint)]
    return problems


def _type(key: str) -> Any:
    return float if is_option(key) else Settings.model_fields[key].annotation
