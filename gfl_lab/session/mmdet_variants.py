"""Variants that are detectors of mmdet's: their configs found, checked and built once before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gfl_lab.addresses import absolute_beside
from gfl_lab.errors import GflLabError, InputError, Problem, SpecError
from gfl_lab.session.inputs import Files
from gfl_lab.spec.choices import OWN
from gfl_lab.spec.plain_config import decode
from gfl_lab.spec.settings import Settings
from gfl_lab.wording import plural
from gfl_lab.zoo.resolve import complete, notes, resolve

CLASSES = 80
"""Classes of the detectors that are built for the check; the data may not be there yet."""


def absolute_detector(detector: Any, beside: Path) -> Any:
    """Return the setting ``detector`` with the path of a config file made absolute; a relative one starts at the folder ``beside``.

    Raises:
        InputError: the path holds characters that no file system takes.
    """
    return absolute_beside(detector, beside, "detector") if isinstance(detector, str) and detector.endswith(".py") else detector


def completed(files: Files) -> Callable[[Settings], Settings]:
    """Return ``zoo.resolve.complete``, whose problems are shown where the experiment names the detector. It raises SpecError."""

    def complete_at_its_place(settings: Settings) -> Settings:
        try:
            return complete(settings)
        except InputError as error:
            raise _at_its_place(error, files, settings) from None

    return complete_at_its_place


def resolved_once() -> Callable[[Settings, int], dict[str, Any] | None]:
    """Return ``zoo.resolve.resolve`` with a memory: trials that differ in their seeds alone share one config. It raises InputError."""
    known: dict[tuple[str, int], dict[str, Any] | None] = {}

    def config_of(settings: Settings, classes: int) -> dict[str, Any] | None:
        if settings.detector == OWN:
            return None
        key = (settings.model_dump_json(), classes)
        if key not in known:
            known[key] = resolve(settings, classes)
        return known[key]

    return config_of


def announce_detectors(files: Files, say: Callable[[str], None]) -> None:
    """Print a line if the experiment names detectors of mmdet's: their configs are read and built, which takes 10 s or more."""
    experiment = files.experiment
    given = [*experiment.axes.get("detector", ()), *(own.get("detector") for own in experiment.variants.values())]
    given += [each.get("detector") for each in (experiment.overrides, files.profile.settings)]
    if named := {str(each) for each in given if each not in (None, OWN)}:
        say(f"importing torch and mmdet to check {plural(len(named), 'detector')} of mmdet")


def check_detectors(files: Files, variants: Sequence[Settings], say: Callable[[str], None]) -> None:
    """Build each detector of mmdet's that a variant names, without memory for its weights, and say what is left out of its config.

    Raises:
        SpecError: every problem of the configs.
    """
    having = [settings for settings in variants if settings.detector != OWN]
    if not having:
        return
    from gfl_lab.detector.mmdet_detector import without_memory

    problems: list[Problem] = []
    seen: set[str] = set()
    for settings in having:
        try:
            config = resolve(settings, CLASSES)
        except InputError as error:
            problems += _at_its_place(error, files, settings).problems
            continue
        assert config is not None, "only a variant of the GFL family has none"
        if settings.init_weights not in ("random", "pretrained"):
            problems += _unfit_weights(config, settings, place_of(files, settings))
        try:
            without_memory(decode(config["model"]), settings.detector)
        except GflLabError as error:
            problems += _at_its_place(error, files, settings).problems
        seen.update(notes(settings))
    if problems:
        raise SpecError(list(dict.fromkeys(problems)))
    for note in sorted(seen):
        say(f"note: {note}")


def _unfit_weights(config: Mapping[str, Any], settings: Settings, place: str) -> tuple[Problem, ...]:
    """Return the problems of a file of initial weights with the backbone of an mmdet detector."""
    from gfl_lab.checkpoints.pretrained import check_backbone_of_mmdet

    try:
        check_backbone_of_mmdet(decode(config["model"])["backbone"], settings.init_weights)
    except InputError as error:
        return tuple(Problem(problem.message, problem.place or place, problem.hint) for problem in error.problems)
    return ()


def _at_its_place(error: GflLabError, files: Files, settings: Settings) -> SpecError:
    place = place_of(files, settings)
    return SpecError([problem if problem.place else Problem(problem.message, place, problem.hint) for problem in error.problems])


def place_of(files: Files, settings: Settings) -> str:
    """Return where the experiment, or else the profile, names the detector of a variant."""
    experiment, source = files.experiment, files.source

    def same(value: Any) -> bool:
        return bool(absolute_detector(value, files.folder) == settings.detector)

    for index, value in enumerate(experiment.axes.get("detector", ())):
        if same(value):
            return source.place("axes", "detector", index)
    for name, own in experiment.variants.items():
        if same(own.get("detector")):
            return source.place("variants", name, "detector")
    return source.place("overrides", "detector") if "detector" in experiment.overrides else f"profile {files.profile.name}: detector"
