"""Trials that a trial needs: the settings ``init_from`` and ``teacher`` describe another trial by some of its settings.

A file gives them as differences to the experiment: ``teacher: {backbone: r101}``. A plan completes them (``completed``): then they hold
every setting that is not at its default, so that they can be read without the experiment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gfl_lab import naming
from gfl_lab.errors import Problem
from gfl_lab.spec.bins import has_weighted_bins
from gfl_lab.spec.cfg_options import is_option
from gfl_lab.spec.choices import INIT_FROM, OWN, ROLES, TEACHER
from gfl_lab.spec.messages import check_keys
from gfl_lab.spec.rules import SettingsRuleError
from gfl_lab.spec.settings import Settings, inactive
from gfl_lab.spec.source import Source
from gfl_lab.spec.value_text import show

SEED, DATA = "seed", "data"
MAX_SEED = 2**31 - 1
MAX_DEPTH = 4
"""A trial may need one that needs another one, and so on: so many in a row."""


@dataclass(frozen=True)
class Need:
    """A trial that another one needs.

    Attributes:
        role: the setting that describes it, of ``ROLES``.
        settings: all of its settings.
        seed: its seed; None for that of the trial that needs it.
        data: folder of its data set; empty for that of the trial that needs it.
    """

    role: str
    settings: Settings
    seed: int | None
    data: str


def reserved(role: str) -> tuple[str, ...]:
    """Return the keys of ``role`` that are no settings."""
    return (SEED, DATA) if role == INIT_FROM else (SEED,)


def needs_of(settings: Settings) -> tuple[Need, ...]:
    """Return what a trial with these settings needs.

    Raises:
        ValidationError: a description that breaks a rule of settings. One that is ``completed`` breaks none.
    """
    if not any(getattr(settings, role) for role in ROLES):
        return ()
    idle = inactive(settings)
    return tuple(_need(role, given) for role in ROLES if role not in idle and (given := getattr(settings, role)))


def all_settings(settings: Settings) -> Iterator[Settings]:
    """Return these settings, those of the trials that they need, and so on."""
    yield settings
    for need in needs_of(settings):
        yield from all_settings(need.settings)


def data_folders(settings: Settings) -> set[str]:
    """Return the folders of the data sets that are named in what the settings need."""
    own = needs_of(settings)
    return {need.data for need in own if need.data}.union(*(data_folders(need.settings) for need in own))


def without_needs(layer: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of an experiment or a profile as they hold for a trial that another one needs."""
    return {key: value for key, value in layer.items() if key not in (*ROLES, "distillation")}


def completed(
    settings: Settings, resolve: Callable[[dict[str, Any]], Settings], finish: Callable[[Settings], Settings] = lambda made: made
) -> Settings:
    """Return ``settings`` with complete descriptions of what they need.

    Args:
        resolve: returns all settings of a description. Those of profile and experiment, ``without_needs``, fill the gaps.
        finish: called with the settings of each needed trial; returns those that it is trained with.

    Raises:
        ValidationError: the settings of a needed trial break a rule.
        SettingsRuleError: the settings do not go with those of their teacher.
    """
    found = {}
    for role in ROLES:
        if given := getattr(settings, role):
            own = {key: value for key, value in given.items() if key not in reserved(role)}
            made = finish(completed(resolve(own), resolve, finish))
            found[role] = given_values(made) | {key: given[key] for key in reserved(role) if key in given}
    made = settings.model_copy(update=found) if found else settings
    if settings.distillation != "none" and (broken := list(_distillation(made))):
        raise SettingsRuleError(broken)
    return made


_BINS = ("reg_max", "bins", "bins_a", "bins_c", "bin_width")
"""Settings by which the bins of two general boxes are the same."""


def _distillation(student: Settings) -> Iterator[tuple[tuple[str, ...], str]]:
    """Return the rules that a student and its teacher break."""
    kind = f"distillation: {student.distillation}"
    if student.detector != OWN:
        return  # it has no effect there
    teacher = next((need.settings for need in needs_of(student) if need.role == TEACHER), None)
    if teacher is None:
        yield ("distillation", TEACHER), f"{kind} learns from a teacher, and there is none; give one, such as `teacher: {{backbone: r101}}`"
        return
    if teacher.detector != OWN:
        yield (TEACHER,), f"the teacher is {teacher.detector}: a teacher is a detector of the GFL family"
        return
    if student.strides != teacher.strides:
        yield (TEACHER,), f"the teacher has strides {list(teacher.strides)}, the student {list(student.strides)}: they must be the same"
    if student.pad_to % teacher.pad_to:
        yield (TEACHER,), f"pad_to is {student.pad_to}: the teacher takes images padded to a multiple of {teacher.pad_to}"
    if student.distillation == "ld":
        for who, settings in (("student", student), ("teacher", teacher)):
            if settings.box != "general":
                yield (
                    ("distillation", TEACHER),
                    f"{kind} compares the distributions of general boxes, and the {who} has box: {settings.box}",
                )
        if student.box == teacher.box == "general":
            idle = inactive(student).keys() & inactive(teacher).keys()
            placing = (*_BINS, "anchor_scale") if has_weighted_bins(student) else _BINS  # they lie around the anchor
            for key in (key for key in placing if key not in idle and getattr(student, key) != getattr(teacher, key)):
                values = f"{show(getattr(teacher, key))} in the teacher and {show(getattr(student, key))} in the student"
                yield (TEACHER,), f"{kind} compares bin by bin, and {key} is {values}: both must have the same bins"


def given_values(settings: Settings) -> dict[str, Any]:
    """Return the settings that are not at their defaults, as JSON values: ``Settings(**given_values(s)) == s``."""
    values = settings.model_dump(mode="json")
    return {key: value for key, value in values.items() if value != _plain(Settings.model_fields[key].default)}


def needs_problems(
    given: Mapping[str, Any], source: Source, at: tuple[str | int, ...], check: Callable[..., list[Problem]]
) -> list[Problem]:
    """Return the problems of the descriptions among ``given`` settings, each at its place in the file.

    Args:
        at: keys of ``given`` in the file.
        check: ``settings_problems`` of files.py, which looks at settings and the descriptions within them.
    """
    return [
        problem
        for role in ROLES
        if isinstance(given.get(role), Mapping)
        for problem in need_problems(role, given[role], source, (*at, role), check)
    ]


def need_problems(
    role: str, given: Mapping[str, Any], source: Source, at: tuple[str | int, ...], check: Callable[..., list[Problem]]
) -> list[Problem]:  # fmt: skip
    """Return the problems of one description, at the keys ``at``."""
    if sum(key in ROLES for key in at) > MAX_DEPTH:
        message = f"{role} describes trial number {MAX_DEPTH + 1} in a row that needs another one; at most {MAX_DEPTH} may"
        return [Problem(message, source.place(*at), "Train the first ones by an experiment of their own.")]
    own = {key: value for key, value in given.items() if key in Settings.model_fields or is_option(key)}
    problems = check_keys(given, {**Settings.model_fields, **own, **dict.fromkeys(reserved(role))}, source, at)
    seed, data = given.get(SEED, 0), given.get(DATA, ".")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
        problems.append(Problem(f"{role}.{SEED} is {show(seed)}: must be a whole number from 0 to {MAX_SEED}", source.place(*at, SEED)))
    if DATA in reserved(role) and not (isinstance(data, str) and data and "\0" not in data):
        problems.append(Problem(f"{role}.{DATA} is {show(data)}: must be the path of a folder in COCO format", source.place(*at, DATA)))
    return problems + check(own, source, at)


def label(need: Need, base: Settings) -> str:
    """Return what a needed trial is called: the settings in which it differs from ``base``, those of the experiment."""
    different = {key: getattr(need.settings, key) for key in Settings.model_fields if getattr(need.settings, key) != getattr(base, key)}
    return naming.variant_name({key: "..." if key in ROLES else value for key, value in different.items()})


def _need(role: str, given: Mapping[str, Any]) -> Need:
    own = {key: value for key, value in given.items() if key not in reserved(role)}
    return Need(role, Settings(**own), given.get(SEED), str(given.get(DATA, "")))


def _plain(value: Any) -> Any:
    return [_plain(each) for each in value] if isinstance(value, tuple) else value
