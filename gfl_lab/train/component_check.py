"""Check that the components of a variant are registered, of the right kind, and take their arguments."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from mmdet.registry import MODELS, TASK_UTILS
from mmengine.registry import Registry

import gfl_lab.train.trial  # noqa: F401  (registers all that a trial has)
from gfl_lab.detector.build import component, model_config
from gfl_lab.detector.head import GFLFamilyHead
from gfl_lab.detector.head_arguments import MOVED_ARGUMENTS
from gfl_lab.detector.mmdet_detector import on_meta_device
from gfl_lab.errors import InputError, Problem
from gfl_lab.setup.components import problem_of
from gfl_lab.spec.choices import BUILT_IN
from gfl_lab.spec.code import CodeFile
from gfl_lab.spec.settings import Settings

CLASSES = 80
"""Classes of the detector that is built; the data may not be there yet, and no component's arguments depend on them."""


@dataclass(frozen=True)
class Finding:
    """A problem, and the setting it is about."""

    key: str
    problem: Problem


def check(settings: Settings, files: Sequence[CodeFile], own: frozenset[str]) -> list[Finding]:
    """Return the problems of the components of ``settings``. The files must be loaded.

    Args:
        own: names that the files register.
    """
    findings: list[Finding] = []
    kinds = [key for key, known in BUILT_IN.items() if getattr(settings, key) not in known]
    for key in kinds:
        found = _class_of(key, getattr(settings, key), own)
        if isinstance(found, Problem):
            findings.append(Finding(key, found))
        elif key == "head" and not (inspect.isclass(found) and issubclass(found, GFLFamilyHead)):
            hint = "Only such a head gives the dense outputs that distributions are read from. Its forward may be all your own."
            findings.append(Finding(key, Problem(f"head {settings.head} is no subclass of GFLFamilyHead", hint=hint)))
        elif key == "head":
            findings += _head_findings(settings.head, found)
    findings += _argument_findings(settings)
    if findings:
        return findings
    for key in kinds:
        if key in ("box_loss", "cls_loss", "assigner"):
            registry, config = _registry(key), component(settings, key)
            findings += _built(key, partial(registry.build, dict(config)), files, settings)
    if not findings:
        key = "backbone" if "backbone" in kinds and "head" not in kinds else "head"
        findings += _built(key, lambda: MODELS.build(model_config(settings, CLASSES)), files, settings)
    return findings


def _head_findings(name: str, head: type) -> list[Finding]:
    """Return a finding if a head's constructor waits for arguments that are fields of a group since version 0.2."""
    waits_for = sorted(inspect.signature(head).parameters.keys() & MOVED_ARGUMENTS.keys())
    if not waits_for:
        return []
    groups = ", ".join(f"{argument} is now {MOVED_ARGUMENTS[argument]}" for argument in waits_for)
    hint = "Take the group as an argument, or read self.box_form and self.quality_estimate after super().__init__ (docs/extending.md)."
    return [Finding("head", Problem(f"head {name} waits for arguments that gfl-lab gives in groups: {groups}", hint=hint))]


def _registry(key: str) -> Registry:
    return TASK_UTILS if key == "assigner" else MODELS


def _names(registry: Registry) -> dict[str, Any]:
    """Return the names in ``registry`` that need no scope: its own and its ancestors'."""
    registry.import_from_location()
    parents = _names(registry.parent) if registry.parent is not None else {}
    return parents | registry.module_dict


def _class_of(key: str, name: str, own: frozenset[str]) -> Any:
    """Return the class, or the problem that it is not registered."""
    known = _names(_registry(key))
    if name in known:
        return known[name]
    other = MODELS if key == "assigner" else TASK_UTILS
    right, wrong = ("TASK_UTILS", "MODELS") if key == "assigner" else ("MODELS", "TASK_UTILS")
    if name in _names(other):
        return Problem(f"{name} is registered in {wrong}, and {key} is looked up in {right}", hint=f"Use @{right}.register_module().")
    hints = [f"Did you mean {near!r}?" for near in difflib.get_close_matches(name, [*own, *known, *BUILT_IN[key]], n=1, cutoff=0.75)]
    if own:
        hints.append(f"The files under `custom_imports` register: {', '.join(sorted(own))}.")
    else:
        hints.append("A class of your own stands in a file that the experiment names under `custom_imports` (docs/extending.md).")
    return Problem(f"{key} {name} is not registered", hint=" ".join(hints))


def _argument_findings(settings: Settings) -> list[Finding]:
    findings = []
    for kind, values in settings.component_args.items():
        if "type" in values:
            findings.append(Finding("component_args", Problem(f"component_args.{kind} gives `type`: the setting {kind} names the class")))
    given = settings.component_args.get("head", {})
    if given:
        others = {kind: values for kind, values in settings.component_args.items() if kind != "head"}
        plain = settings.model_copy(update={"component_args": others, "backbone": "r50", "dcn": "none"})
        for name in sorted(
            given.keys() & (model_config(plain, CLASSES)["bbox_head"].keys() | MOVED_ARGUMENTS.keys() | {"train_cfg", "test_cfg"})
        ):
            if name != "type":
                hint = f"{'Give the setting' if name in Settings.model_fields.keys() | MOVED_ARGUMENTS.keys() else 'Leave it to the settings'} instead."
                findings.append(
                    Finding("component_args", Problem(f"component_args.head gives {name}, which the settings decide", hint=hint))
                )
    return findings


def _built(key: str, build: Callable[[], Any], files: Sequence[CodeFile], settings: Settings) -> list[Finding]:
    try:
        on_meta_device(build)
        return []
    except InputError as error:
        return [Finding(key, problem) for problem in error.problems]
    except Exception as error:
        problem = problem_of(error, *files)
        name = getattr(settings, key)
        where = f" ({problem.place})" if ":" in problem.place else ""
        return [Finding(key, Problem(f"{key} {name} cannot be built{where}: {problem.message}", hint=_signature(key, name)))]


def _signature(key: str, name: str) -> str:
    cls = _names(_registry(key)).get(name)
    if cls is None:
        return ""
    try:
        parameters = inspect.signature(cls).parameters.values()
    except (TypeError, ValueError):
        return ""
    named = [parameter.name for parameter in parameters if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)]
    if key == "head":  # the settings give most of them
        return f"Its arguments are arguments.{key}; a head passes other arguments on with **kwargs."
    return f"Its arguments are arguments.{key}; it takes: {', '.join(named) or 'none'}."
