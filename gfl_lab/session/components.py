"""Components of the user's that variants name: imported once in the parent, and checked before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gfl_lab.errors import Problem, SpecError
from gfl_lab.session.inputs import Files
from gfl_lab.spec.choices import BUILT_IN
from gfl_lab.spec.code import class_names
from gfl_lab.spec.settings import Settings
from gfl_lab.wording import joined
from gfl_lab.zoo import resolve as zoo


def named_classes(settings: Settings) -> set[str]:
    """Return every registered class that a variant may name: in its settings, or in the config of an mmdet detector."""
    return class_names(settings) | zoo.class_names(settings)


def check_components(files: Files, variants: Sequence[Settings], say: Callable[[str], None]) -> frozenset[str]:
    """Import the experiment's code and check every component that a variant names; return the names that the code registers.

    An experiment without any loads no torch here. With some it takes 10 s or more, and a line comes first.

    Raises:
        InputError: the code cannot be imported. SpecError: every problem of the components.
    """
    having = [settings for settings in variants if settings.component_args or class_names(settings)]
    if not files.code and not having:
        return frozenset()
    named = [file.name for file in files.code] or sorted(set().union(*(class_names(settings) for settings in having)))
    say(f"importing torch and mmdet to check {joined(named or ['component_args'])}")
    from gfl_lab.setup.components import load
    from gfl_lab.train.component_check import check

    registered = frozenset(load(files.code))
    found: dict[str, Problem] = {}
    for settings in having:
        for finding in check(settings, files.code, registered):
            place = _place_of(files, finding.key, getattr(settings, finding.key))
            found.setdefault(finding.problem.message, Problem(finding.problem.message, place, finding.problem.hint))
    found |= _arguments_without_component(files, having)
    if not found and files.code and not any(registered & named_classes(settings) for settings in variants):
        names = f"it registers {', '.join(sorted(registered))}" if registered else "it registers nothing"
        hint = "Make a registered class the value of an axis, of a variant or of `overrides`, or drop `custom_imports`."
        found[""] = Problem(f"no variant uses the code: {names}", files.source.place("custom_imports"), hint)
    if found:
        raise SpecError(list(found.values()))
    return registered


def _arguments_without_component(files: Files, having: Sequence[Settings]) -> dict[str, Problem]:
    """Return a problem for each kind of component that has arguments, where no variant names a component of this kind."""
    found = {}
    for kind in sorted({str(kind) for settings in having for kind in settings.component_args} - {"head"}):
        with_arguments = [settings for settings in having if kind in settings.component_args]
        if all(getattr(settings, kind) in BUILT_IN[kind] for settings in with_arguments):
            place = _place_of(files, "component_args", with_arguments[0].component_args)
            found[kind] = Problem(f"component_args.{kind} is given, but no variant that has it names a {kind} of yours", place)
    return found


def _place_of(files: Files, key: str, value: object) -> str:
    """Return where the experiment, or else the profile, gives a setting this value."""
    experiment, source = files.experiment, files.source
    if experiment.search and key in experiment.search.space:
        return source.place("search", "space", key)
    if value in experiment.axes.get(key, ()):
        return source.place("axes", key, experiment.axes[key].index(value))
    for name, settings in experiment.variants.items():
        if settings.get(key) == value:
            return source.place("variants", name, key)
    return source.place("overrides", key) if key in experiment.overrides else f"profile {files.profile.name}: {key}"
